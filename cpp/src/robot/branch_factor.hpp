// M = L' D L of a mass matrix, L lower triangular with ones on its diagonal: L(i, j) is zero unless the velocity j
// moves what i moves, so that the branches of a tree stay apart. Source: R. Featherstone, "Efficient factorization of
// the joint-space inertia matrix for branched kinematic trees", IJRR 24 (2005).
#pragma once

#include <Eigen/Core>
#include <vector>

namespace qp_control {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class BranchFactor {
 public:
  // Of each velocity the one before it on the way to the root, -1 where there is none; those before have lower numbers.
  explicit BranchFactor(std::vector<int> before);

  void factor(const Eigen::MatrixXd& M);

  // With S'S = M^-1, S = D^-1/2 L^-T: b <- S b, b <- S'b, and Y <- S Y for many columns, most entries of which are
  // zero.
  void half(Eigen::VectorXd& b) const;
  void half_transposed(Eigen::VectorXd& b) const;
  void half(RowMajor& Y);
  // H = Y'Y for the last Y of `half`
  void gram(const RowMajor& Y, double* H) const;

 private:
  const std::vector<int> before_;
  RowMajor L_;
  Eigen::VectorXd scale_;          // D^-1/2
  std::vector<int> first_, last_;  // first_[i] .. last_[i]-1: the columns that may be nonzero in row i of Y
};

}  // namespace qp_control
