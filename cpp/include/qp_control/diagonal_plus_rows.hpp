// A matrix of Newton steps and KKT systems where H is diagonal, by a factor of the size of its rows instead of that of
// the variables:
//
//     M = D + R'W R,   M^-1 = D^-1 - D^-1 R'S^-1 R D^-1,   S = W^-1 + R D^-1 R',
//
// of the rows with a weight. R D^-1 R' is kept up to date by the entries of D that have changed, so that a step without
// a change in the box costs no more than the Cholesky factor of S.
#pragma once

#include <vector>

#include "qp_control/linear_algebra.hpp"
#include "qp_control/pack.hpp"
#include "qp_control/reserved.hpp"

namespace qp_control {

class DiagonalPlusRows {
 public:
  // Of an equilibrated H: smaller entries cost digits that stiff rows have not to spare.
  static constexpr double least_entry = 1e-3;

  // Room for problems of that size.
  DiagonalPlusRows(int n, int rows);

  // Takes in row-major rows, `stride` apart and padded; they must outlive what follows.
  void load(const double* R, int n, int rows, int stride);
  // What the next factor starts from does not depend on the last one.
  void forget() { assembled_ = false; }
  // D and the weights of the rows. False: not positive definite.
  bool factor(const PackArray& D, const double* weight);
  // rhs <- M^-1 rhs, padded
  void solve(double* rhs);

 private:
  void update(const PackArray& D);
  void apply_inverse(double* rhs);
  // correction_ = R'z
  void combine_rows(const double* z);

  int n_ = 0, rows_ = 0, stride_ = 0, side_ = 0;  // side_: of the matrices of the rows' size, padded
  const double* R_ = nullptr;
  bool assembled_ = false, stiff_ = false;
  Reserved<PackArray> columns_;         // of R, padded
  Reserved<PackArray> scaled_columns_;  // about to be added to gram_
  Reserved<PackArray> gram_;            // R D^-1 R', lower triangle
  Reserved<PackArray> S_, L_, inverse_diagonal_;
  Reserved<PackArray> D_, inverse_, right_, correction_;
  Reserved<PackArray> weight_, product_, multiplier_;
  std::vector<int> used_;  // rows with a weight
  std::vector<const double*> changed_, scaled_;
};

}  // namespace qp_control
