#include "qp_control/ocp_shifted_system.hpp"

#include <algorithm>

namespace qp_control {

ShiftedOcpSystem::ShiftedOcpSystem(const OcpBatch& batch)
    : OcpSystem(batch, true),
      level_(batch),
      first_(v.unknowns),
      unknowns_(v.unknowns),
      rows_(v.rows),
      other_rows_(v.rows) {}

bool ShiftedOcpSystem::read_shifts(const OcpBatchSolution& from, int i, PackArray& upper_minus_lower) {
  read(lower_shifts(from), i, i + 1, unknowns_, rows_);
  read(upper_shifts(from), i, i + 1, unknowns_, other_rows_);
  Mask both = Mask::all(false);
  for (int k = 0; k < upper_minus_lower.size(); ++k) {
    both = both | ((rows_[k] > Pack(0.0)) & (other_rows_[k] > Pack(0.0)));
    upper_minus_lower[k] = other_rows_[k] - rows_[k];
  }
  return !any(both);
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
  PackArray& s = v.level_rows;
  if (!read_shifts(solution, i, s)) return false;
  for (int k = 0; k < shifted_.size(); ++k)
    shifted_[k] = select((s[k] != Pack(0.0)) | (kkt_.lower()[k] == kkt_.upper()[k]), 1.0, 0.0);
  const LaneLevel level{&shifted_, &s};
  system_.find_active(scaling_, v.unknowns, v.rows, &level);
  if (!level_.set(batch, i, shifted_) || !any(system_.factor(&shifted_))) return false;
  // The multipliers of the first level, E's + F'pi = 0, and the least eta.
  if (!(level_.solve(s, nullptr, first_) <= OcpLevel::accepted)) return false;
  if (!(level_.solve(v.rows, nullptr, v.level_unknowns) <= OcpLevel::accepted)) return false;
  const int costates = static_cast<int>(first_.size()) - kkt_.variables();
  v.level_unknowns.tail(costates) = -first_.tail(costates);
  return true;
}

Pack ShiftedOcpSystem::solve() {
  const int variables = kkt_.variables(), costates = static_cast<int>(first_.size()) - variables;
  const int rows = static_cast<int>(shifted_.size());
  const PackArray& shifted = shifted_;
  // The first level.
  unknowns_.head(variables) = rhs.level_unknowns.head(variables);
  unknowns_.tail(costates).setConstant(Pack(0.0));
  level_.project(unknowns_);
  unknowns_.tail(costates) = rhs.unknowns.tail(costates);
  double residual = level_.solve(rhs.rows, &unknowns_, first_);
  level_.apply(first_, rows_);
  for (int k = 0; k < rows; ++k) q.level_rows[k] = rows_[k] - shifted[k] * rhs.rows[k];

  // The second level.
  for (int k = 0; k < rows; ++k) {
    rows_[k] = select(shifted[k] > Pack(0.0), rows_[k], rhs.rows[k]);
    other_rows_[k] = shifted[k] * rhs.level_rows[k];
  }
  unknowns_ = rhs.unknowns;
  level_.add_transposed(other_rows_, unknowns_);
  residual = std::max(residual, solve_active(unknowns_, rows_)[0]);

  // The least eta.
  unknowns_.head(variables).setConstant(Pack(0.0));
  unknowns_.tail(costates) = rhs.level_unknowns.tail(costates);
  residual = std::max(residual, level_.solve(q.rows, &unknowns_, q.level_unknowns));
  level_.apply(q.level_unknowns, rows_);
  for (int k = 0; k < rows; ++k) q.rows[k] = select(shifted[k] > Pack(0.0), rows_[k] - other_rows_[k], q.rows[k]);
  q.unknowns.tail(costates) += q.level_unknowns.tail(costates);
  q.level_unknowns.tail(costates) = first_.tail(costates);
  return residual;
}

}  // namespace qp_control
