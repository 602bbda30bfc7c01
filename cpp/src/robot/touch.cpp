#include "touch.hpp"

#include <Eigen/Geometry>
#include <cmath>

namespace qp_control {

using Eigen::Vector3d;

namespace {

// What is left of it across the normal gives the first direction; which axis is no matter of the normal's small changes
// but at |n_x| = 0.9, where the directions of friction jump.
Vector3d axis_across(const Vector3d& n) { return std::abs(n.x()) < 0.9 ? Vector3d::UnitX() : Vector3d::UnitY(); }

}  // namespace

void put_directions(Touch& touch) {
  const Vector3d& n = touch.normal;
  const Vector3d axis = axis_across(n);
  touch.first = (axis - axis.dot(n) * n).normalized();
  touch.second = n.cross(touch.first);
}

Vector3d by_normal(const Touch& touch, const TouchGradient& g) {
  const Vector3d &n = touch.normal, axis = axis_across(n);
  const Vector3d by_first = g.first + g.second.cross(n);
  const Vector3d by_rest = (by_first - by_first.dot(touch.first) * touch.first) / (axis - axis.dot(n) * n).norm();
  return g.normal + touch.first.cross(g.second) - axis.dot(n) * by_rest - by_rest.dot(n) * axis;
}

BallOnGround::BallOnGround(const Ground& ground, const ContactBall& ball)
    : ground_(&ground), offset_(ball.offset[0], ball.offset[1], ball.offset[2]), radius_(ball.radius) {}

Touch BallOnGround::set(const FrameState& frame) {
  const Vector3d centre = frame.rotation * offset_;
  const GroundPoint at = ground_->at(frame.position + centre);
  curvature_ = at.curvature;
  now_.gap = at.distance - radius_;
  now_.normal = at.normal;
  now_.arm[0] = centre - radius_ * at.normal;
  put_directions(now_);
  return now_;
}

PoseGradient BallOnGround::adjoint(const FrameState& frame, const TouchGradient& g) const {
  const Vector3d centre = frame.rotation * offset_;
  PoseGradient out;
  out.position = g.gap * now_.normal + curvature_ * (by_normal(now_, g) - radius_ * g.arm[0]);
  out.torque = centre.cross(out.position + g.arm[0]);
  return out;
}

}  // namespace qp_control
