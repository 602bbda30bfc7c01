// Householder QR factorisation with column pivoting, A P = Q R, which shows the rank of A (Golub and Van Loan, "Matrix
// Computations", section 5.4). The same as Eigen's, in memory that is taken once.
#pragma once

#include <vector>

#include "qp_control/reserved.hpp"

namespace qp_control {

class PivotedQr {
 public:
  // Room for matrices of so many entries, and of so many columns.
  void reserve(long entries, int columns);

  // The matrix A, which the caller fills in and factor() replaces.
  Reserved<Matrix>& matrix() { return A_; }
  void factor();

  // Size of the largest direction, 0 of an empty matrix.
  double largest() const { return A_.size() == 0 ? 0.0 : std::abs(A_(0, 0)); }
  // Number of directions larger than `smallest`.
  int rank(double smallest) const;
  // Orthonormal columns that span the `rank` largest directions of the range of A.
  void basis(int rank, Reserved<Matrix>& out);
  // B <- P R^-1 B, R the leading square block of B's height, which must hold all columns of A.
  void solve_triangular(Reserved<Matrix>& B);

 private:
  Reserved<Matrix> A_;
  Reserved<Vector> tau_, norm_, first_norm_, work_;  // of the reflectors; of what is left of the columns
  std::vector<int> exchanged_;                       // column k, with which one
};

// Memory for pseudo_inverse.
struct PseudoInverse {
  PivotedQr qr;
  Reserved<Matrix> row_space, inner;
};
// out = A^+; directions smaller than `threshold` times the largest count as null.
void pseudo_inverse(const Reserved<RowMatrix>& A, double threshold, PseudoInverse& work, Reserved<Matrix>& out);

}  // namespace qp_control
