#include "qp_control/ocp_adjoint.hpp"

#include <algorithm>
#include <vector>

#include "qp_control/indefinite_riccati.hpp"
#include "qp_control/lane_kkt_system.hpp"
#include "qp_control/stage_io.hpp"

namespace qp_control {
namespace {

void add_piece(const Pack* from, long size, const StageGradient& to, int k, int first, int last, const bool* which) {
  for (int i = first; i < last; ++i) {
    if (!which[i - first]) continue;
    double* at = to.at(i, k);
    for (long j = 0; j < size; ++j) at[j] += from[j][i - first];
  }
}
void add_piece(const double* from, long size, const StageGradient& to, int k, int first, int, const bool* which) {
  double* at = to.at(first, k);
  for (long j = 0; j < size && which[0]; ++j) at[j] += from[j];
}

// Collects the gradient of one argument over the stages, in lanes where all stages share it.
template <class Real>
class Collector {
 public:
  Collector(const StageGradient& to, long size, int first, int last, const bool* which)
      : to_(to), size_(size), first_(first), last_(last), which_(which) {
    if (to.data != nullptr && to.stage == 0) sum_.assign(size, Real(0.0));
  }
  bool wanted() const { return to_.data != nullptr; }
  void add(int k, const Real* block) {
    if (sum_.empty())
      add_piece(block, size_, to_, k, first_, last_, which_);
    else
      for (long j = 0; j < size_; ++j) sum_[j] += block[j];
  }
  void finish() {
    if (!sum_.empty()) add_piece(sum_.data(), size_, to_, to_.first, first_, last_, which_);
  }

 private:
  const StageGradient& to_;
  long size_;
  int first_, last_;
  const bool* which_;
  std::vector<Real> sum_;
};

}  // namespace

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
        q(kkt.unknowns(), kkt.rows()) {
    const auto& at = kkt.layout();
    block.resize(std::max({at.nx, at.nu, at.stage_rows, at.terminal_rows}) * std::max({at.nx, at.nu, 1}));
  }

  static Real* entries(PackArray& a) { return reinterpret_cast<Real*>(a.data()); }
  void read(const OcpBatchSolution& from, int first, int last, PackArray& x, PackArray& z);
  void differentiate(const OcpBatch& batch, const Real& objective, int first, int last, const OcpGradients& out,
                     const bool* done);

