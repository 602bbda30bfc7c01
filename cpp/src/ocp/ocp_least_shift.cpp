#include "qp_control/ocp_least_shift.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/ocp_minimiser.hpp"
#include "qp_control/ocp_start.hpp"
#include "qp_control/shift_judge.hpp"

namespace qp_control {
namespace {

constexpr double rounding = 1e-10;  // shifts below this, relative to their bound, are not shifts
constexpr int most_refinements = 20;

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
      sides_(OcpRowPlaces(batch.dims).count) {
  penalties_.least_rho = 1e-9;
  penalties_.settles = false;
}

bool OcpLeastShift::find(const OcpBatch& problem, const OcpBounds& bounds, int max_steps, const Deadline& deadline) {
  kkt_.load(without_cost(problem), 0, 1, scaling_);
  // A row's multiplier is its shift in the caller's units, up to the cost's own scale, which is free: the stiffest row
  // that has bounds gets one.
  PackArray& delta = penalties_.delta;
  double smallest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < delta.size(); ++i) {
    delta[i] = scaling_.E[i] * scaling_.E[i];
    const Mask bounded = finite(kkt_.lower()[i]) | finite(kkt_.upper()[i]);
    for (int lane = 0; lane < lanes; ++lane)
      if (bounded[lane]) smallest = std::min(smallest, delta[i][lane]);
  }
  if (std::isinf(smallest)) smallest = 1.0;
  for (Pack& entry : delta) entry *= Pack(1.0 / smallest);
  penalties_.reset(kkt_.lower(), kkt_.upper());
  iterate_.x.setConstant(Pack(0.0));
  iterate_.z.setConstant(Pack(0.0));
  obey_dynamics(kkt_, penalties_, Mask::all(true), iterate_);
  penalties_.settling = Mask::all(false);
  penalties_.apply();
  ShiftJudge judge(kkt_, deadline);
  augmented_lagrangian(kkt_, judge, penalties_, max_steps, iterate_);
  read_iterate(kkt_.layout(), scaling_, iterate_.x, iterate_.z, point_);
  for (auto* multipliers : {&point_.y, &point_.z})
    for (double& entry : *multipliers) entry /= smallest;
  read_shifts(bounds);
  return judge.verdict == Verdict::SOLVED && point_.finite();
}

void OcpLeastShift::read_shifts(const OcpBounds& bounds) {
  for (int row = 0; row < bounds.count(); ++row) {
    const double lower = bounds.lower[row], upper = bounds.upper[row];
    double &z = point_.z[row], &low = point_.shift_lower[row] = 0.0, &high = point_.shift_upper[row] = 0.0;
    if (bounds.crossed(row) && std::abs(z) < lower - upper) {  // between its bounds, both of which pull
      high = 0.5 * (lower - upper + z);
      low = 0.5 * (lower - upper - z);
      sides_[row] = 2.0;
      continue;
    }
    const double bound = z > 0.0 ? upper : lower;
    const double least = bounds.crossed(row) || bounds.equality(row) ? 0.0 : rounding * (1.0 + std::abs(bound));
    if (!(std::abs(z) > least)) z = 0.0;
    (z > 0.0 ? high : low) = std::abs(z);
    sides_[row] = z != 0.0 || bounds.equality(row) ? 1.0 : 0.0;
  }
}

double OcpLeastShift::largest_shift() const {
  double out = 0.0;
  for (const auto* shift : {&point_.shift_lower, &point_.shift_upper})
    for (double entry : *shift) out = std::max(out, entry);
  return out;
}

void OcpLeastShift::shrink_multipliers(OcpElement& solution) {
  // minimise over d the sum of sides/2 (row d - z / sides)^2 subject to E_dynamics d = 0, by proximal steps.
  PackArray &d = iterate_.x, &step = iterate_.dx, &target = iterate_.z, &side = iterate_.active, &v = iterate_.v;
  PackArray &weight = iterate_.weight, &reached = iterate_.dv;
  for (PackArray* a : {&d, &target, &side}) a->setConstant(Pack(0.0));
  const auto read = [&](std::vector<double>& from, PackArray& to) {
    OcpBatchSolution rows = as_rows(dims_, from);
    for_each_piece(
        kkt_.layout(), rows, [](const MutableBatchArray&, int, int, int) {},
        [&](const MutableBatchArray& array, int position, int size, int place) {
          std::copy_n(array.data + position, size, numbers(to) + place);
        });
  };
  read(sides_, side);
  read(solution.z, target);
  for (int i = 0; i < side.size(); ++i) {
    const Pack e = scaling_.E[i];
    weight[i] = side[i] / (e * e);
    target[i] = select(side[i] > Pack(0.0), e * target[i] / side[i], 0.0);
  }
  const double size = largest(target);
  double last = std::numeric_limits<double>::infinity();
  if (!any(kkt_.factor(weight, penalties_.least_rho))) return;
  for (int k = 0; k < most_refinements; ++k) {
    kkt_.apply_rows(d, reached);
    for (int i = 0; i < v.size(); ++i) v[i] = weight[i] * (reached[i] - target[i]);
    kkt_.apply_hessian(d, step);
    kkt_.add_rows_transposed(v, step);
    const double error = largest(step);
    if (!(error > 1e-16 * size) || !(error < 0.5 * last)) break;
    last = error;
    for (Pack& entry : step) entry = -entry;
    kkt_.solve(step);
    for (int j = 0; j < d.size(); ++j) d[j] += step[j];
  }
  // What is left of the target on rows of E is what their multipliers lose and those of the dynamics make up for.
  for (int i = 0; i < v.size(); ++i) reached[i] = (reached[i] - target[i]) * side[i] / (scaling_.E[i] * scaling_.E[i]);
  read_iterate(kkt_.layout(), scaling_, d, reached, change_);
  for (std::size_t row = 0; row < solution.z.size(); ++row) solution.z[row] += change_.z[row];
  for (std::size_t j = 0; j < solution.y.size(); ++j) solution.y[j] += change_.y[j];
}

}  // namespace qp_control
