// Linear system of a step of the rescue (interior_point.hpp) on an optimal-control QP: the Riccati recursion keeps the
// dynamics exact, and refinement recovers what its weighted rows lose.
#pragma once

#include "qp_control/interior_point.hpp"
#include "qp_control/riccati_kkt.hpp"

namespace qp_control {

class OcpStepSystem {
 public:
  using Kkt = RiccatiKkt<double>;
  static constexpr int patience = 300, patience_after = 300;  // Newton steps of the loop before and after the rescue
  static constexpr double rescued_mu = 1e-10;                 // of a set that settles after the rescue
  static constexpr double least_regularisation = 1e-12, most_regularisation = 1e-10;

  explicit OcpStepSystem(const Kkt& kkt);

  void load(const Kkt&) {}
  bool factor(Kkt& kkt, const PackArray& weight, double rho);
  void solve(const Kkt& kkt, const PackArray& gradient, const PackArray& r, PackArray& dx, PackArray& v, PackArray& dm);

 private:
  PackArray weight_, rhs_, residual_;
  double rho_ = 0.0;
};

extern template class InteriorPoint<OcpStepSystem>;

}  // namespace qp_control
