// Rescue of the loop on optimal-control QPs whose active set is hard to find: the method of interior_point.hpp on the
// Riccati back end, which keeps the dynamics exact and costs a factorisation per step. No row is elastic.
#pragma once

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/riccati_kkt.hpp"

namespace qp_control {

class OcpInteriorPoint {
 public:
  // A workspace for problems like the one that kkt holds.
  explicit OcpInteriorPoint(const RiccatiKkt<double>& kkt);

  // At most max_steps factorisations. Writes the best point that it has seen to (it.x, it.z), where multipliers are
  // zero on the rows that look inactive, and adds to it.steps.
  void run(RiccatiKkt<double>& kkt, int max_steps, const Deadline& deadline, Iterate& it);

 private:
  // One of the two bounds of every row: sign v + s = sign bound. Where there is none, s = z = 1 and nothing moves.
  struct Side {
    explicit Side(int rows);
    PackArray present;  // 1 or 0
    PackArray bound, s, z, ds, dz, weight, residual, target;
  };

  void load(const RiccatiKkt<double>& kkt);
  void start(RiccatiKkt<double>& kkt);
  // Residuals of the current point; returns their size, in which the mean s z counts too.
  double evaluate(const RiccatiKkt<double>& kkt);
  bool factor(RiccatiKkt<double>& kkt);
  // Step towards s z = target.
  void solve(const RiccatiKkt<double>& kkt);
  double step_length(PackArray Side::* value, PackArray Side::* change) const;
  void keep();

  Side sides_[2];
  PackArray equality_, y_, dy_, equality_residual_;  // rows with equal bounds: 1 or 0, their multipliers
  PackArray x_, dx_, dual_, weight_, row_, v_, r_, product_;
  PackArray best_x_, best_z_;
  double count_ = 0.0, rho_ = 1e-8, mu_ = 1e-8, mean_ = 0.0, primal_ = 0.0;
};

}  // namespace qp_control
