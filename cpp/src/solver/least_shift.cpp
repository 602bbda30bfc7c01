#include "qp_control/least_shift.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/dense_step_system.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/shift_judge.hpp"

namespace qp_control {
namespace {

constexpr double rank_tolerance = 1e-10;
constexpr double rounding = 1e-11;  // shifts below this, relative to their bound, are not shifts
constexpr double small_shift = 1e-3;

// Beside small shifts those that are far smaller still count: without one of its rows a contradiction is none.
double rounding_beside(double largest_shift) { return rounding * std::clamp(largest_shift / small_shift, 0.01, 1.0); }

double bound_of(const StackedQP& qp, const ShiftedRow& r) { return r.side < 0 ? qp.lower[r.row] : qp.upper[r.row]; }

template <class Array>
bool equal_arrays(const Array& a, const Array& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace

void LeastShift::Room::reserve(int n, int rows) {
  inverse.qr.reserve(2L * rows * n, std::max(n, rows));
  inverse.row_space.reserve(long(n) * n);
  inverse.inner.reserve(long(n) * rows);
  of_shifted.reserve(std::max(2 * rows, n));
  of_hard.reserve(rows);
  of_variables.reserve(n);
}

LeastShift::LeastShift(const StackedQP& qp, std::vector<ShiftedRow> shifted_rows, std::vector<ShiftedRow> hard_rows)
    : shifted(std::move(shifted_rows)), hard(std::move(hard_rows)) {
  Room room;
  set(qp, room);
}

// A row may be shifted on both sides.
void LeastShift::reserve(int n, int rows) {
  const long most = 2L * rows;
  shifted.reserve(most);
  hard.reserve(rows);
  for (Reserved<Vector>* v : {&root_weight, &e, &s}) v->reserve(most);
  for (Reserved<Vector>* v : {&f, &multiplier}) v->reserve(rows);
  for (Reserved<RowMatrix>* a : {&E, &E_null}) a->reserve(most * n);
  Q.reserve(most * n);
  F.reserve(long(rows) * n);
  F_pinv.reserve(long(rows) * n);
  Q_E.reserve(long(n) * n);
  Q_e.reserve(n);
}

void LeastShift::set(const StackedQP& qp, Room& room) {
  const int n = qp.n(), m = count(), k = static_cast<int>(hard.size());
  root_weight.resize(m);
  E.resize(m, n);
  e.resize(m);
  for (int i = 0; i < m; ++i) {
    root_weight[i] = std::sqrt(qp.weight[shifted[i].row]);
    qp.write_row(shifted[i].row, E.row(i));
    E.row(i) *= root_weight[i];
    e[i] = root_weight[i] * bound_of(qp, shifted[i]);
  }
  F.resize(k, n);
  f.resize(k);
  for (int i = 0; i < k; ++i) {
    qp.write_row(hard[i].row, F.row(i));
    f[i] = bound_of(qp, hard[i]);
  }
  auto& [inverse, of_shifted, of_hard, of_variables] = room;
  F_pinv.setZero(n, k);
  E_null = E;
  if (k > 0) {
    pseudo_inverse(F, rank_tolerance, inverse, F_pinv);
    of_hard.resize(k);
    for (int i = 0; i < m; ++i) {
      of_hard.noalias() = F_pinv.transpose() * E.row(i).transpose();
      E_null.row(i).transpose().noalias() -= F.transpose() * of_hard;
    }
  }
  // A projected row of size rounding must not count as a direction, so the threshold is relative to E itself.
  PivotedQr& qr = inverse.qr;
  qr.matrix() = E_null;
  qr.factor();
  qr.basis(qr.rank(m > 0 && n > 0 ? rank_tolerance * E.colwise().norm().maxCoeff() : 0.0), Q);
  Q_E.resize(rank(), n);
  for (int i = 0; i < rank(); ++i) Q_E.row(i).transpose().noalias() = E.transpose() * Q.col(i);
  Q_e.resize(rank());
  Q_e.noalias() = Q.transpose() * e;
  s = -e;
  of_variables.resize(n);
  if (k > 0) {
    of_variables.noalias() = F_pinv * f;
    s.noalias() += E * of_variables;
  }
  of_shifted.resize(rank());
  for (int pass = 0; pass < 2; ++pass) {  // twice: cancellation against a large e
    of_shifted.noalias() = Q.transpose() * s;
    s.noalias() -= Q * of_shifted;
  }
  of_variables.noalias() = E.transpose() * s;
  multiplier.resize(k);
  multiplier.noalias() = -F_pinv.transpose() * of_variables;
}

bool LeastShift::is_of(const StackedQP& qp, const std::vector<ShiftedRow>& shifted_rows,
                       const std::vector<ShiftedRow>& hard_rows) const {
  if (!(shifted == shifted_rows && hard == hard_rows) || E.cols() != qp.n()) return false;
  for (int i = 0; i < count(); ++i) {
    const double root = std::sqrt(qp.weight[shifted[i].row]);
    if (root_weight[i] != root || e[i] != root * bound_of(qp, shifted[i])) return false;
    const int row = shifted[i].row;
    const bool same =
        row < qp.stored_rows() ? E.row(i) == root * qp.R.row(row) : E.row(i) == root * qp.row(row).transpose();
    if (!same) return false;
  }
  for (std::size_t i = 0; i < hard.size(); ++i)
    if (f[i] != bound_of(qp, hard[i]) || F.row(i) != qp.row(hard[i].row).transpose()) return false;
  return true;
}

void LeastShift::reduce(const StackedQP& qp, StackedQP& out) const {
  const int n = qp.n(), stored = qp.stored_rows(), r = rank();
  const double infinity = std::numeric_limits<double>::infinity();
  out.H = qp.H;
  out.g = qp.g;
  out.linear_program = qp.linear_program;
  out.R.topRows(r) = Q_E;
  out.R.middleRows(r, n - r).setZero();
  out.R.bottomRows(stored) = qp.R;
  out.lower.head(r) = out.upper.head(r) = Q_e;
  out.lower.segment(r, n - r).setConstant(-infinity);
  out.upper.segment(r, n - r).setConstant(infinity);
  out.lower.tail(stored + n) = qp.lower;
  out.upper.tail(stored + n) = qp.upper;
  for (const ShiftedRow& row : shifted) {
    out.lower[n + row.row] = -infinity;
    out.upper[n + row.row] = infinity;
  }
  // A hard row that holds the shift back must stay where it is.
  for (std::size_t k = 0; k < hard.size(); ++k) out.lower[n + hard[k].row] = out.upper[n + hard[k].row] = f[k];
}

void LeastShift::multipliers(const Vector& z_reduced, Vector& z) const {
  z = z_reduced.tail(z.size());
  for (const ShiftedRow& row : shifted) z[row.row] = 0.0;
  for (int i = 0; i < count(); ++i) z[shifted[i].row] += root_weight[i] * Q.row(i).dot(z_reduced.head(rank()));
}

struct LeastShiftMemo::Search {
  Search(int n, int stored_rows)
      : rows_only(n, stored_rows),
        kkt(n, stored_rows),
        scaling(packs(n), packs(stored_rows + n)),
        penalties(packs(stored_rows + n)),
        iterate(packs(n), packs(stored_rows + n)),
        v(stored_rows + n) {
    room.reserve(n, stored_rows + n);
  }

  void run(const StackedQP& qp, int max_steps, const Deadline& deadline, LeastShiftResult& out);
  // What a row may exceed a bound by without being shifted. A crossed pair is a contradiction however close it is.
  double unshifted(const StackedQP& qp, int row, double bound) const {
    return qp.lower[row] > qp.upper[row] ? 0.0 : rounding_beside(largest_shift) * (1.0 + std::abs(bound));
  }
  // A row that only meets its bound may look violated at the iterate; the exact shift tells. True: some were dropped.
  bool drop_unshifted(const StackedQP& qp, LeastShift& level);

  StackedQP rows_only;
  DenseKkt kkt;
  Equilibration scaling;
  Penalties penalties;
  Iterate iterate;
  std::optional<InteriorPoint<DenseStepSystem>> rescue;
  Vector v;  // rows of the point
  double largest_shift = 0.0;
  LeastShift::Room room;
};

bool LeastShiftMemo::Search::drop_unshifted(const StackedQP& qp, LeastShift& level) {
  std::size_t kept = 0;
  for (int i = 0; i < level.count(); ++i) {
    const ShiftedRow row = level.shifted[i];
    const double shift = row.side * level.s[i] / level.root_weight[i];
    if (row.side == 0 || shift > unshifted(qp, row.row, bound_of(qp, row))) level.shifted[kept++] = row;
  }
  if (kept == level.shifted.size()) return false;
  level.shifted.resize(kept);
  level.set(qp, room);
  return true;
}

void LeastShiftMemo::Search::run(const StackedQP& qp, int max_steps, const Deadline& deadline, LeastShiftResult& out) {
  const int n = qp.n(), m = qp.rows();
  rows_only.linear_program = true;
  rows_only.R = qp.R;
  rows_only.lower = qp.lower;
  rows_only.upper = qp.upper;
  kkt.load(rows_only, scaling);

  // Elastic rows in the caller's units, whatever the scaling of the rows; the cost's own scale is free.
  penalties.least_rho = 1e-9;
  penalties.settles = false;
  auto delta = numbers(penalties.delta, m);
  const auto E = numbers(scaling.E, m);
  for (int i = 0; i < m; ++i) delta[i] = std::isinf(qp.weight[i]) ? 0.0 : E[i] * E[i] / qp.weight[i];
  double smallest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < m; ++i) {
    const bool bounded = std::isfinite(qp.lower[i]) || std::isfinite(qp.upper[i]);
    if (bounded && delta[i] > 0.0) smallest = std::min(smallest, delta[i]);
  }
  if (std::isfinite(smallest)) delta /= smallest;
  penalties.reset(kkt.lower(), kkt.upper());

  iterate.x.setConstant(Pack(0.0));
  iterate.z.setConstant(Pack(0.0));
  ShiftJudge judge(kkt, deadline);
  minimise_with_rescue(kkt, judge, penalties, max_steps, deadline, iterate, iterate.z, rescue);
  out.steps = iterate.steps;
  out.x = numbers(scaling.D, n).cwiseProduct(numbers(iterate.x, n));
  out.found = judge.verdict == Verdict::SOLVED;
  if (!out.found) return;

  const auto z = numbers(iterate.z, m);
  auto &shifted = out.level.shifted, &hard = out.level.hard;
  shifted.clear();
  hard.clear();
  qp.apply_rows(out.x, v);
  largest_shift = 0.0;
  for (int i = 0; i < m; ++i)
    if (!std::isinf(qp.weight[i])) largest_shift = std::max({largest_shift, v[i] - qp.upper[i], qp.lower[i] - v[i]});
  for (int i = 0; i < m; ++i) {
    const bool is_hard = std::isinf(qp.weight[i]);
    if (qp.is_equality(i)) {
      (is_hard ? hard : shifted).push_back({i, 0});
    } else if (is_hard) {
      if (std::abs(z[i]) > 1e-9) hard.push_back({i, z[i] > 0.0 ? 1 : -1});
    } else {
      if (v[i] - qp.upper[i] > unshifted(qp, i, qp.upper[i])) shifted.push_back({i, 1});
      if (qp.lower[i] - v[i] > unshifted(qp, i, qp.lower[i])) shifted.push_back({i, -1});
    }
  }
  out.level.set(qp, room);
  while (drop_unshifted(qp, out.level)) {
  }
}

LeastShiftMemo::LeastShiftMemo() = default;
LeastShiftMemo::~LeastShiftMemo() = default;

bool LeastShiftMemo::is_of(const StackedQP& qp, int max_steps) const {
  return max_steps == max_steps_ && equal_arrays(R_, qp.R) && equal_arrays(lower_, qp.lower) &&
         equal_arrays(upper_, qp.upper) && equal_arrays(weight_, qp.weight);
}

const LeastShiftResult* LeastShiftMemo::known(const StackedQP& qp, int max_steps) const {
  return is_of(qp, max_steps) ? &result_ : nullptr;
}

void LeastShiftMemo::reset_bounds(StackedQP& qp) const {
  qp.lower = lower_;
  qp.upper = upper_;
}

const LeastShiftResult& LeastShiftMemo::find(const StackedQP& qp, int max_steps, const Deadline& deadline) {
  if (is_of(qp, max_steps)) return result_;
  if (!search_) {
    search_ = std::make_unique<Search>(qp.n(), qp.stored_rows());
    result_.level.reserve(qp.n(), qp.rows());
  }
  search_->run(qp, max_steps, deadline, result_);
  R_ = qp.R;
  lower_ = qp.lower;
  upper_ = qp.upper;
  weight_ = qp.weight;
  ++result_.search;
  max_steps_ = result_.found ? max_steps : -1;  // what the clock has stopped is not an answer
  return result_;
}

DifferentiableLevel::DifferentiableLevel(LeastShift level) : shift(std::move(level)) {
  orthonormal = Matrix::Zero(shift.E.cols(), 0);
  if (shift.rank() > 0) thin_qr((shift.Q.transpose() * shift.E_null).transpose(), orthonormal, triangular);
}

Vector DifferentiableLevel::inverse_times(const Vector& u) const {
  return orthonormal * triangular.transpose().triangularView<Eigen::Lower>().solve(shift.Q.transpose() * u);
}

Vector DifferentiableLevel::inverse_transposed_times(const Vector& x) const {
  return shift.Q * triangular.triangularView<Eigen::Upper>().solve(orthonormal.transpose() * x);
}

LevelPointer level_of(const StackedQP& qp, const Solution& solution, const LevelPointer& known) {
  std::vector<ShiftedRow> shifted, hard, candidates;
  Vector v(qp.rows()), forces = Vector::Zero(qp.rows());
  qp.apply_rows(solution.x, v);
  for (int i = 0; i < qp.rows(); ++i) {
    const double up = solution.shift_upper[i], low = solution.shift_lower[i];
    if (std::isinf(qp.weight[i])) {
      const double slack = 1e-9 * (1.0 + std::abs(v[i]));
      if (qp.is_equality(i))
        candidates.push_back({i, 0});
      else if (std::abs(v[i] - qp.upper[i]) <= slack)
        candidates.push_back({i, 1});
      else if (std::abs(v[i] - qp.lower[i]) <= slack)
        candidates.push_back({i, -1});
      continue;
    }
    if (qp.is_equality(i)) {
      shifted.push_back({i, 0});
    } else {
      if (up > 0.0) shifted.push_back({i, 1});
      if (low > 0.0) shifted.push_back({i, -1});
    }
    forces[i] = qp.weight[i] * (up - low);
  }
  // A hard inequality takes part in the first level where its multiplier there is not zero.
  if (!candidates.empty()) {
    Matrix rows(qp.n(), candidates.size());
    for (std::size_t k = 0; k < candidates.size(); ++k) rows.col(k) = qp.row(candidates[k].row);
    Vector force = Vector::Zero(qp.n());
    qp.add_rows_transposed(forces, force);
    const Vector pi = least_squares(rows, -force, rank_tolerance);
    for (std::size_t k = 0; k < candidates.size(); ++k)
      if (candidates[k].side == 0 || std::abs(pi[k]) > 1e-9 * (1.0 + norm_inf(pi))) hard.push_back(candidates[k]);
  }
  if (known && known->shift.is_of(qp, shifted, hard)) return known;
  return std::make_shared<const DifferentiableLevel>(LeastShift(qp, std::move(shifted), std::move(hard)));
}

}  // namespace qp_control
