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

// Cholesky factor of M, from and in its lower triangle. False: M is not positive definite.
bool cholesky(Matrix& M);
// b <- (L L')^-1 b
void cholesky_solve(const Matrix& L, Vector& b);

// Complete orthogonal factorisation; directions smaller than `threshold` times the largest count as null.
// Minimum-norm least-squares solution of A x = b; `rank`, if given, receives that of A.
Vector least_squares(const Matrix& A, const Vector& b, double threshold, int* rank = nullptr);
Matrix pseudo_inverse(const Matrix& A, double threshold);
// Orthonormal columns that span the range of A, directions smaller than `smallest` left out.
Matrix range_basis(const Matrix& A, double smallest);

}  // namespace qp_control
