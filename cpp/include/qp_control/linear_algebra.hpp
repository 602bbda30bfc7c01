// The dense types used throughout the solver, and the factorisations that it needs of them.
#pragma once

#include <Eigen/Core>

namespace qp_control {

using Vector = Eigen::VectorXd;
using Matrix = Eigen::MatrixXd;
using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using VectorMap = Eigen::Map<Vector>;
using ConstVectorMap = Eigen::Map<const Vector>;
using ConstRowMatrixMap = Eigen::Map<const RowMatrix>;

// Largest absolute entry, 0 for an empty array (Eigen's maxCoeff asserts there); NaN entries make it NaN.
template <class Derived>
double norm_inf(const Eigen::DenseBase<Derived>& a) {
  return a.size() == 0 ? 0.0 : a.derived().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
}

// Eigen's allFinite looks at one entry at a time; a sum of zeros is as good, in whole registers.
template <class Derived>
bool all_finite(const Eigen::DenseBase<Derived>& a) {
  return a.size() == 0 || (a.derived().array() * 0.0).sum() == 0.0;
}

// C = A B, column by column: Eigen's own product of two matrices takes memory where they are large.
template <class Left, class Right, class Product>
void multiply(const Left& A, const Right& B, Product& C) {
  for (Eigen::Index j = 0; j < B.cols(); ++j) C.col(j).noalias() = A * B.col(j);
}

// Complete orthogonal factorisation; directions smaller than `threshold` times the largest count as null.
// Minimum-norm least-squares solution of A x = b; `rank`, if given, receives that of A.
Vector least_squares(const Matrix& A, const Vector& b, double threshold, int* rank = nullptr);

// A = Q R of a matrix with no more columns than rows: orthonormal columns, and a triangle.
void thin_qr(const Matrix& A, Matrix& Q, Matrix& R);

}  // namespace qp_control
