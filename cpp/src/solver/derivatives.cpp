#include "qp_control/derivatives.hpp"

#include <cmath>
#include <vector>

#include "qp_control/active_set.hpp"
#include "qp_control/least_shift.hpp"

namespace qp_control {
namespace {

constexpr double accepted_residual = 1e-11;

// Solves K s = rhs for the active set of qp; rhs and s are given on all rows, in the order of the stacked list.
struct ActiveSolve {
  ActiveSolve(const StackedQP& qp, const Vector& x, const Vector& z)
      : qp(qp), active(active_rows(qp, x, z)), system(qp.n()), dz(Vector::Zero(qp.rows())) {
    set_active_system(qp, active, system, order);
    for (int i = 0; i < qp.rows(); ++i) weakly_active += active[i] != 0 && z[i] == 0.0 && !qp.is_equality(i);
  }

  void solve(const Vector& rhs_x, const Vector& rhs_rows) {
    const int stored = qp.stored_rows();
    ActiveVector rhs = system.zero(), s = system.zero();
    rhs.x = rhs_x;
    for (std::size_t k = 0; k < order.size(); ++k) rhs.rows[k] = rhs_rows[order[k]];
    for (std::size_t k = 0; k < system.fixed().size(); ++k) rhs.fixed[k] = rhs_rows[stored + system.fixed()[k]];

    residual = std::numeric_limits<double>::infinity();
    if (system.factor() && !system.singular()) residual = system.refine(rhs, s);
    if (!(residual <= accepted_residual)) {
      const ActiveVector ls = system.least_squares(rhs, &rank_deficiency);
      ActiveVector r = system.zero(), normal = system.zero(), none = system.zero();
      system.residual(rhs, ls, r);
      system.residual(none, r, normal);  // K is symmetric: -K'(rhs - K s)
      const double normal_residual = normal.norm() / std::max(1e-300, rhs.norm());
      if (rank_deficiency > 0 || !(residual <= normal_residual)) {
        s = ls;
        residual = normal_residual;
      }
    }
    dx = s.x;
    for (std::size_t k = 0; k < order.size(); ++k) dz[order[k]] = s.rows[k];
    for (std::size_t k = 0; k < system.fixed().size(); ++k) dz[stored + system.fixed()[k]] = s.fixed[k];
  }

  const StackedQP& qp;
  std::vector<int> active;
  ActiveSystem system;
  std::vector<int> order;
  Vector dx, dz;
  double residual = 0.0;
  int weakly_active = 0, rank_deficiency = 0;
};

void add_bound(Gradients& out, int row, int side, double value) { (side < 0 ? out.lower : out.upper)[row] += value; }

// H += (a b' + b a')/2, symmetric to the last bit.
void add_symmetric(const Vector& a, const Vector& b, RowMatrix& H) {
  const Matrix outer = 0.5 * a * b.transpose();
  H += outer + outer.transpose();
}

// The part that both modes share: objective, H, g and the rows of the active set. `offset` rows precede those of the
// caller's problem in qp.
void add_active_part(const StackedQP& qp, const Vector& x, const Vector& z, const ActiveSolve& solved, int offset,
                     Gradients& out) {
  const int stored = qp.stored_rows();
  out.g += solved.dx;
  add_symmetric(solved.dx, x, out.H);
  for (int i = offset; i < qp.rows(); ++i) {
    if (solved.active[i] == 0) continue;
    if (i < stored) out.R.row(i - offset) += (z[i] * solved.dx + solved.dz[i] * x).transpose();
    add_bound(out, i - offset, solved.active[i], -solved.dz[i]);
  }
  out.residual = solved.residual;
  out.weakly_active = solved.weakly_active;
  out.rank_deficiency = solved.rank_deficiency;
}

// Of an equality the shift's sign tells which of its two equal bounds is violated.
int violated_side(const LeastShift& level, int i) {
  const int side = level.shifted[i].side;
  return side != 0 ? side : (level.s[i] < 0.0 ? -1 : 1);
}

void adjoint_closest(const StackedQP& qp, const Solution& solution, const Vector& loss_x, const Cotangents& loss,
                     Gradients& out) {
  const Vector& x = solution.x;
  const LeastShift level = least_shift_of(qp, solution);
  const StackedQP reduced = level.reduced(qp);
  const Vector z = level.reduced_multipliers(solution.z);
  const int m = level.count(), r = level.rank();

  // Right-hand sides of the rows s and nu, in weighted units.
  Vector r_s(m), r_nu(m);
  for (int i = 0; i < m; ++i) {
    const int row = level.shifted[i].row;
    r_s[i] = (violated_side(level, i) < 0 ? loss.shift_lower[row] : -loss.shift_upper[row]) / level.root_weight[i];
    r_nu[i] = -loss.z[row] * level.root_weight[i];
  }
  Vector rhs_rows(reduced.rows());
  rhs_rows << level.Q.transpose() * r_nu, -loss.z;
  ActiveSolve solved(reduced, x, z);
  for (const auto& [row, side] : level.hard)
    if (side != 0) solved.active[r + row] = side;  // the second level leaves the sign of its multiplier free
  solved.solve(-loss_x + level.E.transpose() * r_s, rhs_rows);
  add_active_part(reduced, x, z, solved, r, out);

  const Vector nu = level.Q * z.head(r), q_theta = level.Q * solved.dz.head(r);
  const Vector dnu = q_theta - r_s, ds = level.E * solved.dx - r_nu;
  const Matrix E_null_pinv = pseudo_inverse(level.E_null, 1e-10);
  const Vector eta = E_null_pinv * nu, deta = E_null_pinv * q_theta;
  for (int i = 0; i < m; ++i) {
    const int row = level.shifted[i].row;
    const double w = level.root_weight[i];
    if (row < qp.stored_rows())
      out.R.row(row) += w * (nu[i] * solved.dx + dnu[i] * x + level.s[i] * deta + ds[i] * eta).transpose();
    add_bound(out, row, violated_side(level, i), -w * dnu[i]);
  }
  const Vector dpi = -level.F_pinv.transpose() * (level.E.transpose() * ds);
  for (std::size_t k = 0; k < level.hard.size(); ++k) {
    const int row = level.hard[k].row;
    if (row < qp.stored_rows()) out.R.row(row) += (level.multiplier[k] * deta + dpi[k] * eta).transpose();
  }
}

}  // namespace

void Gradients::set_zero() {
  H.setZero();
  g.setZero();
  R.setZero();
  lower.setZero();
  upper.setZero();
  residual = 0.0;
  weakly_active = rank_deficiency = 0;
}

void adjoint(const StackedQP& qp, const Solution& solution, const Cotangents& loss, Gradients& out) {
  out.set_zero();
  if (solution.status != Status::SOLVED && solution.status != Status::CLOSEST_FEASIBLE) return;
  const Vector& x = solution.x;
  Vector loss_x = loss.x;
  if (loss.objective != 0.0) {
    loss_x += loss.objective * (qp.H * x + qp.g);
    out.g += loss.objective * x;
    add_symmetric(0.5 * loss.objective * x, x, out.H);
  }
  if (solution.status == Status::CLOSEST_FEASIBLE) {
    adjoint_closest(qp, solution, loss_x, loss, out);
    return;
  }
  ActiveSolve solved(qp, x, solution.z);
  solved.solve(-loss_x, -loss.z);
  add_active_part(qp, x, solution.z, solved, 0, out);
}

}  // namespace qp_control
