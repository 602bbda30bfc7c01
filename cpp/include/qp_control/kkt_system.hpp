// The linear system behind every derivative of a solution. Derivatives of any order, forward and backward, are
// products of the data with vectors and solves with this one symmetric matrix.
//
// A solution in closest-feasible mode satisfies, with R = [A; C; I] and i over its rows,
//
//     H x + g + R'z = 0,            sum_i omega_i s_i R_i = 0,
//     R_i x - t_i s_i = bound_i,    omega_i R_i eta - t_i z_i = 0       on the rows of the system,
//
// where t_i = 1 on shifted rows (s_i their shift, omega_i its weight), and of the others only hard rows that hold the
// shift back have omega_i = 1 (s_i their multiplier in the first level, least_shift.hpp). z_i is 0 on rows outside the
// system, s_i where omega_i = 0. The left-hand sides are the gradient of a Lagrangian in (x, eta, z, s), so their
// matrix K is symmetric:
//
//     K (x, eta, z, s) = (H x + R'z,  R'(omega s),  a (R x) - t s - delta z,  omega (R eta) - t z),
//
// a = 1 on the rows of the system. Of a feasible solution only x and z are left, K = [H G'; G 0]. delta is the
// compliance of smoothed rows (derivatives.hpp), otherwise 0.
//
// The idea of differentiating a shifted problem there: Bambade et al., "Leveraging augmented-Lagrangian techniques for
// differentiating over infeasible quadratic programs in machine learning", ICLR 2024.
#pragma once

#include <optional>
#include <vector>

#include "qp_control/active_system.hpp"
#include "qp_control/dense_qp.hpp"
#include "qp_control/least_shift.hpp"

namespace qp_control {

// A point, a right-hand side, or a derivative of either; z and s have an entry for every row of R.
struct KktVector {
  KktVector(int n, int rows) : x(Vector::Zero(n)), eta(Vector::Zero(n)), z(Vector::Zero(rows)), s(Vector::Zero(rows)) {}
  Vector x, eta, z, s;
};

// What each row does in the system.
struct RowPattern {
  explicit RowPattern(int rows)
      : active(Vector::Zero(rows)),
        shifted(Vector::Zero(rows)),
        weight(Vector::Zero(rows)),
        lower_share(Vector::Zero(rows)),
        compliance(Vector::Zero(rows)) {}
  void clear();

  Vector active;       // a: 1 on the rows of the system
  Vector shifted;      // t: 1 on shifted rows
  Vector weight;       // omega
  Vector lower_share;  // bound = lower_share * lower + (1 - lower_share) * upper; 1/2 where both are shifted
  Vector compliance;   // delta
};

// Memory for one system after another.
struct KktRoom {
  // Where rows are shifted or compliant: the second level, with one more variable for each compliant row.
  std::optional<StackedQP> extended;
  bool without_compliance = false;  // no rows of the extension are compliant
  std::vector<int> slot;            // of row i, in the stacked list of what is solved
  std::vector<int> in_system, order;
  std::optional<ActiveSystem> system;
};

class KktSystem {
 public:
  // Of qp only the matrices are read; all arguments must outlive the system. `level` and what the solve has kept may be
  // given where they are known.
  KktSystem(const StackedQP& qp, const RowPattern& pattern, KktRoom& room, LevelPointer level = nullptr,
            const KeptFactor* kept = nullptr);
  KktSystem(const KktSystem&) = delete;

  // Solves K out = rhs; where K is singular the minimum-norm least-squares solution. One factorisation for all calls.
  void solve(const KktVector& rhs, KktVector& out);

  // Of the solves so far: the largest residual relative to the size of its terms (least squares: of its normal
  // equations), and the rank deficiency.
  double residual() const { return residual_; }
  int rank_deficiency() const { return rank_deficiency_; }

 private:
  const StackedQP& extend(const StackedQP& qp);
  bool adopt(const KeptFactor& kept);
  void factor();
  ActiveVector solve_active(const ActiveVector& rhs);

  const RowPattern& pattern_;
  const LevelPointer differentiable_level_;  // of the shifted rows
  const LeastShift* level_ = nullptr;
  KktRoom& room_;
  const StackedQP* solved_;  // the problem, or its extension
  bool regular_ = false, adopted_ = false;
  double residual_ = 0.0;
  int rank_deficiency_ = 0;
};

}  // namespace qp_control
