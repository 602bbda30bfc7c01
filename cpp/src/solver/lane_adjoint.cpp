#include "qp_control/lane_adjoint.hpp"

#include <algorithm>

#include "qp_control/equilibration.hpp"
#include "qp_control/lane_kernels.hpp"
#include "qp_control/lane_kkt.hpp"
#include "qp_control/lane_kkt_system.hpp"
#include "qp_control/lane_solver.hpp"

namespace qp_control {
struct LaneAdjoint::Workspace {
  explicit Workspace(const DenseBatch& batch)
      : dims(batch.dims),
        kkt(batch),
        system(kkt, kkt.n(), kkt.rows()),
        scaling(kkt.n(), kkt.rows()),
        x(kkt.n()),
        z(kkt.rows()),
        half(kkt.n()),
        rhs(kkt.n(), kkt.rows()),
        q(kkt.n(), kkt.rows()),
        block(std::max(kkt.n(), kkt.stored_rows()) * kkt.n()) {}

  void read(const DenseBatchSolution& from, int first, int last, PackArray& x, PackArray& z) const;

  DenseDims dims;
  LaneKkt kkt;
  LaneKktSystem<LaneKkt> system;
  Equilibration scaling;
  PackArray x, z;  // the solution
  PackArray half;
  LaneVector rhs, q;
  PackArray block;  // of gradients, before they go to their elements
};

void LaneAdjoint::Workspace::read(const DenseBatchSolution& from, int first, int last, PackArray& to_x,
                                  PackArray& to_z) const {
  const auto field = [&](const MutableBatchArray& array, int size, Pack* to) {
    load_elements({array.data, array.stride}, first, last, size, 0.0, to);
  };
  field(from.x, dims.n, to_x.data());
  field(from.y, dims.n_eq, to_z.data());
  field(from.z, dims.n_in, to_z.data() + dims.n_eq);
  if (kkt.boxed()) field(from.w, dims.n, to_z.data() + kkt.stored_rows());
}

LaneAdjoint::LaneAdjoint(const DenseBatch& batch) : work_(std::make_unique<Workspace>(batch)) {}
LaneAdjoint::~LaneAdjoint() = default;

bool LaneAdjoint::suits(const DenseDims& dims, const DerivativeSettings& settings) {
  return LaneSolver::small(dims) && settings.weakly_active == WeaklyActive::LEAST_SQUARES;
}

void LaneAdjoint::put(const DenseBatch& batch, int first, int last, const DenseBatchSolution& solution,
                      const DenseBatchSolution& loss, const DataBatch& out, const CertificateBatch& certificate,
                      bool* done) {
  Workspace& w = *work_;
  LaneKkt& kkt = w.kkt;
  const int n = kkt.n(), stored = kkt.stored_rows();
  Mask able = kkt.load(batch, first, last);
  for (int lane = 0; lane < lanes; ++lane) {
    const bool solved = first + lane < last && solution.status[first + lane] == static_cast<int>(Status::SOLVED);
    if (!solved) able.set(lane, false);
  }
  w.read(solution, first, last, w.x, w.z);
  const double* kept = solution.kept.at(first);
  able = able & (kept != nullptr ? kkt.adopt(kept, w.scaling) : kkt.scale(w.scaling));
  w.system.find_active(w.scaling, w.x, w.z);
  if (any(able)) able = able & w.system.factor();
  for (int lane = 0; lane < last - first; ++lane) done[lane] = able[lane];
  if (!any(able)) return;

  w.read(loss, first, last, w.rhs.x, w.rhs.z);
  Pack objective;
  load_elements({loss.objective.data, loss.objective.stride}, first, last, 1, 0.0, &objective);
  const Pack c = w.scaling.c;
  for (int j = 0; j < n; ++j) w.rhs.x[j] = c * w.scaling.D[j] * w.rhs.x[j] + objective * w.system.slope[j];
  for (int i = 0; i < kkt.rows(); ++i) w.rhs.z[i] *= w.system.active[i] * w.scaling.E[i];
  const Pack residual = w.system.solve(w.rhs, w.q);
  for (int j = 0; j < n; ++j) w.q.x[j] *= w.scaling.D[j];
  for (int i = 0; i < kkt.rows(); ++i) w.q.z[i] *= w.scaling.E[i] / c;
  for (int lane = 0; lane < last - first; ++lane) done[lane] = done[lane] && residual[lane] <= w.system.accepted;

  const auto deliver = [&](const Pack* from, long size, const MutableBatchArray& array) {
    if (array.stride == 0) {
      for (int lane = 0; lane < last - first; ++lane)
        for (long k = 0; k < size && done[lane]; ++k) array.data[k] += from[k][lane];
      return;
    }
    double* to[lanes];
    for (int lane = 0; lane < lanes; ++lane)
      to[lane] = lane < last - first && done[lane] ? array.at(first + lane) : nullptr;
    store_lanes(from, size, to);
  };
  if (out.H.data != nullptr) {
    for (int j = 0; j < n; ++j) w.half[j] = Pack(0.5) * (Pack(0.5) * objective * w.x[j] - w.q.x[j]);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) w.block[i * n + j] = w.half[i] * w.x[j] + w.x[i] * w.half[j];
    deliver(w.block.data(), long(n) * n, out.H);
  }
  if (out.g.data != nullptr) {
    for (int j = 0; j < n; ++j) w.block[j] = objective * w.x[j] - w.q.x[j];
    deliver(w.block.data(), n, out.g);
  }
  const auto deliver_rows = [&](int from, int count, const MutableBatchArray& array) {
    if (array.data == nullptr) return;
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < n; ++j) w.block[i * n + j] = -(w.z[from + i] * w.q.x[j] + w.q.z[from + i] * w.x[j]);
    deliver(w.block.data(), long(count) * n, array);
  };
  const int n_eq = batch.dims.n_eq, n_in = batch.dims.n_in;
  deliver_rows(0, n_eq, out.A);
  deliver_rows(n_eq, n_in, out.C);
  const auto deliver_bounds = [&](int from, int count, double of_side, const MutableBatchArray& array) {
    if (array.data == nullptr) return;
    for (int i = 0; i < count; ++i) w.block[i] = select(w.system.side[from + i] == Pack(of_side), w.q.z[from + i], 0.0);
    deliver(w.block.data(), count, array);
  };
  if (out.b.data != nullptr) deliver(w.q.z.data(), n_eq, out.b);
  deliver_bounds(n_eq, n_in, -1.0, out.l);
  deliver_bounds(n_eq, n_in, 1.0, out.u);
  if (kkt.boxed()) {
    deliver_bounds(stored, n, -1.0, out.lb);
    deliver_bounds(stored, n, 1.0, out.ub);
  }
  for (int lane = 0; lane < last - first; ++lane) {
    if (!done[lane]) continue;
    const DerivativeCertificate found{residual[lane], static_cast<int>(w.system.weakly_active[lane]), 0};
    write_certificate(found, certificate, first + lane);
  }
}

}  // namespace qp_control
