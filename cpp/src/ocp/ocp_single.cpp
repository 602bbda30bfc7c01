#include "qp_control/ocp_single.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/minimise.hpp"
#include "qp_control/ocp_certificates.hpp"

namespace qp_control {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double doubtful_shift = 1e-8;  // beside the unknowns: it may be rounding

double largest(const std::vector<double>& a) {
  double out = 0.0;
  for (double entry : a) out = std::max(out, std::abs(entry));
  return out;
}

// A vector in two parts, its largest entry one.
void copy_direction(const std::vector<double>& a, const std::vector<double>& b, std::vector<double>& to_a,
                    std::vector<double>& to_b) {
  const double size = std::max(largest(a), largest(b));
  const auto scale = [size](double entry) { return entry / size; };
  std::transform(a.begin(), a.end(), to_a.begin(), scale);
  std::transform(b.begin(), b.end(), to_b.begin(), scale);
}

}  // namespace

OcpSingleSolver::OcpSingleSolver(const OcpBatch& batch)
    : bounds_(batch), minimiser_(batch), answer_(batch.dims), gradient_(batch.dims) {}

void OcpSingleSolver::solve(const OcpBatch& batch, int i, const Settings& settings, const Deadline& deadline,
                            const OcpBatchSolution& out) {
  const OcpBatch problem = bounds_.of(batch, i);
  answer_.point.fill(0.0);
  answer_.certificate.fill(not_a_number);
  answer_.steps = 0;
  const bool crossed = bounds_.crossed();
  bool infeasible = crossed;
  if (!crossed) {
    const OcpOutcome& outcome = minimiser_.run(problem, settings, deadline, true);
    take(minimiser_);
    const bool stuck =
        outcome.verdict == Verdict::MAX_ITER && outcome.steps >= 100 && outcome.residuals.primal > settings.eps_abs;
    suspected_ = outcome.verdict == Verdict::SUSPECT_PRIMAL_INFEASIBLE;
    infeasible = suspected_ || stuck;
  }
  if (crossed && !settings.closest) {
    certify_crossed(problem);
  } else if (infeasible) {
    reserve(batch);
    look_closer(problem, crossed, settings, deadline);
  }
  answer_.point.write(out, i);
  answer_.certificate.write(certificates(out), i);
  *out.objective.at(i) = answer_.residuals.objective;
  *out.primal_residual.at(i) = answer_.residuals.primal;
  *out.dual_residual.at(i) = answer_.residuals.dual;
  *out.duality_gap.at(i) = std::abs(answer_.residuals.gap);
  out.status[i] = static_cast<long long>(answer_.status);
  out.iterations[i] += answer_.steps;
}

void OcpSingleSolver::take(const OcpMinimiser& from) {
  const OcpOutcome& outcome = from.outcome();
  answer_.point.x = outcome.point.x;
  answer_.point.u = outcome.point.u;
  answer_.point.y = outcome.point.y;
  answer_.point.z = outcome.point.z;
  answer_.point.slack_lower = outcome.point.slack_lower;
  answer_.point.slack_upper = outcome.point.slack_upper;
  answer_.residuals = outcome.residuals;
  answer_.status = status_of(outcome.verdict);
  answer_.steps += outcome.steps;
  if (answer_.status == Status::DUAL_INFEASIBLE)
    copy_direction(from.ray().x, from.ray().u, answer_.certificate.x, answer_.certificate.u);
}

// A point with nothing but its residuals to say for itself.
void OcpSingleSolver::judge_point(const OcpBatch& problem, Status status) {
  answer_.residuals = ocp_residuals(problem, 0, answer_.point.arrays(), gradient_);
  answer_.status = status;
}

// A pair of crossed bounds is its own proof.
void OcpSingleSolver::certify_crossed(const OcpBatch& problem) {
  judge_point(problem, Status::PRIMAL_INFEASIBLE);
  for (auto* part : {&answer_.certificate.y, &answer_.certificate.z}) std::fill(part->begin(), part->end(), 0.0);
}

