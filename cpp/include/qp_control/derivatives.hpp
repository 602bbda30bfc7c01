// Derivatives of the solution map: gradients of a loss with respect to the data from its gradients with respect to the
// outputs (adjoint), and changes of the outputs from changes of the data (tangent).
//
// With K and v = (x, eta, z, s) of kkt_system.hpp, the conditions at the solution are F(v, data) = 0 and dF/dv = K. So
//
//     tangent:  K dv = -(dK v + (dg, 0, -a dbound, 0)),
//     adjoint:  K q = L_v,  L_g = -q_x,  L_H = -(q_x x' + x q_x')/2,  L_bound = q_z,
//               L_R = -(z q_x' + q_z x' + omega (s q_eta' + q_s eta')).
//
// Rows on their bound with a multiplier of zero (weakly active) leave a choice:
//   least squares  they are rows of K; where that makes K singular, the minimum-norm least-squares solution
//   one-sided      they are left out: the derivative as they leave their bound
//   smoothed       complementarity is relaxed. With the slack t >= 0 and the multiplier z >= 0 of any inequality, the
//                  smoothed Fischer-Burmeister equation t + z = sqrt(t^2 + z^2 + 2 eps), which says t z = eps, is
//                  linearised at the exact solution: the row enters with the compliance
//                      delta = (t^2 + 2 eps)(r + t) / ((z^2 + 2 eps)(r + z)),   r = sqrt(t^2 + z^2 + 2 eps),
//                  1 on a weakly active row, about eps/z^2 on an active one, t^2/eps on an inactive one.
#pragma once

#include <optional>

#include "qp_control/dense_qp.hpp"
#include "qp_control/kkt_system.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// Force of a weakly active row, relative to the terms it balances.
constexpr double weak_multiplier = 1e-9;

enum class WeaklyActive : int { LEAST_SQUARES = 0, ONE_SIDED = 1, SMOOTHED = 2 };

struct DerivativeSettings {
  WeaklyActive weakly_active = WeaklyActive::LEAST_SQUARES;
  double smoothing = 1e-6;            // eps
  bool nan_without_solution = false;  // derivatives of elements without a solution: NaN, otherwise zero
  int threads = 0;
};

// v and the roles of the rows at a solution.
struct SolutionPoint {
  SolutionPoint(int n, int rows) : pattern(rows), v(n, rows) {}
  RowPattern pattern;
  KktVector v;
  LevelPointer level;              // of a shifted solution
  LevelPointer known;              // one that it may be
  std::optional<KeptFactor> kept;  // by the solve
  KktRoom room;
  int weakly_active = 0;  // rows on their bound with a multiplier of zero
};
void solution_point(const StackedQP& qp, const Solution& solution, const DerivativeSettings& settings,
                    SolutionPoint& out);

// Of a solution: a change, or the gradient of a loss. The shift s_eq of an equality is shift_upper - shift_lower.
struct OutputDerivative {
  OutputDerivative(int n, int rows) : x(n), z(rows), shift_lower(rows), shift_upper(rows) {}
  void fill(double value);
  Vector x, z, shift_lower, shift_upper;
  double objective = 0.0;
};

// Of the data; an H of size zero is not wanted. The right-hand side of an equality counts as its upper bound.
struct DataDerivative {
  DataDerivative(int n, int stored_rows)
      : H(n, n), g(n), R(stored_rows, n), lower(stored_rows + n), upper(stored_rows + n) {}
  void fill(double value);
  RowMatrix H;
  Vector g;
  RowMatrix R;
  Vector lower, upper;
};

struct DerivativeCertificate {
  double residual = 0.0;    // of the linear system, see KktSystem; NaN without a solution
  int weakly_active = 0;    // rows on their bound with a multiplier of zero
  int rank_deficiency = 0;  // of the system; above zero the derivative is the minimum-norm least-squares one
};

// `at` is room for the solution's point; used again, it spares what elements have in common. Both give zero, or NaN if
// the settings say so, where the solution is neither SOLVED nor CLOSEST_FEASIBLE.
DerivativeCertificate adjoint(const StackedQP& qp, const Solution& solution, const OutputDerivative& loss,
                              const DerivativeSettings& settings, DataDerivative& out, SolutionPoint& at);
DerivativeCertificate adjoint(const StackedQP& qp, const Solution& solution, const OutputDerivative& loss,
                              const DerivativeSettings& settings, DataDerivative& out);
DerivativeCertificate tangent(const StackedQP& qp, const Solution& solution, const DataDerivative& change,
                              const DerivativeSettings& settings, OutputDerivative& out, SolutionPoint& at);

}  // namespace qp_control
