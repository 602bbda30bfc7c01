#include "qp_control/lane_solver.hpp"

#include <limits>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/lane_judge.hpp"
#include "qp_control/lane_kernels.hpp"
#include "qp_control/lane_kkt.hpp"

namespace qp_control {
namespace {

constexpr int most_steps = 80;

using Judge = LaneJudge<LaneKkt>;

void store(const Pack* from, long size, int lane, double* to) {
  if (to != nullptr) store_lane(from, size, lane, to);
}

void store(const Pack* from, long size, int lane, signed char* to) {
  for (long k = 0; k < size && to != nullptr; ++k) to[k] = static_cast<signed char>(from[k][lane]);
}

template <class Number>
void fill(Number value, long size, Number* to) {
  if (to != nullptr) std::fill_n(to, size, value);
}

}  // namespace

struct LaneSolver::Workspace {
  explicit Workspace(const DenseBatch& batch)
      : dims(batch.dims),
        kkt(batch),
        scaling(dims.n, kkt.rows()),
        iterate(dims.n, kkt.rows()),
        penalties(kkt.rows()),
        x(dims.n),
        z(kkt.rows()),
        room(dims.n, kkt.rows()) {}

  // The active set of the point at which the loop has left each lane, to iterate.active, by the rule of DenseSolver.
  void find_active();
  void load_start(const DenseBatchSolution& from, int first, int last);
  void write(const DenseBatchSolution& out, const Judge& judge, int lane, int element) const;

  DenseDims dims;
  bool loaded = false;
  LaneKkt kkt;
  Equilibration scaling;
  Iterate iterate;
  Penalties penalties;
  PackArray x, z;
  FarkasRoom room;
};

void LaneSolver::Workspace::load_start(const DenseBatchSolution& from, int first, int last) {
  const auto read = [&](const MutableBatchArray& array, int size, Pack* to) {
    load_elements({array.data, array.stride}, first, last, size, 0.0, to);
  };
  auto &x0 = iterate.x, &z0 = iterate.z;
  read(from.x, dims.n, x0.data());
  read(from.y, dims.n_eq, z0.data());
  read(from.z, dims.n_in, z0.data() + dims.n_eq);
  if (kkt.boxed()) read(from.w, dims.n, z0.data() + dims.n_eq + dims.n_in);
  iterate.active = z0;
  if (from.start_in.data != nullptr)
    load_elements(from.start_in, first, last, dims.n_in, 0.0, iterate.active.data() + dims.n_eq);
  if (from.start_box.data != nullptr && kkt.boxed())
    load_elements(from.start_box, first, last, dims.n, 0.0, iterate.active.data() + dims.n_eq + dims.n_in);
  const Mask usable = all_finite(x0.data(), x0.size()) & all_finite(z0.data(), z0.size()) &
                      all_finite(iterate.active.data(), iterate.active.size());
  for (int j = 0; j < x0.size(); ++j) x0[j] = select(usable, x0[j] / scaling.D[j], 0.0);
  for (int i = 0; i < z0.size(); ++i) {
    z0[i] = select(usable, scaling.c * z0[i] / scaling.E[i], 0.0);
    iterate.active[i] = select(usable, iterate.active[i], 0.0);
  }
  // The active set of the start is as good as one that has repeated itself.
  penalties.settling = usable;
  penalties.apply();
}

void LaneSolver::Workspace::find_active() {
  for (int i = 0; i < kkt.rows(); ++i) {
    const Pack nearer = select(iterate.v[i] - kkt.lower()[i] < kkt.upper()[i] - iterate.v[i], Pack(-1.0), 1.0);
    iterate.active[i] = select(iterate.z[i] != Pack(0.0), nearer, 0.0);
  }
}

void LaneSolver::Workspace::write(const DenseBatchSolution& out, const Judge& judge, int lane, int k) const {
  const auto [n, n_eq, n_in] = dims;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  store(x.data(), n, lane, out.x.at(k));
  store(z.data(), n_eq, lane, out.y.at(k));
  store(z.data() + n_eq, n_in, lane, out.z.at(k));
  if (kkt.boxed())
    store(z.data() + n_eq + n_in, n, lane, out.w.at(k));
  else
    fill(0.0, n, out.w.at(k));
  store(iterate.active.data() + n_eq, n_in, lane, out.active_in.at(k));
  if (kkt.boxed())
    store(iterate.active.data() + n_eq + n_in, n, lane, out.active_box.at(k));
  else
    fill(static_cast<signed char>(0), n, out.active_box.at(k));
  fill(0.0, n_eq, out.s_eq.at(k));
  fill(0.0, n_in, out.s_lower.at(k));
  fill(0.0, n_in, out.s_upper.at(k));
  fill(0.0, n, out.s_lb.at(k));
  fill(0.0, n, out.s_ub.at(k));
  fill(nan, n, out.certificate_x.at(k));
  fill(nan, n_eq, out.certificate_y.at(k));
  fill(nan, n_in, out.certificate_z.at(k));
  fill(nan, n, out.certificate_w.at(k));
  store(&judge.objective, 1, lane, out.objective.at(k));
  store(&judge.primal, 1, lane, out.primal_residual.at(k));
  store(&judge.dual, 1, lane, out.dual_residual.at(k));
  store(&judge.gap, 1, lane, out.duality_gap.at(k));
  out.status[k] = static_cast<long long>(Status::SOLVED);
  out.iterations[k] = static_cast<long long>(judge.steps[lane]);
}

LaneSolver::LaneSolver(const DenseBatch& batch) : work_(std::make_unique<Workspace>(batch)) {}
LaneSolver::~LaneSolver() = default;

int LaneSolver::width() { return lanes; }

bool LaneSolver::suits(const DenseDims& dims, const Settings& settings) {
  return small(dims) && settings.max_iter > most_steps;
}

bool LaneSolver::small(const DenseDims& dims) { return dims.n > 0 && dims.n <= 24 && dims.n_eq + dims.n_in <= 128; }

bool LaneSolver::solve(const DenseBatch& batch, int first, int last, const Settings& settings, const Deadline& deadline,
                       bool warm, const DenseBatchSolution& out, bool* solved) {
  Workspace& work = *work_;
  const bool shared_matrices = batch.H.stride == 0 && batch.A.stride == 0 && batch.C.stride == 0;
  Mask able;
  if (shared_matrices && work.loaded) {
    able = work.kkt.load_vectors(batch, first, last, work.scaling);
  } else {
    able = work.kkt.load(batch, first, last);
    able = able & work.kkt.scale(work.scaling);
    work.loaded = true;
  }
  for (int lane = last - first; lane < lanes; ++lane) able.set(lane, false);
  work.penalties.reset(work.kkt.lower(), work.kkt.upper());
  if (warm) {
    work.load_start(out, first, last);
  } else {
    work.iterate.x.setConstant(Pack(0.0));
    work.iterate.z.setConstant(Pack(0.0));
    work.iterate.active.setConstant(Pack(0.0));
  }
  Judge judge(work.kkt, work.scaling, work.penalties, settings, deadline, able, work.x, work.z, work.room);
  if (any(able)) {
    augmented_lagrangian(work.kkt, judge, work.penalties, most_steps, work.iterate, work.iterate.active);
    work.find_active();
  }
  if (out.kept.data != nullptr) work.kkt.keep(work.scaling, judge.solved, work.penalties.settling, out.kept.at(first));
  for (int lane = 0; lane < last - first; ++lane) {
    solved[lane] = judge.solved[lane];
    if (solved[lane]) work.write(out, judge, lane, first + lane);
  }
  return work.kkt.symmetric();
}

}  // namespace qp_control
