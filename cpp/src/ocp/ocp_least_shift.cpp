#include "qp_control/ocp_least_shift.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/ocp_minimiser.hpp"
#include "qp_control/ocp_start.hpp"
#include "qp_control/shift_judge.hpp"

namespace qp_control {
namespace {

// Distances from a bound, relative to it: shifts below the first are not shifts, the loop's point is not better than
// the second, and a row lets go of its bound beyond the third.
constexpr double rounding = 1e-11, near = 1e-8, acceptable = 1e-9;
constexpr double refinement_rho = 1e-11, converged = 1e-7;
constexpr int most_refinements = 30, most_sets = 100;

double largest(const PackArray& a) {
  Pack out = 0.0;
  for (const Pack& entry : a) out = max(out, abs(entry));
  return max_of_lanes(out)[0];
}

}  // namespace

OcpLeastShift::OcpLeastShift(const OcpBatch& batch)
    : dims_(batch.dims),
      kkt_(without_cost(batch)),
      scaling_(kkt_.unknowns(), kkt_.rows()),
      iterate_(kkt_.unknowns(), kkt_.rows()),
      penalties_(kkt_.rows()),
      point_(batch.dims),
      change_(batch.dims),
      pulls_(OcpRowPlaces(batch.dims).count),
      next_pulls_(pulls_.size()) {
  penalties_.least_rho = 1e-9;
  penalties_.settles = false;
}

bool OcpLeastShift::find(const OcpBatch& problem, const OcpBounds& bounds, int max_steps, const Deadline& deadline) {
  kkt_.load(without_cost(problem), 0, 1, scaling_);
  // A row's multiplier is its shift in the caller's units, up to the cost's own scale, which is free: the softest row
  // that has bounds gets one.
  PackArray& delta = penalties_.delta;
  unit_ = 0.0;
  for (int i = 0; i < delta.size(); ++i) {
    delta[i] = scaling_.E[i] * scaling_.E[i];
    const Mask bounded = finite(kkt_.lower()[i]) | finite(kkt_.upper()[i]);
    for (int lane = 0; lane < lanes; ++lane)
      if (bounded[lane]) unit_ = std::max(unit_, delta[i][lane]);
  }
  if (unit_ == 0.0) unit_ = 1.0;
  for (Pack& entry : delta) entry *= Pack(1.0 / unit_);
  penalties_.reset(kkt_.lower(), kkt_.upper());
  iterate_.x.setConstant(Pack(0.0));
  iterate_.z.setConstant(Pack(0.0));
  obey_dynamics(kkt_, penalties_, Mask::all(true), iterate_);
  penalties_.settling = Mask::all(false);
  penalties_.apply();
  ShiftJudge judge(kkt_, deadline);
  augmented_lagrangian(kkt_, judge, penalties_, max_steps, iterate_, iterate_.z);
  read_result(point_);
  if (!point_.finite() || deadline.passed()) return false;
  // The loop's point is stationary to its tolerance; the shifts are those of the rows that it names, exactly.
  std::fill(pulls_.begin(), pulls_.end(), Pull());
  identify(bounds, true);
  for (int k = 0; k < most_sets; ++k) {
    pulls_.swap(next_pulls_);
    if (deadline.passed() || !solve_least_squares(true)) return false;
    const bool changed = identify(bounds, false);
    if (changed && !(k + 1 == most_sets && mismatch_ <= acceptable)) continue;
    read_shifts(bounds);
    return precise_ && point_.finite();
  }
  return false;
}

void OcpLeastShift::read_result(OcpElement& out) const {
  read_iterate(kkt_.layout(), scaling_, iterate_.x, iterate_.z, out);
  for (auto* multipliers : {&out.y, &out.z})
    for (double& entry : *multipliers) entry /= unit_;
}

template <class Number>
void OcpLeastShift::to_loop(const Number& number, PackArray& to) {
  for (std::size_t row = 0; row < pulls_.size(); ++row) change_.z[row] = number(pulls_[row]);
  OcpBatchSolution rows = as_rows(dims_, change_.z);
  to.setConstant(Pack(0.0));
  for_each_piece(
      kkt_.layout(), rows, [](const MutableBatchArray&, int, int, int) {},
      [&](const MutableBatchArray& array, int position, int size, int place) {
        std::copy_n(array.data + position, size, numbers(to) + place);
      });
}

bool OcpLeastShift::identify(const OcpBounds& bounds, bool first) {
  PackArray& v = iterate_.v;
  kkt_.apply_rows(iterate_.x, v);
  for (int i = 0; i < v.size(); ++i) v[i] = v[i] / (scaling_.E[i] * scaling_.E[i]);
  read_iterate(kkt_.layout(), scaling_, iterate_.x, v, change_);
  mismatch_ = 0.0;
  for (int row = 0; row < bounds.count(); ++row)
    next_pulls_[row] = pull_of(pulls_[row], bounds.lower[row], bounds.upper[row], change_.z[row], first);
  return next_pulls_ != pulls_;
}

// A row without a shift that is near a bound stays there: where its bound is all that keeps the unknowns from running
// away, a shift that would be lost in rounding must not let go of it.
OcpLeastShift::Pull OcpLeastShift::pull_of(Pull now, double lower, double upper, double v, bool first) {
  const bool above = v - upper > lower - v;
  const double nearest = above ? upper : lower, excess = above ? v - upper : lower - v;
  if (lower > upper && v > upper && v < lower) return {2.0, 0.5 * (lower + upper)};
  if (lower >= upper) return {1.0, nearest};
  if (now.weight == 0.0) {
    const double unit = 1.0 + std::abs(nearest);
    if (!first && excess > mismatch_ * unit) mismatch_ = excess / unit;
    return excess > (first ? -near : rounding) * unit ? Pull{1.0, nearest} : Pull();
  }
  const double unit = 1.0 + std::abs(now.target), inside = now.target == upper ? now.target - v : v - now.target;
  mismatch_ = std::max(mismatch_, inside / unit);
  return inside > acceptable * unit ? Pull() : now;
}

bool OcpLeastShift::solve_least_squares(bool with_constants) {
  PackArray &d = iterate_.x, &z = iterate_.z, &step = iterate_.dx, &weight = iterate_.weight, &v = iterate_.v;
  PackArray &target = iterate_.dv, &best = iterate_.x_saved;
  to_loop([](Pull pull) { return pull.weight; }, weight);
  to_loop([](Pull pull) { return pull.target; }, target);
  for (int i = 0; i < weight.size(); ++i) {
    target[i] = target[i] * scaling_.E[i];
    weight[i] = weight[i] / penalties_.delta[i];
  }
  if (!any(kkt_.factor(weight, refinement_rho))) return false;
  double least = std::numeric_limits<double>::infinity();
  for (int k = 0; k < most_refinements; ++k) {
    kkt_.apply_rows(d, v);
    for (int i = 0; i < v.size(); ++i) z[i] = weight[i] * (v[i] - target[i]);
    kkt_.apply_hessian(d, step);
    kkt_.add_rows_transposed(z, step);
    for (int j = 0; with_constants && j < d.size(); ++j) step[j] += kkt_.g()[j];
    const double error = largest(step);
    const bool better = error < least, falls = error < 0.5 * least;
    if (better) {
      least = error;
      best = d;
    }
    if (!falls || error == 0.0) break;
    for (Pack& entry : step) entry = -entry;
    kkt_.solve(step);
    for (int j = 0; j < d.size(); ++j) d[j] += step[j];
  }
  d = best;
  kkt_.apply_rows(d, v);
  for (int i = 0; i < v.size(); ++i) z[i] = weight[i] * (v[i] - target[i]);
  precise_ = least <= converged * (1.0 + largest(z));
  return true;
}

// Rows without a shift pull no longer.
void OcpLeastShift::read_shifts(const OcpBounds& bounds) {
  read_result(point_);
  for (int row = 0; row < bounds.count(); ++row) {
    const double lower = bounds.lower[row], upper = bounds.upper[row], z = point_.z[row];
    Pull& pull = pulls_[row];
    const bool exceeds = pull.weight == 1.0 && pull.target == (z > 0.0 ? upper : lower);
    const bool counts = lower > upper || std::abs(z) > rounding * (1.0 + std::abs(pull.target));
    double &up = point_.shift_upper[row], &down = point_.shift_lower[row];
    up = down = 0.0;
    if (pull.weight == 2.0) {
      up = 0.5 * (lower - upper + z);
      down = 0.5 * (lower - upper - z);
    } else if (bounds.equality(row) || (exceeds && counts)) {
      (z > 0.0 ? up : down) = std::abs(z);
    } else {
      pull = Pull();
    }
  }
}

double OcpLeastShift::largest_shift() const {
  double out = 0.0;
  for (const auto* shift : {&point_.shift_lower, &point_.shift_upper})
    for (double entry : *shift) out = std::max(out, entry);
  return out;
}

void OcpLeastShift::shrink_multipliers(OcpElement& solution) {
  for (std::size_t row = 0; row < pulls_.size(); ++row) {
    Pull& pull = pulls_[row];
    if (pull.weight != 0.0) pull.target = solution.z[row] / pull.weight;
  }
  iterate_.x.setConstant(Pack(0.0));
  if (!solve_least_squares(false) || !precise_) return;
  // What is left of the target on rows of E is what their multipliers lose, and those of the dynamics make up for.
  read_result(change_);
  for (std::size_t row = 0; row < solution.z.size(); ++row) solution.z[row] += change_.z[row];
  for (std::size_t j = 0; j < solution.y.size(); ++j) solution.y[j] += change_.y[j];
}

}  // namespace qp_control
