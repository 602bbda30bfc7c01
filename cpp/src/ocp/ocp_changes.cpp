#include "qp_control/ocp_changes.hpp"

#include <utility>

#include "qp_control/stage_io.hpp"

namespace qp_control {
namespace {

// Reads the change of one argument at one stage after another.
template <class Real>
class Change {
 public:
  Change(int first, int last, Real* room) : first_(first), last_(last), room_(room) {}
  // nullptr: none.
  const Real* of(const StageArray& array, int k, long size) {
    if (array.data == nullptr) return nullptr;
    read_stage(array.of_stage(k), first_, last_, size, 0.0, room_);
    return room_;
  }

 private:
  int first_, last_;
  Real* room_;
};

// to -= M x, and other -= M'y.
template <class Real>
void subtract(const Real* M, int rows, int cols, const Real* x, Real* to, const Real* y, Real* other) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) {
      to[i] -= M[i * cols + j] * x[j];
      other[j] -= M[i * cols + j] * y[i];
    }
}

// to -= (M + M')/2 x
template <class Real>
void subtract_symmetric(const Real* M, int n, const Real* x, Real* to) {
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) to[i] -= Real(0.5) * (M[i * n + j] + M[j * n + i]) * x[j];
}

}  // namespace

template <class Real>
Real read_change(OcpSystem<Real>& at, const OcpBatch& batch, const OcpBatch& change, int first, int last) {
  using Vector = typename OcpSystem<Real>::Vector;
  const OcpLayout<Real>& place = at.layout();
  const int N = place.N, nx = place.nx, nu = place.nu;
  Change<Real> changes(first, last, at.entries(at.block));
  Vector& rhs = at.rhs;
  for (PackArray* a : {&rhs.unknowns, &rhs.rows, &rhs.level_unknowns, &rhs.level_rows, &at.gap})
    a->setConstant(Pack(0.0));
  const auto in = [&at](PackArray& a) { return at.entries(a); };
  Real *r = in(rhs.unknowns), *r_z = in(rhs.rows);
  const Real *p = in(at.v.unknowns), *z = in(at.v.rows), *side = at.entries(at.side());
  Real objective = 0.0;

  // The cost comes first: nothing else is in r yet.
  const auto symmetric = [&](const StageArray& M, int k, int a, int n) {
    if (const Real* dM = changes.of(M, k, long(n) * n)) subtract_symmetric(dM, n, p + a, r + a);
  };
  for (int k = 0; k <= N; ++k) {
    symmetric(k == N && batch.Q_N.data != nullptr ? change.Q_N : change.Q, k, place.x(k), nx);
    if (k == N) break;
    symmetric(change.R, k, place.u(k), nu);
    if (const Real* dS = changes.of(change.S, k, long(nu) * nx))
      subtract(dS, nu, nx, p + place.x(k), r + place.u(k), p + place.u(k), r + place.x(k));
  }
  const auto weights = [&](const StageArray& array, int k, bool quadratic) {
    const int count = place.soft_count(k);
    if (count == 0) return;
    const Real* dw = changes.of(array, k, count);
    if (dw == nullptr) return;
    const Real* soft = at.slacks().soft(place.slack_lower(k));
    for (const int slack : {place.slack_lower(k), place.slack_upper(k)})
      for (int i = 0; i < count; ++i)
        r[slack + i] -= select(soft[i] > Real(0.0), quadratic ? dw[i] * p[slack + i] : dw[i], Real(0.0));
  };
  const auto linear = [&](const StageArray& array, int k, int a, int n) {
    if (const Real* dg = changes.of(array, k, n))
      for (int i = 0; i < n; ++i) r[a + i] -= dg[i];
  };
  const auto along_solution = [&](Real factor) {
    for (int j = 0; j < place.variables(); ++j) objective -= factor * r[j] * p[j];
  };
  for (int k = 0; k <= N; ++k) weights(k == N ? change.slack_quadratic_N : change.slack_quadratic, k, true);
  along_solution(-0.5);  // of these only half
  for (int k = 0; k <= N; ++k) {
    weights(k == N ? change.slack_linear_N : change.slack_linear, k, false);
    linear(k == N && batch.q_N.data != nullptr ? change.q_N : change.q, k, place.x(k), nx);
    if (k < N) linear(change.r, k, place.u(k), nu);
  }
  along_solution(1.0);

  // Rows whose multipliers and right-hand sides stand at `a` of these, and that are made of the unknowns at b.
  const auto rows = [&](const StageArray& array, int k, const Real* multipliers, Real* to, PackArray Vector::* level,
                        int a, int count, int b, int cols) {
    const Real* dM = changes.of(array, k, long(count) * cols);
    if (dM == nullptr) return;
    subtract(dM, count, cols, p + b, to + a, multipliers + a, r + b);
    if (!at.shifts()) return;
    Real* of_level = in(rhs.*level);
    subtract(dM, count, cols, at.entries(at.v.level_unknowns) + b, of_level + a, at.entries(at.v.*level) + a,
             in(rhs.level_unknowns) + b);
  };
  const auto bounds = [&](const StageArray& lower, const StageArray& upper, int k, int a, int count) {
    for (const auto& [array, of_side] : {std::pair{&lower, -1.0}, std::pair{&upper, 1.0}})
      if (const Real* d = changes.of(*array, k, count))
        for (int i = 0; i < count; ++i) {
          const Real share = bound_share(side[a + i], of_side);
          r_z[a + i] += select(share > Real(0.0), share * d[i], Real(0.0));
          if (at.shifts() && any(side[a + i] == Real(both_sides))) in(at.gap)[a + i] -= Real(0.5 * of_side) * d[i];
        }
  };
  constexpr auto of_dynamics = &Vector::level_unknowns, of_rows = &Vector::level_rows;
  if (change.fixed_start()) linear(change.x0, 0, place.y(0), nx);
  for (int k = 0; k <= N; ++k) {
    const int x = place.x(k), u = place.u(k), row = place.row(k);
    if (place.boxed_x && (k > 0 || !batch.fixed_start()))
      bounds(change.x_lower, change.x_upper, k, place.box_of_x(k), nx);
    if (k == N) {
      rows(change.C_N, k, z, r_z, of_rows, row, place.terminal_rows, x, nx);
      bounds(change.lower_N, change.upper_N, k, row, place.terminal_rows);
      break;
    }
    linear(change.c, k, place.y(k + 1), nx);
    rows(change.A, k, p, r, of_dynamics, place.y(k + 1), nx, x, nx);
    rows(change.B, k, p, r, of_dynamics, place.y(k + 1), nx, u, nu);
    rows(change.C, k, z, r_z, of_rows, row, place.stage_rows, x, nx);
    rows(change.D, k, z, r_z, of_rows, row, place.stage_rows, u, nu);
    bounds(change.lower, change.upper, k, row, place.stage_rows);
    if (place.boxed_u) bounds(change.u_lower, change.u_upper, k, place.box(k), nu);
  }
  return objective;
}

template Pack read_change(OcpSystem<Pack>&, const OcpBatch&, const OcpBatch&, int, int);
template double read_change(OcpSystem<double>&, const OcpBatch&, const OcpBatch&, int, int);

}  // namespace qp_control
