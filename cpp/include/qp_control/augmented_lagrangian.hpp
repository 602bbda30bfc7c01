// The loop, written once for every KKT back end, and for one problem as for a pack of them.
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
//
// A back end of one problem packs its rows and variables into the lanes; one of many problems gives each a lane. Every
// number below is a Pack. What a back end calls sum, max and all turns partial results of the rows (or variables) into
// those of the problems, in every lane that works on the problem. Rows that fill up a pack have no bounds.
//
// Equalities that a back end eliminates exactly (dynamics) have their multipliers behind the variables in x, and the
// matrix of both for a Hessian; the proximal terms are on the variables alone. Their residuals are zero after a full
// step and stay so.
#pragma once

#include <limits>

#include "qp_control/pack.hpp"

namespace qp_control {

// Bound-constrained Lagrangian schedule: mu falls where the multipliers converge too slowly. Once an active set repeats
// itself it is held fast, with so small a mu that the next outer steps are the iterative refinement of its KKT system
// (settling); if that leads nowhere, the schedule goes on from where it was.
struct Penalties {
  explicit Penalties(int rows) : mu(rows), stiffness(rows), base(rows), delta(rows) { delta.setConstant(Pack(0.0)); }

  // Equalities are known to be active: a smaller mu costs nothing there. Elastic rows keep mu = 0.
  void reset(const PackArray& lower, const PackArray& upper);
  void apply();

  double least_rho = 1e-6, settled_mu = 1e-6;
  Pack first_mu = 1.0;  // of inequalities
  bool settles = true;
  Pack rho;
  PackArray mu, stiffness;  // 1 / (mu + delta)
  PackArray base, delta;
  Pack level;
  Mask settling;
};

// What the loop works on.
struct Iterate {
  Iterate(int n, int rows);

