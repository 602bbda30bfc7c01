#include "qp_control/ocp_dense.hpp"

#include <algorithm>
#include <limits>

#include "qp_control/ocp_slacks.hpp"

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

DenseDims dense_dims(const OcpBatch& batch) {
  const auto [N, nx, nu, rows, terminal_rows] = batch.dims;
  const OcpLayout<Pack> at(batch);
  return {N * (nx + nu) + nx + 2 * (N * at.soft_rows + at.soft_terminal_rows), (batch.fixed_start() ? N + 1 : N) * nx,
          N * rows + terminal_rows};
}

}  // namespace

OcpDense::OcpDense(const OcpBatch& batch) : at_(batch), fixed_start_(batch.fixed_start()), dims_(dense_dims(batch)) {
  weight_.assign(dims_.n_eq, infinity);
}

template <class Body>
void OcpDense::for_each_soft(const OcpBatch& batch, int element, const Body& body) const {
  for (int k = 0; k <= at_.N; ++k)
    for (int i = 0; i < at_.soft_count(k); ++i) {
      const SlackWeights weights(batch.linear(k).at(element, k), batch.quadratic(k).at(element, k), i);
      body(k, i, rows_of(k) + i, slacks_of(k) + i, 1.0, weights);
      body(k, i, rows_of(k) + i, slacks_of(k) + at_.soft_count(k) + i, -1.0, weights);
    }
}

DenseQP OcpDense::problem(const OcpBatch& batch, int i) {
  const int N = at_.N, nx = at_.nx, nu = at_.nu, n = dims_.n;
  H_.assign(long(n) * n, 0.0);
  A_.assign(long(dims_.n_eq) * n, 0.0);
  C_.assign(long(dims_.n_in) * n, 0.0);
  g_.assign(n, 0.0);
  b_.assign(dims_.n_eq, 0.0);
  l_.assign(dims_.n_in, -infinity);
  u_.assign(dims_.n_in, infinity);
  lb_.assign(n, -infinity);
  ub_.assign(n, infinity);
  const auto block = [n](const StageArray& array, int element, int k, int rows, int cols, std::vector<double>& to,
                         int row, int col, bool transposed = false) {
    const double* from = array.at(element, k);
    for (int a = 0; a < rows && from != nullptr; ++a)
      for (int c = 0; c < cols; ++c)
        (transposed ? to[long(row + c) * n + col + a] : to[long(row + a) * n + col + c]) = from[a * cols + c];
  };
  const auto vector = [](const StageArray& array, int element, int k, int size, std::vector<double>& to, int at) {
    const double* from = array.at(element, k);
    if (from != nullptr) std::copy_n(from, size, to.begin() + at);
  };
  for (int k = 0; k <= N; ++k) {
    const int u = first_of(k), x = x_of(k);
    block(batch.state_cost(k), i, k, nx, nx, H_, x, x);
    vector(batch.state_slope(k), i, k, nx, g_, x);
    if (k > 0 || !fixed_start_) {
      vector(batch.x_lower, i, k, nx, lb_, x);
      vector(batch.x_upper, i, k, nx, ub_, x);
    }
    if (k > 0 || fixed_start_)
      for (int a = 0; a < nx; ++a) A_[long(dynamics_of(k) + a) * n + x + a] = -1.0;
    if (k == N) {
      block(batch.C_N, i, k, at_.terminal_rows, nx, C_, N * at_.stage_rows, x);
      vector(batch.lower_N, i, k, at_.terminal_rows, l_, N * at_.stage_rows);
      vector(batch.upper_N, i, k, at_.terminal_rows, u_, N * at_.stage_rows);
      break;
    }
    block(batch.R, i, k, nu, nu, H_, u, u);
    block(batch.S, i, k, nu, nx, H_, u, x);
    block(batch.S, i, k, nu, nx, H_, x, u, true);
    vector(batch.r, i, k, nu, g_, u);
    vector(batch.u_lower, i, k, nu, lb_, u);
    vector(batch.u_upper, i, k, nu, ub_, u);
    block(batch.A, i, k, nx, nx, A_, dynamics_of(k + 1), x);
    block(batch.B, i, k, nx, nu, A_, dynamics_of(k + 1), u);
    vector(batch.c, i, k, nx, b_, dynamics_of(k + 1));
    block(batch.C, i, k, at_.stage_rows, nx, C_, k * at_.stage_rows, x);
    block(batch.D, i, k, at_.stage_rows, nu, C_, k * at_.stage_rows, u);
    vector(batch.lower, i, k, at_.stage_rows, l_, k * at_.stage_rows);
    vector(batch.upper, i, k, at_.stage_rows, u_, k * at_.stage_rows);
  }
  for_each_soft(batch, i, [&](int, int, int row, int slack, double sign, const SlackWeights& weights) {
    const bool soft = weights.soft();
    H_[long(slack) * n + slack] = soft ? weights.quadratic : 1.0;
    g_[slack] = soft ? weights.linear : 0.0;
    lb_[slack] = soft ? 0.0 : -infinity;
    C_[long(row - dims_.n_eq) * n + slack] = soft ? sign : 0.0;
  });
  if (fixed_start_) vector(batch.x0, i, 0, nx, b_, 0);
  for (double& entry : b_) entry = -entry;
  DenseQP out;
  out.dims = dims_;
  out.H = H_.data();
  out.g = g_.data();
  out.A = A_.data();
  out.b = b_.data();
  out.C = C_.data();
  out.l = l_.data();
  out.u = u_.data();
  out.lb = lb_.data();
  out.ub = ub_.data();
  out.weight_eq = weight_.data();
  return out;
}

