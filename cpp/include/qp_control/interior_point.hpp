// Rescue of the augmented-Lagrangian loop on problems whose active set is hard to find: a primal-dual interior point
// method on the same equilibrated problem, written once for every KKT back end. With a slack s and a multiplier z >= 0
// for every finite bound of rows v = R x (sign 1: upper, -1: lower),
//
//     sign v + s - (mu + delta) z = sign bound,    s_i z_i = target,
//
// where delta is the row's elasticity and mu regularises the step only (a proximal term around the current
// multipliers). Predictor and corrector: Mehrotra, "On the implementation of a primal-dual interior point method",
// SIAM J. Optim. 1992; the proximal terms: Schwan et al., "PIQP: a proximal interior-point quadratic programming
// solver", CDC 2023. The loop takes over at the point that it finds.
//
// A back end has, besides what the loop asks of it, a class for the linear system of a step: with its Kkt and the
// constants that differ from structure to structure, load(kkt) for a new problem, factor(kkt, weight, rho), and
// solve(kkt, gradient, r, dx, v, dm) for
//
//     (H + rho I) dx + R'dm = -gradient,    v = R dx,    dm = weight (v - r)    (dm = 0 where the weight is).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"

namespace qp_control {

// Which points of the rescue to keep, and whether it still gets anywhere.
struct Progress {
  static constexpr double most_mean = 1e16;  // mean product of slacks and multipliers on the way to huge multipliers

  // Is a point the best so far? error: of everything, primal: of the rows, dual: of the gradient, mean: of the
  // products.
  bool better(double error, double primal, double dual, double mean) {
    // Where the multipliers are huge the products grow with them first, and the rows get nearer only then. Where H is
    // nearly singular and the solution far away, the products stay large on the way, while the gradient falls.
    const bool grows = mean > 1.5 * largest_mean && mean < most_mean;
    const bool nearer = error < 0.9 * least_error || primal < 0.9 * least_primal || dual < 0.9 * least_dual;
    stalled = nearer || grows ? 0 : stalled + 1;
    // The products go on falling below rounding, and tell the active rows the more clearly.
    const bool out = error < least_error || (error < 10.0 * least_error && mean < 0.1 * kept_mean);
    if (out) kept_mean = mean;
    least_error = std::min(least_error, error);
    least_primal = std::min(least_primal, primal);
    least_dual = std::min(least_dual, dual);
    largest_mean = std::max(largest_mean, mean);
    return out;
  }

  int stalled = 0;  // steps
  double least_error = std::numeric_limits<double>::infinity(), least_primal = least_error, least_dual = least_error,
         kept_mean = least_error;
  double largest_mean = 0.0;
};

template <class System>
class InteriorPoint {
  using Kkt = typename System::Kkt;

 public:
  // A workspace for problems like the one that kkt holds.
  explicit InteriorPoint(const Kkt& kkt);

  // Takes in the problem that kkt holds; kkt must outlive what follows. elasticity as in Penalties.
  void load(Kkt& kkt, const PackArray& elasticity);

  // At most max_steps factorisations. Writes the best point that it has seen to (it.x, it.z), where multipliers are
  // zero on the rows that look inactive, and adds to it.steps. The judge, where there is one, sees the points at which
  // error and products s z have become small, and ends the run with the first that will do. True: there was one.
  bool run(int max_steps, const Deadline& deadline, Iterate& it, SingleJudge* judge = nullptr);

 private:
  static constexpr int most_steps = 150, most_stalled = 12;
  static constexpr double to_boundary = 0.995;
  // Error and mean product at which the active set is first looked at; part of the latter at which the next look is.
  static constexpr double clear_error = 1e-6, clear_mean = 1e-10, next_look = 1e-3;

  // One of the two bounds of every row. Where there is none, s = z = 1 and nothing moves.
  struct Side {
    explicit Side(double upper_or_lower) : sign(upper_or_lower) {}
    double sign;
    PackArray present;  // 1 or 0
    PackArray bound, s, z, ds, dz, residual, target;
    PackArray weight, share, rhs;  // of dz = weight (sign v - rhs); part of the row's weight
  };

  void start();
  // Residuals of the current point; returns their size, in which the mean s z counts too.
  double evaluate();
  bool factor();
  // Step towards s z = target.
  void solve();
  double step_length(PackArray Side::* value, PackArray Side::* change) const;
  // Mean s z after a step of these lengths.
  double mean_product(Pack along_s, Pack along_z) const;
  void keep();

