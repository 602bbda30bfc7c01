#include "qp_control/ocp_adjoint.hpp"

#include "qp_control/indefinite_riccati.hpp"
#include "qp_control/lane_kkt_system.hpp"
#include "qp_control/stage_io.hpp"

namespace qp_control {

template <class Real>
struct OcpAdjoint<Real>::Workspace {
  explicit Workspace(const OcpBatch& batch)
      : kkt(batch),
        system(kkt, kkt.unknowns(), kkt.rows()),
        scaling(kkt.unknowns(), kkt.rows()),
        x(kkt.unknowns()),
        z(kkt.rows()),
        slope(kkt.unknowns()),
        rhs(kkt.unknowns(), kkt.rows()),
        q(kkt.unknowns(), kkt.rows()) {}

  static Real* entries(PackArray& a) { return reinterpret_cast<Real*>(a.data()); }
  void read(const OcpBatchSolution& from, int first, int last, PackArray& x, PackArray& z);

  IndefiniteRiccati<Real> kkt;
  LaneKktSystem<IndefiniteRiccati<Real>> system;
  Equilibration scaling;
  PackArray x, z;   // the solution
  PackArray slope;  // of the objective there
  LaneVector rhs, q;
  Mask able;
};

template <class Real>
void OcpAdjoint<Real>::Workspace::read(const OcpBatchSolution& from, int first, int last, PackArray& to_x,
                                       PackArray& to_z) {
  to_x.setConstant(Pack(0.0));
  to_z.setConstant(Pack(0.0));
  const auto into = [first, last](PackArray& to) {
    return [&to, first, last](const MutableBatchArray& array, int position, int size, int place) {
      read_piece(array, position, size, first, last, entries(to) + place);
    };
  };
  for_each_piece(kkt.layout(), from, into(to_x), into(to_z));
  for_each_slack(kkt.layout(), from, into(to_x));
}

template <class Real>
OcpAdjoint<Real>::OcpAdjoint(const OcpBatch& batch) : work_(std::make_unique<Workspace>(batch)) {}
template <class Real>
OcpAdjoint<Real>::~OcpAdjoint() = default;

template <class Real>
void OcpAdjoint<Real>::prepare(const OcpBatch& batch, int first, int last, const OcpBatchSolution& solution) {
  Workspace& w = *work_;
  Mask able = w.kkt.load(batch, first, last, w.scaling);
  for (int lane = 0; lane < lanes; ++lane) {
    const int i = std::is_same_v<Real, Pack> ? first + lane : first;
    if (i >= last || solution.status[i] != static_cast<int>(Status::SOLVED)) able.set(lane, false);
  }
  w.read(solution, first, last, w.x, w.z);
  w.kkt.slacks().complete(w.x, w.z);
  w.system.find_active(w.scaling, w.x, w.z);
  if (any(able)) able = able & w.system.factor();
  w.able = able;
}

template <class Real>
void OcpAdjoint<Real>::put(const OcpBatch& batch, int first, int last, const OcpBatchSolution& loss,
                           const OcpGradients& out, const CertificateBatch& certificate, bool* done) {
  Workspace& w = *work_;
  IndefiniteRiccati<Real>& kkt = w.kkt;
  for (int lane = 0; lane < last - first; ++lane) done[lane] = w.able[lane];
  if (!any(w.able)) return;

  w.read(loss, first, last, w.rhs.x, w.rhs.z);
  Real objective;
  read_piece(loss.objective, 0, 1, first, last, &objective);
  const Pack weight = objective, c = w.scaling.c;
  for (int j = 0; j < kkt.unknowns(); ++j) w.rhs.x[j] *= c * w.scaling.D[j];
  if (any(weight != Pack(0.0))) {
    // The slope of the objective has nothing of the dynamics' multipliers.
    for (int j = kkt.variables(); j < kkt.unknowns(); ++j) w.system.point[j] = 0.0;
    kkt.apply_hessian(w.system.point, w.slope);
    for (int j = 0; j < kkt.variables(); ++j) w.rhs.x[j] += weight * (w.slope[j] + kkt.g()[j]);
  }
  for (int i = 0; i < kkt.rows(); ++i) w.rhs.z[i] *= w.system.active[i] * w.scaling.E[i];
  const Pack residual = w.system.solve(w.rhs, w.q);
  for (int j = 0; j < kkt.unknowns(); ++j) w.q.x[j] *= w.scaling.D[j];
  for (int i = 0; i < kkt.rows(); ++i) w.q.z[i] *= w.scaling.E[i] / c;
  for (int lane = 0; lane < last - first; ++lane) {
    done[lane] = done[lane] && residual[lane] <= w.system.accepted;
    if (!done[lane]) continue;
    write_certificate({residual[lane], static_cast<int>(w.system.weakly_active[lane]), 0}, certificate, first + lane);
  }
  OcpAdjointPair<Real> pair;
  pair.v = {w.entries(w.x), w.entries(w.z)};
  pair.q = {w.entries(w.q.x), w.entries(w.q.z)};
  pair.side = w.entries(w.system.side);
  pair.objective = objective;
  pair.slacks = &kkt.slacks();
  add_gradients(kkt.layout(), batch, pair, first, last, done, out);
}

template class OcpAdjoint<Pack>;
template class OcpAdjoint<double>;

}  // namespace qp_control