template <class Unknowns, class Rows>
void OcpDense::for_each(const OcpBatchSolution& s, const Unknowns& unknowns, const Rows& rows) const {
  const int N = at_.N, nx = at_.nx, nu = at_.nu, box = dims_.n_eq + dims_.n_in;
  for (int k = 0; k <= N; ++k) {
    unknowns(s.x, k * nx, nx, x_of(k));
    if (k > 0 || fixed_start_) rows(s.y, k * nx, nx, dynamics_of(k));
    rows(s.w_x, k * nx, nx, box + x_of(k));
    if (k == N) {
      rows(s.z_N, 0, at_.terminal_rows, rows_of(k));
      continue;
    }
    unknowns(s.u, k * nu, nu, first_of(k));
    rows(s.z, k * at_.stage_rows, at_.stage_rows, rows_of(k));
    rows(s.w_u, k * nu, nu, box + first_of(k));
  }
  for (int k = 0; k <= N; ++k) {
    const int count = at_.soft_count(k), place = slacks_of(k), position = k < N ? k * count : 0;
    unknowns(k < N ? s.slack_lower : s.slack_lower_N, position, count, place);
    unknowns(k < N ? s.slack_upper : s.slack_upper_N, position, count, place + count);
  }
}

namespace {

void nothing(const MutableBatchArray&, int, int, int) {}

auto reader(int i, Vector& to) {
  return [i, &to](const MutableBatchArray& array, int position, int size, int place) {
    if (array.data != nullptr) to.segment(place, size) = ConstVectorMap(array.at(i) + position, size);
  };
}

auto writer(int i, const Vector& from) {
  return [i, &from](const MutableBatchArray& array, int position, int size, int place) {
    if (array.data != nullptr) std::copy_n(from.data() + place, size, array.at(i) + position);
  };
}

}  // namespace

void OcpDense::read_shifts(const OcpBatchSolution& from, int i, Vector& lower, Vector& upper) const {
  lower.setZero();
  upper.setZero();
  const OcpBatchSolution low = lower_shifts(from), high = upper_shifts(from);
  for_each(low, nothing, reader(i, lower));
  for_each(high, nothing, reader(i, upper));
}

void OcpDense::read_solution(const OcpBatch& batch, const OcpBatchSolution& from, int i, Solution& to) const {
  read_point(from, i, to.x, to.z);
  const int box = dims_.n_eq + dims_.n_in;
  for_each_soft(batch, i, [&](int, int, int row, int slack, double sign, const SlackWeights& weights) {
    if (weights.soft())
      to.z[box + slack] = -slack_pull(weights.linear, weights.quadratic, to.x[slack], -sign * to.z[row]);
  });
  read_shifts(from, i, to.shift_lower, to.shift_upper);
  to.status = static_cast<Status>(from.status[i]);
}

void OcpDense::read_loss(const OcpBatchSolution& from, int i, OutputDerivative& to) const {
  read_point(from, i, to.x, to.z);
  read_shifts(from, i, to.shift_lower, to.shift_upper);
  to.objective = from.objective.data == nullptr ? 0.0 : *from.objective.at(i);
}

