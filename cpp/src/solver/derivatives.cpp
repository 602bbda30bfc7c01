#include "qp_control/derivatives.hpp"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "qp_control/active_set.hpp"

namespace qp_control {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double largest_compliance = 1e12;  // rows beyond have no influence

bool crossed(const Solution& solution, int i) { return solution.shift_lower[i] > 0.0 && solution.shift_upper[i] > 0.0; }

// A row that is shifted on both sides, as one: at the middle of its bounds and with twice the weight.
void merge_crossed(StackedQP& qp, Solution& solution) {
  for (int i = 0; i < qp.rows(); ++i) {
    if (!crossed(solution, i)) continue;
    const double s = 0.5 * (solution.shift_upper[i] - solution.shift_lower[i]);
    qp.lower[i] = qp.upper[i] = 0.5 * (qp.lower[i] + qp.upper[i]);
    qp.weight[i] *= 2.0;
    solution.shift_upper[i] = std::max(s, 0.0);
    solution.shift_lower[i] = std::max(-s, 0.0);
  }
}

LevelPointer level_of_solution(const StackedQP& qp, const Solution& solution, const LevelPointer& known) {
  bool any_crossed = false;
  for (int i = 0; i < qp.rows(); ++i) any_crossed = any_crossed || crossed(solution, i);
  if (!any_crossed) return level_of(qp, solution, known);
  StackedQP merged = qp;
  Solution one_sided = solution;
  merge_crossed(merged, one_sided);
  return level_of(merged, one_sided, known);
}

// Completes v on the rows of the first level.
void add_level(const StackedQP& qp, const Solution& solution, SolutionPoint& out) {
  out.level = out.known = level_of_solution(qp, solution, out.known);
  const LeastShift& level = out.level->shift;
  Vector nu(level.count());
  for (int j = 0; j < level.count(); ++j) {
    const int i = level.shifted[j].row;
    out.pattern.active[i] = out.pattern.shifted[i] = 1.0;
    out.pattern.weight[i] = (crossed(solution, i) ? 2.0 : 1.0) * qp.weight[i];
    // Of an equality the shift's sign tells which of its two equal bounds is violated.
    const int side = level.shifted[j].side != 0 ? level.shifted[j].side : (level.s[j] < 0.0 ? -1 : 1);
    out.pattern.lower_share[i] = crossed(solution, i) ? 0.5 : (side < 0 ? 1.0 : 0.0);
    out.v.s[i] = level.s[j] / level.root_weight[j];
    out.v.z[i] = solution.z[i];
    nu[j] = solution.z[i] / level.root_weight[j];
  }
  for (std::size_t k = 0; k < level.hard.size(); ++k) {
    const auto [i, side] = level.hard[k];
    out.pattern.active[i] = out.pattern.weight[i] = 1.0;
    if (side != 0) out.pattern.lower_share[i] = side < 0 ? 1.0 : 0.0;
    out.v.s[i] = level.multiplier[k];
    out.v.z[i] = solution.z[i];
  }
  out.v.eta = out.level->inverse_times(nu);
}

double fischer_burmeister_compliance(double t, double z, double eps) {
  const double r = std::sqrt(t * t + z * z + 2.0 * eps);
  return (t * t + 2.0 * eps) * (r + t) / ((z * z + 2.0 * eps) * (r + z));
}

// K v = dK v of the data's change, without the part of g and of the bounds.
KktVector products(const DataDerivative& data, const SolutionPoint& at) {
  const int n = static_cast<int>(data.g.size()), stored = static_cast<int>(data.R.rows());
  const KktVector& v = at.v;
  KktVector out(n, static_cast<int>(v.z.size()));
  const auto weight = at.pattern.weight.head(stored);
  out.x.noalias() = 0.5 * (data.H * v.x + data.H.transpose() * v.x);
  out.x.noalias() += data.R.transpose() * v.z.head(stored);
  out.eta.noalias() = data.R.transpose() * weight.cwiseProduct(v.s.head(stored));
  out.z.head(stored) = at.pattern.active.head(stored).cwiseProduct(data.R * v.x);
  out.s.head(stored) = weight.cwiseProduct(data.R * v.eta);
  return out;
}

}  // namespace

