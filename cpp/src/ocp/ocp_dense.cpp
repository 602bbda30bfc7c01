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

template <class S, class Unknowns, class Rows>
void OcpDense::for_each(S& s, const Unknowns& unknowns, const Rows& rows) const {
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

void OcpDense::add_gradients(const OcpBatch& batch, const DataDerivative& from, const OcpGradients& to, int i) const {
  const int N = at_.N, nx = at_.nx, nu = at_.nu, rows = at_.stage_rows, box = dims_.n_eq + dims_.n_in;
  const auto block = [i](const auto& source, int row, int col, int height, int width, const StageGradient& target,
                         int k, double factor) {
    if (target.data == nullptr) return;
    for (int a = 0; a < height; ++a)
      for (int c = 0; c < width; ++c) target.at(i, k)[a * width + c] += factor * source(row + a, col + c);
  };
  const auto vector = [i](const Vector& source, int at, int size, const StageGradient& target, int k, double factor) {
    if (target.data == nullptr) return;
    for (int a = 0; a < size; ++a) target.at(i, k)[a] += factor * source[at + a];
  };
  for_each_soft(batch, i, [&](int k, int row, int, int slack, double, const SlackWeights& weights) {
    const StageGradient& linear = k == N ? to.slack_linear_N : to.slack_linear;
    const StageGradient& quadratic = k == N ? to.slack_quadratic_N : to.slack_quadratic;
    if (!weights.soft()) return;
    if (linear.data != nullptr) linear.at(i, k)[row] += from.g[slack];
    if (quadratic.data != nullptr && from.H.size() > 0) quadratic.at(i, k)[row] += from.H(slack, slack);
  });
  const Vector equalities = from.lower + from.upper;
  if (fixed_start_) vector(equalities, 0, nx, to.x0, 0, -1.0);
  for (int k = 0; k <= N; ++k) {
    const int u = first_of(k), x = x_of(k);
    const bool ends = k == N;
    if (from.H.size() > 0) block(from.H, x, x, nx, nx, ends && batch.Q_N.data != nullptr ? to.Q_N : to.Q, k, 1.0);
    vector(from.g, x, nx, ends && batch.q_N.data != nullptr ? to.q_N : to.q, k, 1.0);
    if (k > 0 || !fixed_start_) {
      vector(from.lower, box + x, nx, to.x_lower, k, 1.0);
      vector(from.upper, box + x, nx, to.x_upper, k, 1.0);
    }
    if (ends) {
      block(from.R, rows_of(k), x, at_.terminal_rows, nx, to.C_N, k, 1.0);
      vector(from.lower, rows_of(k), at_.terminal_rows, to.lower_N, k, 1.0);
      vector(from.upper, rows_of(k), at_.terminal_rows, to.upper_N, k, 1.0);
      continue;
    }
    if (from.H.size() > 0) {
      block(from.H, u, u, nu, nu, to.R, k, 1.0);
      block(from.H, u, x, nu, nx, to.S, k, 2.0);
    }
    vector(from.g, u, nu, to.r, k, 1.0);
    vector(from.lower, box + u, nu, to.u_lower, k, 1.0);
    vector(from.upper, box + u, nu, to.u_upper, k, 1.0);
    block(from.R, dynamics_of(k + 1), x, nx, nx, to.A, k, 1.0);
    block(from.R, dynamics_of(k + 1), u, nx, nu, to.B, k, 1.0);
    vector(equalities, dynamics_of(k + 1), nx, to.c, k, -1.0);
    block(from.R, rows_of(k), x, rows, nx, to.C, k, 1.0);
    block(from.R, rows_of(k), u, rows, nu, to.D, k, 1.0);
    vector(from.lower, rows_of(k), rows, to.lower, k, 1.0);
    vector(from.upper, rows_of(k), rows, to.upper, k, 1.0);
  }
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
  *to.objective.at(i) = from.objective;
  *to.primal_residual.at(i) = from.primal_residual;
  *to.dual_residual.at(i) = from.dual_residual;
  *to.duality_gap.at(i) = from.duality_gap;
  to.status[i] = static_cast<long long>(from.status);
  to.iterations[i] += from.iterations;
}

}  // namespace qp_control