template <class Fields, class Body>
void OcpDense::for_each_argument(const OcpBatch& batch, const Fields& of, int i, Body body) const {
  const int N = at_.N, nx = at_.nx, nu = at_.nu, rows = at_.stage_rows, box = dims_.n_eq + dims_.n_in;
  for_each_soft(batch, i, [&](int k, int row, int, int slack, double, const SlackWeights& weights) {
    if (!weights.soft()) return;
    body.slope(k == N ? of.slack_linear_N : of.slack_linear, k, row, slack, 1);
    body.curvature(k == N ? of.slack_quadratic_N : of.slack_quadratic, k, row, slack);
  });
  if (fixed_start_) body.constants(of.x0, 0, 0, nx);
  for (int k = 0; k <= N; ++k) {
    const int u = first_of(k), x = x_of(k);
    const bool ends = k == N;
    body.symmetric(ends && batch.Q_N.data != nullptr ? of.Q_N : of.Q, k, x, nx);
    body.slope(ends && batch.q_N.data != nullptr ? of.q_N : of.q, k, 0, x, nx);
    if (k > 0 || !fixed_start_) body.bounds(of.x_lower, of.x_upper, k, box + x, nx);
    if (ends) {
      body.rows(of.C_N, k, rows_of(k), at_.terminal_rows, x, nx);
      body.bounds(of.lower_N, of.upper_N, k, rows_of(k), at_.terminal_rows);
      continue;
    }
    body.symmetric(of.R, k, u, nu);
    body.cross(of.S, k, u, nu, x, nx);
    body.slope(of.r, k, 0, u, nu);
    body.bounds(of.u_lower, of.u_upper, k, box + u, nu);
    body.rows(of.A, k, dynamics_of(k + 1), nx, x, nx);
    body.rows(of.B, k, dynamics_of(k + 1), nx, u, nu);
    body.constants(of.c, k, dynamics_of(k + 1), nx);
    body.rows(of.C, k, rows_of(k), rows, x, nx);
    body.rows(of.D, k, rows_of(k), rows, u, nu);
    body.bounds(of.lower, of.upper, k, rows_of(k), rows);
  }
}

namespace {

struct AddGradients {
  const DataDerivative& from;
  int i;

  void symmetric(const StageGradient& to, int k, int at, int n) { block(from.H, to, k, at, n, at, n, 1.0); }
  void cross(const StageGradient& to, int k, int u, int nu, int x, int nx) { block(from.H, to, k, u, nu, x, nx, 2.0); }
  void rows(const StageGradient& to, int k, int row, int count, int col, int cols) {
    block(from.R, to, k, row, count, col, cols, 1.0);
  }
  void curvature(const StageGradient& to, int k, int position, int at) {
    if (to.data != nullptr && from.H.size() > 0) to.at(i, k)[position] += from.H(at, at);
  }
  void slope(const StageGradient& to, int k, int position, int at, int n) {
    vector(from.g, to, k, position, at, n, 1.0);
  }
  void constants(const StageGradient& to, int k, int at, int n) {
    vector(from.lower, to, k, 0, at, n, -1.0);
    vector(from.upper, to, k, 0, at, n, -1.0);
  }
  void bounds(const StageGradient& lower, const StageGradient& upper, int k, int at, int n) {
    vector(from.lower, lower, k, 0, at, n, 1.0);
    vector(from.upper, upper, k, 0, at, n, 1.0);
  }

 private:
  void block(const RowMatrix& source, const StageGradient& to, int k, int row, int height, int col, int width,
             double factor) {
    if (to.data == nullptr || source.size() == 0) return;
    for (int a = 0; a < height; ++a)
      for (int c = 0; c < width; ++c) to.at(i, k)[a * width + c] += factor * source(row + a, col + c);
  }
  void vector(const Vector& source, const StageGradient& to, int k, int position, int at, int n, double factor) {
    if (to.data == nullptr || k < to.first) return;
    for (int a = 0; a < n; ++a) to.at(i, k)[position + a] += factor * source[at + a];
  }
};

struct ReadChange {
  DataDerivative& to;
  int i;

  void symmetric(const StageArray& from, int k, int at, int n) { block(from, k, at, n, at, n, to.H); }
  void cross(const StageArray& from, int k, int u, int nu, int x, int nx) {
    block(from, k, u, nu, x, nx, to.H);
    to.H.block(x, u, nx, nu) = to.H.block(u, x, nu, nx).transpose();
  }
  void rows(const StageArray& from, int k, int row, int count, int col, int cols) {
    block(from, k, row, count, col, cols, to.R);
  }
  void curvature(const StageArray& from, int k, int position, int at) {
    if (from.data != nullptr) to.H(at, at) = from.at(i, k)[position];
  }
  void slope(const StageArray& from, int k, int position, int at, int n) {
    vector(from, k, position, at, n, 1.0, to.g);
  }
  void constants(const StageArray& from, int k, int at, int n) {
    vector(from, k, 0, at, n, -1.0, to.lower);
    vector(from, k, 0, at, n, -1.0, to.upper);
  }
  void bounds(const StageArray& lower, const StageArray& upper, int k, int at, int n) {
    vector(lower, k, 0, at, n, 1.0, to.lower);
    vector(upper, k, 0, at, n, 1.0, to.upper);
  }

