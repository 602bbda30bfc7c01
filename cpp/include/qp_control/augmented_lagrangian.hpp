// The loop, written once for every KKT back end.
//
// Proximal method of multipliers on rows lower <= v = R x <= upper: each outer step minimises, over x,
//
//     1/2 x'Hx + g'x + rho/2 |x - x_k|^2 + sum_i 1/(2 (mu_i + delta_i)) dist(v_i + mu_i z_k_i, [lower_i, upper_i])^2
//
// and then sets z_i = (t_i - P(t_i)) / (mu_i + delta_i), t = v + mu z_k, P the projection on the bounds. That function
// is the primal-dual augmented Lagrangian of ProxQP (Bambade et al., RSS 2022) after its minimisation over the
// multipliers. It is convex and piecewise quadratic: semismooth Newton with an exact line search ends in finitely many
// steps. delta_i > 0 makes row i elastic, with the cost 1/(2 delta_i) dist(v_i, bounds)^2 and the multiplier dist /
// delta_i; mu_i = 0 treats that cost exactly. Bounds of an elastic row may cross: both sides then pull.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "qp_control/linear_algebra.hpp"

namespace qp_control {

struct Penalties {
  explicit Penalties(int rows) : mu(rows), delta(Vector::Zero(rows)) {}

  // Equalities are known to be active: a smaller mu costs nothing there. Elastic rows keep mu = 0.
  void reset(const Vector& lower, const Vector& upper);
  void tighten();

  double rho = 1e-6;
  Vector mu, delta;

 private:
  double smallest_ = 1e-8;
};

// What the loop works on. v = rows x and Hx are kept up to date.
struct Iterate {
  Iterate(int n, int rows)
      : x(n),
        z(rows),
        v(rows),
        Hx(n),
        x_center(n),
        z_center(rows),
        gradient(n),
        dx(n),
        dv(rows),
        Hdx(n),
        weight(rows) {}

