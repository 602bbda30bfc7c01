#include <Eigen/LU>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/spatial/explog.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

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
  if (J_q != nullptr) pinocchio::dIntegrate(implementation_->model, q, w, *J_q, pinocchio::ARG0);
  pinocchio::dIntegrate(implementation_->model, q, w, J_w, pinocchio::ARG1);
  // Pinocchio's derivative of SE(3)'s exponential loses up to 10 digits at angles of 1e-4 to 0.1 rad (differences of
  // nearly equal terms over the fifth power of the angle); that of the logarithm, its inverse, does not.
  for (int i : implementation_->free_flyers) {
    const pinocchio::Motion twist(w.segment<6>(i));
    if (twist.angular().norm() > 1.0) continue;
    pinocchio::Motion::Matrix6 J_log;
    pinocchio::Jlog6(pinocchio::exp6(twist), J_log);
    J_w.block<6, 6>(i, i) = J_log.inverse();
  }
}

void Evaluator::difference(const VectorXd& from, const VectorXd& to, VectorXd& result) const {
  if (vector_space())
    result = to - from;
  else
    pinocchio::difference(implementation_->model, from, to, result);
}

void Evaluator::difference_jacobian(const VectorXd& from, const VectorXd& to, MatrixXd& J_to) const {
  pinocchio::dDifference(implementation_->model, from, to, J_to, pinocchio::ARG1);
}

void Evaluator::tangent_map(const VectorXd& q, MatrixXd& T) const {
  pinocchio::tangentMap(implementation_->model, q, T, pinocchio::SETTO);
}

}  // namespace qp_control
