// Rescue of the augmented-Lagrangian loop on problems whose active set is hard to find: a primal-dual interior point
// method on the same equilibrated problem. With a slack s and a multiplier z >= 0 for every finite bound of rows
// v = R x (sign 1: upper, -1: lower),
//
//     sign v + s - (mu + delta) z = sign bound,    s_i z_i = target,
//
// where delta is the row's elasticity and mu regularises the step only (a proximal term around the current
// multipliers). Predictor and corrector: Mehrotra, "On the implementation of a primal-dual interior point method",
// SIAM J. Optim. 1992; the proximal terms: Schwan et al., "PIQP: a proximal interior-point quadratic programming
// solver", CDC 2023. The loop takes over at the point that it finds.
#pragma once

#include <optional>
#include <vector>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/quasi_definite.hpp"

namespace qp_control {

// A workspace for problems of one size.
class InteriorPoint {
 public:
  InteriorPoint(int n, int stored_rows);

  // Takes in the problem that kkt holds; kkt must outlive what follows. elasticity as in Penalties.
  void load(const DenseKkt& kkt, const PackArray& elasticity);

  // At most max_steps factorisations. Writes the best point that it has seen to (it.x, it.z), where multipliers are
  // zero on the rows that look inactive, and adds to it.steps.
  void run(int max_steps, const Deadline& deadline, Iterate& it);

 private:
  struct Side {
    int row;
    double sign, bound;
  };

  void start();
  // Residuals of the current point; returns their size, in which the mean s z counts too.
  double evaluate();
  bool factor();
  // Step (dx_, ds_, dz_, dy_) towards s z = target (per side).
  void solve(const Reserved<Vector>& target);
  double step_length(const Reserved<Vector>& value, const Reserved<Vector>& change) const;
  double mean_product() const { return sides_.empty() ? 0.0 : s_.dot(z_) / double(sides_.size()); }
  void keep();

  const DenseKkt* kkt_ = nullptr;
  const int n_, rows_, stored_;
  Vector elasticity_;
  bool coupled_ = false;  // primal and dual residuals share unknowns: one step length for both
  std::vector<Side> sides_;
  std::vector<int> equalities_;
  std::vector<int> bounded_;  // stored rows with a finite bound: those of system_
  std::vector<int> slot_;     // of a stored row among them
  QuasiDefinite system_;
  double rho_ = 1e-8, mu_ = 1e-8, mean_ = 0.0;
  double primal_ = 0.0;  // largest residual of the rows, relative to their bounds
  PackArray x_, v_, Hx_, Rz_, row_;
  Reserved<Vector> s_, z_, ds_, dz_, side_weight_, side_residual_, side_rhs_, target_;
  Reserved<Vector> y_, dy_, equality_residual_;  // of the equalities
  Vector weight_, weighted_rhs_;                 // of the rows
  Vector dx_, d_, a_;
  Reserved<Vector> e_, b_, multiplier_step_;  // of the rows of system_
  Vector best_x_, best_z_;
  Vector dual_residual_;
};

// The loop; where it has not ended after a while, an interior point first and the loop again from there. `rescue` is
// made where it is first needed, and kept. sides: see augmented_lagrangian().
void minimise_with_rescue(DenseKkt& kkt, SingleJudge& judge, Penalties& penalties, int max_steps,
                          const Deadline& deadline, Iterate& it, const PackArray& sides,
                          std::optional<InteriorPoint>& rescue);

}  // namespace qp_control
