#pragma once

#include <pinocchio/multibody.hpp>
#include <vector>

#include "evaluator.hpp"

namespace qp_control {

// What a joint carries, in the world's axes; see inverse_dynamics_hessian.cpp.
struct Carried {
  pinocchio::Motion::Vector6 U, V, A, h, P, F, G;
  pinocchio::Motion::Matrix6 I, IV, IU;  // inertia; I V x and I U x plus their transposes
};

// What one velocity coordinate changes, likewise.
struct Change {
  pinocchio::Motion::Vector6 u, w, a, a_of_v;
};

struct Evaluator::Implementation {
  explicit Implementation(const pinocchio::Model& m)
      : model(m), data(model), moved(model), damping(m.damping), damped(m.nv), carried(m.njoints), change(m.nv) {
    for (const auto& joint : model.joints)
      if (joint.shortname() == "JointModelFreeFlyer") free_flyers.push_back(joint.idx_v());
  }

  pinocchio::Model model;
  pinocchio::Data data;
  pinocchio::Data moved;         // body velocities for joint velocity w
  std::vector<int> free_flyers;  // index of their first velocity
  Eigen::VectorXd damping;
  Eigen::VectorXd damped;  // tau - d o v
  std::vector<Carried> carried;
  std::vector<Change> change;
};

}  // namespace qp_control
