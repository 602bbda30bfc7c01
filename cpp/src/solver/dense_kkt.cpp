#include "qp_control/dense_kkt.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "qp_control/dense_kernels.hpp"

namespace qp_control {
namespace {

// Few equalities are added as fast as their product, and where that does not fit into the cache, many.
int with_product(int n, int equalities) { return equalities < 8 || n > 256 ? 0 : equalities; }

}  // namespace

DenseKkt::DenseKkt(int n, int stored_rows, int equalities)
    : n_(n), stored_(stored_rows), equalities_(with_product(n, equalities)), stride_(padded(n)) {
  const double infinity = std::numeric_limits<double>::infinity();
  const int row_packs = packs(rows()), matrix = packs(stride_ * ((n + 3) / 4 * 4));
  for (PackArray* a : {&g_, &regularisation_, &diagonal_, &H_diagonal_, &D_}) a->setConstant(packs(n), Pack(0.0));
  lower_.setConstant(row_packs, Pack(-infinity));
  upper_.setConstant(row_packs, Pack(infinity));
  weight_.setConstant(row_packs, Pack(0.0));
  for (PackArray* a : {&H_, &M_, &L_}) a->setConstant(matrix, Pack(0.0));
  R_.setConstant(packs(stride_ * stored_rows), Pack(0.0));
  weighted_.setConstant(packs(stride_ * stored_rows) + tile_overhang, Pack(0.0));
  if (equalities_ > 0) gram_.resize(matrix);
  inverse_diagonal_.setConstant(packs(n), Pack(0.0));
  changed_.resize(stored_rows);
  scaled_.resize(stored_rows);
}

bool DenseKkt::load(const StackedQP& qp, Equilibration& scaling, bool same_hessian) {
  load_hessian(qp);
  for (int i = 0; i < stored_; ++i) Eigen::Map<Vector>(numbers(R_) + i * stride_, n_) = qp.R.row(i);
  if (!same_hessian) convex_ = convex();
  scaling.scale_matrices(scalable());
  gram_known_ = false;
  if (diagonal_hessian_ && !linear_program_ && stored_ <= n_) {
    if (!by_rows_) by_rows_.emplace(n_, stored_);
    by_rows_->load(numbers(R_), n_, stored_, stride_);
  }
  return load_vectors(qp, scaling);
}

void DenseKkt::load_hessian(const StackedQP& qp) {
  if (!diagonal_hessian_ && (qp.diagonal || qp.linear_program)) H_.setConstant(Pack(0.0));
  linear_program_ = qp.linear_program;
  diagonal_hessian_ = qp.diagonal || qp.linear_program;
  for (int j = 0; j < n_; ++j) {
    double* column = numbers(H_) + j * stride_;
    if (diagonal_hessian_)
      column[j] = linear_program_ ? 0.0 : qp.H(j, j);
    else
      Eigen::Map<Vector>(column, n_) = qp.H.col(j);
  }
}

bool DenseKkt::load_vectors(const StackedQP& qp, Equilibration& scaling) {
  numbers(g_, n_) = qp.g;
  numbers(lower_, rows()) = qp.lower;
  numbers(upper_, rows()) = qp.upper;
  scaling.scale_vectors(scalable());
  for (int p = 0; p < g_.size(); ++p)
    regularisation_[p] = Pack(least_curvature_) * scaling.c * scaling.D[p] * scaling.D[p];
  assembled_ = false;
  uses_rows_ = false;
  if (!diagonal_hessian_) return convex_;
  double least = linear_program_ ? 0.0 : DiagonalPlusRows::least_entry;
  for (int j = 0; j < n_; ++j) {
    const double entry = numbers(H_diagonal_)[j] = numbers(H_)[j + j * stride_];
    least = std::min(least, entry);
  }
  uses_rows_ = stored_ <= n_ && least >= DiagonalPlusRows::least_entry;
  if (uses_rows_) by_rows_->forget();
  return convex_;
}

ScalableQP<double> DenseKkt::scalable() {
  double* H = linear_program_ ? nullptr : numbers(H_);
  return {n_, stored_, stride_, true, H, numbers(g_), numbers(R_), numbers(lower_), numbers(upper_), diagonal_hessian_};
}

bool DenseKkt::convex() {
  least_curvature_ = 0.0;
  if (linear_program_) return true;
  if (diagonal_hessian_) {
    double least = 0.0, largest = 0.0;
    for (int j = 0; j < n_; ++j) {
      const double entry = numbers(H_)[j + j * stride_];
      least = std::min(least, entry);
      largest = std::max(largest, std::abs(entry));
    }
    if (least < 0.0) least_curvature_ = convexity_tolerance * largest;
    return least + least_curvature_ >= 0.0;
  }
  if (cholesky(numbers(H_), numbers(L_), numbers(inverse_diagonal_), n_, stride_)) return true;
  least_curvature_ = convexity_tolerance * norm_inf(ConstVectorMap(numbers(H_), n_ * stride_));
  M_ = H_;
  for (int j = 0; j < n_; ++j) numbers(M_)[j + j * stride_] += least_curvature_;
  return cholesky(numbers(M_), numbers(L_), numbers(inverse_diagonal_), n_, stride_);
}

void DenseKkt::apply_hessian(const PackArray& x, PackArray& out) const {
  if (diagonal_hessian_) {
    for (int p = 0; p < out.size(); ++p) out[p] = H_diagonal_[p] * x[p];
    return;
  }
  out.setConstant(Pack(0.0));
  add_combination(numbers(H_), n_, n_, stride_, numbers(x), numbers(out));
}

void DenseKkt::apply_rows(const PackArray& x, PackArray& v) const {
  multiply(numbers(R_), stored_, n_, stride_, numbers(x), numbers(v));
  Eigen::Map<Vector>(numbers(v) + stored_, n_) = numbers(x, n_);
}

void DenseKkt::add_rows_transposed(const PackArray& z, PackArray& out) const {
  add_combination(numbers(R_), stored_, n_, stride_, numbers(z), numbers(out));
  numbers(out, n_) += ConstVectorMap(numbers(z) + stored_, n_);
}

bool DenseKkt::take_weights(const double* weight, int first, int last) {
  if (first == last) return false;
  double* then = numbers(weight_);
  const bool changes = std::memcmp(weight + first, then + first, (last - first) * sizeof(double)) != 0;
  if (changes) std::copy(weight + first, weight + last, then + first);
  return changes;
}

Mask DenseKkt::factor_by_rows(const double* weight, Pack rho) {
  if (!take_weights(weight, 0, rows()) && assembled_) return Mask::all(true);
  for (int p = 0; p < D_.size(); ++p) D_[p] = H_diagonal_[p] + (rho + regularisation_[p]);
  numbers(D_, n_) += ConstVectorMap(weight + stored_, n_);
  assembled_ = by_rows_->factor(D_, weight);
  return Mask::all(assembled_);
}

Mask DenseKkt::factor(const PackArray& weight, Pack rho) {
  const double* now = numbers(weight);
  if (uses_rows_) return factor_by_rows(now, rho);
  double *M = numbers(M_), *then = numbers(weight_), *diagonal = numbers(diagonal_);
  int changed = 0, used = 0;
  for (int i = equalities_; i < stored_; ++i) {
    changed += now[i] != then[i];
    used += now[i] != 0.0;
  }
  // Rows that are taken out leave rounding behind: from scratch where that is not more work.
  const bool afresh = !assembled_ || (changed > 0 && changed >= used);
  if (afresh) {
    add_equalities(equalities_ > 0 ? now[0] : 0.0, H_);
    for (int j = 0; j < n_; ++j) diagonal[j] = M[j + j * stride_] + (rho[0] + numbers(regularisation_)[j]);
    std::copy_n(now, equalities_, then);
    std::fill(then + equalities_, then + stored_, 0.0);
    assembled_ = true;
  }
  const double stiffening = equalities_ > 0 ? now[0] - then[0] : 0.0;
  bool changes = afresh || changed > 0 || stiffening != 0.0;
  if (changes) {
    for (int j = 0; j < n_; ++j) M[j + j * stride_] = diagonal[j];
    if (stiffening != 0.0) add_equalities(stiffening, M_);
    add_rows(now);
    for (int j = 0; j < n_; ++j) diagonal[j] = M[j + j * stride_];
  }
  changes |= take_weights(now, 0, equalities_) | take_weights(now, stored_, rows());
  for (int j = 0; j < n_; ++j) M[j + j * stride_] = diagonal[j] + now[stored_ + j];
  if (!changes) return Mask::all(true);
  // A factor that fails must be made again.
  assembled_ = cholesky(M, numbers(L_), numbers(inverse_diagonal_), n_, stride_);
  return Mask::all(assembled_);
}

// The inequalities whose weight has changed.
void DenseKkt::add_rows(const double* weight) {
  double* then = numbers(weight_);
  int count = 0;
  for (int i = equalities_; i < stored_; ++i) {
    if (weight[i] == then[i]) continue;
    double* to = numbers(weighted_) + count * stride_;
    changed_[count] = numbers(R_) + i * stride_;
    Eigen::Map<Vector>(to, n_) = (weight[i] - then[i]) * ConstVectorMap(changed_[count], n_);
    scaled_[count++] = to;
    then[i] = weight[i];
  }
  if (count > 0) add_outer_products(count, scaled_.data(), changed_.data(), numbers(M_), n_, stride_);
}

// M = from + weight A'A, whose product is made once for each A: 10 % of a warm start's work where a batch of 64 shares
// A (n = 100, 50 equalities, 50 inequalities), 5 % of a cold start's. A first factor in common was tried: the first
// active set is that of zero, or of the start, which few elements have in common, and where all do (zero feasible) it
// saves 0.4 to 1.6 % of a cold start (n = 30 to 100) and nothing of a warm one.
void DenseKkt::add_equalities(double weight, const PackArray& from) {
  if (equalities_ > 0 && !gram_known_) {
    gram_.setConstant(Pack(0.0));
    for (int i = 0; i < equalities_; ++i) changed_[i] = numbers(R_) + i * stride_;
    add_outer_products(equalities_, changed_.data(), changed_.data(), numbers(gram_), n_, stride_);
    gram_known_ = true;
  }
  const int column = packs(n_);
  for (int j = 0; j < n_; ++j)
    for (int k = j * column + j / lanes; k < (j + 1) * column; ++k)
      M_[k] = equalities_ > 0 ? from[k] + Pack(weight) * gram_[k] : from[k];
}

void DenseKkt::solve(PackArray& rhs) {
  if (uses_rows_) return by_rows_->solve(numbers(rhs));
  cholesky_solve(numbers(L_), numbers(inverse_diagonal_), n_, stride_, numbers(rhs));
}

void DenseKkt::keep(const Equilibration& scaling, KeptFactor to) const {
  to.present = assembled_ && !uses_rows_ ? 1.0 : 0.0;
  if (to.present == 0.0) return;
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