  Vector x, z, v, Hx;
  Vector x_center, z_center;  // of the proximal terms
  Vector gradient;            // of the augmented Lagrangian
  Vector dx, dv, Hdx, weight;
  double primal = 0.0;  // max mu_i |z_i - z_center_i|: constraint violation and complementarity in one
  double dual = 0.0;    // |Hx + g + R'z|
  double noise = 0.0;   // rounding error of the gradient
  int steps = 0;        // Newton steps so far
  std::vector<std::pair<double, double>> breakpoints;  // of the line search: (step, change of slope)
};

// Multipliers, gradient and primal residual at x.
template <class Kkt>
void evaluate(const Kkt& kkt, const Penalties& penalties, Iterate& it) {
  const Vector &lower = kkt.lower(), &upper = kkt.upper();
  it.primal = 0.0;
  double largest = 0.0;
  for (int i = 0; i < kkt.rows(); ++i) {
    const double mu = penalties.mu[i], stiffness = 1.0 / (mu + penalties.delta[i]);
    const double t = it.v[i] + mu * it.z_center[i];
    const double above = t - upper[i], below = t - lower[i];
    const bool up = above > 0.0, low = below < 0.0;
    it.z[i] = stiffness * ((up ? above : 0.0) + (low ? below : 0.0));
    it.weight[i] = stiffness * (up + low);
    it.primal = std::max(it.primal, mu * std::abs(it.z[i] - it.z_center[i]));
    if (up || low) largest = std::max(largest, stiffness * std::abs(t));
  }
  it.noise = 1e-15 * largest;
  it.gradient = it.Hx + kkt.g();
  kkt.add_rows_transposed(it.z, it.gradient);
  it.dual = norm_inf(it.gradient);
  it.gradient += penalties.rho * (it.x - it.x_center);
}

// Exact minimiser over t >= 0 of the augmented Lagrangian at x + t dx: its derivative is piecewise linear and
// increasing.
template <class Kkt>
double line_search(const Kkt& kkt, const Penalties& penalties, Iterate& it) {
  const Vector &lower = kkt.lower(), &upper = kkt.upper();
  double slope = it.gradient.dot(it.dx);
  double curvature = it.dx.dot(it.Hdx) + penalties.rho * it.dx.squaredNorm();
  it.breakpoints.clear();
  for (int i = 0; i < kkt.rows(); ++i) {
    const double mu = penalties.mu[i], dv = it.dv[i];
    if (dv == 0.0) continue;
    const double stiffness = dv * dv / (mu + penalties.delta[i]);
    const double t = it.v[i] + mu * it.z_center[i];
    const bool up = t > upper[i], low = t < lower[i];
    curvature += stiffness * (up + low);
    // Going up a row leaves its lower bound and meets its upper one; going down the other way round.
    const bool rises = dv > 0.0;
    if (std::isfinite(upper[i]) && up != rises)
      it.breakpoints.emplace_back((upper[i] - t) / dv, rises ? stiffness : -stiffness);
    if (std::isfinite(lower[i]) && low == rises)
      it.breakpoints.emplace_back((lower[i] - t) / dv, rises ? -stiffness : stiffness);
  }
  // Few of the breakpoints lie before the minimiser: a heap hands them out in order without sorting the rest.
  const auto later = std::greater<std::pair<double, double>>();
  std::make_heap(it.breakpoints.begin(), it.breakpoints.end(), later);
  double position = 0.0;
  while (!it.breakpoints.empty()) {
    const auto [step, change] = it.breakpoints.front();
    if (curvature > 0.0 && slope + (step - position) * curvature >= 0.0) break;
    slope += (step - position) * curvature;
    position = step;
    curvature += change;
    std::pop_heap(it.breakpoints.begin(), it.breakpoints.end(), later);
    it.breakpoints.pop_back();
  }
  return curvature > 0.0 ? std::max(0.0, position - slope / curvature) : 0.0;
}

// Semismooth Newton until the gradient is small beside the step of the multipliers. False: the factorisation failed or
// numbers overflowed.
template <class Kkt, class Judge>
bool newton(Kkt& kkt, const Judge& judge, const Penalties& penalties, int max_steps, Iterate& it) {
  evaluate(kkt, penalties, it);
  double best = norm_inf(it.gradient);
  for (int stalled = 0; it.steps < max_steps && stalled < 20 && !judge.expired();) {
    const double error = norm_inf(it.gradient);
    if (!std::isfinite(error)) return false;
    if (error <= std::max({judge.tolerance(), 0.5 * it.primal, it.noise})) return true;
    if (!kkt.factor(it.weight, penalties.rho)) return false;
    it.dx = -it.gradient;
    kkt.solve(it.dx);
    kkt.apply_rows(it.dx, it.dv);
    kkt.apply_hessian(it.dx, it.Hdx);
    const double t = line_search(kkt, penalties, it);
    it.x += t * it.dx;
    it.v += t * it.dv;
    it.Hx += t * it.Hdx;
    ++it.steps;
    evaluate(kkt, penalties, it);
    const double now = norm_inf(it.gradient);
    stalled = now < 0.9 * best ? 0 : stalled + 1;  // the function falls monotonically, its gradient need not
    best = std::min(best, now);
  }
  return true;
}

enum class Verdict { GO_ON, SOLVED, SUSPECT_PRIMAL_INFEASIBLE, DUAL_INFEASIBLE, MAX_ITER, TIME_LIMIT, NUMERICAL_ERROR };

// Runs until the judge is content. The judge sees every outer step, in the back end's units, and owns termination.
template <class Kkt, class Judge>
Verdict augmented_lagrangian(Kkt& kkt, Judge& judge, Penalties& penalties, int max_steps, Iterate& it) {
  kkt.apply_rows(it.x, it.v);
  kkt.apply_hessian(it.x, it.Hx);
  double best = std::numeric_limits<double>::infinity();
  for (int outer = 0; outer < max_steps; ++outer) {
    it.x_center = it.x;
    it.z_center = it.z;
    if (!newton(kkt, judge, penalties, max_steps, it)) return Verdict::NUMERICAL_ERROR;
    const Verdict verdict = judge(it);
    if (verdict != Verdict::GO_ON) return verdict;
    if (it.steps >= max_steps) return Verdict::MAX_ITER;
    // Bound-constrained Lagrangian schedule, as long as rounding, which grows with 1/mu, leaves the tolerance within
    // reach.
    if (it.primal > 0.1 * best && it.noise < 10.0 * judge.tolerance()) penalties.tighten();
    best = std::min(best, it.primal);
  }
  return Verdict::MAX_ITER;
}

}  // namespace qp_control
