// Arrays in and out of the robot module.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "qp_control/rigid_body.hpp"

namespace qp_control {

namespace py = pybind11;
using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;
using MaybeArray = std::optional<Array>;

inline std::string shape_of(const Array& a) { return py::str(py::tuple(a.attr("shape"))); }

// The data of `a` after a check of its shape (batch, columns...) and of its entries.
inline const double* data(const Array& a, const char* name, std::vector<py::ssize_t> shape) {
  if (std::vector<py::ssize_t>(a.shape(), a.shape() + a.ndim()) != shape)
    throw py::value_error(std::string(name) + " has shape " + shape_of(a) + ", expected " +
                          std::string(py::str(py::tuple(py::cast(shape)))));
  const double* p = a.data();
  for (py::ssize_t i = 0; i < a.size(); ++i)
    if (!std::isfinite(p[i]))
      throw py::value_error(std::string(name) + " has the entry " + std::to_string(p[i]) + " at flat index " +
                            std::to_string(i) + " of shape " + shape_of(a) + ", expected finite numbers");
  return p;
}

// Gradients are not looked at: a NaN in them is the caller's result.
inline const double* gradient(const MaybeArray& a, const char* name, py::ssize_t size) {
  if (!a) return nullptr;
  if (a->size() != size)
    throw py::value_error(std::string(name) + " has shape " + shape_of(*a) + ", expected " + std::to_string(size) +
                          " entries");
  return a->data();
}

inline Parameters parameters(const RigidBody& robot, const MaybeArray& p, py::ssize_t batch) {
  if (!p) return {};
  if (p->ndim() == 1) return {data(*p, "parameters", {robot.n_par()}), true};
  return {data(*p, "parameters", {batch, robot.n_par()}), false};
}

inline py::ssize_t batch_of(const Array& a, const char* name) {
  if (a.ndim() != 2) throw py::value_error(std::string(name) + " has shape " + shape_of(a) + ", expected rank 2");
  return a.shape(0);
}

// An output array for a gradient that was asked for.
inline double* make(py::object& out, std::vector<py::ssize_t> shape) {
  Array a(shape);
  out = a;
  return a.mutable_data();
}

void bind_motions(py::class_<RigidBody>& robot);
void bind_contact(py::module_& m);
void bind_whole_body(py::module_& m);

}  // namespace qp_control
