#include <Eigen/LU>
#include <algorithm>
#include <cmath>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/spatial/explog.hpp>
#include <pinocchio/spatial/motion.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

// sum_k (-ad)^k / (k + 1)!: the derivative of SE(3)'s exponential by its argument, in the tangent at its value. At
// small angles Pinocchio's closed form loses up to 11 digits, as differences of nearly equal terms over powers of the
// angle. All powers of ad are made of the first four: ad^5 = -2 theta^2 ad^3 - theta^4 ad, theta the angle.
pinocchio::Motion::Matrix6 right_jacobian(const pinocchio::Motion& twist) {
  using Matrix6 = pinocchio::Motion::Matrix6;
  const double square = twist.angular().squaredNorm();
  double power[4] = {1.0, 0.0, 0.0, 0.0}, sum[4] = {};
  double factor = 1.0;
  for (int k = 1; k < 30; ++k) {
    factor /= -(k + 1);
    double largest = 0.0;
    for (int i = 0; i < 4; ++i) {
      sum[i] += factor * power[i];
      largest = std::max(largest, std::abs(factor * power[i]));
    }
    if (k > 4 && largest < 1e-18) break;
    const double last = power[3];
    power[3] = power[2];
    power[2] = power[1] - 2.0 * square * last;
    power[1] = power[0];
    power[0] = -square * square * last;
  }
  const Matrix6 ad = twist.toActionMatrix();
  Matrix6 ad_2, ad_3, J;
  ad_2.noalias() = ad * ad;
  ad_3.noalias() = ad_2 * ad;
  J.noalias() = sum[3] * ad_2 * ad_2;
  J += sum[0] * ad + sum[1] * ad_2 + sum[2] * ad_3;
  J.diagonal().array() += 1.0;
  return J;
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
  const auto& s = *implementation_;
  if (s.flat_beside_free_flyers) {
    if (J_q != nullptr) J_q->setIdentity(nv(), nv());
    J_w.setIdentity(nv(), nv());
  } else {
    if (J_q != nullptr) pinocchio::dIntegrate(s.model, q, w, *J_q, pinocchio::ARG0);
    pinocchio::dIntegrate(s.model, q, w, J_w, pinocchio::ARG1);
  }
  for (int i : s.free_flyers) {
    const pinocchio::Motion twist(w.segment<6>(i));
    const bool small = twist.angular().squaredNorm() < 1.0;
    if (small) J_w.block<6, 6>(i, i) = right_jacobian(twist);
    if (!s.flat_beside_free_flyers) continue;
    if (!small) J_w.block<6, 6>(i, i) = pinocchio::Jexp6(twist);
    if (J_q != nullptr) J_q->block<6, 6>(i, i) = pinocchio::exp6(twist).toActionMatrixInverse();
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