void OcpSingleSolver::look_closer(const OcpBatch& problem, bool crossed, const Settings& settings,
                                  const Deadline& deadline) {
  OcpLeastShift& least_shift = levels_->first;
  OcpBounds& hard = levels_->hard;
  const OcpBatch without_soft_rows = hard.of(problem, 0);
  hard.free_soft(problem);
  const bool found = least_shift.find(without_soft_rows, hard, std::max(200, settings.max_iter), deadline);
  answer_.steps += least_shift.steps();
  if (crossed && !found) {
    judge_point(problem, deadline.passed() ? Status::TIME_LIMIT : Status::MAX_ITER);
  } else if (crossed) {
    solve_shifted(problem, settings, deadline);
  } else {
    const double shift = least_shift.largest_shift();
    const double size = std::max(largest(least_shift.point().x), largest(least_shift.point().u));
    const bool none = found && shift <= settings.eps_abs;
    // What the loop has found may be proof enough, be it the least shift or not.
    if (!settings.closest && !none && claim_infeasible(problem)) return;
    const bool doubtful = !found || shift <= settings.eps_abs + std::max(settings.eps_rel, doubtful_shift) * size;
    if (!settings.closest || doubtful) drop_suspicion(problem, settings, deadline);
    if (settings.closest && found && !none && (!doubtful || answer_.status == Status::MAX_ITER))
      solve_shifted(problem, settings, deadline);
  }
}

// Feasible to tolerance after all, or the contrary cannot be shown. What no suspicion has interrupted is as good as it
// gets.
void OcpSingleSolver::drop_suspicion(const OcpBatch& problem, const Settings& settings, const Deadline& deadline) {
  if (deadline.passed()) {
    answer_.status = Status::TIME_LIMIT;
  } else if (suspected_) {
    minimiser_.run(problem, settings, deadline, false);
    take(minimiser_);
  }
}

// The least shift is itself the Farkas vector; false where it does not pass the check.
bool OcpSingleSolver::claim_infeasible(const OcpBatch& problem) {
  const OcpElement& found = levels_->first.point();
  const double size = std::max(largest(found.x), largest(found.u));
  OcpElement& proof = levels_->proof;
  proof.fill(0.0);
  proof.y = found.y;
  proof.z = found.z;
  // A multiplier may lean on a bound that is not there, by rounding; without it something is left of the rows instead.
  for (int row = 0; row < bounds_.count(); ++row)
    if (!std::isfinite(proof.z[row] > 0.0 ? bounds_.upper[row] : bounds_.lower[row])) proof.z[row] = 0.0;
  const bool proven = is_ocp_farkas(problem, proof, size, gradient_);
  if (proven) copy_direction(proof.y, proof.z, answer_.certificate.y, answer_.certificate.z);
  answer_.status = proven ? Status::PRIMAL_INFEASIBLE : Status::MAX_ITER;
  if (answer_.point.finite()) return proven;
  answer_.point.fill(0.0);
  answer_.point.x = found.x;
  answer_.point.u = found.u;
  judge_point(problem, answer_.status);
  return proven;
}

// `problem` looks at bounds_, which are shifted here.
void OcpSingleSolver::solve_shifted(const OcpBatch& problem, const Settings& settings, const Deadline& deadline) {
  const OcpElement& found = levels_->first.point();
  std::vector<double>&lower = answer_.point.shift_lower, &upper = answer_.point.shift_upper;
  lower = found.shift_lower;
  upper = found.shift_upper;
  for_each_soft_row(problem, [&](int row) {  // no slack brings crossed bounds together
    if (bounds_.crossed(row)) lower[row] = upper[row] = 0.5 * (bounds_.lower[row] - bounds_.upper[row]);
  });
  bounds_.shift(lower, upper);
  levels_->second.run(problem, settings, deadline, false);
  take(levels_->second);
  if (answer_.status != Status::SOLVED) return;
  levels_->first.shrink_multipliers(answer_.point);
  judge_point(problem, Status::CLOSEST_FEASIBLE);
  // Multipliers of shifted rows are free in sign; the second level has judged the others.
  Residuals judged = answer_.residuals;
  judged.complementarity = judged.gap = 0.0;
  if (!judged.within(settings.reduced())) answer_.status = Status::NUMERICAL_ERROR;
}

}  // namespace qp_control
