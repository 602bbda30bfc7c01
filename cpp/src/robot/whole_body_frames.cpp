// Tasks of a frame that is seen from another one. All is worked out in the world's axes and then turned into those of
// the task by Q: with R_a, R_b the frames' rotations and r the way from a to b,
//   error      R_a reference - r,              R_b log(R_b' R_a R_reference)
//   missing    R_a velocity - (v - w_a x r),   R_a velocity - (w_b - w_a)
//   drift      a - alpha_a x r - 2 w_a x v + w_a x (w_a x r) - R_a acceleration,   alpha - w_a x w_b - R_a acceleration
// where v, a and alpha are differences of the frames' own.
#include <Eigen/Geometry>
#include <pinocchio/spatial/explog.hpp>

#include "whole_body_rows.hpp"

namespace qp_control {

using Eigen::Matrix3d;
using Eigen::MatrixXd;
using Eigen::Vector3d;
using Eigen::VectorXd;
using Vector6 = Eigen::Matrix<double, 6, 1>;

namespace {

// A quaternion (x, y, z, w) of any length but zero, which has none (Eigen's own would be the identity)
Matrix3d rotation_of(const double* xyzw) {
  Eigen::Quaterniond q(xyzw);
  q.coeffs() /= q.norm();
  return q.toRotationMatrix();
}

// The gradient by a quaternion from the one by displacements R exp(e) of its rotation
Eigen::Vector4d by_quaternion(const double* xyzw, const Vector3d& by_e) {
  const Eigen::Map<const Eigen::Vector4d> q(xyzw);
  const double length = q.norm();
  const Vector3d axis = q.head<3>() / length;
  const double w = q[3] / length;
  Eigen::Vector4d out;  // 4 T by_e / length, d(q / length) = T e
  out.head<3>() = 2.0 * (w * by_e + axis.cross(by_e)) / length;
  out[3] = -2.0 * axis.dot(by_e) / length;
  return out;
}

// A gradient by a rotation matrix R whose torque is the given one, in the world's axes
Matrix3d of_torque(const Vector3d& torque, const Matrix3d& R) {
  Matrix3d S;
  S << 0.0, -torque.z(), torque.y(), torque.z(), 0.0, -torque.x(), -torque.y(), torque.x(), 0.0;
  return 0.5 * S * R;
}

}  // namespace

void WholeBodyRows::frame_residual(const Term& term, Residual& out) {
  const Frame &a = frame(term.base), &b = frame(term.frame);
  const Matrix3d &R_a = a.at.rotation, &R_b = b.at.rotation;
  const Matrix3d Q = (term.own_axes ? R_b : R_a).transpose();
  const Vector3d r = b.at.position - a.at.position;
  const Vector3d w_a = a.at.velocity.tail<3>(), alpha_a = a.at.acceleration.tail<3>();
  const Vector3d v = (b.at.velocity - a.at.velocity).head<3>(), w = (b.at.velocity - a.at.velocity).tail<3>();
  const int blocks = term.position + term.orientation, rows = static_cast<int>(term.rows.size());
  Vector6 error, missing, drift;
  int k = 0;
  if (term.position) {
    error.head<3>() = R_a * numbers(term.reference, 3) - r;
    missing.head<3>() = -(v - w_a.cross(r));
    drift.head<3>() = Vector3d((b.at.acceleration - a.at.acceleration).head<3>()) - alpha_a.cross(r) -
                      2.0 * w_a.cross(v) + w_a.cross(w_a.cross(r));
    for (int i = 0; i < nv_; ++i)
      frame_J_.col(i).head<3>() = b.J.col(i).head<3>() - a.J.col(i).head<3>() + r.cross(Vector3d(a.J.col(i).tail<3>()));
    k = 3;
  }
  if (term.orientation) {
    const Matrix3d reference = rotation_of(numbers_ + term.reference + (term.position ? 3 : 0));
    error.segment<3>(k) = R_b * pinocchio::log3(R_b.transpose() * R_a * reference);
    missing.segment<3>(k) = -w;
    drift.segment<3>(k) = Vector3d((b.at.acceleration - a.at.acceleration).tail<3>()) - w_a.cross(w);
    frame_J_.middleRows<3>(k) = b.J.bottomRows<3>() - a.J.bottomRows<3>();
  }
  for (int block = 0; block < blocks; ++block) {
    const int first = 3 * block;
    if (term.velocity >= 0) missing.segment<3>(first) += R_a * numbers(term.velocity + first, 3);
    if (term.acceleration >= 0) drift.segment<3>(first) -= R_a * numbers(term.acceleration + first, 3);
    for (Vector6* t : {&error, &missing, &drift}) t->segment<3>(first) = Q * Vector3d(t->segment<3>(first));
    for (int i = 0; i < nv_; ++i) frame_J_.col(i).segment<3>(first) = Q * Vector3d(frame_J_.col(i).segment<3>(first));
  }
  for (int row = 0; row < rows; ++row) {
    const int i = term.rows[row];
    out.J.row(row) = frame_J_.row(i);
    out.error[row] = error[i];
    out.missing[row] = missing[i];
    out.c[row] = drift[i];
  }
}

void WholeBodyRows::frame_residual_adjoint(const Term& term, const Residual& own) {
  Frame &a = frame(term.base), &b = frame(term.frame);
  const Matrix3d &R_a = a.at.rotation, &R_b = b.at.rotation;
  const Matrix3d Q = (term.own_axes ? R_b : R_a).transpose();
  const Vector3d r = b.at.position - a.at.position;
  const Vector3d w_a = a.at.velocity.tail<3>(), alpha_a = a.at.acceleration.tail<3>();
  const Vector3d v = (b.at.velocity - a.at.velocity).head<3>(), w = (b.at.velocity - a.at.velocity).tail<3>();
  const int blocks = term.position + term.orientation, rows = static_cast<int>(term.rows.size());
  // Of all the axes, in those of the task.
  MatrixXd by_J = MatrixXd::Zero(3 * blocks, nv_);
  VectorXd by_error = VectorXd::Zero(3 * blocks), by_missing = by_error, by_drift = by_error;
  for (int row = 0; row < rows; ++row) {
    const int i = term.rows[row];
    by_J.row(i) = by_J_.row(row);
    by_drift[i] = by_c_[row];
    by_error[i] = -numbers_[term.stiffness + row] * by_c_[row];
    by_missing[i] = -numbers_[term.damping + row] * by_c_[row];
    by_numbers_[term.stiffness + row] -= by_c_[row] * own.error[row];
    by_numbers_[term.damping + row] -= by_c_[row] * own.missing[row];
  }
  Matrix3d by_Q = Matrix3d::Zero(), by_R_a = Matrix3d::Zero();
  Vector3d by_r = Vector3d::Zero(), by_w_a = Vector3d::Zero();
  for (int block = 0; block < blocks; ++block) {
    const int first = 3 * block;
    const bool position = term.position && block == 0;
    Vector3d error, missing, drift;  // in the world's axes, without the reference's
    MatrixXd J(3, nv_);
    if (position) {
      error = R_a * numbers(term.reference, 3) - r;
      missing = -(v - w_a.cross(r));
      drift = Vector3d((b.at.acceleration - a.at.acceleration).head<3>()) - alpha_a.cross(r) - 2.0 * w_a.cross(v) +
              w_a.cross(w_a.cross(r));
      for (int i = 0; i < nv_; ++i)
        J.col(i) = b.J.col(i).head<3>() - a.J.col(i).head<3>() + r.cross(Vector3d(a.J.col(i).tail<3>()));
    } else {
      missing = -w;
      drift = Vector3d((b.at.acceleration - a.at.acceleration).tail<3>()) - w_a.cross(w);
      J = b.J.bottomRows<3>() - a.J.bottomRows<3>();
    }
    const Vector3d e = Q.transpose() * by_error.segment<3>(first), m = Q.transpose() * by_missing.segment<3>(first),
                   d = Q.transpose() * by_drift.segment<3>(first);
    const MatrixXd G = Q.transpose() * by_J.middleRows<3>(first);
    if (term.velocity >= 0) {
      const Vector3d reference = numbers(term.velocity + first, 3);
      missing += R_a * reference;
      by_R_a += m * reference.transpose();
      by_numbers(term.velocity + first, 3) += R_a.transpose() * m;
    }
    if (term.acceleration >= 0) {
      const Vector3d reference = numbers(term.acceleration + first, 3);
      drift -= R_a * reference;
      by_R_a -= d * reference.transpose();
      by_numbers(term.acceleration + first, 3) -= R_a.transpose() * d;
    }
    if (position) {
      by_R_a += e * numbers(term.reference, 3).transpose();
      by_numbers(term.reference, 3) += R_a.transpose() * e;
      by_r -= e;
      // missing has -(v - w_a x r)
      b.by.velocity.head<3>() -= m;
      a.by.velocity.head<3>() += m;
      by_w_a += r.cross(m);
      by_r += m.cross(w_a);
      b.by.acceleration.head<3>() += d;
      a.by.acceleration.head<3>() -= d;
      a.by.acceleration.tail<3>() -= r.cross(d);
      by_r -= d.cross(alpha_a);
      by_w_a -= 2.0 * v.cross(d);
      b.by.velocity.head<3>() -= 2.0 * d.cross(w_a);
      a.by.velocity.head<3>() += 2.0 * d.cross(w_a);
      const Vector3d s = w_a.cross(r), by_s = d.cross(w_a);
      by_w_a += s.cross(d) + r.cross(by_s);
      by_r += by_s.cross(w_a);
      b.by_J.topRows<3>() += G;
      a.by_J.topRows<3>() -= G;
      for (int i = 0; i < nv_; ++i) {
        const Vector3d g = G.col(i), turned = a.J.col(i).tail<3>();
        a.by_J.col(i).tail<3>() += g.cross(r);
        by_r += turned.cross(g);
      }
    } else {
      const double* quaternion = numbers_ + term.reference + (term.position ? 3 : 0);
      const Matrix3d in_world = R_a * rotation_of(quaternion);
      const Matrix3d E = R_b.transpose() * in_world;
      const Vector3d angle = pinocchio::log3(E);
      error = R_b * angle;
      b.by.rotation += e * angle.transpose();
      Matrix3d J_log;
      pinocchio::Jlog3(E, J_log);
      const Vector3d by_turn = J_log.transpose() * (R_b.transpose() * e);
      by_numbers(term.reference + (term.position ? 3 : 0), 4) += by_quaternion(quaternion, by_turn);
      a.by.rotation += of_torque(in_world * by_turn, R_a);
      b.by.rotation -= of_torque(in_world * by_turn, R_b);
      b.by.velocity.tail<3>() -= m;
      a.by.velocity.tail<3>() += m;
      b.by.acceleration.tail<3>() += d;
      a.by.acceleration.tail<3>() -= d;
      by_w_a -= w.cross(d);
      b.by.velocity.tail<3>() -= d.cross(w_a);
      a.by.velocity.tail<3>() += d.cross(w_a);
      b.by_J.bottomRows<3>() += G;
      a.by_J.bottomRows<3>() -= G;
    }
    by_Q += by_error.segment<3>(first) * error.transpose() + by_missing.segment<3>(first) * missing.transpose() +
            by_drift.segment<3>(first) * drift.transpose() + by_J.middleRows<3>(first) * J.transpose();
  }
  a.by.rotation += by_R_a;
  (term.own_axes ? b : a).by.rotation += by_Q.transpose();
  a.by.velocity.tail<3>() += by_w_a;
  b.by.position += by_r;
  a.by.position -= by_r;
}

}  // namespace qp_control
