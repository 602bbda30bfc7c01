// The answer of last resort of a tick: rows that may give way are paid for instead of shifted the least. The same as
// qp_control/inverse_dynamics/soft_rows.py, where the problem stands.
#pragma once

#include <vector>

#include "../robot/whole_body_rows.hpp"
#include "qp_control/dense_solver.hpp"

namespace qp_control {

class SoftRows {
 public:
  // weights: of the rows of A, C and x; infinite: they hold exactly. units (n): what is usual of x.
  SoftRows(WholeBodySizes sizes, const Eigen::VectorXd& weights, const Eigen::VectorXd& units,
           const Settings& settings);

  // Leaves x and the s of all rows (n_eq + n_in + n); SOLVED, or why there is none.
  Status solve(const WholeBodyMatrices& of, Eigen::VectorXd& x, Eigen::VectorXd& shift, int& iterations);

 private:
  const WholeBodySizes sizes_;
  const Eigen::VectorXd units_;
  Settings settings_;
  std::vector<int> soft_;  // rows
  Eigen::VectorXd usual_, scale_, slope_, lower_, upper_;
  RowMajor cost_, G_;
  DenseSolver solver_;
  Solution solution_;
};

}  // namespace qp_control
