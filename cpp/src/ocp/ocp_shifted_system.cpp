#include "qp_control/ocp_shifted_system.hpp"

#include <algorithm>
#include <limits>

namespace qp_control {

ShiftedOcpSystem::ShiftedOcpSystem(const OcpBatch& batch)
    : OcpSystem(batch, true),
      level_(batch),
      first_(v.unknowns),
      unknowns_(v.unknowns),
      rows_(v.rows),
      other_rows_(v.rows),
      both_(v.rows),
      weight_(v.rows),
      shift_(v.rows) {}

void ShiftedOcpSystem::read_shifts(const OcpBatchSolution& from, int i) {
  read(lower_shifts(from), i, i + 1, unknowns_, rows_);
  read(upper_shifts(from), i, i + 1, unknowns_, other_rows_);
  for (int k = 0; k < both_.size(); ++k) {
    both_[k] = select((rows_[k] > Pack(0.0)) & (other_rows_[k] > Pack(0.0)), 1.0, 0.0);
    const Pack s = other_rows_[k] - rows_[k];
    const Mask shifted = (s != Pack(0.0)) | (both_[k] > Pack(0.0)) | (kkt_.lower()[k] == kkt_.upper()[k]);
    weight_[k] = select(shifted, Pack(1.0) + both_[k], 0.0);
    shifted_[k] = select(shifted, Pack(1.0) / (Pack(1.0) + both_[k]), 0.0);
    shift_[k] = shifted_[k] * s;
  }
}

// Their slacks meet them.
bool ShiftedOcpSystem::leave_out_soft_rows() {
  double *shifted = numbers(shifted_), *weight = numbers(weight_);
  for (int k = 0; k <= layout().N && layout().soft(); ++k) {
    const double* soft = slacks().soft(layout().slack_lower(k));
    for (int i = 0; i < layout().soft_count(k); ++i) {
      const int row = layout().row(k) + i;
      if (soft[i] == 0.0) continue;
      if (numbers(both_)[row] > 0.0) return false;
      shifted[row] = weight[row] = 0.0;
    }
  }
  return true;
}

bool ShiftedOcpSystem::prepare(const OcpBatch& batch, int i, const OcpBatchSolution& solution) {
  able_ = Mask::all(regular(batch, i, solution));
  return any(able_);
}

// Sets v, E and the active rows.
bool ShiftedOcpSystem::regular(const OcpBatch& batch, int i, const OcpBatchSolution& solution) {
  kkt_.load(batch, i, i + 1, scaling_);
  if (!any(kkt_.valid())) return false;
  read(solution, i, i + 1, v.unknowns, v.rows);
  slacks().complete(v.unknowns, v.rows);
  read_shifts(solution, i);
  if (!leave_out_soft_rows()) return false;
  const LaneLevel level{&shifted_, &shift_};
  system_.find_active(scaling_, v.unknowns, v.rows, &level);
  for (int k = 0; k < both_.size(); ++k) system_.side[k] = select(both_[k] > Pack(0.0), both_sides, system_.side[k]);
  if (!level_.set(batch, i, weight_) || !any(system_.factor(&shifted_))) return false;
  // The multipliers of the first level, E's + F'pi = 0, and the least eta.
  if (!(level_.solve(shift_, nullptr, first_) <= OcpLevel::accepted)) return false;
  for (int k = 0; k < rows_.size(); ++k) {
    v.level_rows[k] = weight_[k] * shift_[k];
    rows_[k] = shifted_[k] * v.rows[k];
  }
  if (!(level_.solve(rows_, nullptr, v.level_unknowns) <= OcpLevel::accepted)) return false;
  const int costates = static_cast<int>(first_.size()) - kkt_.variables();
  v.level_unknowns.tail(costates) = -first_.tail(costates);
  return true;
}

Pack ShiftedOcpSystem::solve() {
  const int variables = kkt_.variables(), costates = static_cast<int>(first_.size()) - variables;
  const int rows = static_cast<int>(shifted_.size());
  // The first level.
  unknowns_.head(variables) = rhs.level_unknowns.head(variables);
  unknowns_.tail(costates).setConstant(Pack(0.0));
  if (!level_.project(unknowns_)) return std::numeric_limits<double>::infinity();
  unknowns_.tail(costates) = rhs.unknowns.tail(costates);
  double residual = level_.solve(rhs.rows, &unknowns_, first_);
  level_.apply(first_, rows_);
  for (int k = 0; k < rows; ++k) q.level_rows[k] = rows_[k] - weight_[k] * rhs.rows[k];

  // The second level.
  for (int k = 0; k < rows; ++k) {
    rows_[k] = select(shifted_[k] > Pack(0.0), shifted_[k] * rows_[k], rhs.rows[k]);
    other_rows_[k] = weight_[k] * rhs.level_rows[k];
  }
  unknowns_ = rhs.unknowns;
  level_.add_transposed(other_rows_, unknowns_);
  residual = std::max(residual, solve_active(unknowns_, rows_)[0]);

  // The least eta.
  unknowns_.head(variables).setConstant(Pack(0.0));
  unknowns_.tail(costates) = rhs.level_unknowns.tail(costates);
  for (int k = 0; k < rows; ++k) rows_[k] = shifted_[k] * q.rows[k];
  residual = std::max(residual, level_.solve(rows_, &unknowns_, q.level_unknowns));
  level_.apply(q.level_unknowns, rows_);
  for (int k = 0; k < rows; ++k) q.rows[k] = select(shifted_[k] > Pack(0.0), rows_[k] - other_rows_[k], q.rows[k]);
  q.unknowns.tail(costates) += q.level_unknowns.tail(costates);
  q.level_unknowns.tail(costates) = first_.tail(costates);
  return residual;
}

}  // namespace qp_control
