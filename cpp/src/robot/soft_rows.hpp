// The answer of last resort of a tick: rows that may give way are paid for instead of shifted the least.
//
//     minimise    1/2 x'H x + g'x + 1/2 price h sum_i weight_i s_i^2
//     subject to  A x + s = b, l <= C x + s <= u, lb <= x + s <= ub,   s = 0 on rows of infinite weight
//
// with h the size of H and g in units of what is usual. It is strictly convex in s and, where hard rows do not
// contradict each other, feasible, so that it is solved where the two levels of the closest feasible problem are out of
// the reach of double precision. The shifts are the least up to what the cost is worth beside their price.
#pragma once

#include <vector>

#include "qp_point.hpp"
#include "whole_body_rows.hpp"

namespace qp_control {

class SoftRows {
 public:
  // weights: of the rows of A, C and x; infinite: they hold exactly. units (n): what is usual of x.
  SoftRows(WholeBodySizes sizes, const Eigen::VectorXd& weights, const Eigen::VectorXd& units,
           const DenseQpMaker& solver);

  // Leaves x and the s of all rows (n_eq + n_in + n); SOLVED, or why there is none.
  Status solve(const WholeBodyMatrices& of, Eigen::VectorXd& x, Eigen::VectorXd& shift, int& iterations);

 private:
  const WholeBodySizes sizes_;
  const Eigen::VectorXd units_;
  std::vector<int> soft_;  // rows
  Eigen::VectorXd usual_, scale_, slope_, lower_, upper_;
  RowMajor cost_, G_;
  const DenseDims dims_;
  const std::unique_ptr<DenseQps> qps_;
  QpPoint point_;
};

}  // namespace qp_control
