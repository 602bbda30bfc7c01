#include "qp_control/active_system.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

namespace qp_control {
namespace {

constexpr double rho = 1e-7, mu = 1e-7;  // of the regularised system, on equilibrated data
constexpr int refinement_steps = 30;
constexpr double exact = 1e-15;

double factor_of(double norm) { return norm > 0.0 ? 1.0 / std::sqrt(std::clamp(norm, 1e-10, 1e10)) : 1.0; }

// Deterministic numbers in (-1, 1) (splitmix64).
void fill_random(Vector& v, std::uint64_t& state) {
  for (double& entry : v) {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    entry = 2.0 * (double((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0 - 1.0;
  }
}

}  // namespace

void ActiveSystem::set(const Matrix& H, RowMatrix rows, std::vector<int> fixed) {
  H_ = &H;
  rows_ = std::move(rows);
  fixed_ = std::move(fixed);
  std::vector<bool> is_fixed(n_, false);
  for (const int j : fixed_) is_fixed[j] = true;
  free_.clear();
  for (int j = 0; j < n_; ++j)
    if (!is_fixed[j]) free_.push_back(j);
}

ActiveVector ActiveSystem::zero() const {
  return {Vector::Zero(n_), Vector::Zero(rows_.rows()), Vector::Zero(fixed_.size())};
}

bool ActiveSystem::factor() {
  const int nf = static_cast<int>(free_.size()), r = row_count();
  H_free_.resize(nf, nf);
  rows_free_.resize(r, nf);
  for (int j = 0; j < nf; ++j) {
    for (int i = 0; i < nf; ++i) H_free_(i, j) = (*H_)(free_[i], free_[j]);
    rows_free_.col(j) = rows_.col(free_[j]);
  }
  // What elimination leaves of a row may be rounding; scaling must not blow that up into a row of its own.
  for (int i = 0; i < r && nf > 0; ++i)
    if (norm_inf(rows_free_.row(i)) <= 1e-13 * norm_inf(rows_.row(i))) rows_free_.row(i).setZero();
  D_.setOnes(nf);
  E_.setOnes(r);
  for (int pass = 0; pass < 3 && nf > 0; ++pass) {
    const Vector row_norms = rows_free_.cwiseAbs().rowwise().maxCoeff();
    for (int j = 0; j < nf; ++j) {
      const double d = factor_of(std::max(norm_inf(H_free_.col(j)), norm_inf(rows_free_.col(j))));
      H_free_.col(j) *= d;
      H_free_.row(j) *= d;
      rows_free_.col(j) *= d;
      D_[j] *= d;
    }
    for (int i = 0; i < r; ++i) {
      const double e = factor_of(row_norms[i]);
      rows_free_.row(i) *= e;
      E_[i] *= e;
    }
  }
  const double largest = norm_inf(H_free_);
  c_ = largest > 0.0 ? 1.0 / largest : 1.0;
  H_free_ *= c_;
  row_norm_ = norm_inf(rows_);

  M_ = H_free_;
  M_.diagonal().array() += rho;
  if (r > 0) M_.selfadjointView<Eigen::Lower>().rankUpdate(rows_free_.transpose(), 1.0 / mu);
  if (!M_.allFinite()) return false;
  return cholesky(M_);
}

void ActiveSystem::residual(const ActiveVector& rhs, const ActiveVector& s, ActiveVector& r) const {
  r.x = rhs.x;
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
  return rhs.norm() + norm_inf(*H_) * x + row_norm_ * (x + norm_inf(s.rows)) + norm_inf(s.fixed);
}

double ActiveSystem::refine(const ActiveVector& rhs, ActiveVector& s) const {
  // The fixed variables and their multipliers are exact after every step, so the refinement is about the rest.
  const int nf = static_cast<int>(free_.size());
  ActiveVector r = zero(), best = s;
  double best_error = std::numeric_limits<double>::infinity(), last = best_error;
  Vector step(nf), row_step(row_count());
  for (int k = 0, stalled = 0; k <= refinement_steps && stalled < 2; ++k) {
    for (std::size_t i = 0; i < fixed_.size(); ++i) s.x[fixed_[i]] = rhs.fixed[i];
    residual(rhs, s, r);
    for (std::size_t i = 0; i < fixed_.size(); ++i) {
      s.fixed[i] += r.x[fixed_[i]];
      r.x[fixed_[i]] = 0.0;
    }
    const double scale = scale_of(rhs, s);
    const double error = scale > 0.0 ? r.norm() / scale : 0.0;
    if (!(error <= 1e300)) break;
    if (error < best_error) {
      best_error = error;
      best = s;
    }
    if (error <= exact) break;
    stalled = error > 0.5 * last ? stalled + 1 : 0;
    last = error;
    // [H + rho I, G'; G, -mu I] (step, row_step) = (r.x, r.rows), in the equilibrated unknowns.
    const Vector row_residual = E_.cwiseProduct(r.rows);
    for (int j = 0; j < nf; ++j) step[j] = c_ * D_[j] * r.x[free_[j]];
    step.noalias() += rows_free_.transpose() * (row_residual / mu);
    cholesky_solve(M_, step);
    row_step = -row_residual;
    row_step.noalias() += rows_free_ * step;
    row_step /= mu;
    for (int j = 0; j < nf; ++j) s.x[free_[j]] += D_[j] * step[j];
    s.rows += E_.cwiseProduct(row_step) / c_;
  }
  s = best;
  return best_error;
}

bool ActiveSystem::singular() const {
  if (row_count() + fixed_.size() > static_cast<std::size_t>(n_)) return true;
  std::uint64_t state = 1;
  ActiveVector probe = zero(), rhs = zero(), minus = zero();
  fill_random(probe.x, state);
  fill_random(probe.rows, state);
  // In the equilibrated units a null space shows at its own size whatever the units of the data.
  for (std::size_t j = 0; j < free_.size(); ++j) probe.x[free_[j]] *= D_[j];
  probe.rows = probe.rows.cwiseProduct(E_) / c_;
  residual(minus, probe, rhs);
  rhs.x = -rhs.x;
  rhs.rows = -rhs.rows;
  rhs.fixed = -rhs.fixed;
  ActiveVector back = zero();
  refine(rhs, back);
  double error = 0.0;
  for (std::size_t j = 0; j < free_.size(); ++j)
    error = std::max(error, std::abs(back.x[free_[j]] - probe.x[free_[j]]) / D_[j]);
  for (int i = 0; i < row_count(); ++i) error = std::max(error, std::abs(back.rows[i] - probe.rows[i]) * c_ / E_[i]);
  return !(error < 1e-5);
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
