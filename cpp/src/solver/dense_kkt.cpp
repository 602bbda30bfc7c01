#include "qp_control/dense_kkt.hpp"

#include <algorithm>
#include <limits>

#include "qp_control/dense_kernels.hpp"

namespace qp_control {

DenseKkt::DenseKkt(int n, int stored_rows) : n_(n), stored_(stored_rows), stride_(padded(n)) {
  const double infinity = std::numeric_limits<double>::infinity();
  const int row_packs = packs(rows()), matrix = packs(stride_ * ((n + 3) / 4 * 4));
  for (PackArray* a : {&g_, &regularisation_, &diagonal_}) a->setConstant(packs(n), Pack(0.0));
  lower_.setConstant(row_packs, Pack(-infinity));
  upper_.setConstant(row_packs, Pack(infinity));
  weight_.setConstant(row_packs, Pack(0.0));
  for (PackArray* a : {&H_, &M_, &L_}) a->setConstant(matrix, Pack(0.0));
  R_.setConstant(packs(stride_ * stored_rows), Pack(0.0));
  weighted_.setConstant(packs(stride_ * stored_rows) + tile_overhang, Pack(0.0));
  inverse_diagonal_.setConstant(packs(n), Pack(0.0));
  changed_.resize(stored_rows);
  scaled_.resize(stored_rows);
}

bool DenseKkt::load(const StackedQP& qp, Equilibration& scaling) {
  linear_program_ = qp.linear_program;
  for (int j = 0; j < n_ && !linear_program_; ++j) Eigen::Map<Vector>(numbers(H_) + j * stride_, n_) = qp.H.col(j);
  if (linear_program_) H_.setConstant(Pack(0.0));
  for (int i = 0; i < stored_; ++i) Eigen::Map<Vector>(numbers(R_) + i * stride_, n_) = qp.R.row(i);
  convex_ = convex();
  scaling.scale_matrices(scalable());
  return load_vectors(qp, scaling);
}

bool DenseKkt::load_vectors(const StackedQP& qp, Equilibration& scaling) {
  numbers(g_, n_) = qp.g;
  numbers(lower_, rows()) = qp.lower;
  numbers(upper_, rows()) = qp.upper;
  scaling.scale_vectors(scalable());
  for (int p = 0; p < g_.size(); ++p)
    regularisation_[p] = Pack(least_curvature_) * scaling.c * scaling.D[p] * scaling.D[p];
  assembled_ = false;
  return convex_;
}

ScalableQP<double> DenseKkt::scalable() {
  return {n_,          stored_,     stride_,         true,           linear_program_ ? nullptr : numbers(H_),
          numbers(g_), numbers(R_), numbers(lower_), numbers(upper_)};
}

bool DenseKkt::convex() {
  least_curvature_ = 0.0;
  if (linear_program_) return true;
  if (cholesky(numbers(H_), numbers(L_), numbers(inverse_diagonal_), n_, stride_)) return true;
  least_curvature_ = convexity_tolerance * norm_inf(ConstVectorMap(numbers(H_), n_ * stride_));
  M_ = H_;
  for (int j = 0; j < n_; ++j) numbers(M_)[j + j * stride_] += least_curvature_;
  return cholesky(numbers(M_), numbers(L_), numbers(inverse_diagonal_), n_, stride_);
}

void DenseKkt::apply_hessian(const PackArray& x, PackArray& out) const {
  out.setConstant(Pack(0.0));
  if (!linear_program_) add_combination(numbers(H_), n_, n_, stride_, numbers(x), numbers(out));
}

void DenseKkt::apply_rows(const PackArray& x, PackArray& v) const {
  multiply(numbers(R_), stored_, n_, stride_, numbers(x), numbers(v));
  Eigen::Map<Vector>(numbers(v) + stored_, n_) = numbers(x, n_);
}

void DenseKkt::add_rows_transposed(const PackArray& z, PackArray& out) const {
  add_combination(numbers(R_), stored_, n_, stride_, numbers(z), numbers(out));
  numbers(out, n_) += ConstVectorMap(numbers(z) + stored_, n_);
}

Mask DenseKkt::factor(const PackArray& weight, Pack rho) {
  const double* now = numbers(weight);
  double *M = numbers(M_), *then = numbers(weight_), *diagonal = numbers(diagonal_);
  int changed = 0, used = 0;
  for (int i = 0; i < stored_; ++i) {
    changed += now[i] != then[i];
    used += now[i] != 0.0;
  }
  bool changes = !assembled_ || changed > 0;
  // Rows that are taken out leave rounding behind: from scratch where that is not more work.
  if (!assembled_ || (changed > 0 && changed >= used)) {
    M_ = H_;
    for (int j = 0; j < n_; ++j) diagonal[j] = M[j + j * stride_] + (rho[0] + numbers(regularisation_)[j]);
    std::fill_n(then, stored_, 0.0);
    assembled_ = true;
  }
  int count = 0;
  for (int i = 0; i < stored_; ++i) {
    if (now[i] == then[i]) continue;
    double* to = numbers(weighted_) + count * stride_;
    changed_[count] = numbers(R_) + i * stride_;
    Eigen::Map<Vector>(to, n_) = (now[i] - then[i]) * ConstVectorMap(changed_[count], n_);
    scaled_[count++] = to;
    then[i] = now[i];
  }
  if (count > 0) {
    for (int j = 0; j < n_; ++j) M[j + j * stride_] = diagonal[j];
    add_outer_products(count, scaled_.data(), changed_.data(), M, n_, stride_);
    for (int j = 0; j < n_; ++j) diagonal[j] = M[j + j * stride_];
  }
  for (int j = 0; j < n_; ++j) {
    const int i = stored_ + j;
    changes |= now[i] != then[i];
    then[i] = now[i];
    M[j + j * stride_] = diagonal[j] + now[i];
  }
  if (!changes) return Mask::all(true);
  // A factor that fails must be made again.
  assembled_ = cholesky(M, numbers(L_), numbers(inverse_diagonal_), n_, stride_);
  return Mask::all(assembled_);
}

void DenseKkt::solve(PackArray& rhs) const {
  cholesky_solve(numbers(L_), numbers(inverse_diagonal_), n_, stride_, numbers(rhs));
}

void DenseKkt::keep(const Equilibration& scaling, KeptFactor to) const {
  to.present = assembled_ ? 1.0 : 0.0;
  if (!assembled_) return;
  to.c = scaling.c[0];
  to.D = numbers(scaling.D, n_);
  to.E = numbers(scaling.E, stored_);
  to.weight = numbers(weight_, rows());
  to.inverse_diagonal = numbers(inverse_diagonal_, n_);
  double* next = to.lower;
  for (int j = 0; j < n_; ++j)
    next = std::copy(numbers(L_) + j * stride_ + j + 1, numbers(L_) + j * stride_ + n_, next);
}

}  // namespace qp_control
