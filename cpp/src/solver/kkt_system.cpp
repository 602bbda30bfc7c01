#include "qp_control/kkt_system.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "qp_control/active_set.hpp"

namespace qp_control {
namespace {

constexpr double accepted_residual = 1e-11;
constexpr double firm_weight = 1e5;  // of an active row in a factor of the loop, on equilibrated data

// The first level of a pattern; where its rows stand matters to no derivative.
LevelPointer level_of_pattern(const StackedQP& qp, const RowPattern& pattern) {
  if (!(pattern.shifted.array() != 0.0).any()) return nullptr;
  StackedQP rows = qp;
  rows.lower.setZero();
  rows.upper.setZero();
  rows.weight = pattern.weight;
  std::vector<ShiftedRow> shifted, hard;
  for (int i = 0; i < qp.rows(); ++i) {
    if (pattern.shifted[i] != 0.0)
      shifted.push_back({i, 0});
    else if (pattern.weight[i] != 0.0)
      hard.push_back({i, 0});
  }
  return std::make_shared<const DifferentiableLevel>(LeastShift(rows, std::move(shifted), std::move(hard)));
}

}  // namespace

void RowPattern::clear() {
  for (Vector* field : {&active, &shifted, &weight, &lower_share, &compliance}) field->setZero();
}

KktSystem::KktSystem(const StackedQP& qp, const RowPattern& pattern, KktRoom& room, LevelPointer level,
                     const KeptFactor* kept)
    : pattern_(pattern),
      differentiable_level_(level ? std::move(level) : level_of_pattern(qp, pattern)),
      level_(differentiable_level_ ? &differentiable_level_->shift : nullptr),
      room_(room),
      solved_(&qp) {
  std::vector<int>&slot = room.slot, &in_system = room.in_system;
  auto& system = room.system;
  slot.resize(qp.rows());
  std::iota(slot.begin(), slot.end(), 0);
  if (level_ || (pattern.compliance.array() != 0.0).any()) solved_ = &extend(qp);

  in_system.assign(solved_->rows(), 0);
  if (level_) std::fill_n(in_system.begin(), level_->rank(), 1);
  for (int i = 0; i < qp.rows(); ++i)
    if (pattern.active[i] != 0.0 && pattern.shifted[i] == 0.0) in_system[slot[i]] = 1;
  if (!system || system->variables() != solved_->n()) system.emplace(solved_->n());
  set_active_system(*solved_, in_system, *system, room.order);
  adopted_ = kept != nullptr && solved_ == &qp && adopt(*kept);
  if (!adopted_) factor();
}

void KktSystem::factor() { regular_ = room_.system->factor() && !room_.system->singular(); }

// The solve's last factor is of use where it holds the rows of the system, all of them firmly, and no others.
bool KktSystem::adopt(const KeptFactor& kept) {
  if (kept.present == 0.0) return false;
  for (int i = 0; i < kept.weight.size(); ++i)
    if (pattern_.active[i] != 0.0 ? !(kept.weight[i] >= firm_weight) : kept.weight[i] != 0.0) return false;
  room_.system->adopt(kept, room_.order);
  return regular_ = !room_.system->singular();
}

// A compliant row R_i x - delta z_i = r becomes, with a variable p of unit cost, the ordinary row
//     (R_i x - sqrt(delta) p) / sqrt(1 + delta) = r / sqrt(1 + delta),   p = sqrt(delta) z_i,
// whose multiplier is sqrt(1 + delta) z_i. A compliant box row becomes a stored one.
const StackedQP& KktSystem::extend(const StackedQP& qp) {
  const int n = qp.n(), stored = qp.stored_rows(), rank = level_ ? level_->rank() : 0;
  const int compliant = static_cast<int>((pattern_.compliance.array() != 0.0).count());
  const int compliant_box = static_cast<int>((pattern_.compliance.tail(n).array() != 0.0).count());
  auto& extended = room_.extended;
  std::vector<int>& slot = room_.slot;
  // Compliant rows leave entries behind.
  const bool fits = extended && extended->n() == n && extended->stored_rows() == rank + stored;
  if (!fits || !room_.without_compliance || compliant > 0)
    extended.emplace(n + compliant, rank + stored + compliant_box);
  else if (qp.diagonal && !extended->diagonal)
    extended->H.setZero();
  room_.without_compliance = compliant == 0;
  StackedQP& out = *extended;
  out.diagonal = qp.diagonal;
  if (qp.diagonal)
    out.H.diagonal().head(n) = qp.H.diagonal();
  else
    out.H.topLeftCorner(n, n) = qp.H;
  out.H.diagonal().tail(compliant).setOnes();
  if (level_) out.R.topLeftCorner(rank, n) = level_->Q_E;
  out.R.block(rank, 0, stored, n) = qp.R;
  int next_variable = n, next_row = rank + stored;
  for (int i = 0; i < qp.rows(); ++i) {
    const double delta = pattern_.compliance[i];
    slot[i] = i < stored ? rank + i : rank + compliant_box + i;
    if (delta == 0.0) continue;
    if (i >= stored) {
      slot[i] = next_row++;
      out.R(slot[i], i - stored) = 1.0;
    }
    out.R.row(slot[i]) /= std::sqrt(1.0 + delta);
    out.R(slot[i], next_variable++) = -std::sqrt(delta / (1.0 + delta));
  }
  // The box of the new variables stands behind that of the old ones, so no slot moves.
  return out;
}

ActiveVector KktSystem::solve_active(const ActiveVector& rhs) {
  ActiveSystem& system = *room_.system;
  ActiveVector s = system.zero();
  double residual = std::numeric_limits<double>::infinity();
  if (regular_) residual = system.refine(rhs, s);
  if (adopted_ && !(residual <= accepted_residual)) {
    adopted_ = false;
    factor();
    s = system.zero();
    if (regular_) residual = system.refine(rhs, s);
  }
  if (!(residual <= accepted_residual)) {
    int deficiency = 0;
    const ActiveVector ls = system.least_squares(rhs, &deficiency);
    ActiveVector r = system.zero(), normal = system.zero(), none = system.zero();
    system.residual(rhs, ls, r);
    system.residual(none, r, normal);  // K is symmetric: -K'(rhs - K s)
    const double size = rhs.norm(), normal_residual = size > 0.0 ? normal.norm() / size : 0.0;
    rank_deficiency_ = std::max(rank_deficiency_, deficiency);
    if (deficiency > 0 || !(residual <= normal_residual)) {
      s = ls;
      residual = normal_residual;
    }
  }
  residual_ = std::max(residual_, residual);
  return s;
}

// With Q, E_null = E P_F, F and the weighted units of least_shift.hpp, (s), (eta) and (pi) are eliminated:
//
//     nu = Q theta + c,  c = E F^+ r_pi - r_s,   eta = E_null^+ Q theta + F^+ r_pi,
//     s = E x - r_nu,    pi = F^+'(r_eta - E's),
//
// and what is left is the K of the second level, with the rows Q'E and the multipliers theta,
//
//     H x + E'Q theta + G'z = r_x - E'c,   Q'E x = Q'(r_nu + E_null^+' r_eta),   G x = r_z.
void KktSystem::solve(const KktVector& rhs, KktVector& out) {
  const int n = static_cast<int>(rhs.x.size()), rows = static_cast<int>(rhs.z.size());
  const int rank = level_ ? level_->rank() : 0, m = level_ ? level_->count() : 0;
  const int k = level_ ? static_cast<int>(level_->hard.size()) : 0;
  Vector c(m), r_nu(m), r_pi(k), eta = Vector::Zero(n), x = rhs.x, theta(rank);
  if (level_) {
    for (int j = 0; j < k; ++j) r_pi[j] = rhs.s[level_->hard[j].row];
    eta = level_->F_pinv * r_pi;
    c = level_->E * eta;
    for (int j = 0; j < m; ++j) {
      const int row = level_->shifted[j].row;
      c[j] -= rhs.s[row] / level_->root_weight[j];
      r_nu[j] = rhs.z[row] * level_->root_weight[j];
    }
    x -= level_->E.transpose() * c;
    theta = level_->Q.transpose() * (r_nu + differentiable_level_->inverse_transposed_times(rhs.eta));
  }

  const auto scale = [&](int i) { return 1.0 / std::sqrt(1.0 + pattern_.compliance[i]); };
  Vector stacked = Vector::Zero(solved_->rows());
  stacked.head(rank) = theta;
  for (int i = 0; i < rows; ++i)
    if (pattern_.shifted[i] == 0.0) stacked[room_.slot[i]] = scale(i) * rhs.z[i];
  const ActiveSystem& system = *room_.system;
  ActiveVector r = system.zero();
  r.x.head(n) = x;
  const int stored = static_cast<int>(stacked.size() - r.x.size());
  for (std::size_t j = 0; j < room_.order.size(); ++j) r.rows[j] = stacked[room_.order[j]];
  const std::vector<int>& fixed = system.fixed();
  for (std::size_t j = 0; j < fixed.size(); ++j) r.fixed[j] = stacked[stored + fixed[j]];
  const ActiveVector solved = solve_active(r);
  stacked.setZero();
  for (std::size_t j = 0; j < room_.order.size(); ++j) stacked[room_.order[j]] = solved.rows[j];
  for (std::size_t j = 0; j < fixed.size(); ++j) stacked[stored + fixed[j]] = solved.fixed[j];

  out.x = solved.x.head(n);
  for (int i = 0; i < rows; ++i) out.z[i] = pattern_.shifted[i] == 0.0 ? scale(i) * stacked[room_.slot[i]] : 0.0;
  out.s.setZero();
  out.eta = eta;
  if (!level_) return;
  const Vector q_theta = level_->Q * stacked.head(rank), s = level_->E * out.x - r_nu;
  out.eta += differentiable_level_->inverse_times(q_theta);
  const Vector pi = level_->F_pinv.transpose() * (rhs.eta - level_->E.transpose() * s);
  for (int j = 0; j < m; ++j) {
    const int row = level_->shifted[j].row;
    out.z[row] = (q_theta[j] + c[j]) * level_->root_weight[j];
    out.s[row] = s[j] / level_->root_weight[j];
  }
  for (int j = 0; j < k; ++j) out.s[level_->hard[j].row] = pi[j];
}

}  // namespace qp_control
