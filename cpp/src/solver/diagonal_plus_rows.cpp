#include "qp_control/diagonal_plus_rows.hpp"

#include <algorithm>

#include "qp_control/dense_kernels.hpp"

namespace qp_control {
namespace {

constexpr double stiff = 1e4;  // weights relative to D

int matrix_size(int side, int rows) { return packs(side * ((rows + 3) / 4 * 4)); }

}  // namespace

DiagonalPlusRows::DiagonalPlusRows(int n, int rows) {
  const int side = padded(rows);
  columns_.reserve(packs(side * n));
  scaled_columns_.reserve(packs(side * n) + tile_overhang);
  for (Reserved<PackArray>* a : {&gram_, &S_, &L_}) a->reserve(matrix_size(side, rows));
  for (Reserved<PackArray>* a : {&D_, &inverse_, &right_, &correction_}) a->reserve(packs(n));
  for (Reserved<PackArray>* a : {&inverse_diagonal_, &weight_, &product_, &multiplier_}) a->reserve(packs(rows));
  used_.reserve(rows);
  for (std::vector<const double*>* v : {&changed_, &scaled_}) v->reserve(n);
}

void DiagonalPlusRows::load(const double* R, int n, int rows, int stride) {
  n_ = n;
  rows_ = rows;
  side_ = padded(rows);
  stride_ = stride;
  R_ = R;
  assembled_ = false;
  columns_.setConstant(packs(side_ * n), Pack(0.0));
  scaled_columns_.setConstant(packs(side_ * n) + tile_overhang, Pack(0.0));
  for (Reserved<PackArray>* a : {&gram_, &L_}) a->setConstant(matrix_size(side_, rows), Pack(0.0));
  for (Reserved<PackArray>* a : {&D_, &inverse_, &right_, &correction_}) a->setConstant(packs(n), Pack(0.0));
  for (Reserved<PackArray>* a : {&inverse_diagonal_, &weight_, &product_, &multiplier_})
    a->setConstant(packs(rows), Pack(0.0));
  double* to = numbers(columns_);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < n; ++j) to[j * side_ + i] = R[i * stride + j];
}

// Entries that shrink leave rounding of their old size behind: from scratch where that could matter, or is not more
// work.
void DiagonalPlusRows::update(const PackArray& D) {
  constexpr double large = 1e3;
  Pack changed = 0.0;
  Mask afresh = Mask::all(!assembled_);
  for (int p = 0; p < packs(n_); ++p) {
    correction_[p] = Pack(1.0) / D[p];
    const Mask differs = correction_[p] != inverse_[p];
    changed += select(differs, Pack(1.0), Pack(0.0));
    afresh = afresh | (differs & (inverse_[p] > Pack(large)));
  }
  if (any(afresh) || 2.0 * sum_of_lanes(changed)[0] > n_) {
    gram_.setConstant(Pack(0.0));
    inverse_.setConstant(Pack(0.0));
    assembled_ = true;
  }
  changed_.clear();
  scaled_.clear();
  for (int j = 0; j < n_; ++j) {
    const double change = numbers(correction_)[j] - numbers(inverse_)[j];
    if (change == 0.0) continue;
    const double* column = numbers(columns_) + j * side_;
    double* to = numbers(scaled_columns_) + scaled_.size() * side_;
    for (int p = 0; p < packs(rows_); ++p) store(Pack(change) * qp_control::load(column + p * lanes), to + p * lanes);
    changed_.push_back(column);
    scaled_.push_back(to);
  }
  const int count = static_cast<int>(changed_.size());
  if (count > 0) add_outer_products(count, scaled_.data(), changed_.data(), numbers(gram_), rows_, side_);
  inverse_ = correction_;
  D_ = D.head(packs(n_));
}

bool DiagonalPlusRows::factor(const PackArray& D, const double* weight) {
  update(D);
  used_.clear();
  for (int i = 0; i < rows_; ++i)
    if (weight[i] != 0.0) used_.push_back(i);
  numbers(weight_, rows_) = ConstVectorMap(weight, rows_);
  const int count = static_cast<int>(used_.size()), stride = padded(count);
  stiff_ = count > 0 && numbers(weight_, rows_).maxCoeff() * numbers(inverse_, n_).maxCoeff() > stiff;
  S_.setConstant(matrix_size(stride, count), Pack(0.0));
  double* S = numbers(S_);
  for (int b = 0; b < count; ++b) {
    const double* column = numbers(gram_) + used_[b] * side_;
    for (int a = b; a < count; ++a) S[a + b * stride] = column[used_[a]];
    S[b + b * stride] += 1.0 / weight[used_[b]];
  }
  return cholesky(S, numbers(L_), numbers(inverse_diagonal_), count, stride);
}

// What the rows take from D^-1 rhs is far larger than what they leave where they are stiff; the residual brings the
// lost digits back.
void DiagonalPlusRows::solve(double* rhs) {
  double* right = numbers(right_);
  std::copy_n(rhs, padded(n_), right);
  apply_inverse(rhs);
  if (!stiff_) return;
  multiply(R_, rows_, n_, stride_, rhs, numbers(product_));
  for (int p = 0; p < packs(rows_); ++p) product_[p] *= weight_[p];
  combine_rows(numbers(product_));
  for (int p = 0; p < packs(n_); ++p) right_[p] -= D_[p] * qp_control::load(rhs + p * lanes) + correction_[p];
  apply_inverse(right);
  for (int p = 0; p < packs(n_); ++p) store(qp_control::load(rhs + p * lanes) + right_[p], rhs + p * lanes);
}

void DiagonalPlusRows::apply_inverse(double* rhs) {
  for (int p = 0; p < packs(n_); ++p) store(qp_control::load(rhs + p * lanes) * inverse_[p], rhs + p * lanes);
  const int count = static_cast<int>(used_.size());
  if (count == 0) return;
  double *all = numbers(product_), *y = numbers(multiplier_);
  multiply(R_, rows_, n_, stride_, rhs, all);
  multiplier_.setConstant(Pack(0.0));
  for (int k = 0; k < count; ++k) y[k] = all[used_[k]];
  cholesky_solve(numbers(L_), numbers(inverse_diagonal_), count, padded(count), y);
  product_.setConstant(Pack(0.0));
  for (int k = 0; k < count; ++k) all[used_[k]] = y[k];
  combine_rows(all);
  for (int p = 0; p < packs(n_); ++p)
    store(qp_control::load(rhs + p * lanes) - inverse_[p] * correction_[p], rhs + p * lanes);
}

void DiagonalPlusRows::combine_rows(const double* z) {
  correction_.setConstant(Pack(0.0));
  add_combination(R_, rows_, n_, stride_, z, numbers(correction_));
}

}  // namespace qp_control
