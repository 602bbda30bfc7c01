// The loop, written once for every KKT back end, and for one problem (Real = double) as for a pack of them.
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

#include "qp_control/linear_algebra.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

// Bound-constrained Lagrangian schedule: mu falls where the multipliers converge too slowly. Once an active set repeats
// itself it is held fast, with so small a mu that the next outer steps are the iterative refinement of its KKT system
// (settling); if that leads nowhere, the schedule goes on from where it was.
template <class Real>
struct Penalties {
  explicit Penalties(int rows) : mu(rows), stiffness(rows), base(rows), delta(rows) {
    for (int i = 0; i < rows; ++i) delta[i] = 0.0;
  }

  // Equalities are known to be active: a smaller mu costs nothing there. Elastic rows keep mu = 0.
  void reset(const Array<Real>& lower, const Array<Real>& upper) {
    for (int i = 0; i < base.size(); ++i)
      base[i] = select(delta[i] > Real(0.0), 0.0, select(lower[i] == upper[i], Real(1e-3), Real(first)));
    level = 1.0;
    settling = Real(0.0) > Real(0.0);
    apply();
  }
  void apply() {
    const Real floor = 1e-8;
    for (int i = 0; i < mu.size(); ++i) {
      const Real scheduled = max(floor, base[i] * level);
      mu[i] = select(base[i] > Real(0.0), select(settling, min(Real(settled), scheduled), scheduled), 0.0);
      stiffness[i] = Real(1.0) / (mu[i] + delta[i]);
    }
  }

  static constexpr double first = 1.0, settled = 1e-6;
  double rho = 1e-6;
  bool settles = true;
  Array<Real> mu, stiffness;  // 1 / (mu + delta)
  Array<Real> base, delta;
  Real level;
  typename MaskOf<Real>::type settling;
};

// What the loop works on.
template <class Real>
struct Iterate {
  Iterate(int n, int rows)
      : x(n),
        z(rows),
        v(rows),
        above(rows),
        below(rows),
        Hx(n),
        Rz(n),
        over(rows),
        under(rows),
        x_center(n),
        z_center(rows),
        gradient(n),
        dx(n),
        dv(rows),
        Hdx(n),
        weight(rows),
        active(rows),
        x_saved(n),
        z_saved(rows) {}

  Array<Real> x, z;
  Array<Real> v, above, below, Hx, Rz;  // R x, R x - upper, R x - lower, H x, R'z
  Array<Real> over, under;              // t - upper, t - lower
  Array<Real> x_center, z_center;       // of the proximal terms
  Array<Real> gradient;                 // of the augmented Lagrangian
  Array<Real> dx, dv, Hdx, weight;
  Array<Real> active;            // set of the last outer step: 1 upper bound, -1 lower bound, 0 inactive
  Array<Real> x_saved, z_saved;  // where settling began
  Real primal;                   // max mu_i |z_i - z_center_i|: constraint violation and complementarity in one
  Real error;                    // largest entry of the gradient
  Real noise;                    // rounding error of the gradient
  Real least_error, stalled;     // of the inner problem: its least gradient, steps since it fell
  Real best;                     // least primal so far
  Real repeats, misses;          // of the active set; attempts to settle that failed
  int steps = 0;                 // Newton steps so far
};

// Largest absolute entry; NaN and infinite entries make it NaN.
template <class Real>
Real largest(const Array<Real>& a) {
  Real out = 0.0, poison = 0.0;
  for (int i = 0; i < a.size(); ++i) {
    out = max(out, abs(a[i]));
    poison += a[i] * Real(0.0);
  }
  return out + poison;
}

template <class Real>
Real dot(const Array<Real>& a, const Array<Real>& b) {
  Real out = 0.0;
  for (int i = 0; i < a.size(); ++i) out += a[i] * b[i];
  return out;
}

