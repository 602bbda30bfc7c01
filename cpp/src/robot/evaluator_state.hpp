#pragma once

#include <pinocchio/multibody.hpp>
#include <vector>

#include "evaluator.hpp"
#include "tree.hpp"

namespace qp_control {

struct Evaluator::Implementation {
  explicit Implementation(const pinocchio::Model& m)
      : model(m),
        data(model),
        moved(model),
        damping(m.damping),
        damped(m.nv),
        opposite(m.nv),
        tree(m),
        carried(m.njoints),
        composite(m.njoints, Matrix6::Zero()) {
    for (Vector6* zero : {&carried[0].u, &carried[0].w, &carried[0].a}) zero->setZero();
    J_q.setZero(m.nv, m.nv);
    J_w.setZero(m.nv, m.nv);
    torques.setZero(m.nv, 10 * (m.njoints - 1));
    for (const auto& joint : model.joints)
      if (joint.shortname() == "JointModelFreeFlyer")
        free_flyers.push_back(joint.idx_v());
      else if (joint.nq() != joint.nv())
        flat_beside_free_flyers = false;
  }

  pinocchio::Model model;
  pinocchio::Data data;
  pinocchio::Data moved;         // body velocities for joint velocity w
  std::vector<int> free_flyers;  // index of their first velocity
  bool flat_beside_free_flyers = true;
  Eigen::VectorXd damping;
  Eigen::VectorXd damped;  // tau - d o v
  Eigen::VectorXd opposite;
  Eigen::MatrixXd J_q, J_w;
  Eigen::MatrixXd torques;  // per parameter of the bodies
  Tree tree;
  std::vector<Change> carried;          // of each body, the sum over the joints that carry it
  std::vector<Matrix6> composite;       // inertias of what each joint carries, in the world
  std::vector<Eigen::Vector4d> masses;  // and first moments of what each joint carries
};

}  // namespace qp_control
