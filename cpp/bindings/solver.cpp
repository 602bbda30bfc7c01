#include <pybind11/pybind11.h>

#include "qp_control/batch.hpp"

PYBIND11_MODULE(_solver, m) {
  m.doc() = "Batched QP solver";
  m.def("thread_count", &qp_control::thread_count, pybind11::arg("requested") = 0);
}
