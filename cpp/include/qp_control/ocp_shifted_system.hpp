// The system at shifted solutions of optimal-control QPs (CLOSEST_FEASIBLE), one at a time, on Riccati recursions.
//
// With E the shifted rows (those that say lower = upper among them), W their weights, 2 of rows that are shifted on
// both sides, otherwise 1, F the dynamics and J the other active rows, the system of kkt_system.hpp in s = W (E x - e)
// falls into three; q is its solution, r its right-hand side:
//
//     the first level     E'W E x + F'q_pi = E'W r_z + r_eta,   F x = r_y,   hence q_s = W (E x - r_z);
//     the second level    H q_x + E'zeta + J'q_z + F'y = r_x + E'W r_s,   E q_x = E x,   J q_x = r_z,   F q_x = r_y;
//     the least eta       E'W E q_eta + F'p = E'zeta,   F q_eta = r_pi,   hence q_z = W (E q_eta - r_s) on E, q_y = y +
//     p.
//
// Dependent rows of E leave zeta open; what E q_eta says of it does not depend on that. Of r_eta only what E' and F'
// reach counts, by which the solution is that of least squares.
#pragma once

#include "qp_control/ocp_level.hpp"
#include "qp_control/ocp_system.hpp"

namespace qp_control {

class ShiftedOcpSystem : public OcpSystem<double> {
 public:
  explicit ShiftedOcpSystem(const OcpBatch& batch);

  // Reads and factors that of element i. False: a part of it is singular, or the bounds of a soft row cross.
  bool prepare(const OcpBatch& batch, int i, const OcpBatchSolution& solution);
  Pack solve() override;

 private:
  bool regular(const OcpBatch& batch, int i, const OcpBatchSolution& solution);
  // Sets E, and s = E x - e, e the bound that a row is shifted from or the middle of both.
  void read_shifts(const OcpBatchSolution& from, int i);
  // False: one of them is shifted.
  bool leave_out_soft_rows();

  OcpLevel level_;
  PackArray first_, unknowns_, rows_, other_rows_, both_, weight_, shift_;
};

}  // namespace qp_control
