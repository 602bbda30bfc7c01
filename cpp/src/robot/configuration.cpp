#include <Eigen/LU>
#include <algorithm>
#include <array>
#include <cmath>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/spatial/explog.hpp>
#include <pinocchio/spatial/force.hpp>
#include <pinocchio/spatial/motion.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

// The derivative of SE(3)'s exponential by its argument, in the tangent at its value, is sum_k (-ad)^k / (k + 1)!. At
// small angles Pinocchio's closed form loses up to 11 digits, as differences of nearly equal terms over powers of the
// angle. All powers of ad are made of the first four, as ad^5 = -2 theta^2 ad^3 - theta^4 ad, theta the angle: here are
// the factors of those four.
std::array<double, 4> exponential_series(const pinocchio::Motion& twist) {
  const double square = twist.angular().squaredNorm();
  std::array<double, 4> power = {1.0, 0.0, 0.0, 0.0}, sum = {};
  double factor = 1.0;
  for (int k = 1; k < 30; ++k) {
    factor /= -(k + 1);
    double largest = 0.0;
    for (int i = 0; i < 4; ++i) {
      sum[i] += factor * power[i];
      largest = std::max(largest, std::abs(factor * power[i]));
    }
    if (k > 4 && largest < 1e-18) break;
    power = {-square * square * power[3], power[0], power[1] - 2.0 * square * power[3], power[2]};
  }
  return sum;
}

// The same as a matrix. With X = -[w x] and Y = -[v x] for the twist (v, w) it is [A T; 0 A], where by X^3 = -s X,
// s = w'w,
//   A = I + a(s) X + b(s) X^2,   T the change of A as X changes by Y,
//   a = sum_m (-s)^m / (2m + 2)!,   b = sum_m (-s)^m / (2m + 3)!.
pinocchio::Motion::Matrix6 right_jacobian(const pinocchio::Motion& twist) {
  const Eigen::Vector3d v = twist.linear(), w = twist.angular();
  const double s = w.squaredNorm(), ds = 2.0 * w.dot(v);
  if (s >= 1.0) return pinocchio::Jexp6(twist);
  double a = 0.0, b = 0.0, da = 0.0, db = 0.0, term = 0.5, slope = 0.0;
  for (int m = 0; m < 10; ++m) {  // of s <= 1
    a += term;
    b += term / (2 * m + 3);
    da += slope;
    db += slope / (2 * m + 3);
    const double next = -1.0 / ((2 * m + 3) * (2 * m + 4));
    slope = next * (slope * s + term * ds);
    term *= next * s;
  }
  const Eigen::Matrix3d X = -pinocchio::skew(w), Y = -pinocchio::skew(v), XX = X * X, XY = X * Y;
  pinocchio::Motion::Matrix6 J;
  J.topLeftCorner<3, 3>() = Eigen::Matrix3d::Identity() + a * X + b * XX;
  J.topRightCorner<3, 3>() = a * Y + b * (XY + XY.transpose()) + da * X + db * XX;
  J.bottomLeftCorner<3, 3>().setZero();
  J.bottomRightCorner<3, 3>() = J.topLeftCorner<3, 3>();
  return J;
}

// right_jacobian(twist)' l
pinocchio::Force::Vector6 right_jacobian_adjoint(const pinocchio::Motion& twist, const pinocchio::Force& l) {
  if (twist.angular().squaredNorm() >= 1.0) return pinocchio::Jexp6(twist).transpose() * l.toVector();
  pinocchio::Force power = l, sum = l;
  for (double c : exponential_series(twist)) {
    power = -twist.cross(power);  // ad' times it
    sum += pinocchio::Force(c * power.toVector());
  }
  return sum.toVector();
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
    // The library writes the blocks of the joints only.
    if (J_q != nullptr) {
      J_q->setZero(nv(), nv());
      pinocchio::dIntegrate(s.model, q, w, *J_q, pinocchio::ARG0);
    }
    J_w.setZero(nv(), nv());
    pinocchio::dIntegrate(s.model, q, w, J_w, pinocchio::ARG1);
  }
  for (int i : s.free_flyers) {
    const pinocchio::Motion twist(w.segment<6>(i));
    J_w.block<6, 6>(i, i) = right_jacobian(twist);
    if (J_q != nullptr && s.flat_beside_free_flyers)
      J_q->block<6, 6>(i, i) = pinocchio::exp6(twist).toActionMatrixInverse();
  }
}

void Evaluator::integrate_adjoint(const VectorXd& q, const VectorXd& w, const VectorXd& l, VectorXd& by_q,
                                  VectorXd& by_w) {
  auto& s = *implementation_;
  if (!s.flat_beside_free_flyers) {
    integrate_jacobians(q, w, &s.J_q, s.J_w);
    by_q.noalias() = s.J_q.transpose() * l;
    by_w.noalias() = s.J_w.transpose() * l;
    return;
  }
  by_q = by_w = l;
  for (int i : s.free_flyers) {
    const pinocchio::Motion twist(w.segment<6>(i));
    const pinocchio::Force force(l.segment<6>(i));
    by_q.segment<6>(i) = pinocchio::exp6(twist).act(force).toVector();
    by_w.segment<6>(i) = right_jacobian_adjoint(twist, force);
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
