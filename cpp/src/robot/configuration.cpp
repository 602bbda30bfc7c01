#include <pinocchio/algorithm/joint-configuration.hpp>

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

void Evaluator::integrate_jacobians(const VectorXd& q, const VectorXd& w, MatrixXd& J_q, MatrixXd& J_w) const {
  pinocchio::dIntegrate(implementation_->model, q, w, J_q, pinocchio::ARG0);
  pinocchio::dIntegrate(implementation_->model, q, w, J_w, pinocchio::ARG1);
}

void Evaluator::difference_adjoint(const VectorXd& from, const VectorXd& to, VectorXd& lambda) const {
  MatrixXd J = MatrixXd::Zero(nv(), nv());
  pinocchio::dDifference(implementation_->model, from, to, J, pinocchio::ARG1);
  lambda.head(nv()) = J.transpose() * lambda.head(nv()).eval();
}

void Evaluator::tangent_map(const VectorXd& q, MatrixXd& T) const {
  pinocchio::tangentMap(implementation_->model, q, T, pinocchio::SETTO);
}

}  // namespace qp_control
