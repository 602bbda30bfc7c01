// One period of one robot with contact: what contact.hpp says of a batch.
#pragma once

#include <Eigen/Core>
#include <array>
#include <vector>

#include "branch_factor.hpp"
#include "evaluator.hpp"
#include "pair_touch.hpp"
#include "qp_control/contact.hpp"

namespace qp_control {

class ContactStep {
 public:
  ContactStep(Evaluator& robot, const pinocchio::Model& model, const RigidBodySettings& settings,
              const ContactSettings& contact);

  int rows() const { return rows_; }
  // Everything at a state, with the contacts' coefficients of friction.
  void set(const double* x, const double* u, const double* friction);
  // H (rows, rows), g (rows). Without limits their rows have no impulses; H has zeros there.
  void problem(bool with_limits, double* H, double* g);
  // Whether the rows of limits are obeyed, and by how much.
  bool limits_hold(const Eigen::VectorXd& impulses, double* slacks);
  void step(const Eigen::VectorXd& impulses, double* x_next);
  // From the gradient by x_next, in the tangent space, the one by the impulses
  void loss(const Eigen::VectorXd& impulses, const Eigen::VectorXd& by_next, Eigen::VectorXd& loss);
  // Gradients (tangent) by x and u, after `loss`; those by the parameters and the friction are added unless null.
  void adjoint(const Eigen::VectorXd& impulses, const Eigen::VectorXd& by_g, Eigen::VectorXd& g_z, double* g_p,
               double* by_friction);
  double gap(int contact) const { return touches_[contact].gap; }
  Eigen::Vector3d force(int contact, const Eigen::VectorXd& impulses) const;

 private:
  // sum of weights_k d_k over a contact's directions, along the two axes across its normal
  Eigen::Vector2d across(int contact, const Eigen::VectorXd& weights) const;
  // sum of weights_k (n + mu d_k)
  Eigen::Vector3d along(int contact, const Eigen::VectorXd& weights) const;
  // Of the bodies against each other where they touch; now: their frames
  Eigen::Vector3d touching_velocity(int contact, const FrameState* now) const;
  double slope(double gap, double stiffness, double damping) const;  // db / dgap
  void accelerate(const Eigen::VectorXd& impulses);                  // to the velocity at the end of the step
  void move(const Eigen::VectorXd& impulses);                        // to that and the configuration there
  void jacobians();                                                  // of the end by q and by the velocity

  // A free-flyer or a planar joint, whose linear velocity is along the axes of the body.
  struct Floating {
    int q, v;
    bool planar;
    Eigen::Vector3d linear(const Eigen::VectorXd& v) const;
    Eigen::Vector3d angular(const Eigen::VectorXd& v) const;
    // Writes the part of a 6 x 6 block, by linear and angular parts, that the joint has.
    void put(const Eigen::Matrix<double, 6, 6>& block, Eigen::MatrixXd& J) const;
  };

  // The frames of the bodies of a contact, or of the one that touches the ground.
  struct Sides {
    int count, frame[2];
  };
  static double sign(int side) { return side == 0 ? 1.0 : -1.0; }

  Evaluator& robot_;
  std::vector<Floating> floating_;
  const ContactSettings contact_;
  const double h_;
  const std::vector<int> actuated_;
  const int nq_, nv_, nu_, contacts_, limits_, rows_;
  std::vector<int> limited_q_;
  std::vector<double> lower_, upper_;
  std::vector<Eigen::Vector2d> directions_;  // of friction, along the axes across a normal
  std::vector<Sides> sides_;
  std::vector<std::array<int, 2>> last_velocity_;  // that moves each of them
  std::vector<BallOnGround> grounded_;             // the contacts; and those after them
  std::vector<PairTouch> pairs_;
  std::vector<Touch> touches_;
  std::vector<TouchGradient> by_touch_;

  Eigen::VectorXd q_, v_, tau_, zero_, bias_, v_free_, b_, b_slope_, friction_, sliding_, sign_;
  Eigen::VectorXd v_next_, w_, q_next_, by_q_, by_v_, mu_, g_q_, g_v_, g_a_, a_, turning_;
  Eigen::MatrixXd M_;
  Eigen::MatrixXd J_q_, J_v_, J_vv_;  // of the configuration by q and by the velocity, of the velocity by itself
  const std::vector<int> before_;     // of each velocity, on the way to the root
  BranchFactor factor_;               // S'S = M^-1
  RowMajor G_t_, SG_;                 // G' and S G'
};

}  // namespace qp_control
