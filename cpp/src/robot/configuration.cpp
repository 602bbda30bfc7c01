#include <Eigen/LU>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/spatial/motion.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

// sum_k (-ad)^k / (k + 1)!: the derivative of SE(3)'s exponential by its argument, in the tangent at its value. At
// small angles Pinocchio's closed form loses up to 11 digits, as differences of nearly equal terms over powers of the
// angle.
pinocchio::Motion::Matrix6 right_jacobian(const pinocchio::Motion& twist) {
  const pinocchio::Motion::Matrix6 minus_ad = -twist.toActionMatrix();
  pinocchio::Motion::Matrix6 term = pinocchio::Motion::Matrix6::Identity(), sum = term;
  for (int k = 2; k < 30 && term.lpNorm<Eigen::Infinity>() > 1e-18; ++k) {
    term = (minus_ad * term / k).eval();
    sum += term;
  }
  return sum;
}

}  // namespace

VectorXd Evaluator::neutral() const { return pinocchio::neutral(implementation_->model); }

bool Evaluator::normalized(const VectorXd& q) const {
  return vector_space() || pinocchio::isNormalized(implementation_->model, q, 1e-5);
}

void Evaluator::integrate(const VectorXd& q, const VectorXd& w, VectorXd& result) const {
  if (vector_space())
    result = q + w;
  else
    pinocchio::integrate(implementation_->model, q, w, result);
}

void Evaluator::integrate_jacobians(const VectorXd& q, const VectorXd& w, MatrixXd* J_q, MatrixXd& J_w) const {
  // The library writes the blocks of the joints only.
  if (J_q != nullptr) {
    J_q->setZero(nv(), nv());
    pinocchio::dIntegrate(implementation_->model, q, w, *J_q, pinocchio::ARG0);
  }
  J_w.setZero(nv(), nv());
  pinocchio::dIntegrate(implementation_->model, q, w, J_w, pinocchio::ARG1);
  for (int i : implementation_->free_flyers) {
    const pinocchio::Motion twist(w.segment<6>(i));
    if (twist.angular().norm() < 1.0) J_w.block<6, 6>(i, i) = right_jacobian(twist);
  }
}

void Evaluator::difference(const VectorXd& from, const VectorXd& to, VectorXd& result) const {
  if (vector_space())
    result = to - from;
  else
    pinocchio::difference(implementation_->model, from, to, result);
}

void Evaluator::difference_jacobian(const VectorXd& from, const VectorXd& to, MatrixXd& J_to) const {
  // The inverse of the other one, which keeps more digits than the library's, for the reason above.
  VectorXd w(nv());
  difference(from, to, w);
  if (vector_space()) {
    J_to.setIdentity(nv(), nv());
    return;
  }
  integrate_jacobians(from, w, nullptr, J_to);
  for (const auto& joint : implementation_->model.joints) {
    const int i = joint.idx_v(), n = joint.nv();
    if (joint.nq() == n) continue;
    if (n == 6)
      J_to.block<6, 6>(i, i) = J_to.block<6, 6>(i, i).inverse().eval();
    else
      J_to.block(i, i, n, n) = J_to.block(i, i, n, n).inverse().eval();
  }
}

void Evaluator::tangent_map(const VectorXd& q, MatrixXd& T) const {
  pinocchio::tangentMap(implementation_->model, q, T, pinocchio::SETTO);
}

}  // namespace qp_control
