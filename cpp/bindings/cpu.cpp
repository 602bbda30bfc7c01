#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "usable_kernels.hpp"

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Processor features.";
  m.def("usable_kernels", &qp_control::usable_kernels, "Names of the solver's kernels that run here, fastest first.");
}
