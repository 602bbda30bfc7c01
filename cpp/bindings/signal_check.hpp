#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

namespace qp_control {

namespace py = pybind11;

// Looks for Ctrl-C a few times per second; true leaves the Python exception set.
class SignalCheck {
 public:
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return false;
    next_ = now + std::chrono::milliseconds(100);
    py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  }

 private:
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
};

}  // namespace qp_control