// Products with x, from scratch where `where` holds.
template <class Kkt, class Real, class M>
void refresh(const Kkt& kkt, M where, Iterate<Real>& it) {
  kkt.apply_rows(it.x, it.dv);
  kkt.apply_hessian(it.x, it.Hdx);
  for (int i = 0; i < kkt.rows(); ++i) {
    it.v[i] = select(where, it.dv[i], it.v[i]);
    it.above[i] = select(where, it.dv[i] - kkt.upper()[i], it.above[i]);
    it.below[i] = select(where, it.dv[i] - kkt.lower()[i], it.below[i]);
  }
  for (int j = 0; j < kkt.n(); ++j) it.Hx[j] = select(where, it.Hdx[j], it.Hx[j]);
}

// Multipliers, gradient and primal residual at x.
template <class Kkt, class Real>
void evaluate(const Kkt& kkt, const Penalties<Real>& penalties, Iterate<Real>& it) {
  const Real zero = 0.0, one = 1.0;
  it.primal = 0.0;
  Real size = 0.0;
  for (int i = 0; i < kkt.rows(); ++i) {
    const Real mu = penalties.mu[i], stiffness = penalties.stiffness[i], shift = mu * it.z_center[i];
    const Real up = it.over[i] = it.above[i] + shift;
    const Real low = it.under[i] = it.below[i] + shift;
    const auto equality = kkt.lower()[i] == kkt.upper()[i], held = penalties.settling;
    const Real bounds = select(equality, one, select(up > zero, one, zero) + select(low < zero, one, zero));
    const Real distance = select(it.active[i] > zero, up, select(it.active[i] < zero, low, zero));
    it.z[i] = stiffness * select(held, distance, max(zero, up) + min(zero, low));
    it.weight[i] = stiffness * select(held, abs(it.active[i]), bounds);
    it.primal = max(it.primal, mu * abs(it.z[i] - it.z_center[i]));
    size = max(size, abs(it.z[i]));
  }
  for (int j = 0; j < kkt.n(); ++j) it.Rz[j] = 0.0;
  kkt.add_rows_transposed(it.z, it.Rz);
  for (int j = 0; j < kkt.n(); ++j) {
    size = max(size, abs(it.Hx[j]));
    it.gradient[j] = it.Hx[j] + kkt.g()[j] + it.Rz[j] + Real(penalties.rho) * (it.x[j] - it.x_center[j]);
  }
  it.noise = Real(1e-15) * size;
  it.error = largest(it.gradient);
}

// Exact minimiser over t >= 0 of the augmented Lagrangian at x + t dx: its derivative is piecewise linear and
// increasing, so Newton's method inside a bracket ends on the piece that crosses zero.
template <class Kkt, class Real>
Real line_search(const Kkt& kkt, const Penalties<Real>& penalties, const Iterate<Real>& it) {
  using M = typename MaskOf<Real>::type;
  const Real zero = 0.0, one = 1.0;
  const Real quadratic = dot(it.dx, it.Hdx) + Real(penalties.rho) * dot(it.dx, it.dx);
  const Real start = dot(it.gradient, it.dx);
  Real t = 1.0, low = 0.0, high = std::numeric_limits<double>::infinity();
  M done = zero > zero;
  for (int k = 0; k < 40; ++k) {
    Real slope = start + t * quadratic, curvature = quadratic;
    M same = zero == zero;
    for (int i = 0; i < kkt.rows(); ++i) {
      const Real dv = it.dv[i], stiffness = dv * penalties.stiffness[i], above = it.over[i], below = it.under[i];
      const Real above_t = above + t * dv, below_t = below + t * dv;
      const M up = above_t > zero, down = below_t < zero;
      slope += stiffness * (max(zero, above_t) - max(zero, above) + min(zero, below_t) - min(zero, below));
      curvature += stiffness * dv * (select(up, one, zero) + select(down, one, zero));
      same = same & !((up ^ (above > zero)) | (down ^ (below < zero)));
    }
    // The full step on the active set that it was made for is exact.
    if (k == 0) done = same;
    const M rising = slope >= zero;
    high = select(rising & !done, t, high);
    low = select(rising | done, low, t);
    Real next = t - slope / curvature;
    next = select((next > low) & (next < high), next, select(finite(high), Real(0.5) * (low + high), Real(2.0) * t));
    const M arrived = done | (abs(slope) <= Real(1e-11) * abs(start)) | !(abs(next - t) > Real(1e-14) * t);
    t = select(arrived, t, next);
    done = arrived;
    if (all(done)) break;
  }
  return t;
}

