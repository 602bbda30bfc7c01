// Linear system of a step of the rescue (interior_point.hpp) on a dense QP: quasi-definite, with the rows that have a
// bound beside H and those of the box on its diagonal.
#pragma once

#include <limits>
#include <vector>

#include "qp_control/dense_kkt.hpp"
#include "qp_control/interior_point.hpp"
#include "qp_control/quasi_definite.hpp"

namespace qp_control {

class DenseStepSystem {
 public:
  using Kkt = DenseKkt;
  static constexpr int patience = 60;  // Newton steps of the loop before the rescue; ordinary problems take 5 to 20
  static constexpr int patience_after = std::numeric_limits<int>::max();
  static constexpr double rescued_mu = 1e-6;  // of a set that settles after the rescue
  static constexpr double least_regularisation = 1e-13, most_regularisation = 1e-11;

  explicit DenseStepSystem(const DenseKkt& kkt);

  void load(const DenseKkt& kkt);
  bool factor(const DenseKkt& kkt, const PackArray& weight, double rho);
  void solve(const DenseKkt& kkt, const PackArray& gradient, const PackArray& r, PackArray& dx, PackArray& v,
             PackArray& dm);

 private:
  const int n_, stored_;
  std::vector<int> bounded_;  // stored rows with a finite bound: those of system_
  QuasiDefinite system_;
  Vector box_weight_, d_, a_, dx_;
  Reserved<Vector> e_, b_, dm_;
};

extern template class InteriorPoint<DenseStepSystem>;

}  // namespace qp_control
