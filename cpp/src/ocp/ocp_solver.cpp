#include "qp_control/ocp_solver.hpp"

#include <algorithm>
#include <limits>

#include "qp_control/lane_judge.hpp"
#include "qp_control/ocp_residuals.hpp"
#include "qp_control/ocp_start.hpp"
#include "qp_control/riccati_kkt.hpp"
#include "qp_control/stage_io.hpp"

namespace qp_control {
namespace {

constexpr int most_steps = 100;
constexpr double negligible = 1e-5;  // a change of slacks, relative to the tolerance

// Of inequalities, from the size of the equilibrated Hessians, at most one. The dynamics tie the bounds of regulators
// to each other, and their active set is found in half to three quarters of the steps that the soft start of a dense QP
// takes. Where linear terms are so large that the Hessians are small beside them, multipliers are large, and a stiff
// start leads nowhere. (The power: by trial.)
Pack start_mu(Pack size) { return min(Pack(1.0), Pack(1e-3) / (size * size * size)); }

}  // namespace

template <class Real>
struct OcpSolver<Real>::Workspace {
  explicit Workspace(const OcpBatch& batch)
      : kkt(batch),
        scaling(kkt.unknowns(), kkt.rows()),
        iterate(kkt.unknowns(), kkt.rows()),
        penalties(kkt.rows()),
        x(kkt.unknowns()),
        z(kkt.rows()),
        room(kkt.unknowns(), kkt.rows()),
        gradient(batch.dims) {
    x.setConstant(Pack(0.0));
    z.setConstant(Pack(0.0));
  }

  Mask read_start(const OcpBatchSolution& from, int first, int last);
  void write_point(const OcpBatchSolution& out, int first, int last, Mask which) const;

  RiccatiKkt<Real> kkt;
  Equilibration scaling;
  Iterate iterate;
  Penalties penalties;
  PackArray x, z;
  FarkasRoom room;
  OcpGradientRoom gradient;
};

template <class Real>
Mask OcpSolver<Real>::Workspace::read_start(const OcpBatchSolution& from, int first, int last) {
  auto &x0 = iterate.x, &z0 = iterate.z;
  x0.setConstant(Pack(0.0));
  z0.setConstant(Pack(0.0));
  const auto into = [&](PackArray& to) {
    return [&, first, last](const MutableBatchArray& array, int position, int size, int place) {
      read_piece(array, position, size, first, last, reinterpret_cast<Real*>(to.data()) + place);
    };
  };
  for_each_piece(kkt.layout(), from, into(x0), into(z0));
  kkt.slacks().complete(x0, z0);
  Pack poison = 0.0;
  for (const PackArray* a : {&x0, &z0})
    for (const Pack& entry : *a) poison += entry * Pack(0.0);
  const Mask usable = finite(kkt.sum(poison));
  for (int j = 0; j < x0.size(); ++j) x0[j] = select(usable, x0[j] / scaling.D[j], 0.0);
  kkt.start_cold(iterate.z_center);
  for (int i = 0; i < z0.size(); ++i) z0[i] = select(usable, scaling.c * z0[i] / scaling.E[i], iterate.z_center[i]);
  if (kkt.layout().soft()) {
    kkt.apply_rows(x0, iterate.v);
    kkt.slacks().start(iterate.v, kkt.lower(), kkt.upper(), z0, x0);
  }
  return usable;
}

template <class Real>
void OcpSolver<Real>::Workspace::write_point(const OcpBatchSolution& out, int first, int last, Mask which) const {
  const auto from = [&](const PackArray& source) {
    return [&, first, last, which](const MutableBatchArray& array, int position, int size, int place) {
      write_piece(reinterpret_cast<const Real*>(source.data()) + place, size, array, position, first, last, which);
    };
  };
  for_each_piece(kkt.layout(), out, from(x), from(z));
  for_each_slack(kkt.layout(), out, from(x));
}

template <class Real>
OcpSolver<Real>::OcpSolver(const OcpBatch& batch) : work_(std::make_unique<Workspace>(batch)) {}
template <class Real>
OcpSolver<Real>::~OcpSolver() = default;

template <class Real>
bool OcpSolver<Real>::solve(const OcpBatch& batch, int first, int last, const Settings& settings,
                            const Deadline& deadline, bool warm, const OcpBatchSolution& out) {
  Workspace& work = *work_;
  RiccatiKkt<Real>& kkt = work.kkt;
  Mask able = kkt.load(batch, first, last, work.scaling);
  if constexpr (width() > 1)
    for (int lane = last - first; lane < lanes; ++lane) able.set(lane, false);
  work.penalties.first_mu = start_mu(kkt.hessian_size() * work.scaling.c);
  work.penalties.reset(kkt.lower(), kkt.upper());
  Mask settle = Mask::all(false);
  if (warm) {
    settle = work.read_start(out, first, last);
  } else {
    work.iterate.x.setConstant(Pack(0.0));
    kkt.start_cold(work.iterate.z);
  }
  LaneJudge<RiccatiKkt<Real>> judge(kkt, work.scaling, work.penalties, settings, deadline, able, work.x, work.z,
                                    work.room);
  if (any(able)) {
    obey_dynamics(kkt, work.penalties, able, work.iterate);
    work.penalties.settling = settle | within_bounds(kkt, work.iterate);
    work.penalties.apply();
    augmented_lagrangian(kkt, judge, work.penalties, std::min(most_steps, settings.max_iter), work.iterate,
                         work.iterate.z);
  }
  const Mask found = judge.solved | judge.unsure;
  if (kkt.layout().soft()) {
    // What has changed the residuals is judged again.
    const Mask moved = judge.solved & (kkt.slacks().tidy(work.x, work.z) > Pack(negligible * settings.eps_abs));
    judge.solved = judge.solved & !moved;
    judge.unsure = judge.unsure | moved;
  }
  work.write_point(out, first, last, found);
  for (int i = first; i < last; ++i) {
    const int lane = i - first;
    Residuals r;
    r.primal = judge.primal[lane];
    r.dual = judge.dual[lane];
    r.gap = judge.gap[lane];
    r.objective = judge.objective[lane];
    bool solved = judge.solved[lane];
    if (judge.unsure[lane]) {
      r = ocp_residuals(batch, i, out, work.gradient);
      solved = r.within(settings);
    }
    const Status failure = !kkt.valid()[lane]    ? Status::INVALID_INPUT
                           : !kkt.convex()[lane] ? Status::NON_CONVEX
                                                 : Status::MAX_ITER;
    out.status[i] = static_cast<long long>(solved ? Status::SOLVED : failure);
    out.iterations[i] = able[lane] ? static_cast<long long>(judge.steps[lane]) + 1 : 0;
    if (!solved) continue;
    *out.objective.at(i) = r.objective;
    *out.primal_residual.at(i) = r.primal;
    *out.dual_residual.at(i) = r.dual;
    *out.duality_gap.at(i) = std::abs(r.gap);
  }
  return kkt.symmetric();
}

template class OcpSolver<Pack>;
template class OcpSolver<double>;

}  // namespace qp_control
