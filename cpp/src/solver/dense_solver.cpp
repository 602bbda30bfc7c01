#include "qp_control/dense_solver.hpp"

#include <Eigen/Cholesky>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "qp_control/certificates.hpp"
#include "qp_control/least_shift.hpp"

namespace qp_control {

using Clock = std::chrono::steady_clock;

void Solution::clear() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  x.setConstant(nan);
  z.setConstant(nan);
  shift_lower.setConstant(nan);
  shift_upper.setConstant(nan);
  certificate_x.setConstant(nan);
  certificate_z.setConstant(nan);
  objective = primal_residual = dual_residual = duality_gap = nan;
  iterations = 0;
}

std::vector<int> active_rows(const StackedQP& qp, const Vector& z) {
  std::vector<int> active(qp.rows());
  for (int i = 0; i < qp.rows(); ++i) {
    if (qp.is_equality(i))
      active[i] = z[i] < 0.0 ? -1 : 1;
    else if (z[i] > 0.0 && std::isfinite(qp.upper[i]))
      active[i] = 1;
    else if (z[i] < 0.0 && std::isfinite(qp.lower[i]))
      active[i] = -1;
  }
  return active;
}

std::vector<int> active_rows(const StackedQP& qp, const Vector& x, const Vector& z) {
  std::vector<int> active = active_rows(qp, z);
  Vector v(qp.rows());
  qp.apply_rows(x, v);
  const auto meets = [&](int i, double bound) {
    return std::isfinite(bound) && std::abs(v[i] - bound) <= 1e-9 * (1.0 + std::abs(bound));
  };
  for (int i = 0; i < qp.rows(); ++i) {
    const bool upper = meets(i, qp.upper[i]), lower = meets(i, qp.lower[i]);
    if (upper != lower) active[i] = upper ? 1 : -1;  // also where rounding has given z the wrong sign
  }
  return active;
}

void set_active_system(const StackedQP& qp, const std::vector<int>& active, ActiveSystem& system,
                       std::vector<int>& order) {
  const int stored = qp.stored_rows();
  std::vector<int> fixed;
  order.clear();
  for (int i = 0; i < stored; ++i)
    if (active[i] != 0) order.push_back(i);
  for (int i = stored; i < qp.rows(); ++i)
    if (active[i] != 0) fixed.push_back(i - stored);
  RowMatrix rows(order.size(), qp.n());
  for (std::size_t k = 0; k < order.size(); ++k) rows.row(k) = qp.R.row(order[k]);
  system.set(qp.H, std::move(rows), std::move(fixed));
}

namespace {

// Takes a point to the exact solution of the equalities that its multipliers name. False: the system cannot be
// factored.
bool polish(const StackedQP& qp, const std::vector<int>& active, Vector& x, Vector& z) {
  ActiveSystem system(qp.n());
  std::vector<int> order;
  set_active_system(qp, active, system, order);
  if (!system.factor()) return false;
  ActiveVector rhs = system.zero(), s = system.zero();
  rhs.x = -qp.g;
  s.x = x;
  const auto bound = [&](int i) { return active[i] > 0 ? qp.upper[i] : qp.lower[i]; };
  for (std::size_t k = 0; k < order.size(); ++k) {
    rhs.rows[k] = bound(order[k]);
    s.rows[k] = z[order[k]];
  }
  const auto& fixed = system.fixed();
  for (std::size_t k = 0; k < fixed.size(); ++k) {
    rhs.fixed[k] = bound(qp.stored_rows() + fixed[k]);
    s.fixed[k] = z[qp.stored_rows() + fixed[k]];
  }
  system.refine(rhs, s);
  x = s.x;
  z.setZero();
  for (std::size_t k = 0; k < order.size(); ++k) z[order[k]] = s.rows[k];
  for (std::size_t k = 0; k < fixed.size(); ++k) z[qp.stored_rows() + fixed[k]] = s.fixed[k];
  return x.allFinite() && z.allFinite();
}

// Judges every outer step on the problem in the caller's units and keeps the best point.
class Judge {
 public:
  Judge(const StackedQP& qp, const Settings& settings, const Equilibration& scaling, Clock::time_point start,
        bool look_for_certificates)
      : qp_(qp), settings_(settings), scaling_(scaling), start_(start), certify_(look_for_certificates) {}