void OutputDerivative::fill(double value) {
  for (Vector* field : {&x, &z, &shift_lower, &shift_upper}) field->setConstant(value);
  objective = value;
}

void DataDerivative::fill(double value) {
  H.setConstant(value);
  R.setConstant(value);
  for (Vector* field : {&g, &lower, &upper}) field->setConstant(value);
}

void solution_point(const StackedQP& qp, const Solution& solution, const DerivativeSettings& settings,
                    SolutionPoint& out) {
  const Vector& x = solution.x;
  out.pattern.clear();
  out.v.x = x;
  for (Vector* field : {&out.v.eta, &out.v.z, &out.v.s}) field->setZero();
  out.level.reset();
  out.weakly_active = 0;
  if (solution.status == Status::CLOSEST_FEASIBLE) add_level(qp, solution, out);

  const std::vector<int> sides = active_rows(qp, x, solution.z);
  Vector value(qp.rows());
  qp.apply_rows(x, value);
  const double balance = std::max(norm_inf(qp.g), qp.linear_program ? 0.0 : norm_inf(qp.H * x));
  for (int i = 0; i < qp.rows(); ++i) {
    if (out.pattern.active[i] != 0.0) {
      // A hard row without a side of its own is on the one that its multiplier names.
      if (out.pattern.shifted[i] == 0.0 && qp.is_equality(i)) out.pattern.lower_share[i] = sides[i] < 0 ? 1.0 : 0.0;
      continue;
    }
    int side = sides[i];
    const bool equality = qp.is_equality(i);
    const double row_size = i < qp.stored_rows() ? norm_inf(qp.R.row(i)) : 1.0;
    const bool weak = side != 0 && !equality && std::abs(solution.z[i]) * row_size <= weak_multiplier * balance;
    out.weakly_active += weak;
    if (!equality && settings.weakly_active == WeaklyActive::SMOOTHED) {
      const double below = value[i] - qp.lower[i], above = qp.upper[i] - value[i];
      if (side == 0) side = below < above ? -1 : 1;
      const double slack = std::max(0.0, side < 0 ? below : above);
      const double delta = fischer_burmeister_compliance(slack, std::abs(solution.z[i]), settings.smoothing);
      if (!(delta < largest_compliance)) continue;
      out.pattern.compliance[i] = delta;
    } else if (side == 0 || (weak && settings.weakly_active == WeaklyActive::ONE_SIDED)) {
      continue;
    }
    out.pattern.active[i] = 1.0;
    out.pattern.lower_share[i] = side < 0 ? 1.0 : 0.0;
    out.v.z[i] = solution.z[i];
  }
}

DerivativeCertificate adjoint(const StackedQP& qp, const Solution& solution, const OutputDerivative& loss,
                              const DerivativeSettings& settings, DataDerivative& out) {
  SolutionPoint at(qp.n(), qp.rows());
  return adjoint(qp, solution, loss, settings, out, at);
}

