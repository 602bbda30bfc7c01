// A level of a strict hierarchy below the first: its QP in coordinates z of x + Z z, Z a basis of what no level above
// sees. See qp_control/inverse_dynamics/hierarchy.py.
//
// Results are written where those of the call before stand: where sizes repeat, nothing is allocated for up to 96
// variables.
#pragma once

#include <Eigen/Core>
#include <vector>

namespace qp_control {

using RowMajorMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// What no level so far sees.
struct Freedom {
  Eigen::MatrixXd basis;  // n x r
  double largest = 0.0;   // eigenvalue that has been met: what is negligible beside it is not seen
};

// minimise 1/2 z'H z + g'z subject to lower <= C z <= upper, with all rows of the problem. Those that z does not change
// are zero and without bounds; `used` are the others.
struct ReducedLevel {
  RowMajorMatrix H, C;
  Eigen::VectorXd g, lower, upper;
  std::vector<int> used;
};

// A task's H and g, and all rows of the problem, the bounds of x among them.
struct Level {
  Eigen::Ref<const RowMajorMatrix> H;
  Eigen::Ref<const Eigen::VectorXd> g;
  Eigen::Ref<const RowMajorMatrix> C;
  Eigen::Ref<const Eigen::VectorXd> l, u, lb, ub;
};

class LowerLevel {
 public:
  // The freedom that the matrices (n x n, positive semidefinite; sums of J'J) leave of the one before.
  void see(const std::vector<Eigen::Ref<const RowMajorMatrix>>& matrices, double negligible, const Freedom& before);
  // x satisfies the rows up to the tolerance of its QP. settled: a row shorter than that, beside what it was, is
  // rounding; narrow: bounds nearer to each other than that are one.
  void reduce(const Level& level, const Eigen::VectorXd& x, double settled, double narrow);

  const Freedom& freedom() const { return freedom_; }
  const ReducedLevel& reduced() const { return reduced_; }

 private:
  Freedom freedom_;
  ReducedLevel reduced_;
  Eigen::MatrixXd seen_, MZ_, HZ_;
  Eigen::VectorXd value_;
};

}  // namespace qp_control
