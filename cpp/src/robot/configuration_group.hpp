// Second derivatives of the exponential of a configuration manifold, the Lie group of all joints together.
#pragma once

#include <Eigen/Core>
#include <vector>

namespace qp_control {

class Evaluator;

// With q (+) w for the exponential and J(w) for its derivative by w in the tangent space at q (+) w:
//   ((q (+) x) (+) (w + y)) (-) (q (+) w) = J_q x + J y + 1/2 [J_q x, J y] + 1/2 J'(w)[y] y + third order.
class ConfigurationGroup {
 public:
  explicit ConfigurationGroup(const Evaluator& robot);

  // L with x' L y = lambda' [x, y]
  void bracket(const Eigen::VectorXd& lambda, Eigen::MatrixXd& L) const;
  // Symmetric N with y' N y = lambda' J'(w)[y] y
  void curvature(const Eigen::VectorXd& w, const Eigen::VectorXd& lambda, Eigen::MatrixXd& N);

 private:
  struct Constant {
    int i, j, k;
    double value;  // of [e_i, e_j] along e_k
  };
  template <typename Coefficients>
  void bracket_of(const Coefficients& lambda, Eigen::MatrixXd& L) const;

  std::vector<int> index_;           // of the velocities that do not commute with all others
  std::vector<Constant> constants_;  // numbered among these
  Eigen::MatrixXd ad_, L_, sum_, powers_, coefficients_;
};

}  // namespace qp_control
