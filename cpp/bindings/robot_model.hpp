// Robots from Python. Pinocchio's headers are slow to compile: robot_model.cpp alone has them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <pinocchio/multibody/fwd.hpp>

namespace qp_control {

struct RobotModel {
  std::shared_ptr<const pinocchio::Model> model;
  pybind11::ssize_t nq, nv, n_par;
};

// A copy of a pinocchio.Model. Throws type_error for anything else.
RobotModel robot_model(const pybind11::object& model);

}  // namespace qp_control
