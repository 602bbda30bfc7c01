#include "qp_control/active_system.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "qp_control/dense_kernels.hpp"

namespace qp_control {
namespace {

constexpr double rho = 1e-7, mu = 1e-7;  // of the regularised system, on equilibrated data
constexpr int refinement_steps = 30;

// Deterministic numbers in (-1, 1) (splitmix64).
void fill_random(Reserved<Vector>& v, std::uint64_t& state) {
  for (double& entry : v) {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    entry = 2.0 * (double((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0 - 1.0;
  }
}

}  // namespace

void ActiveVector::reserve(int n, int most_rows) {
  x.reserve(n);
  rows.reserve(most_rows);
  fixed.reserve(n);
}

void ActiveSystem::reserve(int rows) {
  const int most = std::max(n_, rows), stride = padded(n_), matrix = packs(stride * ((n_ + 3) / 4 * 4));
  rows_.reserve(long(rows) * n_);
  for (std::vector<int>* v : {&fixed_, &free_}) v->reserve(n_);
  for (Reserved<PackArray>* a : {&H_free_, &M_, &L_}) a->reserve(matrix);
  rows_free_.reserve(packs(stride * rows));
  weight_.reserve(rows);
  weighted_.reserve(packs(stride * rows) + tile_overhang);
  for (Reserved<PackArray>* a : {&inverse_diagonal_, &unused_, &step_, &row_residual_, &row_step_})
    a->reserve(packs(most));
  scaling_ = Equilibration(packs(n_), packs(rows));
  for (auto* v : {&row_at_, &weighted_at_}) v->reserve(rows);
  for (ActiveVector* v : {&residual_, &best_}) v->reserve(n_, rows);
}

void ActiveSystem::set(const Matrix& H, const RowMatrix& R, const std::vector<int>& active, bool diagonal) {
  H_ = &H;
  diagonal_ = diagonal;
  const int stored = static_cast<int>(R.rows());
  const int r = static_cast<int>(std::lower_bound(active.begin(), active.end(), stored) - active.begin());
  rows_.resize(r, n_);
  for (int k = 0; k < r; ++k) rows_.row(k) = R.row(active[k]);
  fixed_.clear();
  for (std::size_t k = r; k < active.size(); ++k) fixed_.push_back(active[k] - stored);
  H_norm_ = diagonal ? norm_inf(H.diagonal()) : norm_inf(H);
  row_norm_ = norm_inf(rows_);
}

ActiveVector ActiveSystem::zero() const {
  ActiveVector out;
  set_zero(out);
  return out;
}

void ActiveSystem::set_zero(ActiveVector& v) const {
  v.x.setZero(n_);
  v.rows.setZero(rows_.rows());
  v.fixed.setZero(fixed_.size());
}

bool ActiveSystem::factor() {
  free_.clear();
  auto next = fixed_.begin();
  for (int j = 0; j < n_; ++j) {
    if (next != fixed_.end() && *next == j)
      ++next;
    else
      free_.push_back(j);
  }
  const int nf = static_cast<int>(free_.size()), r = row_count(), stride = stride_ = padded(nf);
  const int matrix = packs(stride * ((nf + 3) / 4 * 4));
  H_free_.resize(matrix);
  if (!diagonal_) H_free_.setConstant(Pack(0.0));
  rows_free_.setConstant(packs(stride * r), Pack(0.0));
  weighted_.setConstant(packs(stride * r) + tile_overhang, Pack(0.0));
  for (Reserved<PackArray>* a : {&inverse_diagonal_, &unused_}) a->setConstant(packs(std::max(nf, r)), Pack(0.0));
  const bool all_free = fixed_.empty();
  const auto gather = [&](const double* from, double* to) {
    if (all_free)
      std::copy_n(from, nf, to);
    else
      for (int j = 0; j < nf; ++j) to[j] = from[free_[j]];
  };
  for (int j = 0; j < nf; ++j) {
    if (diagonal_)
      numbers(H_free_)[j + j * stride] = (*H_)(free_[j], free_[j]);
    else
      gather(H_->col(free_[j]).data(), numbers(H_free_) + j * stride);
  }
  for (int i = 0; i < r; ++i) {
    double* row = numbers(rows_free_) + i * stride;
    gather(rows_.row(i).data(), row);
    // What elimination leaves of a row may be rounding; scaling must not blow that up into a row of its own.
    if (!all_free && norm_inf(ConstVectorMap(row, nf)) <= 1e-13 * norm_inf(rows_.row(i))) std::fill_n(row, nf, 0.0);
  }
  if (scaling_.D.size() < packs(nf) || scaling_.E.size() < packs(r)) scaling_ = Equilibration(packs(nf), packs(r));
  scaling_.scale<double>({nf, r, stride, false, numbers(H_free_), numbers(unused_), numbers(rows_free_),
                          numbers(unused_), numbers(unused_), diagonal_});

  weight_.setConstant(r, 1.0 / mu);
  uses_rows_ = factor_by_rows();
  if (uses_rows_) return true;
  L_.setConstant(matrix, Pack(0.0));
  M_.setConstant(matrix, Pack(0.0));
  if (!diagonal_) M_ = H_free_;
  for (int j = 0; j < nf; ++j) numbers(M_)[j + j * stride] = numbers(H_free_)[j + j * stride] + rho;
  for (int p = 0; p < rows_free_.size(); ++p) weighted_[p] = rows_free_[p] * Pack(1.0 / mu);
  row_at_.resize(r);
  weighted_at_.resize(r);
  for (int i = 0; i < r; ++i) {
    row_at_[i] = numbers(rows_free_) + i * stride;
    weighted_at_[i] = numbers(weighted_) + i * stride;
  }
  add_outer_products(r, weighted_at_.data(), row_at_.data(), numbers(M_), nf, stride);
  return cholesky(numbers(M_), numbers(L_), numbers(inverse_diagonal_), nf, stride);
}

bool ActiveSystem::factor_by_rows() {
  const int nf = static_cast<int>(free_.size()), r = row_count();
  if (!diagonal_ || r > nf || nf == 0 || H_norm_ == 0.0) return false;
  if (!by_rows_) {
    by_rows_.emplace(n_, n_);
    D_.resize(packs(n_));
  }
  D_.setConstant(Pack(1.0));
  for (int j = 0; j < nf; ++j) numbers(D_)[j] = numbers(H_free_)[j + j * stride_];
  if (numbers(D_, nf).minCoeff() < DiagonalPlusRows::least_entry) return false;
  numbers(D_, nf).array() += rho;
  by_rows_->load(numbers(rows_free_), nf, r, stride_);
  return by_rows_->factor(D_, weight_.data());
}

void ActiveSystem::adopt(const KeptFactor& kept, const std::vector<int>& order) {
  const int r = row_count(), stride = stride_ = padded(n_);
  uses_rows_ = false;
  free_.resize(n_);
  std::iota(free_.begin(), free_.end(), 0);
  scaling_ = Equilibration(packs(n_), packs(r));
  scaling_.c = kept.c;
  numbers(scaling_.D, n_) = kept.D;
  weight_.resize(r);
  rows_free_.setConstant(packs(stride * r), Pack(0.0));
  for (int i = 0; i < r; ++i) {
    weight_[i] = kept.weight[order[i]];
    numbers(scaling_.E)[i] = kept.E[order[i]];
    VectorMap(numbers(rows_free_) + i * stride, n_) = kept.E[order[i]] * rows_.row(i).transpose().cwiseProduct(kept.D);
  }
  L_.setConstant(packs(stride * ((n_ + 3) / 4 * 4)), Pack(0.0));
  const double* next = kept.lower;
  for (int j = 0; j < n_; ++j, next += n_ - j) std::copy_n(next, n_ - j - 1, numbers(L_) + j * stride + j + 1);
  inverse_diagonal_.setConstant(packs(n_), Pack(0.0));
  numbers(inverse_diagonal_, n_) = kept.inverse_diagonal;
}

void ActiveSystem::residual(const ActiveVector& rhs, const ActiveVector& s, ActiveVector& r) const {
  r.x = rhs.x;
  if (diagonal_)
    r.x -= H_->diagonal().cwiseProduct(s.x);
  else
    r.x.noalias() -= (*H_) * s.x;
  r.x.noalias() -= rows_.transpose() * s.rows;
  r.rows = rhs.rows;
  r.rows.noalias() -= rows_ * s.x;
  r.fixed = rhs.fixed;
  for (std::size_t k = 0; k < fixed_.size(); ++k) {
    r.x[fixed_[k]] -= s.fixed[k];
    r.fixed[k] -= s.x[fixed_[k]];
  }
}

// Size of the terms that a residual is the small difference of.
double ActiveSystem::scale_of(const ActiveVector& rhs, const ActiveVector& s) const {
  const double x = norm_inf(s.x);
  return rhs.norm() + H_norm_ * x + row_norm_ * (x + norm_inf(s.rows)) + norm_inf(s.fixed);
}

double ActiveSystem::refine(const ActiveVector& rhs, ActiveVector& s, double enough) {
  // The fixed variables and their multipliers are exact after every step, so the refinement is about the rest.
  const int nf = static_cast<int>(free_.size()), count = row_count();
  const auto D = numbers(scaling_.D, nf), E = numbers(scaling_.E, count);
  ActiveVector& r = residual_;
  set_zero(r);
  best_ = s;
  double best_error = std::numeric_limits<double>::infinity(), last = best_error;
  step_.setConstant(packs(nf), Pack(0.0));
  for (Reserved<PackArray>* a : {&row_residual_, &row_step_}) a->resize(packs(count));
  for (int k = 0, stalled = 0; k <= refinement_steps && stalled < 2; ++k) {
    for (std::size_t i = 0; i < fixed_.size(); ++i) s.x[fixed_[i]] = rhs.fixed[i];
    residual(rhs, s, r);
    for (std::size_t i = 0; i < fixed_.size(); ++i) {
      s.fixed[i] += r.x[fixed_[i]];
      r.x[fixed_[i]] = 0.0;
    }
    const double size = r.norm(), error = size == 0.0 ? 0.0 : size / scale_of(rhs, s);
    if (!(error <= 1e300)) break;
    if (error < best_error) {
      best_error = error;
      best_ = s;
    }
    if (error <= enough) break;
    stalled = error > 0.5 * last ? stalled + 1 : 0;
    last = error;
    // [H + rho I, G'; G, -1/weight] (step, row_step) = (r.x, r.rows), in the equilibrated unknowns.
    for (int j = 0; j < nf; ++j) numbers(step_)[j] = scaling_.c[0] * D[j] * r.x[free_[j]];
    numbers(row_residual_, count) = E.cwiseProduct(r.rows);
    numbers(row_step_, count) = numbers(row_residual_, count).cwiseProduct(weight_);
    add_combination(numbers(rows_free_), count, nf, stride_, numbers(row_step_), numbers(step_));
    if (uses_rows_)
      by_rows_->solve(numbers(step_));
    else
      cholesky_solve(numbers(L_), numbers(inverse_diagonal_), nf, stride_, numbers(step_));
    multiply(numbers(rows_free_), count, nf, stride_, numbers(step_), numbers(row_step_));
    for (int j = 0; j < nf; ++j) s.x[free_[j]] += D[j] * numbers(step_)[j];
    numbers(row_step_, count) = (numbers(row_step_, count) - numbers(row_residual_, count)).cwiseProduct(weight_);
    s.rows += E.cwiseProduct(numbers(row_step_, count)) / scaling_.c[0];
  }
  s = best_;
  return best_error;
}

bool ActiveSystem::singular() {
  if (row_count() + fixed_.size() > static_cast<std::size_t>(n_)) return true;
  std::uint64_t state = 1;
  ActiveVector probe = zero(), rhs = zero(), minus = zero();
  fill_random(probe.x, state);
  fill_random(probe.rows, state);
  // In the equilibrated units a null space shows at its own size whatever the units of the data.
  const auto D = numbers(scaling_.D, static_cast<int>(free_.size())), E = numbers(scaling_.E, row_count());
  const double c = scaling_.c[0];
  for (std::size_t j = 0; j < free_.size(); ++j) probe.x[free_[j]] *= D[j];
  probe.rows = probe.rows.cwiseProduct(E) / c;
  residual(minus, probe, rhs);
  rhs.x = -rhs.x;
  rhs.rows = -rhs.rows;
  rhs.fixed = -rhs.fixed;
  ActiveVector back = zero();
  const auto lost = [&] {
    double error = 0.0;
    for (std::size_t j = 0; j < free_.size(); ++j)
      error = std::max(error, std::abs(back.x[free_[j]] - probe.x[free_[j]]) / D[j]);
    for (int i = 0; i < row_count(); ++i) error = std::max(error, std::abs(back.rows[i] - probe.rows[i]) * c / E[i]);
    return !(error < 1e-5);
  };
  // Mostly a residual far from rounding tells already.
  refine(rhs, back, 1e-9);
  if (!lost()) return false;
  refine(rhs, back);
  return lost();
}

ActiveVector ActiveSystem::least_squares(const ActiveVector& rhs, int* rank_deficiency) const {
  const int r = row_count(), f = static_cast<int>(fixed_.size()), size = n_ + r + f;
  Matrix K = Matrix::Zero(size, size);
  K.topLeftCorner(n_, n_) = *H_;
  K.block(n_, 0, r, n_) = rows_;
  K.block(0, n_, n_, r) = rows_.transpose();
  for (int k = 0; k < f; ++k) K(n_ + r + k, fixed_[k]) = K(fixed_[k], n_ + r + k) = 1.0;
  Vector stacked(size);
  stacked << rhs.x, rhs.rows, rhs.fixed;
  int rank;
  const Vector s = qp_control::least_squares(K, stacked, 1e-11, &rank);
  if (rank_deficiency != nullptr) *rank_deficiency = size - rank;
  return {s.head(n_), s.segment(n_, r), s.tail(f)};
}

}  // namespace qp_control
