// QPs with bounds and a positive definite H by their active sets, as many as a vector register has lanes.
//
// With the variables of a set at their bounds the others follow from a linear system. The set is the right one where
// none of these passes a bound, and no multiplier has the wrong sign; what violates that changes sides, all at once. A
// few sets are tried: mostly they are enough, but they may repeat, and whoever calls this needs another way then.
// Source: M. Hintermueller, K. Ito, K. Kunisch, "The primal-dual active set strategy as a semismooth Newton method",
// SIAM J. Optim. 13 (2003).
#pragma once

#include "qp_control/box_qps.hpp"
#include "qp_control/lane_kernels.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

class LaneBoxQp {
 public:
  explicit LaneBoxQp(int n);

  // Problems 0..count-1, count <= lanes: those whose largest residual H x + g + w is at most eps are written to x and
  // w, and their entry of `solved` is set.
  void solve(int count, const BoxQpData& data, double eps, double* x, double* w, bool* solved);
  // From solutions, their multipliers and the gradients by x those by g, lb and ub; variables that meet a bound stay on
  // it. residuals: of the linear systems, relative, infinite where there is none to be solved.
  void adjoint(int count, const BoxQpData& data, const double* x, const double* w, const double* by_x, double* by_g,
               double* by_lb, double* by_ub, double* residuals);

 private:
  void load(int count, const BoxQpData& data);
  Mask factor();    // of H among the free variables
  void gradient();  // H x + g
  void minimise();  // along the free variables
  Mask move();      // to the next set; the lanes that stay

  const int n_;
  PackArray H_, g_, lower_, upper_, side_, M_, L_, inverse_diagonal_, x_, step_, gradient_, out_;
};

}  // namespace qp_control
