#include "qp_control/linear_algebra.hpp"

#include <Eigen/QR>
#include <algorithm>
#include <utility>

namespace qp_control {

Vector least_squares(const Matrix& A, const Vector& b, double threshold, int* rank) {
  if (rank != nullptr) *rank = 0;
  if (A.size() == 0) return Vector::Zero(A.cols());  // Eigen's factorisation of nothing is undefined
  Eigen::CompleteOrthogonalDecomposition<Matrix> factor;
  factor.setThreshold(threshold);
  factor.compute(A);
  if (rank != nullptr) *rank = static_cast<int>(factor.rank());
  return factor.solve(b);
}

// By panels of a few columns: all earlier columns act on a panel while it is in the cache.
void lu(Eigen::Ref<Matrix> M, int* exchanged) {
  constexpr int panel = 8;
  const int n = static_cast<int>(M.rows());
  const auto subtract = [&](int k, int first, int last) {  // column k, from the columns [first, last)
    M.block(k + 1, first, n - k - 1, last - first).noalias() -=
        M.col(k).tail(n - k - 1) * M.row(k).segment(first, last - first);
  };
  for (int first = 0; first < n; first += panel) {
    const int last = std::min(first + panel, n);
    for (int j = first; j < last; ++j)
      for (int k = 0; k < first; ++k) std::swap(M(k, j), M(exchanged[k], j));
    for (int k = 0; k < first; ++k) subtract(k, first, last);
    for (int k = first; k < last; ++k) {
      Eigen::Index largest;
      M.col(k).tail(n - k).cwiseAbs().maxCoeff(&largest);
      exchanged[k] = static_cast<int>(k + largest);
      if (largest > 0) M.row(k).head(last).swap(M.row(exchanged[k]).head(last));
      if (M(k, k) != 0.0) M.col(k).tail(n - k - 1) /= M(k, k);
      subtract(k, k + 1, last);
    }
  }
}

void lu_solve(const Eigen::Ref<const Matrix>& LU, const int* exchanged, Eigen::Ref<Vector> b) {
  const int n = static_cast<int>(LU.rows());
  for (int k = 0; k < n; ++k) std::swap(b[k], b[exchanged[k]]);
  for (int k = 0; k < n; ++k) b.tail(n - k - 1) -= b[k] * LU.col(k).tail(n - k - 1);
  for (int k = n - 1; k >= 0; --k) {
    b[k] /= LU(k, k);
    b.head(k) -= b[k] * LU.col(k).head(k);
  }
}

}  // namespace qp_control
