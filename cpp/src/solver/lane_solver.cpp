#include "qp_control/lane_solver.hpp"

#include <limits>
#include <vector>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/judgement.hpp"
#include "qp_control/lane_kernels.hpp"

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double infinite_bound = 1e20;
constexpr int most_steps = 80;

// The KKT back end in lanes: M = H + rho I + rows' diag(weight) rows is kept up to date by the rows whose weight has
// changed in any lane (the others add zero), and factored afresh.
class LaneKkt {
 public:
  LaneKkt(int n, int stored_rows, bool has_hessian, bool boxed)
      : H(has_hessian ? n * n : 0),
        g_(n),
        R(stored_rows * n),
        lower_(stored_rows + (boxed ? n : 0)),
        upper_(lower_.size()),
        n_(n),
        stored_(stored_rows),
        boxed_(boxed),
        regularisation_(n),
        M_(n * n),
        L_(n * n),
        inverse_diagonal_(n),
        weight_(lower_.size()),
        weighted_(stored_rows * n),
        changed_(stored_rows),
        scaled_(stored_rows) {}

  int n() const { return n_; }
  int rows() const { return stored_ + (boxed_ ? n_ : 0); }
  const PackArray& g() const { return g_; }
  static Pack sum(Pack partial) { return partial; }
  static Pack max(Pack partial) { return partial; }
  static Mask all(Mask partial) { return partial; }
  const PackArray& lower() const { return lower_; }
  const PackArray& upper() const { return upper_; }
  // Equilibrates the data. False: H is not positive semidefinite.
  Mask scale(Equilibration& scaling) {
    const Mask is_convex = convex();
    scaling.scale<Pack>({n_, stored_, n_, boxed_, H.size() > 0 ? H.data() : nullptr, g_.data(), R.data(), lower_.data(),
                         upper_.data()});
    for (int j = 0; j < n_; ++j) regularisation_[j] *= scaling.c * scaling.D[j] * scaling.D[j];
    assembled_ = false;
    return is_convex;
  }

  Mask factor(const PackArray& weight, double rho) {
    bool changes = !assembled_;
    if (!assembled_) assemble(rho);
    int count = 0;
    for (int i = 0; i < stored_; ++i) {
      if (!any(weight[i] != weight_[i])) continue;
      const Pack change = weight[i] - weight_[i];
      const Pack* row = R.data() + i * n_;
      Pack* to = weighted_.data() + count * n_;
      for (int j = 0; j < n_; ++j) to[j] = change * row[j];
      changed_[count] = row;
      scaled_[count++] = to;
      weight_[i] = weight[i];
    }
    changes |= count > 0;
    if (count > 0) add_outer_products(count, scaled_.data(), changed_.data(), M_.data(), n_);
    for (int j = 0; j < n_ && boxed_; ++j) {
      if (!any(weight[stored_ + j] != weight_[stored_ + j])) continue;
      M_[j * n_ + j] += weight[stored_ + j] - weight_[stored_ + j];
      weight_[stored_ + j] = weight[stored_ + j];
      changes = true;
    }
    if (changes) definite_ = cholesky(M_.data(), L_.data(), inverse_diagonal_.data(), n_);
    return definite_;
  }
  void solve(PackArray& rhs) const { cholesky_solve(L_.data(), inverse_diagonal_.data(), n_, rhs.data()); }

  void apply_hessian(const PackArray& x, PackArray& out) const {
    if (H.size() > 0)
      multiply(H.data(), n_, n_, x.data(), out.data());
    else
      out.setConstant(Pack(0.0));
  }
  void apply_rows(const PackArray& x, PackArray& v) const {
    multiply(R.data(), stored_, n_, x.data(), v.data());
    for (int j = 0; j < n_ && boxed_; ++j) v[stored_ + j] = x[j];
  }
  void add_rows_transposed(const PackArray& z, PackArray& out) const {
    add_transposed(R.data(), stored_, n_, n_, z.data(), out.data());
    for (int j = 0; j < n_ && boxed_; ++j) out[j] += z[stored_ + j];
  }

  PackArray H, g_, R, lower_, upper_;  // equilibrated

 private:
  // Is H positive semidefinite, up to rounding? Sets regularisation_.
  Mask convex() {
    regularisation_.setConstant(Pack(0.0));
    if (H.size() == 0) return Mask::all(true);
    const Mask definite = cholesky(H.data(), L_.data(), inverse_diagonal_.data(), n_);
    if (qp_control::all(definite)) return definite;
    Pack size = 0.0;
    for (int k = 0; k < H.size(); ++k) size = qp_control::max(size, abs(H[k]));
    const Pack regularisation = select(definite, 0.0, Pack(convexity_tolerance) * size);
    M_ = H;
    for (int j = 0; j < n_; ++j) {
      regularisation_[j] = regularisation;
      M_[j * n_ + j] += regularisation;
    }
    return cholesky(M_.data(), L_.data(), inverse_diagonal_.data(), n_);
  }

