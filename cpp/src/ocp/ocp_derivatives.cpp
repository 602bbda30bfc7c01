#include "qp_control/ocp_derivatives.hpp"

#include "qp_control/ocp_changes.hpp"
#include "qp_control/stage_io.hpp"

namespace qp_control {
namespace {

// Whose systems are to be solved; false: nobody's.
template <class Real>
bool begin(const OcpSystem<Real>& at, int first, int last, bool* done) {
  for (int lane = 0; lane < last - first; ++lane) done[lane] = at.able()[lane];
  return any(at.able());
}

// Who has been answered.
template <class Real>
Mask end(const OcpSystem<Real>& at, int first, int last, Pack residual, const CertificateBatch& certificate,
         bool* done) {
  Mask answered = Mask::all(false);
  for (int lane = 0; lane < last - first; ++lane) {
    done[lane] = done[lane] && residual[lane] <= at.accepted;
    if (!done[lane]) continue;
    answered.set(lane, true);
    write_certificate({residual[lane], static_cast<int>(at.weakly_active()[lane]), 0}, certificate, first + lane);
  }
  return answered;
}

// The loss by the shifts, as one by s: with the gap of the bounds of rows on both sides, shifts are s + gap / 2 of
// upper bounds and -s + gap / 2 of lower ones.
template <class Real>
void read_shift_loss(OcpSystem<Real>& at, const OcpBatchSolution& loss, int first, int last) {
  PackArray &lower = at.rhs.rows, &upper = at.rhs.level_rows, &unknowns = at.rhs.unknowns;
  at.read(lower_shifts(loss), first, last, unknowns, lower);
  at.read(upper_shifts(loss), first, last, unknowns, upper);
  for (int k = 0; k < upper.size(); ++k) {
    const Pack side = at.side()[k], low = select(bound_share(side, -1.0) > Pack(0.0), lower[k], 0.0);
    const Pack high = select(bound_share(side, 1.0) > Pack(0.0), upper[k], 0.0);
    at.gap[k] = select(side == Pack(both_sides), Pack(0.5) * (low + high), 0.0);
    upper[k] = at.shifted()[k] * (high - low);
  }
  at.rhs.level_unknowns.setConstant(Pack(0.0));
}

}  // namespace

template <class Real>
void differentiate(OcpSystem<Real>& at, const OcpBatch& batch, int first, int last, const OcpLoss& loss, bool* done) {
  if (!begin(at, first, last, done)) return;
  if (at.shifts()) read_shift_loss(at, loss.fields, first, last);
  at.read(loss.fields, first, last, at.rhs.unknowns, at.rhs.rows);
  Real objective;
  read_piece(loss.fields.objective, 0, 1, first, last, &objective);
  const Pack weight = objective;
  if (any(weight != Pack(0.0))) {
    const PackArray& slope = at.slope();
    for (int j = 0; j < slope.size(); ++j) at.rhs.unknowns[j] += weight * slope[j];
  }
  end(at, first, last, at.solve(), loss.certificate, done);
  const auto entries = [&at](const PackArray& a) { return a.size() > 0 ? at.entries(a) : nullptr; };
  OcpAdjointPair<Real> pair;
  pair.v = {entries(at.v.unknowns), entries(at.v.rows)};
  pair.q = {entries(at.q.unknowns), entries(at.q.rows)};
  pair.level_v = {entries(at.v.level_unknowns), entries(at.v.level_rows)};
  pair.level_q = {entries(at.q.level_unknowns), entries(at.q.level_rows)};
  pair.side = entries(at.side());
  pair.of_shifts = entries(at.gap);
  pair.objective = objective;
  pair.slacks = &at.slacks();
  add_gradients(at.layout(), batch, pair, first, last, done, loss.gradients);
}

template <class Real>
void differentiate(OcpSystem<Real>& at, const OcpBatch& batch, int first, int last, const OcpChange& change,
                   bool* done) {
  if (!begin(at, first, last, done)) return;
  Real objective = read_change(at, batch, change.data, first, last);
  const Mask answered = end(at, first, last, at.solve(), change.certificate, done);
  at.write(at.q.unknowns, at.q.rows, change.fields, first, last, answered);
  const Real *slope = at.entries(at.slope()), *moved = at.entries(at.q.unknowns);
  for (int j = 0; j < at.layout().variables(); ++j) objective += slope[j] * moved[j];
  write_piece(&objective, 1, change.fields.objective, 0, first, last, answered);

  PackArray& rows = at.rhs.rows;
  const auto write_shifts = [&](double side, const OcpBatchSolution& to) {
    rows.setConstant(Pack(0.0));
    for (int k = 0; k < rows.size() && at.shifts(); ++k)
      rows[k] = select(bound_share(at.side()[k], side) > Pack(0.0),
                       Pack(side) * at.shifted()[k] * at.q.level_rows[k] + at.gap[k], 0.0);
    at.write(at.q.unknowns, rows, to, first, last, answered);
  };
  write_shifts(-1.0, lower_shifts(change.fields));
  write_shifts(1.0, upper_shifts(change.fields));
}

template <class Real>
void solve(OcpSystem<Real>& at, int first, int last, const OcpRightHandSide& side, bool* done) {
  if (!begin(at, first, last, done)) return;
  at.read(side.rhs.point, first, last, at.rhs.unknowns, at.rhs.rows);
  if (at.shifts()) at.read(side.rhs.level, first, last, at.rhs.level_unknowns, at.rhs.level_rows);
  const Mask answered = end(at, first, last, at.solve(), {}, done);
  at.write(at.q.unknowns, at.q.rows, side.q.point, first, last, answered);
  if (at.shifts()) at.write(at.q.level_unknowns, at.q.level_rows, side.q.level, first, last, answered);
}

template <class Real>
void write_point(const OcpSystem<Real>& at, int first, int last, const OcpSystemArrays& v, const OcpRoles& roles) {
  at.write(at.v.unknowns, at.v.rows, v.point, first, last, at.able());
  if (at.shifts()) at.write(at.v.level_unknowns, at.v.level_rows, v.level, first, last, at.able());
  PackArray rows = at.side();
  const auto where = [&](double side, const OcpBatchSolution& to) {
    for (int k = 0; k < rows.size(); ++k) rows[k] = bound_share(at.side()[k], side);
    at.write(at.v.unknowns, rows, to, first, last, at.able());
  };
  where(-1.0, roles.lower);
  where(1.0, roles.upper);
  at.write(at.v.unknowns, at.shifted(), roles.shifted, first, last, at.able());
}

template void differentiate(OcpSystem<Pack>&, const OcpBatch&, int, int, const OcpLoss&, bool*);
template void differentiate(OcpSystem<double>&, const OcpBatch&, int, int, const OcpLoss&, bool*);
template void differentiate(OcpSystem<Pack>&, const OcpBatch&, int, int, const OcpChange&, bool*);
template void differentiate(OcpSystem<double>&, const OcpBatch&, int, int, const OcpChange&, bool*);
template void solve(OcpSystem<Pack>&, int, int, const OcpRightHandSide&, bool*);
template void solve(OcpSystem<double>&, int, int, const OcpRightHandSide&, bool*);
template void write_point(const OcpSystem<Pack>&, int, int, const OcpSystemArrays&, const OcpRoles&);
template void write_point(const OcpSystem<double>&, int, int, const OcpSystemArrays&, const OcpRoles&);

}  // namespace qp_control