  bool expired() const {
    return settings_.time_limit > 0.0 &&
           std::chrono::duration<double>(Clock::now() - start_).count() > settings_.time_limit;
  }

  // Of the inner problems, in the back end's units: well below what the caller asks for.
  double tolerance() const { return std::min(1e-10, 0.1 * settings_.eps_abs); }

  // A warm start: is it, or does its active set lead to, the solution?
  bool start(const Vector& x, const Vector& z) {
    const bool solved = consider(x, z);
    return polished(x, z) || solved;
  }

  bool consider_scaled(const Iterate& it) {
    scaling_.unscale(it.x, it.z, ux_, uz_);
    return consider(ux_, uz_);
  }

  bool consider(const Vector& x, const Vector& z) {
    const Residuals r = residuals(qp_, x, z);
    const double error = std::max({r.primal, r.dual, r.complementarity});
    if (error < error_ || this->x.size() == 0) {
      error_ = error;
      best = r;
      this->x = x;
      this->z = z;
    }
    return r.within(settings_);
  }

  bool polished(const Vector& x, const Vector& z) {
    const std::vector<int> active = active_rows(qp_, z);
    // The same active set again only from a much better point: where its rows are dependent the point decides the
    // signs.
    if (active == tried_ && error_ > 0.01 * error_when_tried_) return false;
    tried_ = active;
    error_when_tried_ = error_;
    px_ = x;
    pz_ = z;
    return polish(qp_, active, px_, pz_) && consider(px_, pz_);
  }

  Verdict operator()(const Iterate& it) {
    const bool solved = consider_scaled(it);
    if (!solved && expired()) return Verdict::TIME_LIMIT;
    if (!ux_.allFinite() || !uz_.allFinite()) return Verdict::NUMERICAL_ERROR;
    if (polished(ux_, uz_) || solved) return Verdict::SOLVED;

    if (++outer_ < 2) return Verdict::GO_ON;
    ray = scaling_.D.cwiseProduct(it.x - it.x_center);
    if (clean_ray(qp_, ray)) return Verdict::DUAL_INFEASIBLE;
    if (certify_) {
      const Vector dz = scaling_.E.cwiseProduct(it.z - it.z_center);
      if (resembles_farkas(qp_, dz, 1e-3)) return Verdict::SUSPECT_PRIMAL_INFEASIBLE;
    }
    return Verdict::GO_ON;
  }

  Vector x, z, ray;
  Residuals best;

 private:
  const StackedQP& qp_;
  const Settings& settings_;
  const Equilibration& scaling_;
  const Clock::time_point start_;
  const bool certify_;
  double error_ = std::numeric_limits<double>::infinity();
  int outer_ = 0;
  std::vector<int> tried_;
  double error_when_tried_ = 0.0;
  Vector ux_, uz_, px_, pz_;
};

}  // namespace

struct Outcome {
  Verdict verdict;
  int steps;
  Vector x, z, ray;
  Residuals residuals;
};

// Minimises a problem whose bounds do not cross, from (x, z) or from zero.
struct Minimiser {
  const Settings& settings;
  const double regularisation;  // of H, for the factorisations only
  const Clock::time_point start;

  Outcome operator()(const StackedQP& qp, const Vector* x, const Vector* z, bool look_for_certificates) const {
    DenseKkt kkt(qp.n(), qp.stored_rows());
    Equilibration scaling(qp.n(), qp.rows());
    if (regularisation > 0.0) {
      StackedQP regular = qp;
      regular.H.diagonal().array() += regularisation;
      scaling.scale(regular, kkt.qp);
    } else {
      scaling.scale(qp, kkt.qp);
    }
    kkt.reset();
    Judge judge(qp, settings, scaling, start, look_for_certificates);
    Iterate it(qp.n(), qp.rows());
    it.x.setZero();
    it.z.setZero();
    if (x != nullptr) {
      if (judge.start(*x, *z)) return {Verdict::SOLVED, 0, judge.x, judge.z, {}, judge.best};
      scaling.scale(*x, *z, it.x, it.z);
    }
    Penalties penalties(qp.rows());
    penalties.reset(kkt.qp.lower, kkt.qp.upper);
    const Verdict verdict = augmented_lagrangian(kkt, judge, penalties, settings.max_iter, it);
    if (judge.x.size() == 0) judge.consider_scaled(it);
    return {verdict, it.steps, judge.x, judge.z, judge.ray, judge.best};
  }
};