// One semismooth Newton step for the lanes of `going`. Returns those whose factorisation failed.
template <class Kkt, class Real, class M>
M newton_step(Kkt& kkt, const Penalties<Real>& penalties, M going, Iterate<Real>& it) {
  const M definite = kkt.factor(it.weight, penalties.rho);
  for (int j = 0; j < kkt.n(); ++j) it.dx[j] = -it.gradient[j];
  kkt.solve(it.dx);
  kkt.apply_rows(it.dx, it.dv);
  kkt.apply_hessian(it.dx, it.Hdx);
  const Real t = select(penalties.settling, 1.0, line_search(kkt, penalties, it));
  const M moves = going & definite;
  for (int j = 0; j < kkt.n(); ++j) {
    it.x[j] = select(moves, it.x[j] + t * it.dx[j], it.x[j]);
    it.Hx[j] = select(moves, it.Hx[j] + t * it.Hdx[j], it.Hx[j]);
  }
  for (int i = 0; i < kkt.rows(); ++i) {
    it.v[i] = select(moves, it.v[i] + t * it.dv[i], it.v[i]);
    it.above[i] = select(moves, it.above[i] + t * it.dv[i], it.above[i]);
    it.below[i] = select(moves, it.below[i] + t * it.dv[i], it.below[i]);
  }
  ++it.steps;
  return going & !definite;
}

template <class Kkt, class Real, class M>
void begin_settling(const Kkt& kkt, M where, Penalties<Real>& penalties, Iterate<Real>& it) {
  penalties.settling = penalties.settling | where;
  for (int j = 0; j < kkt.n(); ++j) it.x_saved[j] = select(where, it.x[j], it.x_saved[j]);
  for (int i = 0; i < kkt.rows(); ++i) it.z_saved[i] = select(where, it.z[i], it.z_saved[i]);
}

template <class Kkt, class Real, class M>
void give_up_settling(const Kkt& kkt, M where, Penalties<Real>& penalties, Iterate<Real>& it) {
  penalties.settling = penalties.settling & !where;
  for (int j = 0; j < kkt.n(); ++j) {
    it.x[j] = select(where, it.x_saved[j], it.x[j]);
    it.x_center[j] = select(where, it.x_saved[j], it.x_center[j]);
  }
  for (int i = 0; i < kkt.rows(); ++i) it.z_center[i] = select(where, it.z_saved[i], it.z_center[i]);
  it.misses = select(where, it.misses + Real(1.0), it.misses);
  it.repeats = select(where, 0.0, it.repeats);
  refresh(kkt, where, it);
}

// The outer step of the lanes of `arrived`: new centres, new penalties.
template <class Kkt, class Real, class M>
void outer_step(const Kkt& kkt, M arrived, Real tolerance, Penalties<Real>& penalties, Iterate<Real>& it) {
  const Real zero = 0.0, one = 1.0;
  const M searching = arrived & !penalties.settling;
  M repeated = searching;
  for (int i = 0; i < kkt.rows(); ++i) {
    const Real side = select(it.weight[i] > zero, select(it.z[i] < zero, Real(-1.0), one), zero);
    repeated = repeated & (side == it.active[i]);
    it.active[i] = select(searching, side, it.active[i]);
    it.z_center[i] = select(arrived, it.z[i], it.z_center[i]);
  }
  for (int j = 0; j < kkt.n(); ++j) it.x_center[j] = select(arrived, it.x[j], it.x_center[j]);
  // As long as rounding, which grows with 1/mu, leaves the tolerance within reach.
  const M slow = searching & (it.primal > Real(0.1) * it.best) & (it.noise < Real(10.0) * tolerance);
  penalties.level = select(slow, Real(0.1) * penalties.level, penalties.level);
  it.best = select(searching, min(it.best, it.primal), it.best);
  it.repeats = select(searching, select(repeated, it.repeats + one, zero), it.repeats);
  it.stalled = select(arrived, zero, it.stalled);
  it.least_error = select(arrived, Real(std::numeric_limits<double>::infinity()), it.least_error);
  // A set that led nowhere must repeat itself more often before it is believed again.
  if (penalties.settles) begin_settling(kkt, searching & (it.repeats > it.misses), penalties, it);
}

