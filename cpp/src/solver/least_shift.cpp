#include "qp_control/least_shift.hpp"

#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/interior_point.hpp"

namespace qp_control {
namespace {

constexpr double rank_tolerance = 1e-10;
constexpr double rounding = 1e-11;  // shifts below this, relative to their bound, are not shifts

// What a row may exceed a bound by without being shifted. A crossed pair is a contradiction however close it is.
double unshifted(const StackedQP& qp, int row, double bound) {
  return qp.lower[row] > qp.upper[row] ? 0.0 : rounding * (1.0 + std::abs(bound));
}

double bound_of(const StackedQP& qp, const ShiftedRow& r) { return r.side < 0 ? qp.lower[r.row] : qp.upper[r.row]; }

template <class Array>
bool equal_arrays(const Array& a, const Array& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

// Stops at a stationary point of the elastic cost that satisfies the hard rows.
class ShiftJudge : public SingleJudge {
 public:
  explicit ShiftJudge(const Deadline& limit) : deadline(limit) {}
  bool expired() const override { return deadline.passed(); }
  double tolerance() const override { return 1e-13; }
  Verdict judge(const Iterate& it) override {
    const double primal = it.primal[0];
    double dual = 0.0;  // there is no H and no g
    for (int j = 0; j < it.Rz.size(); ++j) dual = std::max(dual, max_of_lanes(abs(it.Rz[j]))[0]);
    if (dual <= 1e-12 && primal <= 1e-11) return Verdict::SOLVED;
    if (dual + primal < 0.5 * best) {
      best = dual + primal;
      stalled = 0;
    }
    if (expired()) return Verdict::TIME_LIMIT;
    if (++stalled >= 25) return best < 1e-8 ? Verdict::SOLVED : Verdict::MAX_ITER;
    return Verdict::GO_ON;
  }

 private:
  const Deadline& deadline;
  double best = 1e300;
  int stalled = 0;
};

// A row that only meets its bound may look violated at the iterate; the exact shift tells. True: some were dropped.
bool drop_unshifted(const StackedQP& qp, std::optional<LeastShift>& level) {
  std::vector<ShiftedRow> kept;
  for (int i = 0; i < level->count(); ++i) {
    const ShiftedRow& row = level->shifted[i];
    const double shift = row.side * level->s[i] / level->root_weight[i];
    if (row.side == 0 || shift > unshifted(qp, row.row, bound_of(qp, row))) kept.push_back(row);
  }
  if (kept.size() == level->shifted.size()) return false;
  level.emplace(qp, std::move(kept), std::vector<ShiftedRow>(level->hard));
  return true;
}

}  // namespace

LeastShift::LeastShift(const StackedQP& qp, std::vector<ShiftedRow> shifted_rows, std::vector<ShiftedRow> hard_rows)
    : shifted(std::move(shifted_rows)), hard(std::move(hard_rows)) {
  const int n = qp.n(), m = count(), k = static_cast<int>(hard.size());
  root_weight.resize(m);
  E.resize(m, n);
  e.resize(m);
  for (int i = 0; i < m; ++i) {
    root_weight[i] = std::sqrt(qp.weight[shifted[i].row]);
    E.row(i) = root_weight[i] * qp.row(shifted[i].row).transpose();
    e[i] = root_weight[i] * bound_of(qp, shifted[i]);
  }
  F.resize(k, n);
  f.resize(k);
  for (int i = 0; i < k; ++i) {
    F.row(i) = qp.row(hard[i].row).transpose();
    f[i] = bound_of(qp, hard[i]);
  }
  F_pinv = Matrix::Zero(n, k);
  E_null = E;
  if (k > 0) {
    F_pinv = pseudo_inverse(F, rank_tolerance);
    E_null -= (E * F_pinv) * F;
  }
  // A projected row of size rounding must not count as a direction, so the threshold is relative to E itself.
  Q = range_basis(E_null, m > 0 && n > 0 ? rank_tolerance * E.colwise().norm().maxCoeff() : 0.0);
  Q_E = Q.transpose() * E;
  Q_e = Q.transpose() * e;
  s = -e;
  if (k > 0) s += E * (F_pinv * f);
  for (int pass = 0; pass < 2; ++pass) s -= Q * (Q.transpose() * s);  // twice: cancellation against a large e
  multiplier = -F_pinv.transpose() * (E.transpose() * s);
}

bool LeastShift::is_of(const StackedQP& qp, const std::vector<ShiftedRow>& shifted_rows,
                       const std::vector<ShiftedRow>& hard_rows) const {
  if (!(shifted == shifted_rows && hard == hard_rows) || E.cols() != qp.n()) return false;
  for (int i = 0; i < count(); ++i) {
    const double root = std::sqrt(qp.weight[shifted[i].row]);
    if (root_weight[i] != root || e[i] != root * bound_of(qp, shifted[i])) return false;
    if (E.row(i) != root * qp.row(shifted[i].row).transpose()) return false;
  }
  for (std::size_t i = 0; i < hard.size(); ++i)
    if (f[i] != bound_of(qp, hard[i]) || F.row(i) != qp.row(hard[i].row).transpose()) return false;
  return true;
}

StackedQP LeastShift::reduced(const StackedQP& qp) const {
  const int n = qp.n(), stored = qp.stored_rows(), r = rank();
  StackedQP out(n, r + stored);
  out.H = qp.H;
  out.g = qp.g;
  out.linear_program = qp.linear_program;
  out.R.topRows(r) = Q_E;
  out.R.bottomRows(stored) = qp.R;
  out.lower.head(r) = out.upper.head(r) = Q_e;
  out.lower.tail(stored + n) = qp.lower;
  out.upper.tail(stored + n) = qp.upper;
  for (const ShiftedRow& row : shifted) {
    out.lower[r + row.row] = -std::numeric_limits<double>::infinity();
    out.upper[r + row.row] = std::numeric_limits<double>::infinity();
  }
  // A hard row that holds the shift back must stay where it is.
  for (std::size_t k = 0; k < hard.size(); ++k) out.lower[r + hard[k].row] = out.upper[r + hard[k].row] = f[k];
  return out;
}

Vector LeastShift::multipliers(const StackedQP& qp, const Vector& z_reduced) const {
  Vector z = z_reduced.tail(qp.rows());
  const Vector nu = root_weight.cwiseProduct(Q * z_reduced.head(rank()));
  for (const ShiftedRow& row : shifted) z[row.row] = 0.0;
  for (int i = 0; i < count(); ++i) z[shifted[i].row] += nu[i];
  return z;
}

Vector LeastShift::reduced_multipliers(const Vector& z) const {
  std::vector<int> sides(z.size(), 0);
  for (const ShiftedRow& row : shifted) ++sides[row.row];
  Vector nu(count());
  for (int i = 0; i < count(); ++i) nu[i] = z[shifted[i].row] / (root_weight[i] * sides[shifted[i].row]);
  Vector out(rank() + z.size());
  out << Q.transpose() * nu, z;
  for (const ShiftedRow& row : shifted) out[rank() + row.row] = 0.0;
  return out;
}

LeastShiftResult find_least_shift(const StackedQP& qp, int max_steps, const Deadline& deadline) {
  const int n = qp.n(), m = qp.rows();
  LeastShiftResult out;
  StackedQP rows_only = qp;
  rows_only.H.setZero();
  rows_only.g.setZero();
  rows_only.linear_program = true;
  DenseKkt kkt(n, qp.stored_rows());
  Equilibration scaling(packs(n), packs(m));
  kkt.load(rows_only, scaling);

  // Elastic rows in the caller's units, whatever the scaling of the rows; the cost's own scale is free.
  Penalties penalties(packs(m));
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

  Iterate it(packs(n), packs(m));
  ShiftJudge judge(deadline);
  minimise_with_rescue(kkt, judge, penalties, max_steps, deadline, it);
  out.steps = it.steps;
  out.x = numbers(scaling.D, n).cwiseProduct(numbers(it.x, n));
  const auto z = numbers(it.z, m);
  if (judge.verdict != Verdict::SOLVED) return out;

  std::vector<ShiftedRow> shifted, hard;
  Vector v(m);
  qp.apply_rows(out.x, v);
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
  out.level.emplace(qp, std::move(shifted), std::move(hard));
  while (drop_unshifted(qp, out.level)) {
  }
  return out;
}

bool LeastShiftMemo::is_of(const StackedQP& qp, int max_steps) const {
  return max_steps == max_steps_ && equal_arrays(R_, qp.R) && equal_arrays(lower_, qp.lower) &&
         equal_arrays(upper_, qp.upper) && equal_arrays(weight_, qp.weight);
}

const LeastShiftResult& LeastShiftMemo::find(const StackedQP& qp, int max_steps, const Deadline& deadline) {
  if (is_of(qp, max_steps)) return result_;
  result_ = find_least_shift(qp, max_steps, deadline);
  R_ = qp.R;
  lower_ = qp.lower;
  upper_ = qp.upper;
  weight_ = qp.weight;
  max_steps_ = result_.level ? max_steps : -1;  // what the clock has stopped is not an answer
  return result_;
}

DifferentiableLevel::DifferentiableLevel(LeastShift level) : shift(std::move(level)) {
  const int n = static_cast<int>(shift.E.cols()), rank = shift.rank();
  orthonormal = Matrix::Zero(n, rank);
  triangular = Matrix::Zero(rank, rank);
  if (rank == 0) return;
  const Eigen::HouseholderQR<Matrix> qr((shift.Q.transpose() * shift.E_null).transpose());
  orthonormal = qr.householderQ() * Matrix::Identity(n, rank);
  triangular = qr.matrixQR().topRows(rank).triangularView<Eigen::Upper>();
}

Vector DifferentiableLevel::inverse_times(const Vector& u) const {
  return orthonormal * triangular.transpose().triangularView<Eigen::Lower>().solve(shift.Q.transpose() * u);
}

Vector DifferentiableLevel::inverse_transposed_times(const Vector& x) const {
  return shift.Q * triangular.triangularView<Eigen::Upper>().solve(orthonormal.transpose() * x);
}

LevelPointer level_of(const StackedQP& qp, const Solution& solution, const LevelPointer& known) {
  std::vector<ShiftedRow> shifted, hard, candidates;
  Vector v(qp.rows()), force = Vector::Zero(qp.n());
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
    force += qp.weight[i] * (up - low) * qp.row(i);
  }
  // A hard inequality takes part in the first level where its multiplier there is not zero.
  if (!candidates.empty()) {
    Matrix rows(qp.n(), candidates.size());
    for (std::size_t k = 0; k < candidates.size(); ++k) rows.col(k) = qp.row(candidates[k].row);
    const Vector pi = least_squares(rows, -force, rank_tolerance);
    for (std::size_t k = 0; k < candidates.size(); ++k)
      if (candidates[k].side == 0 || std::abs(pi[k]) > 1e-9 * (1.0 + norm_inf(pi))) hard.push_back(candidates[k]);
  }
  if (known && known->shift.is_of(qp, shifted, hard)) return known;
  return std::make_shared<const DifferentiableLevel>(LeastShift(qp, std::move(shifted), std::move(hard)));
}

}  // namespace qp_control