namespace {

Status status_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::SOLVED:
      return Status::SOLVED;
    case Verdict::DUAL_INFEASIBLE:
      return Status::DUAL_INFEASIBLE;
    case Verdict::TIME_LIMIT:
      return Status::TIME_LIMIT;
    case Verdict::NUMERICAL_ERROR:
      return Status::NUMERICAL_ERROR;
    default:
      return Status::MAX_ITER;
  }
}

void store(const Outcome& outcome, Solution& solution) {
  solution.x = outcome.x;
  solution.z = outcome.z;
  solution.iterations += outcome.steps;
  solution.primal_residual = outcome.residuals.primal;
  solution.dual_residual = outcome.residuals.dual;
  solution.duality_gap = outcome.residuals.gap;
  solution.objective = outcome.residuals.objective;
  solution.status = status_of(outcome.verdict);
  if (solution.status == Status::DUAL_INFEASIBLE) solution.certificate_x = outcome.ray;
}

// The same with residuals on another problem than the one that was minimised.
void store(Outcome outcome, const StackedQP& qp, Solution& solution) {
  outcome.residuals = residuals(qp, outcome.x, outcome.z);
  store(outcome, solution);
}

int least_shift_steps(const Settings& settings) { return std::max(200, settings.max_iter); }

double largest_shift(const LeastShift& level) { return norm_inf(level.s.cwiseQuotient(level.root_weight)); }

// The least shift is itself the Farkas vector; false where it does not pass the check.
bool claim_infeasible(const StackedQP& qp, const LeastShift& level, const Vector& x, Solution& solution) {
  Vector farkas = Vector::Zero(qp.rows());
  for (int i = 0; i < level.count(); ++i) farkas[level.shifted[i].row] += level.root_weight[i] * level.s[i];
  for (std::size_t k = 0; k < level.hard.size(); ++k) farkas[level.hard[k].row] += level.multiplier[k];
  if (!is_farkas(qp, farkas, x)) return false;
  if (!solution.x.allFinite()) store({Verdict::MAX_ITER, 0, x, Vector::Zero(qp.rows()), {}, {}}, qp, solution);
  solution.status = Status::PRIMAL_INFEASIBLE;
  solution.certificate_z = farkas / norm_inf(farkas);
  return true;
}

// Semidefinite up to rounding? `regularisation` is what makes it safely definite for the factorisations, 0 if it is
// already.
bool convex(const StackedQP& qp, double& regularisation) {
  regularisation = 0.0;
  if (qp.linear_program) return true;
  if (Eigen::LLT<Matrix>(qp.H).info() == Eigen::Success) return true;
  regularisation = 1e-12 * norm_inf(qp.H);
  Matrix shifted = qp.H;
  shifted.diagonal().array() += regularisation;
  return Eigen::LLT<Matrix>(shifted).info() == Eigen::Success;
}

// Writes the shifts of the solution and applies them to the bounds of `shifted`.
void apply_shift(const LeastShift& level, StackedQP& shifted, Solution& solution) {
  for (int i = 0; i < level.count(); ++i) {
    const auto [row, side] = level.shifted[i];
    const double s = level.s[i] / level.root_weight[i];
    if (side <= 0) solution.shift_lower[row] = std::max(0.0, -s);
    if (side >= 0) solution.shift_upper[row] = std::max(0.0, s);
  }
  shifted.lower -= solution.shift_lower;
  shifted.upper += solution.shift_upper;
  for (const auto& [row, side] : level.shifted) {
    // Rounding must not leave a crossed pair where both sides met.
    if (side == 0) shifted.lower[row] = shifted.upper[row] = shifted.upper[row] - solution.shift_lower[row];
    if (shifted.lower[row] > shifted.upper[row])
      shifted.lower[row] = shifted.upper[row] = 0.5 * (shifted.lower[row] + shifted.upper[row]);
  }
}

}  // namespace

DenseSolver::DenseSolver(DenseDims dims) : qp_(dims.n, dims.n_eq + dims.n_in) {}

