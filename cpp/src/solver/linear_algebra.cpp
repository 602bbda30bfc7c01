#include "qp_control/linear_algebra.hpp"

#include <Eigen/Cholesky>
#include <Eigen/QR>
#include <algorithm>

namespace qp_control {
namespace {

Eigen::CompleteOrthogonalDecomposition<Matrix> decompose(const Matrix& A, double threshold) {
  Eigen::CompleteOrthogonalDecomposition<Matrix> out;
  out.setThreshold(threshold);
  out.compute(A);
  return out;
}

}  // namespace

bool cholesky(Matrix& M) {
  const Eigen::LLT<Eigen::Ref<Matrix>> in_place(M);
  return in_place.info() == Eigen::Success;
}

void cholesky_solve(const Matrix& L, Vector& b) {
  L.triangularView<Eigen::Lower>().solveInPlace(b);
  L.triangularView<Eigen::Lower>().transpose().solveInPlace(b);
}

Vector least_squares(const Matrix& A, const Vector& b, double threshold, int* rank) {
  if (rank != nullptr) *rank = 0;
  if (A.size() == 0) return Vector::Zero(A.cols());  // Eigen's factorisation of nothing is undefined
  const auto factor = decompose(A, threshold);
  if (rank != nullptr) *rank = static_cast<int>(factor.rank());
  return factor.solve(b);
}

Matrix pseudo_inverse(const Matrix& A, double threshold) {
  if (A.size() == 0) return Matrix::Zero(A.cols(), A.rows());
  return decompose(A, threshold).pseudoInverse();
}

Matrix range_basis(const Matrix& A, double smallest) {
  if (A.size() == 0) return Matrix(A.rows(), 0);
  const Eigen::ColPivHouseholderQR<Matrix> qr(A);
  const int diagonal = static_cast<int>(std::min(A.rows(), A.cols()));
  int rank = 0;
  while (rank < diagonal && std::abs(qr.matrixR()(rank, rank)) > smallest) ++rank;
  return qr.householderQ() * Matrix::Identity(A.rows(), rank);
}

}  // namespace qp_control
