#include "qp_control/quasi_definite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/dense_kernels.hpp"

namespace qp_control {
namespace {

constexpr int refinement_steps = 8;
constexpr double good = 1e-8;        // residual beside the right-hand side that ends the refinement
constexpr double acceptable = 1e-6;  // that an interior-point step can live with
constexpr double rounding = 1e-15;   // of a residual, beside the terms that it is the difference of

bool is_diagonal(const Matrix& H) {
  for (Eigen::Index j = 0; j < H.cols(); ++j)
    for (Eigen::Index i = 0; i < H.rows(); ++i)
      if (i != j && H(i, j) != 0.0) return false;
  return true;
}

// In packs
int whole_size(int n) { return packs(padded(n) * ((n + lu_panel - 1) / lu_panel * lu_panel)); }

}  // namespace

QuasiDefinite::QuasiDefinite(int n, int most_rows) : H_(n, n), d_(n) {
  // Variables are eliminated only where they are more than the rows.
  const int stride = padded(n), vectors = packs(std::max(stride * most_rows, n * stride));
  for (Reserved<RowMatrix>* a : {&R_, &R_size_}) a->reserve(long(most_rows) * n);
  vectors_.reserve(vectors);
  weighted_.reserve(vectors + tile_overhang);
  for (Reserved<PackArray>* a : {&M_, &L_}) a->reserve(packs(stride * ((n + 3) / 4 * 4)));
  for (Reserved<PackArray>* a : {&inverse_diagonal_, &rhs_}) a->reserve(packs(n));
  for (auto* v : {&vector_at_, &weighted_at_}) v->reserve(std::max(n, most_rows));
  whole_.reserve(whole_size(n + most_rows));
  exchanged_.reserve(n + most_rows);
  for (Vector* v : {&r_, &step_x_, &best_x_, &Px_, &Ry_, &x_size_}) v->resize(n);
  for (Reserved<Vector>* v : {&e_, &s_, &step_y_, &best_y_, &Rx_, &ey_, &y_size_}) v->reserve(most_rows);
  stacked_.reserve(n + most_rows);
}

void QuasiDefinite::load(const Eigen::Ref<const Matrix>& H, const Eigen::Ref<const RowMatrix>& R,
                         const std::vector<int>& rows) {
  const int n = static_cast<int>(H_.rows()), m = static_cast<int>(rows.size());
  H_ = H;
  R_.resize(m, n);
  for (int k = 0; k < m; ++k) R_.row(k) = R.row(rows[k]);
  R_size_ = R_.cwiseAbs();
  diagonal_ = is_diagonal(H_);
  eliminated_ = diagonal_ && m > 0 && m < n ? Eliminated::VARIABLES : Eliminated::ROWS;

  const bool of_rows = eliminated_ == Eliminated::ROWS;
  const int count = of_rows ? m : n, size = of_rows ? n : m, stride = padded(size);
  vectors_.setConstant(packs(stride * count), Pack(0.0));
  weighted_.setConstant(packs(stride * count) + tile_overhang, Pack(0.0));
  for (Reserved<PackArray>* a : {&M_, &L_}) a->setConstant(packs(stride * ((size + 3) / 4 * 4)), Pack(0.0));
  for (Reserved<PackArray>* a : {&inverse_diagonal_, &rhs_}) a->setConstant(packs(size), Pack(0.0));
  vector_at_.resize(count);
  weighted_at_.resize(count);
  for (int k = 0; k < count; ++k) {
    double* at = numbers(vectors_) + k * stride;
    for (int i = 0; i < size; ++i) at[i] = of_rows ? R_(k, i) : R_(i, k);
    vector_at_[k] = at;
    weighted_at_[k] = numbers(weighted_) + k * stride;
  }
}

bool QuasiDefinite::factor(const Vector& d, const Reserved<Vector>& e) {
  d_ = d;
  e_ = e;
  return d_.allFinite() && e_.allFinite() && factor();
}

bool QuasiDefinite::factor() {
  if (eliminated_ != Eliminated::NOTHING && factor_reduced()) return true;
  eliminated_ = Eliminated::NOTHING;
  factor_whole();
  return true;
}

bool QuasiDefinite::factor_reduced() {
  const bool of_rows = eliminated_ == Eliminated::ROWS;
  const int n = static_cast<int>(H_.rows()), m = static_cast<int>(R_.rows());
  const int count = of_rows ? m : n, size = of_rows ? n : m, stride = padded(size);
  double* M = numbers(M_);
  M_.setZero();
  for (int j = 0; j < size && of_rows; ++j) Eigen::Map<Vector>(M + j * stride, n) = H_.col(j);
  for (int j = 0; j < size; ++j) M[j + j * stride] += of_rows ? d_[j] : e_[j];
  for (int k = 0; k < count; ++k) {
    const double weight = 1.0 / (of_rows ? e_[k] : H_(k, k) + d_[k]);
    Eigen::Map<Vector>(numbers(weighted_) + k * stride, size) = weight * ConstVectorMap(vector_at_[k], size);
  }
  add_outer_products(count, weighted_at_.data(), vector_at_.data(), M, size, stride);
  return cholesky(M, numbers(L_), numbers(inverse_diagonal_), size, stride);
}

void QuasiDefinite::factor_whole() {
  const int n = static_cast<int>(H_.rows()), m = static_cast<int>(R_.rows()), stride = padded(n + m);
  whole_.setConstant(whole_size(n + m), Pack(0.0));
  Eigen::Map<Matrix, 0, Eigen::OuterStride<>> whole(numbers(whole_), n + m, n + m, Eigen::OuterStride<>(stride));
  whole.topLeftCorner(n, n) = H_;
  whole.topLeftCorner(n, n).diagonal() += d_;
  whole.topRightCorner(n, m) = R_.transpose();
  whole.bottomLeftCorner(m, n) = R_;
  whole.bottomRightCorner(m, m).diagonal() = -e_;
  exchanged_.resize(n + m);
  lu(numbers(whole_), n + m, stride, exchanged_.data());
}

void QuasiDefinite::back_substitute() {
  const int n = static_cast<int>(H_.rows()), m = static_cast<int>(R_.rows());
  Vector& x = step_x_;
  Reserved<Vector>& y = step_y_;
  y.resize(m);
  if (eliminated_ == Eliminated::ROWS) {
    y = s_.cwiseQuotient(e_);
    auto rhs = numbers(rhs_, n);
    rhs = r_;
    rhs.noalias() += R_.transpose() * y;
    cholesky_solve(numbers(L_), numbers(inverse_diagonal_), n, padded(n), numbers(rhs_));
    x = rhs;
    y = -s_;
    y.noalias() += R_ * x;
    y = y.cwiseQuotient(e_);
  } else if (eliminated_ == Eliminated::VARIABLES) {
    const auto p = H_.diagonal() + d_;
    x = r_.cwiseQuotient(p);
    auto rhs = numbers(rhs_, m);
    rhs = -s_;
    rhs.noalias() += R_ * x;
    cholesky_solve(numbers(L_), numbers(inverse_diagonal_), m, padded(m), numbers(rhs_));
    y = rhs;
    x = r_;
    x.noalias() -= R_.transpose() * y;
    x = x.cwiseQuotient(p);
  } else {
    stacked_.resize(n + m);
    stacked_ << r_, s_;
    lu_solve(numbers(whole_), n + m, padded(n + m), exchanged_.data(), stacked_.data());
    x = stacked_.head(n);
    y = stacked_.tail(m);
  }
}

double QuasiDefinite::refine(const Vector& a, const Reserved<Vector>& b, Vector& x, Reserved<Vector>& y) {
  x.setZero(a.size());
  y.setZero(b.size());
  best_x_ = x;
  best_y_ = y;
  r_ = a;
  s_ = b;
  Rx_.resize(b.size());
  double best = std::numeric_limits<double>::infinity();
  for (int k = 0; k < refinement_steps; ++k) {
    back_substitute();
    x += step_x_;
    y += step_y_;
    if (diagonal_)
      Px_ = H_.diagonal().cwiseProduct(x);
    else
      Px_.noalias() = H_ * x;
    Px_ += d_.cwiseProduct(x);
    Ry_.noalias() = R_.transpose() * y;
    Rx_.noalias() = R_ * x;
    ey_ = e_.cwiseProduct(y);
    r_ = a - Px_ - Ry_;
    s_ = b - Rx_ + ey_;
    // Rounding is that of the terms, however small a sum they make.
    x_size_ = x.cwiseAbs();
    y_size_ = y.cwiseAbs();
    Ry_.noalias() = R_size_.transpose() * y_size_;
    Rx_.noalias() = R_size_ * x_size_;
    const double size_r = norm_inf(a) + rounding / good * (norm_inf(Px_) + norm_inf(Ry_));
    const double size_s = norm_inf(b) + rounding / good * (norm_inf(Rx_) + norm_inf(ey_));
    const double error =
        std::max(size_r > 0.0 ? norm_inf(r_) / size_r : 0.0, size_s > 0.0 ? norm_inf(s_) / size_s : 0.0);
    if (!(error < best)) break;
    const bool slow = error > 0.5 * best;
    best = error;
    best_x_ = x;
    best_y_ = y;
    if (error <= good || slow) break;
  }
  x = best_x_;
  y = best_y_;
  return best;
}

void QuasiDefinite::solve(const Vector& a, const Reserved<Vector>& b, Vector& x, Reserved<Vector>& y) {
  if (refine(a, b, x, y) <= acceptable || eliminated_ == Eliminated::NOTHING) return;
  eliminated_ = Eliminated::NOTHING;
  factor_whole();
  refine(a, b, x, y);
}

}  // namespace qp_control