 private:
  void block(const StageArray& from, int k, int row, int height, int col, int width, RowMatrix& target) {
    if (from.data == nullptr) return;
    for (int a = 0; a < height; ++a)
      for (int c = 0; c < width; ++c) target(row + a, col + c) = from.at(i, k)[a * width + c];
  }
  void vector(const StageArray& from, int k, int position, int at, int n, double factor, Vector& target) {
    if (from.at(i, k) == nullptr) return;
    for (int a = 0; a < n; ++a) target[at + a] = factor * from.at(i, k)[position + a];
  }
};

}  // namespace

void OcpDense::add_gradients(const OcpBatch& batch, const DataDerivative& from, const OcpGradients& to, int i) const {
  for_each_argument(batch, to, i, AddGradients{from, i});
}

void OcpDense::read_change(const OcpBatch& batch, const OcpBatch& change, int i, DataDerivative& to) const {
  to.fill(0.0);
  for_each_argument(batch, change, i, ReadChange{to, i});
}

void OcpDense::write_change(const OutputDerivative& from, const OcpBatchSolution& to, int i) const {
  const OcpBatchSolution lower = lower_shifts(to), upper = upper_shifts(to);
  for_each(to, writer(i, from.x), writer(i, from.z));
  for_each(lower, nothing, writer(i, from.shift_lower));
  for_each(upper, nothing, writer(i, from.shift_upper));
  if (to.objective.data != nullptr) *to.objective.at(i) = from.objective;
}

void OcpDense::read(const OcpSystemArrays& from, const RowPattern& pattern, int i, KktVector& to) const {
  for (Vector* part : {&to.x, &to.eta, &to.z, &to.s}) part->setZero();
  for_each(from.point, reader(i, to.x), reader(i, to.z));
  for_each(from.level, reader(i, to.eta), reader(i, to.s));
  to.s.array() *= pattern.weight.array();
}

void OcpDense::write(const KktVector& from, const RowPattern& pattern, const OcpSystemArrays& to, int i) const {
  const Vector weighted = pattern.weight.cwiseProduct(from.s);
  for_each(to.point, writer(i, from.x), writer(i, from.z));
  for_each(to.level, writer(i, from.eta), writer(i, weighted));
}

void OcpDense::write(const RowPattern& from, const OcpRoles& to, int i) const {
  const Vector lower = from.active.cwiseProduct(from.lower_share), upper = from.active - lower;
  for_each(to.lower, nothing, writer(i, lower));
  for_each(to.upper, nothing, writer(i, upper));
  const Vector shifted = (from.shifted.array() != 0.0).select(from.weight.cwiseInverse(), 0.0);
  for_each(to.shifted, nothing, writer(i, shifted));
}

void OcpDense::read_point(const OcpBatchSolution& from, int i, Vector& x, Vector& z) const {
  x.setZero();
  z.setZero();
  for_each(from, reader(i, x), reader(i, z));
}

void OcpDense::write(const OcpBatch& batch, const Solution& from, const OcpBatchSolution& to, int i) const {
  const OcpBatchSolution lower = lower_shifts(to), upper = upper_shifts(to);
  Vector x = from.x;
  for_each_soft(batch, i, [&](int, int, int row, int slack, double sign, const SlackWeights& weights) {
    const bool held = from.z[dims_.n_eq + dims_.n_in + slack] < 0.0, free = weights.linear + weights.quadratic == 0.0;
    if (held || x[slack] < 0.0 || !(free || sign * from.z[row] < 0.0)) x[slack] = 0.0;  // as OcpSlacks::tidy()
  });
  for_each(to, writer(i, x), writer(i, from.z));
  for_each(lower, nothing, writer(i, from.shift_lower));
  for_each(upper, nothing, writer(i, from.shift_upper));
  for_each(certificates(to), writer(i, from.certificate_x), writer(i, from.certificate_z));
  *to.objective.at(i) = from.objective;
  *to.primal_residual.at(i) = from.primal_residual;
  *to.dual_residual.at(i) = from.dual_residual;
  *to.duality_gap.at(i) = from.duality_gap;
  to.status[i] = static_cast<long long>(from.status);
  to.iterations[i] += from.iterations;
}

}  // namespace qp_control