void DenseSolver::solve(const DenseQP& problem, const Settings& settings, bool warm, Solution& solution) {
  const Vector x0 = solution.x, z0 = solution.z;
  solution.clear();
  if (!stack(problem, qp_)) {
    solution.status = Status::INVALID_INPUT;
    return;
  }
  double regularisation;
  if (!convex(qp_, regularisation)) {
    solution.status = Status::NON_CONVEX;
    return;
  }
  const Minimiser minimiser{settings, regularisation, Clock::now()};
  solution.shift_lower.setZero();
  solution.shift_upper.setZero();

  const bool crossed = (qp_.lower.array() > qp_.upper.array()).any();
  if (!crossed) {
    const bool from_start = warm && x0.allFinite() && z0.allFinite();
    const Outcome outcome = minimiser(qp_, from_start ? &x0 : nullptr, &z0, true);
    store(outcome, solution);
    const bool stuck = outcome.verdict == Verdict::MAX_ITER && solution.iterations >= 100 &&
                       outcome.residuals.primal > settings.eps_abs;
    if (outcome.verdict != Verdict::SUSPECT_PRIMAL_INFEASIBLE && !stuck) return;
  }
  if (settings.closest)
    solve_closest(minimiser, crossed, solution);
  else if (crossed)
    certify_crossed(solution);
  else
    certify(minimiser, solution);
}

// Hard rows alone: the shift that they would need, weights one.
bool DenseSolver::certify_hard_rows(const Minimiser& minimiser, Solution& solution) const {
  StackedQP hard = qp_;
  for (int i = 0; i < hard.rows(); ++i) {
    if (std::isinf(hard.weight[i])) continue;
    hard.lower[i] = -std::numeric_limits<double>::infinity();
    hard.upper[i] = std::numeric_limits<double>::infinity();
  }
  hard.weight.setOnes();
  const LeastShiftResult found = find_least_shift(hard, least_shift_steps(minimiser.settings));
  solution.iterations += found.steps;
  return found.converged && claim_infeasible(hard, LeastShift(hard, found.shifted, found.hard), found.x, solution);
}

void DenseSolver::certify(const Minimiser& minimiser, Solution& solution) {
  qp_.weight.setOnes();
  const LeastShiftResult found = find_least_shift(qp_, least_shift_steps(minimiser.settings));
  solution.iterations += found.steps;
  if (found.converged) {
    const LeastShift level(qp_, found.shifted, found.hard);
    if (largest_shift(level) <= minimiser.settings.eps_abs) {
      store(minimiser(qp_, nullptr, nullptr, false), solution);  // feasible to tolerance after all
      return;
    }
    if (claim_infeasible(qp_, level, found.x, solution)) return;
  }
  solution.status = Status::MAX_ITER;
}

// A pair of crossed bounds is its own proof.
void DenseSolver::certify_crossed(Solution& solution) const {
  const Vector zero = Vector::Zero(qp_.n()), no_multipliers = Vector::Zero(qp_.rows());
  store({Verdict::MAX_ITER, 0, zero, no_multipliers, {}, {}}, qp_, solution);
  solution.status = Status::PRIMAL_INFEASIBLE;
  solution.certificate_z.setZero();
}

void DenseSolver::solve_closest(const Minimiser& minimiser, bool crossed, Solution& solution) {
  const bool any_hard = qp_.weight.array().isInf().any();
  if (any_hard && certify_hard_rows(minimiser, solution)) return;
  const LeastShiftResult found = find_least_shift(qp_, least_shift_steps(minimiser.settings));
  solution.iterations += found.steps;
  if (!found.converged) {
    if (crossed) store({Verdict::MAX_ITER, 0, found.x, Vector::Zero(qp_.rows()), {}, {}}, qp_, solution);
    solution.status = Status::MAX_ITER;
    return;
  }
  const LeastShift level(qp_, found.shifted, found.hard);
  if (!crossed && largest_shift(level) <= minimiser.settings.eps_abs) {
    store(minimiser(qp_, nullptr, nullptr, false), solution);
    return;
  }
  StackedQP shifted = qp_;
  apply_shift(level, shifted, solution);
  Outcome outcome = minimiser(level.reduced(qp_), nullptr, nullptr, false);
  outcome.z = level.multipliers(qp_, outcome.z);
  store(outcome, shifted, solution);
  if (outcome.verdict != Verdict::SOLVED) return;
  // Multipliers of shifted rows are free in sign; the second level has judged the others.
  Residuals judged = residuals(shifted, outcome.x, outcome.z);
  judged.complementarity = judged.gap = 0.0;
  solution.status = judged.within(minimiser.settings) ? Status::CLOSEST_FEASIBLE : Status::NUMERICAL_ERROR;
}

}  // namespace qp_control
