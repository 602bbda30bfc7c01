// Where the stages stand in the loop's vectors. A vector of unknowns is (w_0 .. w_N, s_0 .. s_N, y_0 .. y_N), w_k =
// (u_k, x_k), s_k = (s_l, s_u) the slacks of soft rows: primal and dual unknowns of the dynamics side by side. u_N is
// there for the sake of regularity and is zero. A vector of rows is stage by stage: rows, then the box of that part of
// w_k, from bounded_first on, that has boxes, then that of s_k.
//
// Real: Pack where every lane has a problem of its own, double for one problem, whose blocks then begin at a register's
// boundary and are filled up with zeros.
#pragma once

#include <algorithm>
#include <type_traits>

#include "qp_control/ocp_qp.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

template <class Real>
struct OcpLayout {
  explicit OcpLayout(const OcpBatch& batch)
      : N(batch.dims.horizon),
        nx(batch.dims.nx),
        nu(batch.dims.nu),
        n(batch.dims.stage_size()),
        stride(pad(n)),
        costate_stride(pad(nx)),
        stage_rows(batch.dims.rows),
        terminal_rows(batch.dims.terminal_rows),
        boxed_u(batch.u_lower.data != nullptr || batch.u_upper.data != nullptr),
        boxed_x(batch.x_lower.data != nullptr || batch.x_upper.data != nullptr),
        bounded_first(boxed_u ? 0 : nu),
        bounded(std::max(0, (boxed_x ? n : nu) - bounded_first)),
        soft_rows(batch.softens(0) ? stage_rows : 0),
        soft_terminal_rows(batch.softens(N) ? terminal_rows : 0) {}

  static int pad(int size) { return std::is_same_v<Real, Pack> ? size : padded(size); }
  // Numbers to packs.
  static int in_packs(int size) { return std::is_same_v<Real, Pack> ? size : packs(size); }

  int w(int k) const { return k * stride; }
  int u(int k) const { return w(k); }
  int x(int k) const { return w(k) + nu; }
  int slack_lower(int k) const { return w(N + 1) + k * 2 * pad(soft_rows); }
  int slack_upper(int k) const { return slack_lower(k) + pad(soft_count(k)); }
  int y(int k) const { return variables() + k * costate_stride; }
  int variables() const { return slack_upper(N) + pad(soft_terminal_rows); }
  int unknowns() const { return y(N + 1); }

  int row_count(int k) const { return k < N ? stage_rows : terminal_rows; }
  int soft_count(int k) const { return k < N ? soft_rows : soft_terminal_rows; }
  bool soft() const { return soft_rows + soft_terminal_rows > 0; }
  int row(int k) const { return k * (pad(stage_rows) + pad(bounded) + 2 * pad(soft_rows)); }
  int box(int k) const { return row(k) + pad(row_count(k)); }
  int box_of_x(int k) const { return box(k) + nu - bounded_first; }
  int box_of_slacks_lower(int k) const { return box(k) + pad(bounded); }
  int box_of_slacks_upper(int k) const { return box_of_slacks_lower(k) + pad(soft_count(k)); }
  int rows() const { return box_of_slacks_upper(N) + pad(soft_terminal_rows); }

  int N, nx, nu, n, stride, costate_stride, stage_rows, terminal_rows;
  bool boxed_u, boxed_x;
  int bounded_first, bounded;
  int soft_rows, soft_terminal_rows;  // those that may be soft
};

}  // namespace qp_control
