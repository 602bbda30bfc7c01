#include "qp_control/ocp_gradients.hpp"

#include <algorithm>
#include <utility>
#include <vector>

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
    if (k < to_.first) return;
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
void add_gradients(const OcpLayout<Real>& at, const OcpBatch& batch, const OcpAdjointPair<Real>& pair, int first,
                   int last, const bool* done, const OcpGradients& out) {
  const int N = at.N, nx = at.nx, nu = at.nu;
  const OcpVector<Real>&v = pair.v, &q = pair.q, &level_v = pair.level_v, &level_q = pair.level_q;
  const Real *p = v.unknowns, *d = q.unknowns, *dz = q.rows, *side = pair.side, objective = pair.objective;
  std::vector<Real> block(std::max({nx, nu, at.stage_rows, at.terminal_rows}) * std::max({nx, nu, 1}));
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
  // Of rows whose multipliers stand at `a` of what `part` points to.
  const auto rows = [&](Collector<Real>& sum, int k, const Real* OcpVector<Real>::* part, int a, int count, int b,
                        int cols) {
    if (!sum.wanted()) return;
    const Real *y = v.*part + a, *dy = q.*part + a;
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < cols; ++j) to[i * cols + j] = -(y[i] * d[b + j] + dy[i] * p[b + j]);
    if (level_v.unknowns != nullptr) {
      const Real *s = level_v.*part + a, *ds = level_q.*part + a, *eta = level_v.unknowns + b,
                 *d_eta = level_q.unknowns + b;
      for (int i = 0; i < count; ++i)
        for (int j = 0; j < cols; ++j) to[i * cols + j] -= s[i] * d_eta[j] + ds[i] * eta[j];
    }
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
      for (int i = 0; i < size; ++i) to[i] = bound_share(side[a + i], of_side) * dz[a + i];
      for (int i = 0; i < size && pair.of_shifts != nullptr; ++i) to[i] -= Real(of_side) * pair.of_shifts[a + i];
      sum->add(k, to);
    }
  };

  // The weights of a row are the cost of both its slacks.
  const auto slacks = [&](Collector<Real>& linear, Collector<Real>& quadratic, int k) {
    const int count = at.soft_count(k), low = at.slack_lower(k), high = at.slack_upper(k);
    if (count == 0) return;
    const Real* soft = pair.slacks->soft(low);
    const auto slope = [&](int j) { return objective * p[j] - d[j]; };
    const auto curvature = [&](int j) { return p[j] * (Real(0.5) * objective * p[j] - d[j]); };
    for (int i = 0; i < count; ++i) to[i] = soft[i] * (slope(low + i) + slope(high + i));
    if (linear.wanted()) linear.add(k, to);
    for (int i = 0; i < count; ++i) to[i] = soft[i] * (curvature(low + i) + curvature(high + i));
    if (quadratic.wanted()) quadratic.add(k, to);
  };

  constexpr auto of_dynamics = &OcpVector<Real>::unknowns, of_rows = &OcpVector<Real>::rows;
  for (int k = 0; k <= N; ++k) {
    const int u = at.u(k), s = at.x(k);
    const bool ends = k == N;
    cost(ends && batch.Q_N.data != nullptr ? Q_N : Q, k, s, nx, s, nx, 0.5);
    linear(ends && batch.q_N.data != nullptr ? q_N : q_, k, s, nx);
    if (at.boxed_x && (k > 0 || !batch.fixed_start())) bounds(x_lower, x_upper, k, at.box_of_x(k), nx);
    if (ends) {
      rows(C_N, k, of_rows, at.row(k), at.terminal_rows, s, nx);
      bounds(lower_N, upper_N, k, at.row(k), at.terminal_rows);
      slacks(slack_linear_N, slack_quadratic_N, k);
      continue;
    }
    cost(R, k, u, nu, u, nu, 0.5);
    cost(S, k, u, nu, s, nx, 1.0);
    linear(r, k, u, nu);
    rows(A, k, of_dynamics, at.y(k + 1), nx, s, nx);
    rows(B, k, of_dynamics, at.y(k + 1), nx, u, nu);
    constants(c, k, at.y(k + 1), nx);
    rows(C, k, of_rows, at.row(k), at.stage_rows, s, nx);
    rows(D, k, of_rows, at.row(k), at.stage_rows, u, nu);
    bounds(lower, upper, k, at.row(k), at.stage_rows);
    slacks(slack_linear, slack_quadratic, k);
    if (at.boxed_u) bounds(u_lower, u_upper, k, at.box(k), nu);
  }
  if (batch.fixed_start()) constants(x0, 0, at.y(0), nx);
  for (Collector<Real>* sum :
       {&Q, &R, &S, &q_, &r, &Q_N, &q_N, &A, &B, &c, &x0, &C, &D, &lower, &upper, &C_N, &lower_N, &upper_N})
    sum->finish();
  for (Collector<Real>* sum : {&x_lower, &x_upper, &u_lower, &u_upper}) sum->finish();
  for (Collector<Real>* sum : {&slack_linear, &slack_quadratic, &slack_linear_N, &slack_quadratic_N}) sum->finish();
}

template void add_gradients(const OcpLayout<Pack>&, const OcpBatch&, const OcpAdjointPair<Pack>&, int, int, const bool*,
                            const OcpGradients&);
template void add_gradients(const OcpLayout<double>&, const OcpBatch&, const OcpAdjointPair<double>&, int, int,
                            const bool*, const OcpGradients&);

}  // namespace qp_control
