// First level of the closest feasible optimal-control problem: the shift of the rows and boxes that is least in the
// Euclidean norm of the caller's units,
//
//     minimise 1/2 |s|^2   subject to   lower - s_lower <= C x + D u <= upper + s_upper, ..,  and the dynamics,
//
// by the loop on the Riccati back end, without a cost and with elastic rows, whose multipliers are the shifts.
#pragma once

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/ocp_element.hpp"
#include "qp_control/riccati_kkt.hpp"

namespace qp_control {

class OcpLeastShift {
 public:
  explicit OcpLeastShift(const OcpBatch& batch);

  // Of element 0 of `problem`, whose bounds are `bounds`. False: not found; point() may prove something nevertheless.
  bool find(const OcpBatch& problem, const OcpBounds& bounds, int max_steps, const Deadline& deadline);
  int steps() const { return iterate_.steps + 1; }
  // x and u attain the least shift; (y, z) is the Farkas vector of the rows and dynamics, z the shifts themselves.
  const OcpElement& point() const { return point_; }
  double largest_shift() const;

  // Of the shifted problem's multipliers, those on shifted rows and equalities become the least ones that do the same:
  // z = E d, where E has those rows and d obeys the dynamics without their constants. y makes up for it.
  void shrink_multipliers(OcpElement& solution);

 private:
  // What a row adds to the cost, weight / 2 (row d - target)^2: 1 where it is shifted, stays at a bound, or is an
  // equality, 2 where crossed bounds both pull.
  struct Pull {
    double weight = 0.0, target = 0.0;
    friend bool operator!=(const Pull& a, const Pull& b) { return a.weight != b.weight || a.target != b.target; }
    friend bool operator==(const Pull& a, const Pull& b) { return !(a != b); }
  };

  // Which bounds pull at the point at hand, to next_pulls_; true: not the same as pulls_. first: the point is the
  // loop's, not that of pulls_.
  bool identify(const OcpBounds& bounds, bool first);
  Pull pull_of(Pull now, double lower, double upper, double v, bool first);
  // minimise the sum of the pulls, in the caller's units, subject to the dynamics, with or without
  // their constants, from d = iterate_.x; its residuals, as multipliers of the rows, to iterate_.z. False: no factor.
  bool solve_least_squares(bool with_constants);
  void read_result(OcpElement& out) const;
  template <class Number>
  void to_loop(const Number& number, PackArray& to);
  void read_shifts(const OcpBounds& bounds);

  OcpDims dims_;
  RiccatiKkt<double> kkt_;
  Equilibration scaling_;
  Iterate iterate_;
  Penalties penalties_;
  double unit_ = 1.0;  // multipliers of the loop times their scale are shifts times this
  OcpElement point_, change_;
  std::vector<Pull> pulls_, next_pulls_;
  bool precise_ = false;   // what the least squares have left is small beside their residuals
  double mismatch_ = 0.0;  // largest multiplier of the wrong sign, or violation, at the point of pulls_
};

}  // namespace qp_control