  PackArray x, z;
  PackArray v, above, below, Hx, Rz;  // R x, R x - upper, R x - lower, H x, R'z
  PackArray over, under;              // t - upper, t - lower
  PackArray x_center, z_center;       // of the proximal terms
  PackArray gradient;                 // of the augmented Lagrangian
  PackArray dx, dv, Hdx, weight;
  PackArray active;            // set of the last outer step: 1 upper bound, -1 lower bound, 0 inactive
  PackArray x_saved, z_saved;  // where settling began
  Pack primal;                 // max mu_i |z_i - z_center_i|: constraint violation and complementarity in one
  Pack error;                  // largest entry of the gradient
  Pack noise;                  // rounding error of the gradient
  Pack least_error, stalled;   // of the inner problem: its least gradient, steps since it fell
  Pack best;                   // least primal so far
  Pack repeats, misses;        // of the active set; attempts to settle that failed
  int steps = 0;               // Newton steps so far
};

// Products with x, from scratch where `where` holds.
template <class Kkt>
void refresh(const Kkt& kkt, Mask where, Iterate& it) {
  kkt.apply_rows(it.x, it.dv);
  kkt.apply_hessian(it.x, it.Hdx);
  for (int i = 0; i < it.v.size(); ++i) {
    it.v[i] = select(where, it.dv[i], it.v[i]);
    it.above[i] = select(where, it.dv[i] - kkt.upper()[i], it.above[i]);
    it.below[i] = select(where, it.dv[i] - kkt.lower()[i], it.below[i]);
  }
  for (int j = 0; j < it.x.size(); ++j) it.Hx[j] = select(where, it.Hdx[j], it.Hx[j]);
}

// The active set that the signs of `sides` name.
template <class Kkt>
void find_active(const Kkt& kkt, const PackArray& sides, Iterate& it) {
  for (int i = 0; i < it.z.size(); ++i) {
    const Mask upper = ((sides[i] > Pack(0.0)) & finite(kkt.upper()[i])) | (kkt.lower()[i] == kkt.upper()[i]);
    const Mask lower = (sides[i] < Pack(0.0)) & finite(kkt.lower()[i]);
    it.active[i] = select(lower, Pack(-1.0), select(upper, Pack(1.0), Pack(0.0)));
  }
}

// Multipliers, gradient and primal residual at x.
template <class Kkt>
void evaluate(const Kkt& kkt, const Penalties& penalties, Iterate& it) {
  const Pack zero = 0.0, one = 1.0;
  const Mask held = penalties.settling;
  Pack primal = 0.0, size = 0.0;
  for (int i = 0; i < it.z.size(); ++i) {
    const Pack mu = penalties.mu[i], stiffness = penalties.stiffness[i], shift = mu * it.z_center[i];
    const Pack up = it.over[i] = it.above[i] + shift;
    const Pack low = it.under[i] = it.below[i] + shift;
    const Mask equality = kkt.lower()[i] == kkt.upper()[i];
    const Pack bounds = select(equality, one, select(up > zero, one, zero) + select(low < zero, one, zero));
    const Pack distance = select(it.active[i] > zero, up, select(it.active[i] < zero, low, zero));
    it.z[i] = stiffness * select(held, distance, max(zero, up) + min(zero, low));
    it.weight[i] = stiffness * select(held, abs(it.active[i]), bounds);
    primal = max(primal, mu * abs(it.z[i] - it.z_center[i]));
    size = max(size, abs(it.z[i]));
  }
  it.primal = kkt.max(primal);
  it.Rz.setConstant(zero);
  kkt.add_rows_transposed(it.z, it.Rz);
  Pack error = 0.0, poison = 0.0;
  for (int j = 0; j < it.x.size(); ++j) {
    size = max(size, abs(it.Hx[j]));
    const Pack rho = j < kkt.variables() ? penalties.rho : zero;
    it.gradient[j] = it.Hx[j] + kkt.g()[j] + it.Rz[j] + rho * (it.x[j] - it.x_center[j]);
    error = max(error, abs(it.gradient[j]));
    poison += it.gradient[j] * zero;
  }
  it.noise = Pack(1e-15) * kkt.max(size);
  it.error = kkt.max(error) + kkt.sum(poison);  // NaN as soon as one entry is not finite
}

// Exact minimiser over t >= 0 of the augmented Lagrangian at x + t dx: its derivative is piecewise linear and
// increasing, so Newton's method inside a bracket ends on the piece that crosses zero.
template <class Kkt>
Pack line_search(const Kkt& kkt, const Penalties& penalties, const Iterate& it) {
  const Pack zero = 0.0, one = 1.0;
  Pack quadratic = 0.0, start = 0.0;
  for (int j = 0; j < kkt.variables(); ++j) {
    quadratic += it.dx[j] * (it.Hdx[j] + penalties.rho * it.dx[j]);
    start += it.gradient[j] * it.dx[j];
  }
  quadratic = kkt.sum(quadratic);
  start = kkt.sum(start);
  Pack t = 1.0, low = 0.0, high = std::numeric_limits<double>::infinity();
  Mask done = Mask::all(false);
  for (int k = 0; k < 40; ++k) {
    Pack change = 0.0, stiffening = 0.0;
    Mask same = Mask::all(true);
    for (int i = 0; i < it.v.size(); ++i) {
      const Pack dv = it.dv[i], stiffness = dv * penalties.stiffness[i], above = it.over[i], below = it.under[i];
      const Pack above_t = above + t * dv, below_t = below + t * dv;
      const Mask up = above_t > zero, down = below_t < zero;
      change += stiffness * (max(zero, above_t) - max(zero, above) + min(zero, below_t) - min(zero, below));
      stiffening += stiffness * dv * (select(up, one, zero) + select(down, one, zero));
      same = same & !((up ^ (above > zero)) | (down ^ (below < zero)));
    }
    const Pack slope = start + t * quadratic + kkt.sum(change), curvature = quadratic + kkt.sum(stiffening);
    // The full step on the active set that it was made for is exact.
    if (k == 0) done = kkt.all(same);
    const Mask rising = slope >= zero;
    high = select(rising & !done, t, high);
    low = select(rising | done, low, t);
    Pack next = t - slope / curvature;
    next = select((next > low) & (next < high), next, select(finite(high), Pack(0.5) * (low + high), Pack(2.0) * t));
    const Mask arrived = done | (abs(slope) <= Pack(1e-11) * abs(start)) | !(abs(next - t) > Pack(1e-14) * t);
    t = select(arrived, t, next);
    done = arrived;
    if (all(done)) break;
  }
  return t;
}

// One semismooth Newton step for the lanes of `going`. Returns those whose factorisation failed.
template <class Kkt>
Mask newton_step(Kkt& kkt, const Penalties& penalties, Mask going, Iterate& it) {
  const Mask definite = kkt.factor(it.weight, penalties.rho);
  for (int j = 0; j < it.x.size(); ++j) it.dx[j] = -it.gradient[j];
  kkt.solve(it.dx);
  kkt.apply_rows(it.dx, it.dv);
  kkt.apply_hessian(it.dx, it.Hdx);
  const Pack t = all(penalties.settling) ? Pack(1.0) : select(penalties.settling, 1.0, line_search(kkt, penalties, it));
  const Mask moves = going & definite;
  for (int j = 0; j < it.x.size(); ++j) {
    it.x[j] = select(moves, it.x[j] + t * it.dx[j], it.x[j]);
    it.Hx[j] = select(moves, it.Hx[j] + t * it.Hdx[j], it.Hx[j]);
  }
  for (int i = 0; i < it.v.size(); ++i) {
    it.v[i] = select(moves, it.v[i] + t * it.dv[i], it.v[i]);
    it.above[i] = select(moves, it.above[i] + t * it.dv[i], it.above[i]);
    it.below[i] = select(moves, it.below[i] + t * it.dv[i], it.below[i]);
  }
  ++it.steps;
  return going & !definite;
}

void begin_settling(Mask where, Penalties& penalties, Iterate& it);

template <class Kkt>
void give_up_settling(const Kkt& kkt, Mask where, Penalties& penalties, Iterate& it) {
  penalties.settling = penalties.settling & !where;
  for (int j = 0; j < it.x.size(); ++j) {
    it.x[j] = select(where, it.x_saved[j], it.x[j]);
    it.x_center[j] = select(where, it.x_saved[j], it.x_center[j]);
  }
  for (int i = 0; i < it.z.size(); ++i) it.z_center[i] = select(where, it.z_saved[i], it.z_center[i]);
  it.misses = select(where, it.misses + Pack(1.0), it.misses);
  it.repeats = select(where, 0.0, it.repeats);
  refresh(kkt, where, it);
}

// The outer step of the lanes of `arrived`: new centres, new penalties.
template <class Kkt>
void outer_step(const Kkt& kkt, Mask arrived, double tolerance, Penalties& penalties, Iterate& it) {
  const Pack zero = 0.0, one = 1.0;
  const Mask searching = arrived & !penalties.settling;
  Mask same = Mask::all(true);
  for (int i = 0; i < it.z.size(); ++i) {
    const Pack side = select(it.weight[i] > zero, select(it.z[i] < zero, Pack(-1.0), one), zero);
    same = same & (side == it.active[i]);
    it.active[i] = select(searching, side, it.active[i]);
    it.z_center[i] = select(arrived, it.z[i], it.z_center[i]);
  }
  for (int j = 0; j < it.x.size(); ++j) it.x_center[j] = select(arrived, it.x[j], it.x_center[j]);
  // As long as rounding, which grows with 1/mu, leaves the tolerance within reach.
  const Mask slow = searching & (it.primal > Pack(0.1) * it.best) & (it.noise < Pack(10.0 * tolerance));
  penalties.level = select(slow, Pack(0.1) * penalties.level, penalties.level);
  it.best = select(searching, min(it.best, it.primal), it.best);
  it.repeats = select(searching, select(kkt.all(same), it.repeats + one, zero), it.repeats);
  it.stalled = select(arrived, zero, it.stalled);
  it.least_error = select(arrived, std::numeric_limits<double>::infinity(), it.least_error);
  // A set that led nowhere must repeat itself more often before it is believed again.
  if (penalties.settles) begin_settling(searching & (it.repeats > it.misses), penalties, it);
}

// Runs from (it.x, it.z) until the judge has let go of every problem, or max_steps Newton steps are done. The judge
// sees every outer step, in the back end's units, owns termination, and says which problems go on. Where
// penalties.settling holds at the start, the active set that the signs of `sides` name is tried first: it.z, unless the
// caller knows better.
template <class Kkt, class Judge>
void augmented_lagrangian(Kkt& kkt, Judge& judge, Penalties& penalties, int max_steps, Iterate& it,
                          const PackArray& sides) {
  const Pack zero = 0.0, one = 1.0, infinity = std::numeric_limits<double>::infinity();
  Mask going = judge.start();
  it.steps = 0;
  it.best = it.least_error = infinity;
  it.stalled = it.misses = it.repeats = zero;
  find_active(kkt, sides, it);
  it.x_center = it.x;
  it.z_center = it.z;
  begin_settling(penalties.settling, penalties, it);
  refresh(kkt, Mask::all(true), it);
  evaluate(kkt, penalties, it);
  while (true) {
    const Mask stuck = it.stalled >= Pack(20.0);
    const Mask converged = it.error <= max(Pack(judge.tolerance()), max(Pack(0.5) * it.primal, it.noise));
    // A start's multipliers are centres to step from; what the first evaluation makes of them is not.
    const Mask settled = penalties.settling & Mask::all(it.steps > 0);
    const Mask arrived = going & (settled | stuck | converged);
    if (any(arrived)) {
      refresh(kkt, arrived, it);
      going = judge.outer(it, arrived, going);
      if (!any(going)) return;
      const Mask lost = arrived & going & penalties.settling & judge.stagnates();
      outer_step(kkt, arrived & going, judge.tolerance(), penalties, it);
      if (any(lost)) give_up_settling(kkt, lost, penalties, it);
      penalties.apply();
      evaluate(kkt, penalties, it);
    }
    if (it.steps >= max_steps || judge.stops(it)) return judge.interrupted(it, going);
    going = judge.failed(it, going & !finite(it.error), going);
    if (!any(going)) return;
    const Mask indefinite = newton_step(kkt, penalties, going, it);
    if (any(indefinite)) {
      // Rounding, which grows with 1/mu, has eaten up a singular H + rho I: any rho will do, only more slowly.
      penalties.rho = select(indefinite, Pack(100.0) * penalties.rho, penalties.rho);
      going = judge.failed(it, indefinite & (penalties.rho > one), going);
    }
    evaluate(kkt, penalties, it);
    // The function falls monotonically, its gradient need not.
    it.stalled = select(it.error < Pack(0.9) * it.least_error, zero, it.stalled + one);
    it.least_error = min(it.least_error, it.error);
  }
}

enum class Verdict { GO_ON, SOLVED, SUSPECT_PRIMAL_INFEASIBLE, DUAL_INFEASIBLE, MAX_ITER, TIME_LIMIT, NUMERICAL_ERROR };

// Judge of a single problem: what judge() says of an outer step is the verdict of the loop.
class SingleJudge {
 public:
  virtual ~SingleJudge() = default;
  virtual Verdict judge(const Iterate& it) = 0;
  // The same of a point that another method has found, whatever its penalties.
  virtual Verdict rescued(const Iterate&) { return Verdict::GO_ON; }
  // Does such a point do before that method has ended? It names the active set, but it may name it wrongly.
  virtual bool will_do(const Iterate&) { return false; }
  virtual bool expired() const = 0;
  // Asked before every Newton step: is there no time left, or no prospect?
  virtual bool stops(const Iterate&) { return expired(); }
  // Of the inner problems, in the back end's units.
  virtual double tolerance() const = 0;
  // Was a point seen that will do?
  virtual bool satisfied() const { return false; }

  Mask start() const { return Mask::all(true); }
  Mask stagnates() const { return Mask::all(stagnated); }
  Mask outer(const Iterate& it, Mask arrived, Mask going) {
    if (any(arrived)) verdict = judge(it);
    return going & Mask::all(verdict == Verdict::GO_ON);
  }
  Mask failed(const Iterate&, Mask which, Mask going) {
    if (any(which)) verdict = Verdict::NUMERICAL_ERROR;
    return going & !which;
  }
  void interrupted(const Iterate& it, Mask) {
    verdict = judge(it);
    if (verdict != Verdict::GO_ON) return;
    verdict = satisfied() ? Verdict::SOLVED : expired() ? Verdict::TIME_LIMIT : Verdict::MAX_ITER;
  }

  Verdict verdict = Verdict::GO_ON;
  bool stagnated = false;  // the last outer step has not brought the residual down much
};

}  // namespace qp_control
