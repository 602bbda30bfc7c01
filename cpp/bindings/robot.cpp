#include <pybind11/pybind11.h>

PYBIND11_MODULE(_robot, m) { m.doc() = "Batched rigid-body dynamics on Pinocchio"; }