  void assemble(double rho) {
    if (H.size() > 0)
      M_ = H;
    else
      M_.setConstant(Pack(0.0));
    for (int j = 0; j < n_; ++j) M_[j * n_ + j] += Pack(rho) + regularisation_[j];
    weight_.setConstant(Pack(0.0));
    assembled_ = true;
  }

  int n_, stored_;
  bool boxed_;
  PackArray regularisation_, M_, L_, inverse_diagonal_, weight_, weighted_;
  std::vector<const Pack*> changed_, scaled_;
  Mask definite_;
  bool assembled_ = false;
};

// Lets go of the lanes that are solved and of those that fail.
class LaneJudge {
 public:
  LaneJudge(const LaneKkt& kkt, const Equilibration& scaling, const Penalties& penalties, const Settings& settings,
            const Deadline& deadline, Mask able, PackArray& x, PackArray& z)
      : x(x),
        z(z),
        kkt_(kkt),
        scaling_(scaling),
        penalties_(penalties),
        settings_(settings),
        deadline_(deadline),
        able_(able) {
    now_.restart();
  }

  Mask start() const { return able_; }
  Mask stagnates() const { return now_.stagnates; }
  double tolerance() const { return std::min(1e-10, 0.1 * settings_.eps_abs); }
  bool expired() const { return deadline_.passed(); }
  void interrupted(const Iterate&, Mask) const {}
  Mask failed(Mask which, Mask going) const { return going & !which; }

  Mask outer(const Iterate& it, Mask arrived, Mask going) {
    now_.look(kkt_, scaling_, settings_, it, penalties_, arrived);
    const Mask ends = arrived & now_.finished;
    solved = solved | ends;
    if (!any(ends)) return going;
    for (int j = 0; j < kkt_.n(); ++j) x[j] = select(ends, it.x[j] * scaling_.D[j], x[j]);
    for (int i = 0; i < kkt_.rows(); ++i) z[i] = select(ends, it.z[i] * scaling_.E[i] / scaling_.c, z[i]);
    objective = select(ends, now_.objective, objective);
    primal = select(ends, now_.primal, primal);
    dual = select(ends, now_.dual, dual);
    gap = select(ends, now_.gap, gap);
    steps = select(ends, double(it.steps), steps);
    return going & !ends;
  }

  Mask solved = Mask::all(false);
  PackArray &x, &z;
  Pack objective = 0.0, primal = 0.0, dual = 0.0, gap = 0.0, steps = 0.0;

 private:
  const LaneKkt& kkt_;
  const Equilibration& scaling_;
  const Penalties& penalties_;
  const Settings& settings_;
  const Deadline& deadline_;
  Mask able_;
  Judgement now_;
};

// Entry k of every lane's element; shared data is read once.
void load(const BatchArray& array, int first, int last, long size, double missing, Pack* out) {
  if (array.data == nullptr) {
    std::fill_n(out, size, Pack(missing));
  } else if (array.stride == 0) {
    load_shared(array.data, size, out);
  } else {
    const double* from[lanes];
    for (int lane = 0; lane < lanes; ++lane) from[lane] = array.at(std::min(first + lane, last - 1));
    load_lanes(from, size, out);
  }
}

Mask all_finite(const Pack* values, long size) {
  Pack poison = 0.0;
  for (long k = 0; k < size; ++k) poison += values[k] * Pack(0.0);
  return finite(poison);
}

void store(const Pack* from, long size, int lane, double* to) {
  if (to != nullptr) store_lane(from, size, lane, to);
}

void fill(double value, long size, double* to) {
  if (to != nullptr) std::fill_n(to, size, value);
}

}  // namespace

struct LaneSolver::Workspace {
  explicit Workspace(const DenseBatch& batch)
      : dims(batch.dims),
        boxed(batch.lb.data != nullptr || batch.ub.data != nullptr),
        kkt(dims.n, dims.n_eq + dims.n_in, batch.H.data != nullptr, boxed),
        scaling(dims.n, kkt.rows()),
        iterate(dims.n, kkt.rows()),
        penalties(kkt.rows()),
        x(dims.n),
        z(kkt.rows()) {}

  // False in the lanes whose data make no problem, or one whose bounds cross.
  Mask load_problem(const DenseBatch& batch, int first, int last);
  Mask load_weights(const DenseBatch& batch, int first, int last);
  void load_start(const DenseBatchSolution& from, int first, int last);
  void write(const DenseBatchSolution& out, const LaneJudge& judge, int lane, int element) const;

  DenseDims dims;
  bool boxed;
  LaneKkt kkt;
  Equilibration scaling;
  Iterate iterate;
  Penalties penalties;
  PackArray x, z;
};

