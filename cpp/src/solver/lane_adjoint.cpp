#include "qp_control/lane_adjoint.hpp"

#include <cstdint>
#include <limits>

#include "qp_control/active_set.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/lane_kernels.hpp"
#include "qp_control/lane_kkt.hpp"
#include "qp_control/lane_solver.hpp"

namespace qp_control {
namespace {

constexpr double mu = 1e-6, rho = 1e-6;  // of the regularised system, on equilibrated data
constexpr int refinement_steps = 12;
constexpr double exact = 1e-15, accepted = 1e-11;

// A point (x, z), a right-hand side or a residual.
struct LaneVector {
  LaneVector(int n, int rows) : x(n), z(rows) { fill(0.0); }
  void fill(Pack value) {
    x.setConstant(value);
    z.setConstant(value);
  }
  PackArray x, z;
};

Pack largest(const PackArray& a) {
  Pack out = 0.0, poison = 0.0;
  for (int i = 0; i < a.size(); ++i) {
    out = max(out, abs(a[i]));
    poison += a[i] * Pack(0.0);
  }
  return out + poison;
}

// Deterministic numbers in (-1, 1), the same in every lane (splitmix64).
void fill_random(PackArray& a, std::uint64_t& state) {
  for (Pack& entry : a) {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    entry = 2.0 * (double((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0 - 1.0;
  }
}

}  // namespace

struct LaneAdjoint::Workspace {
  explicit Workspace(const DenseBatch& batch)
      : dims(batch.dims),
        kkt(batch),
        scaling(kkt.n(), kkt.rows()),
        x(kkt.n()),
        z(kkt.rows()),
        side(kkt.rows()),
        active(kkt.rows()),
        weight(kkt.rows()),
        v(kkt.rows()),
        Hx(kkt.n()),
        gradient(kkt.n()),
        rhs(kkt.n(), kkt.rows()),
        q(kkt.n(), kkt.rows()),
        probe(kkt.n(), kkt.rows()),
        residual(kkt.n(), kkt.rows()),
        product(kkt.n(), kkt.rows()),
        block(std::max(kkt.n(), kkt.stored_rows()) * kkt.n()) {}

  void read(const DenseBatchSolution& from, int first, int last, PackArray& x, PackArray& z) const;
  void find_active();
  // product = K q
  void multiply_by_system(const LaneVector& q);
  // Solves K q = rhs; the residual relative to the size of its terms.
  Pack solve(const LaneVector& rhs, LaneVector& q);
  Mask regular();

  DenseDims dims;
  LaneKkt kkt;
  Equilibration scaling;
  PackArray x, z;          // the solution
  PackArray side, active;  // 1 upper bound, -1 lower bound, 0 inactive; its absolute value
  PackArray weight, v, Hx, gradient;
  Pack weakly_active;
  LaneVector rhs, q, probe, residual, product;
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

// On the caller's data, by the rules of active_rows() and solution_point().
void LaneAdjoint::Workspace::find_active() {
  const Pack zero = 0.0, one = 1.0;
  kkt.apply_rows(x, v);
  kkt.apply_hessian(x, Hx);
  Pack balance = 0.0;
  for (int j = 0; j < kkt.n(); ++j) {
    gradient[j] = Hx[j] + kkt.g()[j];
    balance = max(balance, max(abs(kkt.g()[j]), abs(Hx[j])));
  }
  weakly_active = 0.0;
  for (int i = 0; i < kkt.rows(); ++i) {
    const Pack lower = kkt.lower()[i], upper = kkt.upper()[i];
    const Mask equality = lower == upper;
    const auto meets = [&](Pack bound) {
      return finite(bound) & (abs(v[i] - bound) <= Pack(meets_bound) * (one + abs(bound)));
    };
    const Mask at_upper = meets(upper), at_lower = meets(lower);
    Pack s = select(((z[i] > zero) & finite(upper)) | equality, one, zero);
    s = select((z[i] < zero) & finite(lower), Pack(-1.0), s);
    s = select(at_upper ^ at_lower, select(at_upper, one, Pack(-1.0)), s);
    Pack row_size = 1.0;
    if (i < kkt.stored_rows()) {
      row_size = 0.0;
      for (int j = 0; j < kkt.n(); ++j) row_size = max(row_size, abs(kkt.row(i)[j]));
    }
    const Mask weak = (!equality) & (s != zero) & (abs(z[i]) * row_size <= Pack(weak_multiplier) * balance);
    weakly_active += select(weak, one, zero);
    side[i] = s;
    active[i] = abs(s);
    weight[i] = active[i] * Pack(1.0 / mu);
    z[i] *= active[i];
  }
}

void LaneAdjoint::Workspace::multiply_by_system(const LaneVector& q) {
  kkt.apply_hessian(q.x, product.x);
  kkt.add_rows_transposed(q.z, product.x);
  kkt.apply_rows(q.x, product.z);
  for (int i = 0; i < kkt.rows(); ++i) product.z[i] *= active[i];
}

Pack LaneAdjoint::Workspace::solve(const LaneVector& right, LaneVector& solution) {
  const double infinity = std::numeric_limits<double>::infinity();
  solution.fill(0.0);
  const Pack rhs_size = max(largest(right.x), largest(right.z));
  Pack last = infinity, best = infinity;
  Mask going = Mask::all(true);
  for (int k = 0; k <= refinement_steps; ++k) {
    multiply_by_system(solution);
    Pack error = 0.0, size = rhs_size;
    for (int j = 0; j < kkt.n(); ++j) {
      residual.x[j] = right.x[j] - product.x[j];
      error = max(error, abs(residual.x[j]));
      size = max(size, abs(solution.x[j]));  // rows and H are about one
    }
    for (int i = 0; i < kkt.rows(); ++i) {
      residual.z[i] = right.z[i] - product.z[i];
      error = max(error, abs(residual.z[i]));
      size = max(size, abs(solution.z[i]));
    }
    error = select(size > Pack(0.0), error / size, 0.0) + largest(residual.x) * Pack(0.0);
    best = select(going, error, best);
    going = going & (error > Pack(exact)) & (error < Pack(0.5) * last);
    if (!any(going)) break;
    last = error;
    // [H + rho I, R'; R, -mu I] (step, row_step) = residual
    for (int i = 0; i < kkt.rows(); ++i) product.z[i] = residual.z[i] * weight[i];
    product.x = residual.x;
    kkt.add_rows_transposed(product.z, product.x);
    kkt.solve(product.x);
    kkt.apply_rows(product.x, product.z);
    for (int j = 0; j < kkt.n(); ++j) solution.x[j] = select(going, solution.x[j] + product.x[j], solution.x[j]);
    for (int i = 0; i < kkt.rows(); ++i) {
      const Pack step = (product.z[i] - residual.z[i]) * weight[i];
      solution.z[i] = select(going, solution.z[i] + step, solution.z[i]);
    }
  }
  return best;
}

// Does a random vector survive K and its inverse?
Mask LaneAdjoint::Workspace::regular() {
  std::uint64_t state = 1;
  fill_random(probe.x, state);
  fill_random(probe.z, state);
  for (int i = 0; i < kkt.rows(); ++i) probe.z[i] *= active[i];
  multiply_by_system(probe);
  std::swap(product.x, q.x);
  std::swap(product.z, q.z);
  LaneVector& right = q;
  LaneVector& back = rhs;
  solve(right, back);
  Pack error = 0.0;
  for (int j = 0; j < kkt.n(); ++j) error = max(error, abs(back.x[j] - probe.x[j]));
  for (int i = 0; i < kkt.rows(); ++i) error = max(error, abs(back.z[i] - probe.z[i]));
  return error < Pack(1e-5);
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
  w.find_active();
  able = able & kkt.scale(w.scaling);
  if (any(able)) able = able & kkt.factor(w.weight, rho);
  if (any(able)) able = able & w.regular();
  for (int lane = 0; lane < last - first; ++lane) done[lane] = able[lane];
  if (!any(able)) return;

  w.read(loss, first, last, w.rhs.x, w.rhs.z);
  Pack objective;
  load_elements({loss.objective.data, loss.objective.stride}, first, last, 1, 0.0, &objective);
  const Pack c = w.scaling.c;
  for (int j = 0; j < n; ++j) w.rhs.x[j] = c * w.scaling.D[j] * (w.rhs.x[j] + objective * w.gradient[j]);
  for (int i = 0; i < kkt.rows(); ++i) w.rhs.z[i] *= w.active[i] * w.scaling.E[i];
  const Pack residual = w.solve(w.rhs, w.q);
  for (int j = 0; j < n; ++j) w.q.x[j] *= w.scaling.D[j];
  for (int i = 0; i < kkt.rows(); ++i) w.q.z[i] *= w.scaling.E[i] / c;
  for (int lane = 0; lane < last - first; ++lane) done[lane] = done[lane] && residual[lane] <= accepted;

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
    for (int j = 0; j < n; ++j) w.residual.x[j] = Pack(0.5) * (Pack(0.5) * objective * w.x[j] - w.q.x[j]);
    const PackArray& half = w.residual.x;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) w.block[i * n + j] = half[i] * w.x[j] + w.x[i] * half[j];
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
    for (int i = 0; i < count; ++i) w.block[i] = select(w.side[from + i] == Pack(of_side), w.q.z[from + i], 0.0);
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
    const DerivativeCertificate found{residual[lane], static_cast<int>(w.weakly_active[lane]), 0};
    write_certificate(found, certificate, first + lane);
  }
}

}  // namespace qp_control