// Runs from (it.x, it.z) until the judge has let go of every lane, or max_steps Newton steps are done. The judge sees
// every outer step, in the back end's units, owns termination, and says which lanes go on.
template <class Kkt, class Judge, class Real>
void augmented_lagrangian(Kkt& kkt, Judge& judge, Penalties<Real>& penalties, int max_steps, Iterate<Real>& it) {
  using M = typename MaskOf<Real>::type;
  const Real zero = 0.0, one = 1.0, infinity = std::numeric_limits<double>::infinity();
  M going = judge.start();
  it.steps = 0;
  it.best = it.least_error = infinity;
  it.stalled = it.misses = it.repeats = zero;
  // A starting point is as good as an active set that has repeated itself.
  for (int i = 0; i < kkt.rows(); ++i)
    it.active[i] =
        select(it.z[i] < zero, Real(-1.0), select((it.z[i] > zero) | (kkt.lower()[i] == kkt.upper()[i]), one, zero));
  it.x_center = it.x;
  it.z_center = it.z;
  begin_settling(kkt, penalties.settling, penalties, it);
  refresh(kkt, zero == zero, it);
  evaluate(kkt, penalties, it);
  while (true) {
    const M stuck = it.stalled >= Real(20.0);
    const M converged = it.error <= max(Real(judge.tolerance()), max(Real(0.5) * it.primal, it.noise));
    const M arrived = going & (penalties.settling | stuck | converged);
    if (any(arrived)) {
      refresh(kkt, arrived, it);
      going = judge.outer(it, arrived, going);
      if (!any(going)) return;
      const M lost = arrived & going & penalties.settling & judge.stagnates();
      outer_step(kkt, arrived & going, Real(judge.tolerance()), penalties, it);
      if (any(lost)) give_up_settling(kkt, lost, penalties, it);
      penalties.apply();
      evaluate(kkt, penalties, it);
    }
    if (it.steps >= max_steps || judge.expired()) return judge.interrupted(it, going);
    going = judge.failed(going & !finite(it.error), going);
    if (!any(going)) return;
    going = judge.failed(newton_step(kkt, penalties, going, it), going);
    evaluate(kkt, penalties, it);
    // The function falls monotonically, its gradient need not.
    it.stalled = select(it.error < Real(0.9) * it.least_error, zero, it.stalled + one);
    it.least_error = min(it.least_error, it.error);
  }
}

enum class Verdict { GO_ON, SOLVED, SUSPECT_PRIMAL_INFEASIBLE, DUAL_INFEASIBLE, MAX_ITER, TIME_LIMIT, NUMERICAL_ERROR };

// Judge of a single problem: what judge() says of an outer step is the verdict of the loop.
class SingleJudge {
 public:
  virtual ~SingleJudge() = default;
  virtual Verdict judge(const Iterate<double>& it) = 0;
  virtual bool expired() const = 0;

  bool start() const { return true; }
  bool stagnates() const { return stagnated; }
  bool outer(const Iterate<double>& it, bool arrived, bool going) {
    if (arrived) verdict = judge(it);
    return going && verdict == Verdict::GO_ON;
  }
  bool failed(bool which, bool going) {
    if (which) verdict = Verdict::NUMERICAL_ERROR;
    return going && !which;
  }
  void interrupted(const Iterate<double>& it, bool) {
    verdict = judge(it);
    if (verdict == Verdict::GO_ON) verdict = expired() ? Verdict::TIME_LIMIT : Verdict::MAX_ITER;
  }

  Verdict verdict = Verdict::GO_ON;
  bool stagnated = false;  // the last outer step has not brought the residual down much
};

}  // namespace qp_control
