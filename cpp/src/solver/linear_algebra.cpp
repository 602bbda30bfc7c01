#include "qp_control/linear_algebra.hpp"

#include <Eigen/QR>

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

void thin_qr(const Matrix& A, Matrix& Q, Matrix& R) {
  const Eigen::HouseholderQR<Matrix> factor(A);
  Q = factor.householderQ() * Matrix::Identity(A.rows(), A.cols());
  R = factor.matrixQR().topRows(A.cols()).triangularView<Eigen::Upper>();
}

}  // namespace qp_control
