// The KKT systems of the active rows at solutions, K = [H G'; G 0], one per lane or that of one problem, by any back
// end of the loop: proximal refinement with the back end's factor, which is exact where K is regular.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "qp_control/active_set.hpp"
#include "qp_control/derivatives.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

// A point (x, z), a right-hand side or a residual.
struct LaneVector {
  LaneVector(int n, int rows) : x(n), z(rows) { fill(0.0); }
  void fill(Pack value) {
    x.setConstant(value);
    z.setConstant(value);
  }
  PackArray x, z;
};

// The rows of a shifted solution's first level (kkt_system.hpp), 1 in `rows`, and their shifts, upper minus lower.
struct LaneLevel {
  const PackArray *rows, *shift;
};

template <class Kkt>
class LaneKktSystem {
 public:
  // Residuals of accepted solutions, relative to the size of their terms.
  static constexpr double accepted = 1e-11;

  LaneKktSystem(Kkt& kkt, int n, int rows)
      : side(rows),
        active(rows),
        point(n),
        slope(n),
        kkt_(kkt),
        weight_(rows),
        v_(rows),
        probe_(n, rows),
        right_(n, rows),
        back_(n, rows),
        residual_(n, rows),
        product_(n, rows) {}

  // At a solution in the caller's units; multipliers of inactive rows become zero. Rows of the first level are active.
  void find_active(const Equilibration& scaling, const PackArray& x, PackArray& z, const LaneLevel* level = nullptr);
  // False: K cannot be factored, or is singular; of the first level's rows, if given, the multipliers may be open.
  Mask factor(const PackArray* level_rows = nullptr);
  // Solves K q = rhs, both in the back end's units; returns the residual relative to the size of its terms. enough: of
  // it, ends the refinement.
  Pack solve(const LaneVector& rhs, LaneVector& q, double enough = 1e-15);

  PackArray side, active;  // 1 upper bound, -1 lower bound, 0 inactive; its absolute value
  PackArray point, slope;  // x and H x + g in the back end's units
  Pack weakly_active;

 private:
  static constexpr double mu = 1e-6, rho = 1e-6;  // of the regularised system, on equilibrated data
  static constexpr int refinement_steps = 12;

  Pack largest(const PackArray& a) const {
    Pack out = 0.0, poison = 0.0;
    for (int i = 0; i < a.size(); ++i) {
      out = max(out, abs(a[i]));
      poison += a[i] * Pack(0.0);
    }
    return kkt_.max(out) + kkt_.sum(poison);
  }
  // product_ = K q
  void multiply(const LaneVector& q);
  // Does a random vector survive K and its inverse?
  Mask regular(const PackArray* level_rows);

  Kkt& kkt_;
  PackArray weight_, v_;
  LaneVector probe_, right_, back_, residual_, product_;
};

