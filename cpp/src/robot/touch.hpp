// Where a body touches the ground or another one, or may touch it next, and the gradients of that by the poses of their
// frames.
#pragma once

#include "evaluator.hpp"
#include "qp_control/contact.hpp"

namespace qp_control {

struct Touch {
  double gap;
  Eigen::Vector3d normal;         // out of the ground, or out of the second body
  Eigen::Vector3d arm[2];         // from the frames' origins to the point that touches; the ground has none
  Eigen::Vector3d first, second;  // unit vectors across the normal, from which directions of friction are counted
};

// Of numbers of a touch, and of a frame: by its origin, and by rotations of it.
struct TouchGradient {
  double gap = 0.0;
  Eigen::Vector3d normal = Eigen::Vector3d::Zero(), first = normal, second = normal, arm[2] = {normal, normal};
};
struct PoseGradient {
  Eigen::Vector3d position = Eigen::Vector3d::Zero(), torque = Eigen::Vector3d::Zero();
};

// Completes a touch whose normal is known. The gradient by the normal in all that depends on it but gap and arms.
void put_directions(Touch& touch);
Eigen::Vector3d by_normal(const Touch& touch, const TouchGradient& g);

class BallOnGround {
 public:
  BallOnGround(const Ground& ground, const ContactBall& ball);

  Touch set(const FrameState& frame);
  PoseGradient adjoint(const FrameState& frame, const TouchGradient& g) const;  // after `set`

 private:
  const Ground* ground_;
  Eigen::Vector3d offset_;
  double radius_;
  Touch now_;
  Eigen::Matrix3d curvature_;
};

}  // namespace qp_control
