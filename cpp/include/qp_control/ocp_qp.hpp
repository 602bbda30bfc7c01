// A linear-quadratic optimal-control problem over the stages k = 0..N, with its letters and signs:
//
//     minimise    sum_{k<N} 1/2 [x_k; u_k]'[Q_k S_k'; S_k R_k][x_k; u_k] + q_k'x_k + r_k'u_k
//                 + 1/2 x_N'Q_N x_N + q_N'x_N
//     subject to  x_0 = x0                                      (y_0)
//                 x_{k+1} = A_k x_k + B_k u_k + c_k             (y_{k+1})
//                 lower_k <= C_k x_k + D_k u_k <= upper_k       (z_k), of the last stage C_N x_N
//                 boxes on u_k, k < N, and on x_k, k >= 1       (w_k)
//
//     Q_k x_k + S_k'u_k + q_k - y_k + A_k'y_{k+1} + C_k'z_k + w_x,k = 0,
//     S_k x_k + R_k u_k + r_k            + B_k'y_{k+1} + D_k'z_k + w_u,k = 0;
//     z_i > 0: upper bound active, z_i < 0: lower bound active (same for w).
//
// So y_0 is the gradient of the optimal cost by x0, and y_{k+1} that by c_k. Each stage's [Q S'; S R] is
// symmetric positive semidefinite. Where x0 is absent, x_0 is free: it has no y_0 and may have a box.
//
// Rows may be soft: row i of a stage, with slacks s_l, s_u >= 0 and weights w1, w2 >= 0 (slack_linear,
// slack_quadratic), reads
//
//     lower <= C x + D u + s_l - s_u <= upper,   cost w1 (s_l + s_u) + 1/2 w2 (s_l^2 + s_u^2),
//     w1 + w2 s_l + z >= 0, zero where s_l > 0;   w1 + w2 s_u - z >= 0, zero where s_u > 0.
//
// A weight that is absent is zero; where both are, the rows are hard, and so is a row of which one is infinite.
#pragma once

#include "qp_control/dense_batch.hpp"

namespace qp_control {

struct OcpDims {
  int horizon = 0;  // N
  int nx = 0, nu = 0;
  int rows = 0;           // of C_k and D_k, k < N
  int terminal_rows = 0;  // of C_N
  int stage_size() const { return nu + nx; }
  int rows_of(int k) const { return k < horizon ? rows : terminal_rows; }
};

// An array of stages of a batch: what belongs to stage k of element i stands at data + i * batch + (k - first) * stage.
// Stride 0: shared; nullptr: absent, as are stages before the first.
struct StageArray {
  const double* data = nullptr;
  long batch = 0, stage = 0;
  int first = 0;
  const double* at(int i, int k) const {
    return data == nullptr || k < first ? nullptr : data + i * batch + (k - first) * stage;
  }
  // Stage k of every element.
  BatchArray of_stage(int k) const { return {at(0, k), batch}; }
};

struct OcpBatch {
  OcpDims dims;
  int size = 0;
  StageArray Q, R, S, q, r;  // Q and q of the last stage too, unless Q_N and q_N are given
  StageArray Q_N, q_N;
  StageArray A, B, c;
  StageArray x0;
  StageArray C, D, lower, upper;
  StageArray C_N, lower_N, upper_N;
  StageArray x_lower, x_upper, u_lower, u_upper;
  StageArray slack_linear, slack_quadratic;
  StageArray slack_linear_N, slack_quadratic_N;

  bool fixed_start() const { return x0.data != nullptr; }
  const StageArray& state_cost(int k) const { return k == dims.horizon && Q_N.data != nullptr ? Q_N : Q; }
  const StageArray& state_slope(int k) const { return k == dims.horizon && q_N.data != nullptr ? q_N : q; }
  const StageArray& linear(int k) const { return k == dims.horizon ? slack_linear_N : slack_linear; }
  const StageArray& quadratic(int k) const { return k == dims.horizon ? slack_quadratic_N : slack_quadratic; }
  // Whether the rows of stage k may be soft.
  bool softens(int k) const { return linear(k).data != nullptr || quadratic(k).data != nullptr; }
};

}  // namespace qp_control
