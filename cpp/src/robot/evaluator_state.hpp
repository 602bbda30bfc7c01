#pragma once

#include <pinocchio/multibody.hpp>

#include "evaluator.hpp"

namespace qp_control {

struct Evaluator::Implementation {
  explicit Implementation(const pinocchio::Model& m)
      : model(m), data(model), moved(model), damping(m.damping), damped(m.nv) {}

  pinocchio::Model model;
  pinocchio::Data data;
  pinocchio::Data moved;  // body velocities for joint velocity w
  Eigen::VectorXd damping;
  Eigen::VectorXd damped;  // tau - d o v
};

}  // namespace qp_control