  IndefiniteRiccati<Real> kkt;
  LaneKktSystem<IndefiniteRiccati<Real>> system;
  Equilibration scaling;
  PackArray x, z;   // the solution
  PackArray slope;  // of the objective there
  LaneVector rhs, q;
  std::vector<Real> block;
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
void OcpAdjoint<Real>::put(const OcpBatch& batch, int first, int last, const OcpBatchSolution& solution,
                           const OcpBatchSolution& loss, const OcpGradients& out, const CertificateBatch& certificate,
                           bool* done) {
  Workspace& w = *work_;
  IndefiniteRiccati<Real>& kkt = w.kkt;
  Mask able = kkt.load(batch, first, last, w.scaling);
  for (int lane = 0; lane < lanes; ++lane) {
    const int i = std::is_same_v<Real, Pack> ? first + lane : first;
    if (i >= last || solution.status[i] != static_cast<int>(Status::SOLVED)) able.set(lane, false);
  }
  w.read(solution, first, last, w.x, w.z);
  kkt.slacks().complete(w.x, w.z);
  w.system.find_active(w.scaling, w.x, w.z);
  if (any(able)) able = able & w.system.factor();
  for (int lane = 0; lane < last - first; ++lane) done[lane] = able[lane];
  if (!any(able)) return;

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
  w.differentiate(batch, objective, first, last, out, done);
}

template <class Real>
void OcpAdjoint<Real>::Workspace::differentiate(const OcpBatch& batch, const Real& objective, int first, int last,
                                                const OcpGradients& out, const bool* done) {
  const auto& at = kkt.layout();
  const int N = at.N, nx = at.nx, nu = at.nu;
  Real *p = entries(x), *d = entries(q.x), *m = entries(z), *dm = entries(q.z), *side = entries(system.side);
  Real* const to = block.data();
  const auto collect = [&](const StageGradient& gradient, long size) {
    return Collector<Real>(gradient, size, first, last, done);
  };
  auto Q = collect(out.Q, nx * nx), R = collect(out.R, nu * nu), S = collect(out.S, nu * nx);
  auto q_ = collect(out.q, nx), r = collect(out.r, nu);
  auto Q_N = collect(out.Q_N, nx * nx), q_N = collect(out.q_N, nx);
  auto A = collect(out.A, nx * nx), B = collect(out.B, nx * nu), c = collect(out.c, nx), x0 = collect(out.x0, nx);
  auto C = collect(out.C, at.stage_rows * nx), D = collect(out.D, at.stage_rows * nu);
  auto lower = collect(out.lower, at.stage_rows), upper = collect(out.upper, at.stage_rows);
  auto C_N = collect(out.C_N, at.terminal_rows * nx);
  auto lower_N = collect(out.lower_N, at.terminal_rows), upper_N = collect(out.upper_N, at.terminal_rows);
  auto x_lower = collect(out.x_lower, nx), x_upper = collect(out.x_upper, nx);
  auto u_lower = collect(out.u_lower, nu), u_upper = collect(out.u_upper, nu);
  auto slack_linear = collect(out.slack_linear, at.stage_rows);
  auto slack_quadratic = collect(out.slack_quadratic, at.stage_rows);
  auto slack_linear_N = collect(out.slack_linear_N, at.terminal_rows);
  auto slack_quadratic_N = collect(out.slack_quadratic_N, at.terminal_rows);

  // -(d_a b' + a d_b') plus objective / 2 times the sum of both products: of the cost's blocks, scaled by `share`.
  const auto cost = [&](Collector<Real>& sum, int k, int a, int rows, int b, int cols, double share) {
    if (!sum.wanted()) return;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < cols; ++j) {
        const Real half_a = Real(0.5) * objective * p[a + i] - d[a + i],
                   half_b = Real(0.5) * objective * p[b + j] - d[b + j];
        to[i * cols + j] = Real(share) * (half_a * p[b + j] + p[a + i] * half_b);
      }
    sum.add(k, to);
  };
  const auto linear = [&](Collector<Real>& sum, int k, int a, int size) {
    if (!sum.wanted()) return;
    for (int i = 0; i < size; ++i) to[i] = objective * p[a + i] - d[a + i];
    sum.add(k, to);
  };
  // Of rows with multipliers y and their derivatives dy.
  const auto rows = [&](Collector<Real>& sum, int k, const Real* y, const Real* dy, int count, int b, int cols) {
    if (!sum.wanted()) return;
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < cols; ++j) to[i * cols + j] = -(y[i] * d[b + j] + dy[i] * p[b + j]);
    sum.add(k, to);
  };
  const auto constants = [&](Collector<Real>& sum, int k, int a, int size) {
    if (!sum.wanted()) return;
    for (int i = 0; i < size; ++i) to[i] = -d[a + i];
    sum.add(k, to);
  };
  const auto bounds = [&](Collector<Real>& low, Collector<Real>& high, int k, int a, int size) {
    for (auto [sum, of_side] : {std::pair{&low, -1.0}, std::pair{&high, 1.0}}) {
      if (!sum->wanted()) continue;
      for (int i = 0; i < size; ++i) to[i] = select(side[a + i] == Real(of_side), dm[a + i], 0.0);
      sum->add(k, to);
    }
  };

  // The weights of a row are the cost of both its slacks.
  const auto slacks = [&](Collector<Real>& linear, Collector<Real>& quadratic, int k) {
    const int count = at.soft_count(k), low = at.slack_lower(k), high = at.slack_upper(k);
    const auto slope = [&](int j) { return objective * p[j] - d[j]; };
    const auto curvature = [&](int j) { return p[j] * (Real(0.5) * objective * p[j] - d[j]); };
    for (int i = 0; i < count; ++i) to[i] = kkt.slacks().soft(low)[i] * (slope(low + i) + slope(high + i));
    if (linear.wanted() && count > 0) linear.add(k, to);
    for (int i = 0; i < count; ++i) to[i] = kkt.slacks().soft(low)[i] * (curvature(low + i) + curvature(high + i));
    if (quadratic.wanted() && count > 0) quadratic.add(k, to);
  };

  for (int k = 0; k <= N; ++k) {
    const int u = at.u(k), s = at.x(k);
    const bool ends = k == N;
    cost(ends && batch.Q_N.data != nullptr ? Q_N : Q, k, s, nx, s, nx, 0.5);
    linear(ends && batch.q_N.data != nullptr ? q_N : q_, k, s, nx);
    if (at.boxed_x && (k > 0 || !batch.fixed_start())) bounds(x_lower, x_upper, k, at.box_of_x(k), nx);
    if (ends) {
      rows(C_N, k, m + at.row(k), dm + at.row(k), at.terminal_rows, s, nx);
      bounds(lower_N, upper_N, k, at.row(k), at.terminal_rows);
      slacks(slack_linear_N, slack_quadratic_N, k);
      continue;
    }
    cost(R, k, u, nu, u, nu, 0.5);
    cost(S, k, u, nu, s, nx, 1.0);
    linear(r, k, u, nu);
    rows(A, k, p + at.y(k + 1), d + at.y(k + 1), nx, s, nx);
    rows(B, k, p + at.y(k + 1), d + at.y(k + 1), nx, u, nu);
    constants(c, k, at.y(k + 1), nx);
    rows(C, k, m + at.row(k), dm + at.row(k), at.stage_rows, s, nx);
    rows(D, k, m + at.row(k), dm + at.row(k), at.stage_rows, u, nu);
    bounds(lower, upper, k, at.row(k), at.stage_rows);
    slacks(slack_linear, slack_quadratic, k);
    if (at.boxed_u) bounds(u_lower, u_upper, k, at.box(k), nu);
  }
  if (batch.fixed_start()) constants(x0, 0, at.y(0), nx);
  for (Collector<Real>* sum : {&Q,
                               &R,
                               &S,
                               &q_,
                               &r,
                               &Q_N,
                               &q_N,
                               &A,
                               &B,
                               &c,
                               &x0,
                               &C,
                               &D,
                               &lower,
                               &upper,
                               &C_N,
                               &lower_N,
                               &upper_N,
                               &x_lower,
                               &x_upper,
                               &u_lower,
                               &u_upper,
                               &slack_linear,
                               &slack_quadratic,
                               &slack_linear_N,
                               &slack_quadratic_N})
    sum->finish();
}

template class OcpAdjoint<Pack>;
template class OcpAdjoint<double>;

}  // namespace qp_control