DerivativeCertificate adjoint(const StackedQP& qp, const Solution& solution, const OutputDerivative& loss,
                              const DerivativeSettings& settings, DataDerivative& out, SolutionPoint& at) {
  if (!has_solution(solution.status)) {
    out.fill(settings.nan_without_solution ? not_a_number : 0.0);
    return {not_a_number, 0, 0};
  }
  const int n = qp.n(), stored = qp.stored_rows();
  solution_point(qp, solution, settings, at);
  const RowPattern& pattern = at.pattern;
  const KktVector& v = at.v;
  KktSystem system(qp, pattern, at.room, at.level, at.kept ? &*at.kept : nullptr);

  KktVector rhs(n, qp.rows()), q(n, qp.rows());
  rhs.x = loss.x;
  if (loss.objective != 0.0) rhs.x += loss.objective * (qp.H * v.x + qp.g);
  rhs.z = loss.z;
  for (int i = 0; i < qp.rows(); ++i) {
    if (pattern.shifted[i] == 0.0) continue;
    const double share = pattern.lower_share[i];
    rhs.s[i] = (share < 1.0 ? loss.shift_upper[i] : 0.0) - (share > 0.0 ? loss.shift_lower[i] : 0.0);
  }
  system.solve(rhs, q);

  if (out.H.size() > 0) {
    const Vector half = 0.5 * (0.5 * loss.objective * v.x - q.x);
    out.H.noalias() = half * v.x.transpose() + v.x * half.transpose();
  }
  out.g = loss.objective * v.x - q.x;
  out.lower.setZero();
  out.upper.setZero();
  for (int i = 0; i < qp.rows(); ++i) {
    if (i < stored) out.R.row(i).setZero();
    if (pattern.active[i] == 0.0) continue;
    if (i < stored) {
      out.R.row(i) -= (v.z[i] * q.x + q.z[i] * v.x).transpose();
      if (pattern.weight[i] != 0.0) out.R.row(i) -= pattern.weight[i] * (v.s[i] * q.eta + q.s[i] * v.eta).transpose();
    }
    const double share = pattern.lower_share[i];
    out.lower[i] = share * q.z[i];
    out.upper[i] = (1.0 - share) * q.z[i];
    if (share == 0.5) {  // shift_upper = s + (lower - upper)/2, shift_lower = -s + (lower - upper)/2
      out.lower[i] += 0.5 * (loss.shift_upper[i] + loss.shift_lower[i]);
      out.upper[i] -= 0.5 * (loss.shift_upper[i] + loss.shift_lower[i]);
    }
  }
  return {system.residual(), at.weakly_active, system.rank_deficiency()};
}

DerivativeCertificate tangent(const StackedQP& qp, const Solution& solution, const DataDerivative& change,
                              const DerivativeSettings& settings, OutputDerivative& out, SolutionPoint& at) {
  if (!has_solution(solution.status)) {
    out.fill(settings.nan_without_solution ? not_a_number : 0.0);
    return {not_a_number, 0, 0};
  }
  const int n = qp.n();
  solution_point(qp, solution, settings, at);
  const RowPattern& pattern = at.pattern;
  const KktVector& v = at.v;
  KktSystem system(qp, pattern, at.room, at.level, at.kept ? &*at.kept : nullptr);

  KktVector rhs = products(change, at), dv(n, qp.rows());
  rhs.x = -rhs.x - change.g;
  rhs.eta = -rhs.eta;
  rhs.s = -rhs.s;
  for (int i = 0; i < qp.rows(); ++i) {
    const double share = pattern.lower_share[i];
    rhs.z[i] = pattern.active[i] * (share * change.lower[i] + (1.0 - share) * change.upper[i]) - rhs.z[i];
  }
  system.solve(rhs, dv);

  out.x = dv.x;
  out.z = dv.z;
  out.shift_lower.setZero();
  out.shift_upper.setZero();
  for (int i = 0; i < qp.rows(); ++i) {
    if (pattern.shifted[i] == 0.0) continue;
    const double share = pattern.lower_share[i], gap = change.lower[i] - change.upper[i];
    if (share < 1.0) out.shift_upper[i] = dv.s[i] + share * gap;
    if (share > 0.0) out.shift_lower[i] = (1.0 - share) * gap - dv.s[i];
  }
  out.objective = v.x.dot(0.5 * (change.H * v.x) + change.g) + dv.x.dot(qp.H * v.x + qp.g);
  return {system.residual(), at.weakly_active, system.rank_deficiency()};
}

}  // namespace qp_control
