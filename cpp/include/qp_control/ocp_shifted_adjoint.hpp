// Gradients at shifted solutions of optimal-control QPs (CLOSEST_FEASIBLE), one at a time, on Riccati recursions.
//
// With E the shifted rows (those that say lower = upper among them), F the dynamics and J the other active rows, the
// system of kkt_system.hpp falls into three; q is its solution, r its right-hand side:
//
//     the first level     E'E x + F'q_pi = E'r_z,   F x = r_y,   hence q_s = E x - r_z;
//     the second level    H q_x + E'zeta + J'q_z + F'y = r_x + E'r_s,   E q_x = E x,   J q_x = r_z,   F q_x = r_y;
//     the least eta       E'E q_eta + F'p = E'zeta,   F q_eta = 0,   hence q_z = E q_eta - r_s on E, q_y = y + p.
//
// Dependent rows of E leave zeta open; what E q_eta says of it does not depend on that.
#pragma once

#include "qp_control/derivatives_batch.hpp"
#include "qp_control/indefinite_riccati.hpp"
#include "qp_control/lane_kkt_system.hpp"
#include "qp_control/ocp_gradients.hpp"
#include "qp_control/ocp_level.hpp"

namespace qp_control {

class ShiftedOcpAdjoint {
 public:
  explicit ShiftedOcpAdjoint(const OcpBatch& batch);

  // Factors the systems of element i. False: one of them is singular, or rows are shifted on both sides.
  bool prepare(const OcpBatch& batch, int i, const OcpBatchSolution& solution);
  // Adds the gradients of the same element to `out`, for any number of losses; false, and nothing is added: the
  // solution is not accurate enough.
  bool put(const OcpBatch& batch, int i, const OcpBatchSolution& loss, const OcpGradients& out,
           const CertificateBatch& certificate);

 private:
  // Of the unknowns: states, inputs and costates; eta and pi.
  struct Vector {
    explicit Vector(const IndefiniteRiccati<double>& kkt);
    OcpVector<double> view() const { return {numbers(unknowns), numbers(rows)}; }
    PackArray unknowns, rows;
  };
  void read(const OcpBatchSolution& from, int i, Vector& to) const;
  // upper - lower; false where a row has both.
  bool read_shifts(const OcpBatchSolution& from, int i, PackArray& upper_minus_lower);
  void read_loss(const OcpBatchSolution& loss, int i);
  double solve();

  IndefiniteRiccati<double> kkt_;
  LaneKktSystem<IndefiniteRiccati<double>> system_;
  Equilibration scaling_;
  OcpLevel level_;
  PackArray shifted_;       // 1 on rows of E
  Vector v_, level_v_;      // (x, y, z) and (eta, pi, s)
  Vector r_, q_, level_q_;  // right-hand side and solution, in the caller's units
  PackArray r_s_, slope_;   // of E; of the objective
  Vector first_, lower_, upper_, work_;
  LaneVector scaled_r_, scaled_q_;
  double objective_ = 0.0;
};

}  // namespace qp_control
