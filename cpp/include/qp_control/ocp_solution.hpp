// The solutions of a batch of optimal-control QPs, as the caller's arrays, and their places in the loop's vectors.
#pragma once

#include "qp_control/ocp_layout.hpp"

namespace qp_control {

// Each array is contiguous: (size, stages, .). x, y, w_x have N + 1 stages, u, z, w_u have N, z_N has one.
struct OcpBatchSolution {
  MutableBatchArray x, u, y, z, z_N, w_x, w_u;
  MutableBatchArray s_lower, s_upper, s_lower_N, s_upper_N, s_x_lower, s_x_upper, s_u_lower, s_u_upper;
  MutableBatchArray slack_lower, slack_upper, slack_lower_N, slack_upper_N;
  // Of what has no solution (solution.hpp), NaN where there is none: a ray (x, u), or a Farkas vector (y, z, z_N, w_x,
  // w_u), -y_k + A_k'y_{k+1} + C_k'z_k + w_x,k = 0 and B_k'y_{k+1} + D_k'z_k + w_u,k = 0.
  MutableBatchArray certificate_x, certificate_u, certificate_y, certificate_z, certificate_z_N, certificate_w_x,
      certificate_w_u;
  MutableBatchArray objective, primal_residual, dual_residual, duality_gap;
  long long* status = nullptr;
  long long* iterations = nullptr;
};

// The shifts, where the multipliers of their rows stand.
inline OcpBatchSolution lower_shifts(const OcpBatchSolution& s) {
  OcpBatchSolution out;
  out.z = s.s_lower;
  out.z_N = s.s_lower_N;
  out.w_x = s.s_x_lower;
  out.w_u = s.s_u_lower;
  return out;
}
inline OcpBatchSolution upper_shifts(const OcpBatchSolution& s) {
  OcpBatchSolution out;
  out.z = s.s_upper;
  out.z_N = s.s_upper_N;
  out.w_x = s.s_x_upper;
  out.w_u = s.s_u_upper;
  return out;
}

// The certificates, where a point stands.
inline OcpBatchSolution certificates(const OcpBatchSolution& s) {
  OcpBatchSolution out;
  out.x = s.certificate_x;
  out.u = s.certificate_u;
  out.y = s.certificate_y;
  out.z = s.certificate_z;
  out.z_N = s.certificate_z_N;
  out.w_x = s.certificate_w_x;
  out.w_u = s.certificate_w_u;
  return out;
}

// Calls body(array, position, size, place) for each piece of a point (x, u, y, z, z_N, w_x, w_u): `size` numbers at
// `position` of an element's array stand at `place` of the vector of unknowns, or of rows.
template <class Real, class Solution, class Unknowns, class Rows>
void for_each_piece(const OcpLayout<Real>& at, Solution& s, const Unknowns& unknowns, const Rows& rows) {
  for (int k = 0; k <= at.N; ++k) {
    unknowns(s.x, k * at.nx, at.nx, at.x(k));
    unknowns(s.y, k * at.nx, at.nx, at.y(k));
    if (at.boxed_x) rows(s.w_x, k * at.nx, at.nx, at.box_of_x(k));
    if (k == at.N) {
      rows(s.z_N, 0, at.terminal_rows, at.row(k));
      continue;
    }
    unknowns(s.u, k * at.nu, at.nu, at.u(k));
    rows(s.z, k * at.stage_rows, at.stage_rows, at.row(k));
    if (at.boxed_u) rows(s.w_u, k * at.nu, at.nu, at.box(k));
  }
}

// The same for the slacks, as far as they are unknowns.
template <class Real, class Solution, class Unknowns>
void for_each_slack(const OcpLayout<Real>& at, Solution& s, const Unknowns& unknowns) {
  for (int k = 0; k < at.N && at.soft_rows > 0; ++k) {
    unknowns(s.slack_lower, k * at.stage_rows, at.stage_rows, at.slack_lower(k));
    unknowns(s.slack_upper, k * at.stage_rows, at.stage_rows, at.slack_upper(k));
  }
  if (at.soft_terminal_rows == 0) return;
  unknowns(s.slack_lower_N, 0, at.terminal_rows, at.slack_lower(at.N));
  unknowns(s.slack_upper_N, 0, at.terminal_rows, at.slack_upper(at.N));
}

}  // namespace qp_control