  Kkt* kkt_ = nullptr;
  System system_;
  Side sides_[2] = {Side(1.0), Side(-1.0)};
  PackArray equality_, b_, y_, dy_, equality_residual_;  // of rows with equal bounds: 1 or 0, bound, multiplier
  PackArray delta_;
  bool coupled_ = false;  // primal and dual residuals share unknowns: one step length for both
  PackArray x_, dx_, gradient_, best_x_;
  PackArray v_, row_, r_, weight_, best_z_;
  double count_ = 0.0;  // of the bounds
  double rho_ = 1e-8, mu_ = 1e-8, mean_ = 0.0;
  double primal_ = 0.0, dual_ = 0.0;  // largest residuals of rows and gradient, relative to bounds and g
};

template <class System>
InteriorPoint<System>::InteriorPoint(const Kkt& kkt) : system_(kkt) {
  const auto rows = kkt.lower().size(), unknowns = kkt.g().size();
  for (Side& side : sides_)
    for (PackArray* a : {&side.present, &side.bound, &side.s, &side.z, &side.ds, &side.dz, &side.residual, &side.target,
                         &side.weight, &side.share, &side.rhs})
      a->setConstant(rows, Pack(0.0));
  for (PackArray* a : {&equality_, &b_, &y_, &dy_, &equality_residual_, &delta_, &v_, &row_, &r_, &weight_, &best_z_})
    a->setConstant(rows, Pack(0.0));
  for (PackArray* a : {&x_, &dx_, &gradient_, &best_x_}) a->setConstant(unknowns, Pack(0.0));
}

template <class System>
void InteriorPoint<System>::load(Kkt& kkt, const PackArray& elasticity) {
  kkt_ = &kkt;
  system_.load(kkt);
  delta_ = elasticity;
  Pack count = 0.0;
  Mask elastic = Mask::all(false);
  for (int i = 0; i < delta_.size(); ++i) {
    const Mask equal = kkt.lower()[i] == kkt.upper()[i];
    elastic = elastic | (delta_[i] > Pack(0.0));
    equality_[i] = select(equal, 1.0, 0.0);
    b_[i] = select(equal, kkt.lower()[i], 0.0);
    for (Side& side : sides_) {
      const Pack bound = side.sign > 0.0 ? kkt.upper()[i] : kkt.lower()[i];
      const Mask present = finite(bound) & !equal;
      side.present[i] = select(present, 1.0, 0.0);
      side.bound[i] = select(present, bound, 0.0);
      count += side.present[i];
    }
  }
  count_ = Kkt::sum(count)[0];
  coupled_ = any(elastic);
}

// From the least-squares point of all bounds, moved into the interior.
template <class System>
void InteriorPoint<System>::start() {
  const Pack zero = 0.0, one = 1.0, infinity = std::numeric_limits<double>::infinity();
  for (PackArray* a : {&x_, &y_, &best_x_, &best_z_}) a->setConstant(zero);
  gradient_ = kkt_->g();
  equality_residual_ = b_;
  for (Side& side : sides_) {
    for (PackArray* a : {&side.s, &side.z}) a->setConstant(one);
    side.target.setConstant(zero);
    for (int i = 0; i < r_.size(); ++i) side.residual[i] = Pack(side.sign) * side.bound[i];
  }
  rho_ = mu_ = 1e-8;
  if (!factor()) return;
  solve();
  x_ = dx_;
  y_ = dy_;
  Pack least_s = infinity, least_z = infinity;
  for (const Side& side : sides_)
    for (int i = 0; i < v_.size(); ++i) {
      const Mask present = side.present[i] > zero;
      const Pack s = Pack(side.sign) * (side.bound[i] - v_[i]);
      least_s = min(least_s, select(present, s, infinity));
      least_z = min(least_z, select(present, -s, infinity));
    }
  const auto inwards = [&](Pack least) {
    least = -Kkt::max(-least);
    return select(least > zero, zero, one - least);
  };
  const Pack add_s = inwards(least_s), add_z = inwards(least_z);
  for (Side& side : sides_)
    for (int i = 0; i < v_.size(); ++i) {
      const Mask present = side.present[i] > zero;
      const Pack s = Pack(side.sign) * (side.bound[i] - v_[i]);
      side.s[i] = select(present, s + add_s, one);
      side.z[i] = select(present, add_z - s, one);
    }
}

template <class System>
double InteriorPoint<System>::evaluate() {
  kkt_->apply_rows(x_, v_);
  kkt_->apply_hessian(x_, gradient_);
  Pack primal = 0.0, size = 0.0, dual = 0.0, dual_size = 0.0, poison = 0.0;
  for (int i = 0; i < v_.size(); ++i) {
    equality_residual_[i] = equality_[i] * (b_[i] - v_[i] + delta_[i] * y_[i]);
    primal = max(primal, abs(equality_residual_[i]));
    size = max(size, abs(b_[i]));
    row_[i] = y_[i];
    for (Side& side : sides_) {
      const Pack sign = side.sign;
      side.residual[i] = side.present[i] * (sign * (side.bound[i] - v_[i]) - side.s[i] + delta_[i] * side.z[i]);
      row_[i] += side.present[i] * sign * side.z[i];
      primal = max(primal, abs(side.residual[i]));
      size = max(size, abs(side.bound[i]));
    }
    poison += v_[i] * Pack(0.0);
  }
  kkt_->add_rows_transposed(row_, gradient_);
  for (int j = 0; j < x_.size(); ++j) {
    gradient_[j] += kkt_->g()[j];
    dual = max(dual, abs(gradient_[j]));
    dual_size = max(dual_size, abs(kkt_->g()[j]));
    poison += gradient_[j] * Pack(0.0);
  }
  mean_ = mean_product(0.0, 0.0);
  primal_ = Kkt::max(primal)[0] / (1.0 + Kkt::max(size)[0]);
  dual_ = Kkt::max(dual)[0] / (1.0 + Kkt::max(dual_size)[0]);
  const double error = std::max({primal_, dual_, mean_});
  return error + Kkt::sum(poison)[0];  // NaN as soon as one entry is not finite
}

template <class System>
bool InteriorPoint<System>::factor() {
  for (int i = 0; i < weight_.size(); ++i) {
    weight_[i] = equality_[i] / (Pack(mu_) + delta_[i]);
    for (Side& side : sides_) {
      side.weight[i] = side.present[i] / (side.s[i] / side.z[i] + Pack(mu_) + delta_[i]);
      weight_[i] += side.weight[i];
    }
    for (Side& side : sides_) side.share[i] = select(side.present[i] > Pack(0.0), side.weight[i] / weight_[i], 0.0);
  }
  return system_.factor(*kkt_, weight_, rho_);
}

template <class System>
void InteriorPoint<System>::solve() {
  // sign v + ds - (mu + delta) dz = residual and z ds + s dz = target, so with the weights of the sides
  // dz = weight (sign v - rhs); of a row all sides together: dm = weight (v - r), r the weighted mean of the sign rhs.
  for (int i = 0; i < r_.size(); ++i) {
    r_[i] = equality_residual_[i];
    for (Side& side : sides_) {
      side.rhs[i] = side.residual[i] - side.target[i] / side.z[i];
      r_[i] += Pack(side.sign) * side.share[i] * side.rhs[i];
    }
  }
  system_.solve(*kkt_, gradient_, r_, dx_, v_, row_);
  auto& [upper, lower] = sides_;
  for (int i = 0; i < r_.size(); ++i) {
    dy_[i] = equality_[i] * row_[i];
    // Of two sides the lighter one has no cancellation in its formula, and the other gets the rest.
    const Pack both = row_[i] - dy_[i];
    const Pack of_upper = upper.weight[i] * (v_[i] - upper.rhs[i]),
               of_lower = lower.weight[i] * (-v_[i] - lower.rhs[i]);
    const Mask upper_is_light = upper.weight[i] <= lower.weight[i];
    upper.dz[i] = select(upper_is_light, of_upper, of_lower + both);
    lower.dz[i] = select(upper_is_light, of_upper - both, of_lower);
    for (Side& side : sides_) side.ds[i] = side.present[i] * (side.target[i] - side.s[i] * side.dz[i]) / side.z[i];
  }
}

template <class System>
double InteriorPoint<System>::step_length(PackArray Side::* value, PackArray Side::* change) const {
  Pack shrink = to_boundary;
  for (const Side& side : sides_)
    for (int i = 0; i < r_.size(); ++i) shrink = max(shrink, -(side.*change)[i] / (side.*value)[i]);
  return to_boundary / Kkt::max(shrink)[0];
}

template <class System>
double InteriorPoint<System>::mean_product(Pack along_s, Pack along_z) const {
  Pack products = 0.0;
  for (const Side& side : sides_)
    for (int i = 0; i < r_.size(); ++i)
      products += side.present[i] * (side.s[i] + along_s * side.ds[i]) * (side.z[i] + along_z * side.dz[i]);
  return count_ > 0.0 ? Kkt::sum(products)[0] / count_ : 0.0;
}

template <class System>
void InteriorPoint<System>::keep() {
  best_x_ = x_;
  best_z_ = y_;
  for (const Side& side : sides_)
    for (int i = 0; i < best_z_.size(); ++i)
      best_z_[i] += select(side.z[i] > side.s[i], side.present[i] * Pack(side.sign) * side.z[i], 0.0);
}

template <class System>
bool InteriorPoint<System>::run(int max_steps, const Deadline& deadline, Iterate& it, SingleJudge* judge) {
  start();
  Progress progress;
  double look_below = judge != nullptr ? clear_mean : 0.0;
  for (int step = 0; step < std::min(max_steps, most_steps); ++step) {
    const double error = evaluate();
    if (!std::isfinite(error)) break;
    if (progress.better(error, primal_, dual_, mean_)) {
      keep();
      if (error < clear_error && mean_ < look_below) {
        look_below = next_look * mean_;
        it.x = best_x_;
        it.z = best_z_;
        if (judge->will_do(it)) return true;
      }
    }
    const bool exact = count_ > 0.0 && mean_ < 1e-25;
    if (exact || progress.stalled > most_stalled || deadline.passed()) break;
    mu_ = std::clamp(1e-5 * mean_, System::least_regularisation, System::most_regularisation);
    rho_ = 0.1 * mu_;
    ++it.steps;
    if (!factor()) break;
    // Predictor: towards products of zero. Corrector: towards a part of their mean, by what the predictor leaves.
    for (Side& side : sides_)
      for (int i = 0; i < r_.size(); ++i) side.target[i] = -side.present[i] * side.s[i] * side.z[i];
    solve();
    if (count_ > 0.0) {
      const double left = mean_product(step_length(&Side::s, &Side::ds), step_length(&Side::z, &Side::dz)) / mean_;
      const Pack centre = std::min(1.0, std::pow(left, 3.0)) * mean_;
      for (Side& side : sides_)
        for (int i = 0; i < r_.size(); ++i) side.target[i] += side.present[i] * (centre - side.ds[i] * side.dz[i]);
      solve();
    }
    Pack along_x = step_length(&Side::s, &Side::ds), along_z = step_length(&Side::z, &Side::dz);
    if (coupled_) along_x = along_z = min(along_x, along_z);
    for (int j = 0; j < x_.size(); ++j) x_[j] += (j < kkt_->variables() ? along_x : along_z) * dx_[j];
    for (int i = 0; i < y_.size(); ++i) y_[i] += along_z * dy_[i];
    for (Side& side : sides_)
      for (int i = 0; i < r_.size(); ++i) {
        side.s[i] += along_x * side.ds[i];
        side.z[i] += along_z * side.dz[i];
      }
  }
  it.x = best_x_;
  it.z = best_z_;
  return false;
}

// The loop; where it has not ended after a while, an interior point first and the loop again from there, on the active
// set that it names. `rescue` is made where it is first needed, and kept. sides: see augmented_lagrangian().
template <class System>
void minimise_with_rescue(typename System::Kkt& kkt, SingleJudge& judge, Penalties& penalties, int max_steps,
                          const Deadline& deadline, Iterate& it, const PackArray& sides,
                          std::optional<InteriorPoint<System>>& rescue) {
  augmented_lagrangian(kkt, judge, penalties, std::min(max_steps, System::patience), it, sides);
  if (judge.verdict != Verdict::MAX_ITER || it.steps >= max_steps) return;
  if (!rescue) rescue.emplace(kkt);
  rescue->load(kkt, penalties.delta);
  if (rescue->run(max_steps - it.steps, deadline, it, &judge)) {
    judge.verdict = Verdict::SOLVED;
    return;
  }
  refresh(kkt, Mask::all(true), it);
  it.Rz.setConstant(Pack(0.0));
  kkt.add_rows_transposed(it.z, it.Rz);
  it.x_center = it.x;
  it.z_center = it.z;
  judge.verdict = judge.rescued(it);
  if (judge.verdict != Verdict::GO_ON) return;
  const int before = it.steps;
  const double ordinary_mu = std::exchange(penalties.settled_mu, System::rescued_mu);
  penalties.reset(kkt.lower(), kkt.upper());
  if (penalties.settles) penalties.settling = Mask::all(true);
  penalties.apply();
  augmented_lagrangian(kkt, judge, penalties, std::min(max_steps - before, System::patience_after), it, it.z);
  it.steps += before;
  penalties.settled_mu = ordinary_mu;
}

}  // namespace qp_control
