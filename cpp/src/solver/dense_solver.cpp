#include "qp_control/dense_solver.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/certificates.hpp"
#include "qp_control/least_shift.hpp"
#include "qp_control/minimise.hpp"

namespace qp_control {

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

namespace {

void store(const Residuals& residuals, Solution& solution) {
  solution.primal_residual = residuals.primal;
  solution.dual_residual = residuals.dual;
  solution.duality_gap = std::abs(residuals.gap);
  solution.objective = residuals.objective;
}

// z and residuals: those of the outcome where it is of the caller's problem.
void store(const Outcome& outcome, const Vector& z, const Residuals& residuals, Solution& solution) {
  solution.x = outcome.x;
  solution.z = z;
  solution.iterations += outcome.steps;
  store(residuals, solution);
  solution.status = status_of(outcome.verdict);
  if (solution.status == Status::DUAL_INFEASIBLE) solution.certificate_x = outcome.ray;
}

void store(const Outcome& outcome, Solution& solution) { store(outcome, outcome.z, outcome.residuals, solution); }

void set_unshifted(Solution& solution) {
  solution.shift_lower.setZero();
  solution.shift_upper.setZero();
}

constexpr double doubtful_shift = 1e-8;  // beside the unknowns: it may be rounding
// A warm start that has not led to the solution by then is given up.
constexpr int most_warm_steps = 200;

constexpr int enough_steps = 100;  // after which what has no solution may be infeasible

int least_shift_steps(const Settings& settings) { return std::max(200, settings.max_iter); }

double largest_shift(const LeastShift& level) { return norm_inf(level.s.cwiseQuotient(level.root_weight)); }

double negligible_shift(const Settings& settings, const Vector& x) {
  return settings.eps_abs + std::max(settings.eps_rel, doubtful_shift) * norm_inf(x);
}

// The closest feasible problem is asked for, and what is within tolerance does not depend on the point.
bool goes_on_to_closest(const Settings& settings) {
  return settings.closest && settings.eps_rel == 0.0 && !settings.reducible() && settings.max_iter >= enough_steps;
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

DenseSolver::DenseSolver(DenseDims dims)
    : qp_(dims.n, dims.n_eq + dims.n_in),
      minimiser_(dims.n, dims.n_eq + dims.n_in, dims.n_eq),
      products_(dims.n, dims.rows()),
      farkas_(dims.rows()),
      start_(dims.n, dims.rows()) {}

bool DenseSolver::solve(const DenseQP& problem, const Settings& settings, const Deadline& deadline, bool warm,
                        Solution& solution, Same same) {
  start_.x = solution.x;
  start_.z = solution.z;
  start_.sides = solution.active;
  solution.clear();
  if (same != Same::MATRICES && second_level_) second_level_->search = 0;
  if (same == Same::NOTHING) hessian_ = stack_hessian(problem, qp_) ? Known::STACKED : Known::INVALID;
  if (same != Same::MATRICES)
    matrices_ = hessian_ != Known::INVALID && stack_rows(problem, qp_) ? Known::STACKED : Known::INVALID;
  if (matrices_ != Known::INVALID && stack_vectors(problem, qp_))
    solve_stacked(settings, deadline, warm, solution);
  else
    solution.status = Status::INVALID_INPUT;
  find_active(solution);
  return qp_.symmetric;
}

// Rows with a multiplier are held, where it is small or a shift has left its sign free, at the nearer bound: of weakly
// active rows it is rounding, whose sign tells nothing.
void DenseSolver::find_active(Solution& solution) const {
  const int stored = qp_.stored_rows();
  const double small = 1e-6 * norm_inf(solution.z);
  for (int i = 0; i < qp_.rows(); ++i) {
    const double lower = qp_.lower[i], upper = qp_.upper[i], z = solution.z[i];
    const bool clear = lower == upper || (std::abs(z) > small && solution.status == Status::SOLVED);
    bool at_lower = z < 0.0;
    if (z != 0.0 && !clear) {
      const double v = i < stored ? qp_.R.row(i).dot(solution.x) : solution.x[i - stored];
      at_lower = v - lower < upper - v;
    }
    solution.active[i] = std::abs(z) > 0.0 ? (at_lower ? -1.0 : 1.0) : 0.0;
  }
}

void DenseSolver::keep(const Solution& solution, KeptFactor to) const {
  if (solution.status == Status::SOLVED)
    minimiser_.keep(to);
  else
    to.present = 0.0;
}

void DenseSolver::solve_stacked(const Settings& settings, const Deadline& deadline, bool warm, Solution& solution) {
  const bool convex =
      matrices_ == Known::LOADED ? minimiser_.load_vectors(qp_) : minimiser_.load(qp_, hessian_ == Known::LOADED);
  hessian_ = matrices_ = Known::LOADED;
  if (!convex) {
    solution.status = Status::NON_CONVEX;
    return;
  }
  set_unshifted(solution);
  suspected_ = false;
  const bool crossed = (qp_.lower.array() > qp_.upper.array()).any();
  Attempt found = Attempt::SUSPECT;
  if (!crossed) {
    if (solve_known(settings, deadline, solution)) return;
    found = attempt(settings, deadline, warm, solution);
    if (found == Attempt::ANSWERED) return;
  }
  const bool hard_crossed = (qp_.lower.array() > qp_.upper.array() && qp_.weight.array().isInf()).any();
  const int steps = solution.iterations;
  if (hard_crossed || (crossed && !settings.closest))
    certify_crossed(solution);
  else if (settings.closest)
    solve_closest(settings, deadline, crossed, solution);
  else
    certify(settings, deadline, solution);
  const bool kept = has_solution(solution.status) || solution.status == Status::DUAL_INFEASIBLE;
  if (found != Attempt::UNANSWERED || kept) return;
  // Nothing has come of it: what the attempt says, which is about the problem as it is, stands.
  take_back_shift(solution);
  store(minimiser_.outcome(), solution);
  solution.iterations = steps;
}

// Where a problem before it has shown that the constraints are infeasible beyond doubt; false: no solution.
bool DenseSolver::solve_known(const Settings& settings, const Deadline& deadline, Solution& solution) {
  if (!goes_on_to_closest(settings)) return false;
  const LeastShiftResult* known = least_shift_.known(qp_, least_shift_steps(settings));
  if (known == nullptr || !beyond_doubt(settings, *known)) return false;
  solve_closest(settings, deadline, false, solution);
  if (has_solution(solution.status) || solution.status == Status::TIME_LIMIT) return true;
  take_back_shift(solution);
  return false;
}

void DenseSolver::take_back_shift(Solution& solution) {
  solution.clear();
  set_unshifted(solution);
  least_shift_.reset_bounds(qp_);
}

// The problem as it is.
DenseSolver::Attempt DenseSolver::attempt(const Settings& settings, const Deadline& deadline, bool warm,
                                          Solution& solution) {
  const bool from_start = warm && all_finite(start_.x) && all_finite(start_.z) && all_finite(start_.sides);
  Settings first = settings;
  if (from_start) {
    first.max_iter = std::min(most_warm_steps, (settings.max_iter + 1) / 2);
    first.reduced_eps_rel = 0.0;
  }
  minimiser_.run(first, deadline, from_start ? &start_ : nullptr, true);
  const Outcome& outcome = minimiser_.outcome();
  store(outcome, solution);
  // A start that is far off can cost more than none.
  const bool misled = outcome.verdict == Verdict::MAX_ITER || outcome.verdict == Verdict::NUMERICAL_ERROR;
  if (from_start && misled && settings.max_iter > outcome.steps) {
    first.max_iter = settings.max_iter - outcome.steps;
    first.reduced_eps_rel = settings.reduced_eps_rel;
    store(minimiser_.run(first, deadline, nullptr, true), solution);
  }
  const bool stuck = outcome.verdict == Verdict::MAX_ITER && solution.iterations >= enough_steps &&
                     outcome.residuals.primal > settings.eps_abs;
  suspected_ = outcome.verdict == Verdict::SUSPECT_PRIMAL_INFEASIBLE;
  if (suspected_ || stuck) return Attempt::SUSPECT;
  const bool answered = outcome.verdict == Verdict::SOLVED || outcome.verdict == Verdict::TIME_LIMIT;
  if (answered || !goes_on_to_closest(settings) || qp_.weight.array().isInf().any()) return Attempt::ANSWERED;
  // Where constraints are known to be infeasible beyond doubt there is no attempt, whatever it would have come to.
  const LeastShiftResult& least = least_shift_.find(qp_, least_shift_steps(settings), deadline);
  return beyond_doubt(settings, least) ? Attempt::UNANSWERED : Attempt::ANSWERED;
}

// A point with nothing but its residuals to say for itself.
void DenseSolver::store_point(const StackedQP& qp, const Vector& x, Solution& solution) {
  solution.x = x;
  solution.z.setZero();
  store(residuals(qp, solution.x, solution.z, products_), solution);
  solution.status = Status::MAX_ITER;
}

// The least shift is itself the Farkas vector; false where it does not pass the check.
bool DenseSolver::is_proof(const StackedQP& qp, const LeastShiftResult& found) {
  const LeastShift& level = found.level;
  farkas_.setZero();
  for (int i = 0; i < level.count(); ++i) farkas_[level.shifted[i].row] += level.root_weight[i] * level.s[i];
  for (std::size_t k = 0; k < level.hard.size(); ++k) farkas_[level.hard[k].row] += level.multiplier[k];
  return is_farkas(qp, farkas_, found.x, products_);
}

// No point meets all rows to eps_abs: the norm of what is left would be below the least one (hard rows have infinite
// weights). An attempt cannot end with a solution then, and what else it may say makes no difference to the answer.
bool DenseSolver::beyond_doubt(const Settings& settings, const LeastShiftResult& found) {
  if (!goes_on_to_closest(settings) || !found.found) return false;
  const double within_tolerance = settings.eps_abs * std::sqrt(qp_.weight.sum());
  const bool clear =
      found.level.s.norm() > 2.0 * within_tolerance && largest_shift(found.level) > negligible_shift(settings, found.x);
  if (clear && judged_ != found.search) {
    proven_ = is_exact_proof(found);
    judged_ = found.search;
  }
  return clear && proven_;
}

// A proof for points however far away: R'z is zero up to the rounding of the shift, which is that of the bounds.
bool DenseSolver::is_exact_proof(const LeastShiftResult& found) {
  if (!is_proof(qp_, found)) return false;
  const LeastShift& level = found.level;
  const double epsilon = std::numeric_limits<double>::epsilon(), of_shift = 16.0 * epsilon * level.e.norm();
  const int stored = qp_.stored_rows();
  Vector& rounding = products_.Hx;
  rounding.setZero();
  for (int i = 0; i < level.count(); ++i) {
    const int row = level.shifted[i].row;
    const double of_z = level.root_weight[i] * of_shift;
    if (row < stored)
      rounding += of_z * qp_.R.row(row).cwiseAbs().transpose();
    else
      rounding[row - stored] += of_z;
  }
  return (products_.Rz.array().abs() <= rounding.array()).all();
}

bool DenseSolver::claim_infeasible(const StackedQP& qp, const LeastShiftResult& found, Solution& solution) {
  if (!is_proof(qp, found)) return false;
  if (!solution.x.allFinite()) store_point(qp, found.x, solution);
  solution.status = Status::PRIMAL_INFEASIBLE;
  solution.certificate_z = farkas_ / norm_inf(farkas_);
  return true;
}

// Hard rows alone: the shift that they would need, weights one.
bool DenseSolver::certify_hard_rows(const Settings& settings, const Deadline& deadline, Solution& solution) {
  if (!hard_rows_) hard_rows_ = std::make_unique<HardRows>(qp_.n(), qp_.stored_rows());
  StackedQP& hard = hard_rows_->qp;
  hard.R = qp_.R;
  for (int i = 0; i < hard.rows(); ++i) {
    const bool is_hard = std::isinf(qp_.weight[i]);
    hard.lower[i] = is_hard ? qp_.lower[i] : -std::numeric_limits<double>::infinity();
    hard.upper[i] = is_hard ? qp_.upper[i] : std::numeric_limits<double>::infinity();
  }
  const LeastShiftResult& found = hard_rows_->least_shift.find(hard, least_shift_steps(settings), deadline);
  solution.iterations += found.steps;
  return found.found && claim_infeasible(hard, found, solution);
}

void DenseSolver::certify(const Settings& settings, const Deadline& deadline, Solution& solution) {
  const auto prove = [&] {
    const LeastShiftResult& found = least_shift_.find(qp_, least_shift_steps(settings), deadline);
    solution.iterations += found.steps;
    const bool shifted = found.found && largest_shift(found.level) > settings.eps_abs;
    return shifted && claim_infeasible(qp_, found, solution);
  };
  qp_.weight.setOnes();
  if (prove()) return;
  drop_suspicion(settings, deadline, solution);
  if (solution.status != Status::MAX_ITER) return;
  // Where equalities amplify a contradiction, shifts of theirs that are lost in rounding resolve it.
  bool hard = false;
  for (int i = 0; i < qp_.rows(); ++i)
    if (qp_.is_equality(i)) {
      qp_.weight[i] = std::numeric_limits<double>::infinity();
      hard = true;
    }
  if (hard) prove();
}

// Feasible to tolerance after all, or the contrary cannot be shown. What no suspicion has interrupted is as good as it
// gets.
void DenseSolver::drop_suspicion(const Settings& settings, const Deadline& deadline, Solution& solution) {
  if (deadline.passed())
    solution.status = Status::TIME_LIMIT;
  else if (suspected_)
    store(minimiser_.run(settings, deadline, nullptr, false), solution);
}

// A pair of crossed bounds is its own proof.
void DenseSolver::certify_crossed(Solution& solution) {
  solution.x.setZero();
  store_point(qp_, solution.x, solution);
  solution.status = Status::PRIMAL_INFEASIBLE;
  solution.certificate_z.setZero();
}

void DenseSolver::solve_closest(const Settings& settings, const Deadline& deadline, bool crossed, Solution& solution) {
  const bool any_hard = qp_.weight.array().isInf().any();
  if (any_hard && certify_hard_rows(settings, deadline, solution)) return;
  const LeastShiftResult& found = least_shift_.find(qp_, least_shift_steps(settings), deadline);
  if (beyond_doubt(settings, found)) {  // as where it was known before
    solution.clear();
    set_unshifted(solution);
  }
  solution.iterations += found.steps;
  const LeastShift& level = found.level;
  const double shift = largest_shift(level);
  if (!crossed && (!found.found || shift <= negligible_shift(settings, found.x))) {
    drop_suspicion(settings, deadline, solution);
    if (!found.found || shift <= settings.eps_abs || solution.status != Status::MAX_ITER) return;
  }
  if (!found.found) {
    store_point(qp_, found.x, solution);
    if (deadline.passed()) solution.status = Status::TIME_LIMIT;
    return;
  }
  if (!second_level_) second_level_ = std::make_unique<SecondLevel>(qp_.n(), qp_.stored_rows());
  SecondLevel& second = *second_level_;
  if (second.search == found.search) {
    second.qp.g = qp_.g;
    second.minimiser.load_vectors(second.qp);
  } else {
    level.reduce(qp_, second.qp);
    second.minimiser.load(second.qp);
  }
  second.search = found.search;
  const Outcome& outcome = second.minimiser.run(settings, deadline, nullptr, false);
  level.multipliers(outcome.z, second.z);
  apply_shift(level, qp_, solution);
  Residuals judged = residuals(qp_, outcome.x, second.z, products_);
  store(outcome, second.z, judged, solution);
  // The level holds the rows as its factorisation knows them; the claim is about the caller's.
  if (outcome.verdict == Verdict::DUAL_INFEASIBLE && !is_ray(qp_, outcome.ray, products_)) {
    solution.status = Status::NUMERICAL_ERROR;
    solution.certificate_x.setConstant(std::numeric_limits<double>::quiet_NaN());
  }
  if (outcome.verdict != Verdict::SOLVED) return;
  // Multipliers of shifted rows are free in sign; the second level has judged the others.
  judged.complementarity = judged.gap = 0.0;
  const bool good = within_reduced(judged, settings, qp_, outcome.x, second.z);
  solution.status = good ? Status::CLOSEST_FEASIBLE : Status::NUMERICAL_ERROR;
}

}  // namespace qp_control
