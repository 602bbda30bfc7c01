// Where two bodies of a robot are nearest to each other.
//
// A shape is a core, a box that may be flat, rounded by a radius: a point gives a ball, a segment a capsule. The first
// of a pair has a segment or a point p + t u, |t| <= l, the second any box, |y_i| <= e_i in its axes. With o and d for
// p and u in these,
//   t minimises  sum_i max(|o_i + t d_i| - e_i, 0)^2 + epsilon t^2,     y_i = clamp(o_i + t d_i, -e_i, e_i),
// where epsilon moves the point of a segment that lies almost parallel to a face or another segment towards its middle,
// and from end to end while it tilts by some thousandths of a radian; without, it would jump, and capsules would rattle
// where they lie. The slope of that by t is piecewise linear and grows; within a piece t is a quotient of polynomials,
// and so all is differentiable. Bodies touch halfway between their surfaces, so that forces on both are opposite and
// along one line.
//
// Points that are in the box are pushed out of its nearest face.
#pragma once

#include "touch.hpp"

namespace qp_control {

class PairTouch {
 public:
  explicit PairTouch(const ContactPair& pair);

  Touch set(const FrameState& first, const FrameState& second);
  // After `set`.
  void adjoint(const FrameState& first, const FrameState& second, const TouchGradient& g, PoseGradient& by_first,
               PoseGradient& by_second) const;

 private:
  struct Core {
    Eigen::Vector3d position, half;
    Eigen::Matrix3d rotation;
    double radius;
  };
  static Core core(const RoundedBox& shape);
  double nearest() const;        // t
  double slope(double t) const;  // of the function that t minimises, by t, halved

  const Core a_, b_;
  Touch now_;
  Eigen::Vector3d o_, d_, c_, y_, n_;  // c = o + t d; the normal
  double t_, distance_;
  bool end_;     // t is l or -l
  int face_;     // of the box, out of which c is pushed, or -1
  double side_;  // that it is on
};

}  // namespace qp_control