// Deterministic numbers in (-1, 1), the same in every lane (splitmix64).
inline void fill_random(PackArray& a, std::uint64_t& state) {
  for (Pack& entry : a) {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    entry = 2.0 * (double((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0 - 1.0;
  }
}

// By the rules of active_rows() and solution_point().
template <class Kkt>
void LaneKktSystem<Kkt>::find_active(const Equilibration& scaling, const PackArray& x, PackArray& z,
                                     const LaneLevel* level) {
  const Pack zero = 0.0, one = 1.0;
  for (int j = 0; j < x.size(); ++j) point[j] = x[j] / scaling.D[j];
  kkt_.apply_rows(point, v_);
  kkt_.apply_hessian(point, slope);
  Pack balance = 0.0;
  for (int j = 0; j < x.size(); ++j) {
    balance = max(balance, max(abs(kkt_.g()[j]), abs(slope[j])) / (scaling.c * scaling.D[j]));
    slope[j] += kkt_.g()[j];
  }
  balance = kkt_.max(balance);
  kkt_.row_sizes(scaling, weight_);
  weakly_active = 0.0;
  for (int i = 0; i < z.size(); ++i) {
    const Pack lower = kkt_.lower()[i], upper = kkt_.upper()[i], unit = scaling.E[i];
    const Mask equality = lower == upper;
    // Relative to 1 + |bound| in the caller's units; scaling by powers of two has rounded nothing.
    const auto meets = [&](Pack bound) {
      return finite(bound) & (abs(v_[i] - bound) <= Pack(meets_bound) * (unit + abs(bound)));
    };
    const Mask at_upper = meets(upper), at_lower = meets(lower);
    Pack s = select(((z[i] > zero) & finite(upper)) | equality, one, zero);
    s = select((z[i] < zero) & finite(lower), Pack(-1.0), s);
    s = select(at_upper ^ at_lower, select(at_upper, one, Pack(-1.0)), s);
    Mask judged = !equality;
    if (level != nullptr) {
      const Mask shifted = (*level->rows)[i] != zero;
      s = select(shifted, select((*level->shift)[i] < zero, Pack(-1.0), one), s);
      judged = judged & !shifted;
    }
    const Mask weak = judged & (s != zero) & (abs(z[i]) * weight_[i] <= Pack(weak_multiplier) * balance);
    weakly_active += select(weak, one, zero);
    side[i] = s;
    active[i] = abs(s);
    z[i] *= active[i];
  }
  weakly_active = kkt_.sum(weakly_active);
  for (int i = 0; i < z.size(); ++i) weight_[i] = active[i] * Pack(1.0 / mu);
}

template <class Kkt>
Mask LaneKktSystem<Kkt>::factor(const PackArray* level_rows) {
  const Mask definite = kkt_.factor(weight_, rho);
  return any(definite) ? definite & regular(level_rows) : definite;
}

template <class Kkt>
void LaneKktSystem<Kkt>::multiply(const LaneVector& q) {
  kkt_.apply_hessian(q.x, product_.x);
  kkt_.add_rows_transposed(q.z, product_.x);
  kkt_.apply_rows(q.x, product_.z);
  for (int i = 0; i < product_.z.size(); ++i) product_.z[i] *= active[i];
}

template <class Kkt>
Pack LaneKktSystem<Kkt>::solve(const LaneVector& right, LaneVector& solution, double enough) {
  const double infinity = std::numeric_limits<double>::infinity();
  const int n = static_cast<int>(right.x.size()), rows = static_cast<int>(right.z.size());
  solution.fill(0.0);
  const Pack rhs_size = max(largest(right.x), largest(right.z));
  Pack last = infinity, best = infinity;
  Mask going = Mask::all(true);
  for (int k = 0; k <= refinement_steps; ++k) {
    if (k == 0)
      product_.fill(0.0);
    else
      multiply(solution);
    Pack error = 0.0, size = 0.0;
    for (int j = 0; j < n; ++j) {
      residual_.x[j] = right.x[j] - product_.x[j];
      error = max(error, abs(residual_.x[j]));
      size = max(size, abs(solution.x[j]));  // rows and H are about one
    }
    for (int i = 0; i < rows; ++i) {
      residual_.z[i] = right.z[i] - product_.z[i];
      error = max(error, abs(residual_.z[i]));
      size = max(size, abs(solution.z[i]));
    }
    error = kkt_.max(error);
    size = max(rhs_size, kkt_.max(size));
    error = select(size > Pack(0.0), error / size, 0.0) + largest(residual_.x) * Pack(0.0);
    best = select(going, error, best);
    going = going & (error > Pack(enough)) & (error < Pack(0.5) * last);
    if (!any(going)) break;
    last = error;
    // [H + rho I, R'; R, -mu I] (step, row_step) = residual
    for (int i = 0; i < rows; ++i) product_.z[i] = residual_.z[i] * weight_[i];
    product_.x = residual_.x;
    kkt_.add_rows_transposed(product_.z, product_.x);
    kkt_.solve(product_.x);
    kkt_.apply_rows(product_.x, product_.z);
    for (int j = 0; j < n; ++j) solution.x[j] = select(going, solution.x[j] + product_.x[j], solution.x[j]);
    for (int i = 0; i < rows; ++i) {
      const Pack step = (product_.z[i] - residual_.z[i]) * weight_[i];
      solution.z[i] = select(going, solution.z[i] + step, solution.z[i]);
    }
  }
  return best;
}

template <class Kkt>
Mask LaneKktSystem<Kkt>::regular(const PackArray* level_rows) {
  std::uint64_t state = 1;
  fill_random(probe_.x, state);
  fill_random(probe_.z, state);
  kkt_.clear_padding(probe_.x);
  for (int i = 0; i < probe_.z.size(); ++i) probe_.z[i] *= active[i];
  multiply(probe_);
  std::swap(product_, right_);
  // Open multipliers of a level leave those of the dynamics open, which stand behind the variables.
  const int determined = level_rows == nullptr ? static_cast<int>(probe_.x.size()) : kkt_.variables();
  const auto survives = [&](double enough) {
    solve(right_, back_, enough);
    Pack error = 0.0;
    for (int j = 0; j < determined; ++j) error = max(error, abs(back_.x[j] - probe_.x[j]));
    for (int i = 0; i < probe_.z.size(); ++i) {
      const Pack difference = abs(back_.z[i] - probe_.z[i]);
      error = max(error, level_rows == nullptr ? difference : select((*level_rows)[i] == Pack(0.0), difference, 0.0));
    }
    return kkt_.max(error) < Pack(1e-5);
  };
  // What is badly conditioned needs all digits to show that it is regular.
  const Mask at_once = survives(1e-9);
  return qp_control::all(at_once) ? at_once : survives(1e-15);
}

}  // namespace qp_control
