#include "qp_control/lane_box_qp.hpp"

#include <limits>

#include "qp_control/active_set.hpp"
#include "qp_control/lane_kkt.hpp"

namespace qp_control {
namespace {

constexpr int most_sets = 8;

}  // namespace

LaneBoxQp::LaneBoxQp(int n)
    : n_(n),
      H_(n * n),
      g_(n),
      lower_(n),
      upper_(n),
      side_(n),
      M_(n * n),
      L_(n * n),
      inverse_diagonal_(n),
      x_(n),
      step_(n),
      gradient_(n),
      out_(n) {}

void LaneBoxQp::load(int count, const BoxQpData& data) {
  const long n = n_;
  load_elements({data.H, n * n}, 0, count, n * n, 0.0, H_.data());
  load_elements({data.g, n}, 0, count, n, 0.0, g_.data());
  load_elements({data.lb, n}, 0, count, n, 0.0, lower_.data());
  load_elements({data.ub, n}, 0, count, n, 0.0, upper_.data());
}

Mask LaneBoxQp::factor() {
  for (int i = 0; i < n_; ++i) {
    const Mask free = side_[i] == Pack(0.0);
    for (int j = 0; j < i; ++j) M_[i * n_ + j] = select(free & (side_[j] == Pack(0.0)), H_[i * n_ + j], 0.0);
    M_[i * n_ + i] = select(free, H_[i * n_ + i], 1.0);
  }
  return cholesky(M_.data(), L_.data(), inverse_diagonal_.data(), n_);
}

void LaneBoxQp::gradient() {
  multiply(H_.data(), n_, n_, x_.data(), gradient_.data());
  for (int i = 0; i < n_; ++i) gradient_[i] += g_[i];
}

void LaneBoxQp::minimise() {
  for (int i = 0; i < n_; ++i) step_[i] = select(side_[i] == Pack(0.0), -gradient_[i], 0.0);
  cholesky_solve(L_.data(), inverse_diagonal_.data(), n_, step_.data());
  for (int i = 0; i < n_; ++i) x_[i] += step_[i];
  gradient();
}

Mask LaneBoxQp::move() {
  Mask stays = Mask::all(true);
  for (int i = 0; i < n_; ++i) {
    const Pack w = -gradient_[i];
    const Mask free = side_[i] == Pack(0.0);
    const Pack beyond = select(x_[i] < lower_[i], Pack(-1.0), select(x_[i] > upper_[i], Pack(1.0), 0.0));
    const Pack next = select(free, beyond, select(side_[i] * w < Pack(0.0), 0.0, side_[i]));
    stays = stays & (next == side_[i]);
    side_[i] = next;
  }
  return stays;
}

void LaneBoxQp::solve(int count, const BoxQpData& data, double eps, double* x, double* w, bool* solved) {
  const long n = n_;
  load(count, data);
  for (int i = 0; i < n_; ++i) side_[i] = select((g_[i] > Pack(0.0)) & finite(lower_[i]), Pack(-1.0), 0.0);
  Mask present = Mask::all(true);
  for (int lane = count; lane < lanes; ++lane) present.set(lane, false);

  Mask settled = Mask::all(false);
  for (int set = 0; set < most_sets && any(present & !settled); ++set) {
    const Mask definite = factor();
    present = present & definite;
    for (int i = 0; i < n_; ++i)
      x_[i] = select(side_[i] < Pack(0.0), lower_[i], select(side_[i] > Pack(0.0), upper_[i], 0.0));
    gradient();
    minimise();
    settled = move();
  }
  minimise();  // once more, with what rounding has left
  Pack residual = 0.0;
  for (int i = 0; i < n_; ++i) {
    const Mask free = side_[i] == Pack(0.0);
    residual = max(residual, select(free, abs(gradient_[i]), 0.0));
    residual += select(finite(x_[i]), 0.0, Pack(std::numeric_limits<double>::infinity()));
    gradient_[i] = select(free, 0.0, -gradient_[i]);
  }
  const Mask good = present & settled & (residual <= Pack(eps));
  double *to_x[lanes], *to_w[lanes];
  for (int lane = 0; lane < lanes; ++lane) {
    const bool taken = lane < count && good[lane];
    to_x[lane] = taken ? x + lane * n : nullptr;
    to_w[lane] = taken ? w + lane * n : nullptr;
    if (taken) solved[lane] = true;
  }
  store_lanes(x_.data(), n, to_x);
  store_lanes(gradient_.data(), n, to_w);
}

void LaneBoxQp::adjoint(int count, const BoxQpData& data, const double* x, const double* w, const double* by_x,
                        double* by_g, double* by_lb, double* by_ub, double* residuals) {
  const long n = n_;
  load(count, data);
  load_elements({x, n}, 0, count, n, 0.0, x_.data());
  load_elements({w, n}, 0, count, n, 0.0, step_.data());
  load_elements({by_x, n}, 0, count, n, 0.0, out_.data());
  const auto meets = [&](int i, Pack bound) {
    return finite(bound) & (abs(x_[i] - bound) <= Pack(meets_bound) * (Pack(1.0) + abs(bound)));
  };
  for (int i = 0; i < n_; ++i) {
    const Mask at_lower = meets(i, lower_[i]) | (step_[i] < Pack(0.0));
    side_[i] = select(at_lower, Pack(-1.0), select(meets(i, upper_[i]) | (step_[i] > Pack(0.0)), Pack(1.0), 0.0));
  }
  const Mask definite = factor();
  // Among the free variables H x = by_x.
  x_.setConstant(Pack(0.0));
  for (int i = 0; i < n_; ++i) {
    g_[i] = -out_[i];
    gradient_[i] = g_[i];
  }
  minimise();
  minimise();
  Pack residual = 0.0, size = 0.0;
  for (int i = 0; i < n_; ++i) {
    const Mask free = side_[i] == Pack(0.0);
    residual = max(residual, select(free, abs(gradient_[i]), 0.0));
    size = max(size, abs(out_[i]));
  }
  residual = residual / select(size > Pack(0.0), size, 1.0);
  residual = select(definite & finite(residual), residual, Pack(std::numeric_limits<double>::infinity()));
  const auto deliver = [&](double* to, const auto& entry) {
    for (int i = 0; i < n_; ++i) out_[i] = entry(i);
    double* lanes_of[lanes];
    for (int lane = 0; lane < lanes; ++lane) lanes_of[lane] = lane < count ? to + lane * n : nullptr;
    store_lanes(out_.data(), n, lanes_of);
  };
  deliver(by_g, [&](int i) { return -x_[i]; });
  deliver(by_lb, [&](int i) { return select(side_[i] < Pack(0.0), -gradient_[i], 0.0); });
  deliver(by_ub, [&](int i) { return select(side_[i] > Pack(0.0), -gradient_[i], 0.0); });
  for (int lane = 0; lane < count; ++lane) residuals[lane] = residual[lane];
}

}  // namespace qp_control
