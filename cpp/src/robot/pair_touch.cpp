#include "pair_touch.hpp"

#include <Eigen/Geometry>
#include <algorithm>
#include <cmath>

namespace qp_control {

using Eigen::Matrix3d;
using Eigen::Vector3d;

namespace {

// Of 1e-6, 1e-4 and 1e-3 this is the first with which a capsule comes to rest on a box.
constexpr double epsilon = 1e-3;
constexpr double touching = 1e-9;  // [m] between cores, where the direction from one to the other is lost in rounding

// How far c is beyond [-e, e], with its sign.
double beyond(double c, double e) { return c > e ? c - e : c < -e ? c + e : 0.0; }

}  // namespace

PairTouch::Core PairTouch::core(const RoundedBox& shape) {
  return {Eigen::Map<const Vector3d>(shape.position), Eigen::Map<const Vector3d>(shape.half),
          Eigen::Map<const Eigen::Matrix<double, 3, 3, Eigen::RowMajor>>(shape.rotation), shape.radius};
}

PairTouch::PairTouch(const ContactPair& pair) : a_(core(pair.first)), b_(core(pair.second)) {}

double PairTouch::slope(double t) const {
  double sum = epsilon * t;
  for (int i = 0; i < 3; ++i) sum += d_[i] * beyond(o_[i] + t * d_[i], b_.half[i]);
  return sum;
}

double PairTouch::nearest() const {
  const double l = a_.half.z();
  if (slope(-l) >= 0.0) return -l;
  if (slope(l) <= 0.0) return l;
  double lower = -l, upper = l;  // the piece with the zero
  for (int i = 0; i < 3; ++i)
    for (double side : {-1.0, 1.0}) {
      const double t = (side * b_.half[i] - o_[i]) / d_[i];
      if (!(t > lower && t < upper)) continue;
      (slope(t) <= 0.0 ? lower : upper) = t;
    }
  const double below = slope(lower), above = slope(upper);
  return above > below ? lower - below * (upper - lower) / (above - below) : lower;
}

Touch PairTouch::set(const FrameState& first, const FrameState& second) {
  const Matrix3d R = second.rotation * b_.rotation;
  const Vector3d a = first.rotation * a_.position, b = second.rotation * b_.position;
  o_ = R.transpose() * (first.position + a - second.position - b);
  d_ = R.transpose() * (first.rotation * a_.rotation.col(2));
  t_ = nearest();
  end_ = std::abs(t_) >= a_.half.z();
  c_ = o_ + t_ * d_;
  y_ = c_.cwiseMin(b_.half).cwiseMax(-b_.half);
  distance_ = (c_ - y_).norm();
  face_ = -1;
  n_ = (c_ - y_) / distance_;
  if (!(distance_ > touching)) {
    distance_ = (c_.cwiseAbs() - b_.half).maxCoeff(&face_);
    side_ = c_[face_] < 0.0 ? -1.0 : 1.0;
    n_ = side_ * Vector3d::Unit(face_);
    y_ = c_;
    y_[face_] = side_ * b_.half[face_];
  }
  now_.gap = distance_ - a_.radius - b_.radius;
  now_.normal = R * n_;
  now_.arm[1] = b + R * (0.5 * (c_ + y_ + (b_.radius - a_.radius) * n_));
  now_.arm[0] = now_.arm[1] + second.position - first.position;
  put_directions(now_);
  return now_;
}

void PairTouch::adjoint(const FrameState& first, const FrameState& second, const TouchGradient& g,
                        PoseGradient& by_first, PoseGradient& by_second) const {
  const Matrix3d R = second.rotation * b_.rotation;
  const Vector3d a = first.rotation * a_.position, b = second.rotation * b_.position;
  // Of the normal and the point, in the axes of the box
  const Vector3d g_normal = by_normal(now_, g), g_point = g.arm[0] + g.arm[1];
  const Vector3d g_x = R.transpose() * g_point;
  const Vector3d g_n = R.transpose() * g_normal + 0.5 * (b_.radius - a_.radius) * g_x;
  Vector3d g_c = 0.5 * g_x, g_y = g_c;
  if (face_ < 0) {
    const Vector3d along = g.gap * n_ + (g_n - n_.dot(g_n) * n_) / distance_;
    g_c += along;
    g_y -= along;
    for (int i = 0; i < 3; ++i)
      if (std::abs(c_[i]) <= b_.half[i]) g_c[i] += g_y[i];
  } else {
    g_y[face_] = side_ * g.gap;
    g_c += g_y;
  }
  Vector3d g_o = g_c, g_d = t_ * g_c;
  if (!end_) {
    // t = -sum d_i (o_i -+ e_i) / (sum d_i^2 + epsilon) over the axes along which c is beyond the box
    double squared = epsilon;
    for (int i = 0; i < 3; ++i)
      if (std::abs(c_[i]) > b_.half[i]) squared += d_[i] * d_[i];
    const double g_t = d_.dot(g_c) / squared;
    for (int i = 0; i < 3; ++i)
      if (std::abs(c_[i]) > b_.half[i]) {
        g_o[i] -= g_t * d_[i];
        g_d[i] -= g_t * (beyond(c_[i], b_.half[i]) + t_ * d_[i]);
      }
  }
  const Vector3d by_o = R * g_o, by_d = R * g_d, u = first.rotation * a_.rotation.col(2);
  const Vector3d o = first.position + a - second.position - b;
  by_first.position = by_o - g.arm[0];
  by_first.torque = a.cross(by_o) + u.cross(by_d);
  by_second.position = g.arm[0] - by_o;
  by_second.torque =
      now_.arm[1].cross(g_point) + now_.normal.cross(g_normal) - o.cross(by_o) - u.cross(by_d) - b.cross(by_o);
}

}  // namespace qp_control
