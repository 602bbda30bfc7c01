#include "qp_control/pivoted_qr.hpp"

#include <Eigen/Householder>
#include <algorithm>
#include <cmath>
#include <limits>

namespace qp_control {

void PivotedQr::reserve(long entries, int columns) {
  A_.reserve(entries);
  for (Reserved<Vector>* v : {&tau_, &norm_, &first_norm_, &work_}) v->reserve(columns);
  exchanged_.reserve(columns);
}

void PivotedQr::factor() {
  const Eigen::Index rows = A_.rows(), cols = A_.cols(), size = std::min(rows, cols);
  for (Reserved<Vector>* v : {&tau_, &norm_, &first_norm_, &work_}) v->resize(cols);
  exchanged_.resize(size);
  for (Eigen::Index j = 0; j < cols; ++j) norm_[j] = first_norm_[j] = A_.col(j).norm();
  for (Eigen::Index k = 0; k < size; ++k) {
    Eigen::Index largest;
    norm_.tail(cols - k).maxCoeff(&largest);
    exchanged_[k] = static_cast<int>(largest += k);
    if (largest != k) {
      A_.col(k).swap(A_.col(largest));
      std::swap(norm_[k], norm_[largest]);
      std::swap(first_norm_[k], first_norm_[largest]);
    }
    double beta;
    A_.col(k).tail(rows - k).makeHouseholderInPlace(tau_[k], beta);
    A_(k, k) = beta;
    A_.bottomRightCorner(rows - k, cols - k - 1)
        .applyHouseholderOnTheLeft(A_.col(k).tail(rows - k - 1), tau_[k], work_.data());
    // Norms of what is left, from those before: Drmac and Bujanovic, "On the failure of rank-revealing QR factorization
    // software", LAPACK working note 176. Again from scratch where cancellation has eaten up their digits.
    for (Eigen::Index j = k + 1; j < cols; ++j) {
      if (norm_[j] == 0.0) continue;
      const double lost = std::abs(A_(k, j)) / norm_[j], left = std::max(0.0, (1.0 + lost) * (1.0 - lost));
      const double part = norm_[j] / first_norm_[j];
      if (left * part * part <= std::sqrt(std::numeric_limits<double>::epsilon()))
        norm_[j] = first_norm_[j] = A_.col(j).tail(rows - k - 1).norm();
      else
        norm_[j] *= std::sqrt(left);
    }
  }
}

int PivotedQr::rank(double smallest) const {
  const int size = static_cast<int>(std::min(A_.rows(), A_.cols()));
  int rank = 0;
  while (rank < size && std::abs(A_(rank, rank)) > smallest) ++rank;
  return rank;
}

void PivotedQr::basis(int rank, Reserved<Matrix>& out) {
  const Eigen::Index rows = A_.rows();
  out.resize(rows, rank);
  out.setIdentity();
  for (int k = rank - 1; k >= 0; --k)
    out.bottomRightCorner(rows - k, rank - k)
        .applyHouseholderOnTheLeft(A_.col(k).tail(rows - k - 1), tau_[k], work_.data());
}

void PivotedQr::solve_triangular(Reserved<Matrix>& B) {
  const Eigen::Index size = B.rows();
  for (Eigen::Index j = 0; j < B.cols(); ++j)
    for (Eigen::Index k = size - 1; k >= 0; --k) {
      B(k, j) /= A_(k, k);
      B.col(j).head(k) -= B(k, j) * A_.col(k).head(k);
    }
  for (Eigen::Index k = size - 1; k >= 0; --k)
    if (exchanged_[k] != k) B.row(k).swap(B.row(exchanged_[k]));
}

// With V a basis of the row space of A, A V has full column rank: A^+ = V (A V)^+, and A V P = U R gives
// (A V)^+ = P R^-1 U'.
void pseudo_inverse(const Reserved<RowMatrix>& A, double threshold, PseudoInverse& work, Reserved<Matrix>& out) {
  auto& [qr, V, inner] = work;
  qr.matrix() = A.transpose();
  qr.factor();
  const int rank = qr.rank(threshold * qr.largest());
  qr.basis(rank, V);
  qr.matrix().resize(A.rows(), rank);
  multiply(A, V, qr.matrix());
  qr.factor();
  qr.basis(rank, out);
  inner = out.transpose();
  qr.solve_triangular(inner);
  out.resize(A.cols(), A.rows());
  multiply(V, inner, out);
}

}  // namespace qp_control