Mask LaneSolver::Workspace::load_problem(const DenseBatch& batch, int first, int last) {
  const auto [n, n_eq, n_in] = dims;
  load(batch.H, first, last, kkt.H.size(), 0.0, kkt.H.data());
  for (int i = 0; i < n && kkt.H.size() > 0; ++i)
    for (int j = 0; j < i; ++j) kkt.H[i * n + j] = kkt.H[j * n + i] = Pack(0.5) * (kkt.H[i * n + j] + kkt.H[j * n + i]);
  load(batch.g, first, last, n, 0.0, kkt.g_.data());
  load(batch.A, first, last, long(n_eq) * n, 0.0, kkt.R.data());
  load(batch.C, first, last, long(n_in) * n, 0.0, kkt.R.data() + n_eq * n);
  Pack *lower = kkt.lower_.data(), *upper = kkt.upper_.data();
  load(batch.b, first, last, n_eq, 0.0, lower);
  load(batch.b, first, last, n_eq, 0.0, upper);
  load(batch.l, first, last, n_in, -infinity, lower + n_eq);
  load(batch.u, first, last, n_in, infinity, upper + n_eq);
  if (boxed) {
    load(batch.lb, first, last, n, -infinity, lower + n_eq + n_in);
    load(batch.ub, first, last, n, infinity, upper + n_eq + n_in);
  }
  Mask able = all_finite(kkt.H.data(), kkt.H.size()) & all_finite(kkt.g_.data(), n) &
              all_finite(kkt.R.data(), kkt.R.size()) & all_finite(lower, n_eq);
  const Pack large = infinite_bound;
  for (int i = n_eq; i < kkt.rows(); ++i) {
    able = able & (lower[i] < large) & (upper[i] > -large) & (lower[i] <= upper[i]);
    lower[i] = select(lower[i] <= -large, -infinity, lower[i]);
    upper[i] = select(upper[i] >= large, infinity, upper[i]);
  }
  return able & load_weights(batch, first, last);
}

// Weights mean nothing to a feasible problem, but must be valid.
Mask LaneSolver::Workspace::load_weights(const DenseBatch& batch, int first, int last) {
  Mask able = Mask::all(true);
  const auto check = [&](const BatchArray& weight, int size) {
    for (int i = 0; i < size && weight.data != nullptr; ++i) {
      const BatchArray one{weight.data + i, weight.stride};
      Pack w;
      load(one, first, last, 1, 1.0, &w);
      able = able & (w > Pack(0.0));
    }
  };
  check(batch.weight_eq, dims.n_eq);
  check(batch.weight_in, dims.n_in);
  check(batch.weight_box, dims.n);
  return able;
}

void LaneSolver::Workspace::load_start(const DenseBatchSolution& from, int first, int last) {
  const auto read = [&](const MutableBatchArray& array, int size, Pack* to) {
    load({array.data, array.stride}, first, last, size, 0.0, to);
  };
  auto &x0 = iterate.x, &z0 = iterate.z;
  read(from.x, dims.n, x0.data());
  read(from.y, dims.n_eq, z0.data());
  read(from.z, dims.n_in, z0.data() + dims.n_eq);
  if (boxed) read(from.w, dims.n, z0.data() + dims.n_eq + dims.n_in);
  const Mask usable = all_finite(x0.data(), x0.size()) & all_finite(z0.data(), z0.size());
  for (int j = 0; j < x0.size(); ++j) x0[j] = select(usable, x0[j] / scaling.D[j], 0.0);
  for (int i = 0; i < z0.size(); ++i) z0[i] = select(usable, scaling.c * z0[i] / scaling.E[i], 0.0);
  // The active set of the start is as good as one that has repeated itself.
  penalties.settling = usable;
  penalties.apply();
}

void LaneSolver::Workspace::write(const DenseBatchSolution& out, const LaneJudge& judge, int lane, int k) const {
  const auto [n, n_eq, n_in] = dims;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  store(x.data(), n, lane, out.x.at(k));
  store(z.data(), n_eq, lane, out.y.at(k));
  store(z.data() + n_eq, n_in, lane, out.z.at(k));
  if (boxed)
    store(z.data() + n_eq + n_in, n, lane, out.w.at(k));
  else
    fill(0.0, n, out.w.at(k));
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
  return dims.n > 0 && dims.n <= 48 && dims.n_eq + dims.n_in <= 128 && settings.max_iter > most_steps;
}

void LaneSolver::solve(const DenseBatch& batch, int first, int last, const Settings& settings, const Deadline& deadline,
                       bool warm, const DenseBatchSolution& out, bool* solved) {
  Workspace& work = *work_;
  Mask able = work.load_problem(batch, first, last);
  for (int lane = last - first; lane < lanes; ++lane) able.set(lane, false);
  able = able & work.kkt.scale(work.scaling);
  work.penalties.reset(work.kkt.lower(), work.kkt.upper());
  if (warm) {
    work.load_start(out, first, last);
  } else {
    work.iterate.x.setConstant(Pack(0.0));
    work.iterate.z.setConstant(Pack(0.0));
  }
  LaneJudge judge(work.kkt, work.scaling, work.penalties, settings, deadline, able, work.x, work.z);
  if (any(able)) augmented_lagrangian(work.kkt, judge, work.penalties, most_steps, work.iterate);
  for (int lane = 0; lane < last - first; ++lane) {
    solved[lane] = judge.solved[lane];
    if (solved[lane]) work.write(out, judge, lane, first + lane);
  }
}

}  // namespace qp_control
