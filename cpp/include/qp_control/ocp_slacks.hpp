// The slacks of soft rows (ocp_qp.hpp) among the loop's unknowns: row i of a stage is [D C]_i w + a (s_l - s_u), a
// their scale, and its slacks have the Hessian w2, the slope w1 and the bound zero. A hard row leaves its slacks out, a
// = 0; they then have a curvature of one, no slope and no bounds, and are zero.
//
// Elimination: with the weight t of a row and h = w2 + rho + weight of the bound of each slack,
//
//     M = [t C'C, a t C', -a t C'; a t C, h_l + a^2 t, -a^2 t; -a t C, -a^2 t, h_u + a^2 t]
//
// leaves t h_l h_u / d on C'C, d = h_l h_u + a^2 t (h_l + h_u). Real: see ocp_layout.hpp.
#pragma once

#include <cmath>

#include "qp_control/equilibration.hpp"
#include "qp_control/ocp_layout.hpp"

namespace qp_control {

// What the bound of a slack pulls, which is minus its multiplier; z: of the row, of s_l its negative. Where the slack
// is positive, or rounding has left as good as nothing, nothing.
template <class Real>
Real slack_pull(Real linear, Real quadratic, Real slack, Real z) {
  constexpr double rounding = 1e-9;
  const Real force = linear + quadratic * slack - z;
  return select((slack > Real(0.0)) | (force <= Real(rounding) * (linear + abs(z))), Real(0.0), force);
}

// The weights of row i of one problem; absent arrays are zero.
struct SlackWeights {
  SlackWeights(const double* linear_weights, const double* quadratic_weights, int i)
      : linear(linear_weights == nullptr ? 0.0 : linear_weights[i]),
        quadratic(quadratic_weights == nullptr ? 0.0 : quadratic_weights[i]) {}
  bool soft() const { return std::isfinite(linear) && std::isfinite(quadratic); }
  double linear, quadratic;
};

template <class Real>
class OcpSlacks {
 public:
  explicit OcpSlacks(const OcpLayout<Real>& at);

  // Reads the weights, and writes slopes and bounds. False: one is negative or NaN.
  Mask load(const OcpBatch& batch, int first, int last, Real* g, Real* lower, Real* upper);
  // Their scale, from that of the rows and of the cost.
  void scale(Equilibration& scaling);

  void apply_hessian(const Real* x, Real* out) const;
  void add_rows(const Real* x, Real* v) const;
  void add_rows_transposed(const Real* z, Real* out) const;

  // The rows' weights that are left; slacks of stage k are eliminated, for the next two.
  const Real* eliminate(int k, const Real* weight, Real rho);
  // What the slacks' right-hand sides put on the rows.
  const Real* on_rows(int k, const Real* rhs) const;
  // The slacks, from the rows' values.
  void recover(int k, const Real* rows, Real* rhs) const;

  // From an unknown on: 1, of hard rows 0.
  const Real* soft(int unknown) const { return reinterpret_cast<const Real*>(soft_.data()) + place(unknown); }

  // Of a point in the caller's units: the multipliers of the slacks' bounds.
  void complete(const PackArray& x, PackArray& z) const;
  // In the loop's units: slacks that their bounds do not hold, from the values of the rows without them.
  void start(const PackArray& rows, const PackArray& lower, const PackArray& upper, const PackArray& z,
             PackArray& x) const;
  // Slacks that their bounds hold, or rows without a multiplier do not pull, become exactly zero; returns the largest
  // change.
  Pack tidy(PackArray& x, const PackArray& z) const;

 private:
  int place(int unknown) const { return unknown - at_.slack_lower(0); }
  // Calls body(row, slack, box, sign) for every slack: its row, its place among the unknowns and that of its bound, and
  // the sign that it has in its row.
  template <class Body>
  void for_each(const Body& body) const;

  const OcpLayout<Real> at_;
  PackArray linear_, quadratic_, soft_;  // weights of the caller's, zero for hard rows; 1, of a hard row 0
  PackArray curvature_, coefficient_;    // Hessian and a, in the loop's units
  PackArray h_, coupling_, inverse_;     // a t; 1 / d
  mutable PackArray rows_;
};

extern template class OcpSlacks<Pack>;
extern template class OcpSlacks<double>;

}  // namespace qp_control
