#include "qp_control/ocp_element.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/ocp_slacks.hpp"

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

OcpElement::OcpElement(const OcpDims& dims)
    : x((dims.horizon + 1) * dims.nx),
      u(dims.horizon * dims.nu),
      y(x.size()),
      z(OcpRowPlaces(dims).count),
      shift_lower(z.size()),
      shift_upper(z.size()),
      slack_lower(OcpRowPlaces(dims).w_x),
      slack_upper(slack_lower.size()),
      at_(dims) {}

OcpBatchSolution OcpElement::arrays() {
  OcpBatchSolution out;
  const auto set = [](std::vector<double>& from, int place) { return MutableBatchArray{from.data() + place, 0}; };
  out.x = set(x, 0);
  out.u = set(u, 0);
  out.y = set(y, 0);
  out.z = set(z, 0);
  out.z_N = set(z, at_.z_N);
  out.w_x = set(z, at_.w_x);
  out.w_u = set(z, at_.w_u);
  out.s_lower = set(shift_lower, 0);
  out.s_lower_N = set(shift_lower, at_.z_N);
  out.s_x_lower = set(shift_lower, at_.w_x);
  out.s_u_lower = set(shift_lower, at_.w_u);
  out.s_upper = set(shift_upper, 0);
  out.s_upper_N = set(shift_upper, at_.z_N);
  out.s_x_upper = set(shift_upper, at_.w_x);
  out.s_u_upper = set(shift_upper, at_.w_u);
  out.slack_lower = set(slack_lower, 0);
  out.slack_lower_N = set(slack_lower, at_.z_N);
  out.slack_upper = set(slack_upper, 0);
  out.slack_upper_N = set(slack_upper, at_.z_N);
  return out;
}

void OcpElement::fill(double value) {
  for (auto* a : {&x, &u, &y, &z, &shift_lower, &shift_upper, &slack_lower, &slack_upper})
    std::fill(a->begin(), a->end(), value);
}

bool OcpElement::finite() const {
  for (const auto* a : {&x, &u, &y, &z, &slack_lower, &slack_upper})
    for (double entry : *a)
      if (!std::isfinite(entry)) return false;
  return true;
}

void OcpElement::write(const OcpBatchSolution& to, int i) const {
  const auto put = [i](const std::vector<double>& from, int begin, int end, const MutableBatchArray& array) {
    if (array.data != nullptr) std::copy(from.begin() + begin, from.begin() + end, array.at(i));
  };
  const auto whole = [&](const std::vector<double>& from, const MutableBatchArray& array) {
    put(from, 0, static_cast<int>(from.size()), array);
  };
  whole(x, to.x);
  whole(u, to.u);
  whole(y, to.y);
  const auto rows = [&](const std::vector<double>& from, const MutableBatchArray& stages,
                        const MutableBatchArray& terminal, const MutableBatchArray& x_box,
                        const MutableBatchArray& u_box) {
    put(from, 0, at_.z_N, stages);
    put(from, at_.z_N, at_.w_x, terminal);
    put(from, at_.w_x, at_.w_u, x_box);
    put(from, at_.w_u, at_.count, u_box);
  };
  rows(z, to.z, to.z_N, to.w_x, to.w_u);
  rows(shift_lower, to.s_lower, to.s_lower_N, to.s_x_lower, to.s_u_lower);
  rows(shift_upper, to.s_upper, to.s_upper_N, to.s_x_upper, to.s_u_upper);
  put(slack_lower, 0, at_.z_N, to.slack_lower);
  put(slack_lower, at_.z_N, at_.w_x, to.slack_lower_N);
  put(slack_upper, 0, at_.z_N, to.slack_upper);
  put(slack_upper, at_.z_N, at_.w_x, to.slack_upper_N);
}

OcpBatchSolution as_rows(const OcpDims& dims, std::vector<double>& rows) {
  const OcpRowPlaces at(dims);
  OcpBatchSolution out;
  out.z.data = rows.data();
  out.z_N.data = rows.data() + at.z_N;
  out.w_x.data = rows.data() + at.w_x;
  out.w_u.data = rows.data() + at.w_u;
  return out;
}

OcpBounds::OcpBounds(const OcpBatch& batch)
    : lower(OcpRowPlaces(batch.dims).count), upper(lower.size()), at_(batch.dims), dims_(batch.dims) {
  const OcpLayout<double> layout(batch);
  boxed_x_ = layout.boxed_x;
  boxed_u_ = layout.boxed_u;
}

bool OcpBounds::crossed() const {
  for (int row = 0; row < count(); ++row)
    if (crossed(row)) return true;
  return false;
}

OcpBatch OcpBounds::of(const OcpBatch& batch, int i) {
  const int N = dims_.horizon;
  std::fill(lower.begin(), lower.end(), -infinity);
  std::fill(upper.begin(), upper.end(), infinity);
  const auto read = [&](const StageArray& from, int k, int size, std::vector<double>& to, int place) {
    const double* bounds = from.at(i, k);
    for (int j = 0; j < size && bounds != nullptr; ++j)
      if (std::abs(bounds[j]) < infinite_bound) to[place + j] = bounds[j];
  };
  for (int k = 0; k <= N; ++k) {
    if (k > 0 || !batch.fixed_start()) {
      read(batch.x_lower, k, dims_.nx, lower, at_.w_x + k * dims_.nx);
      read(batch.x_upper, k, dims_.nx, upper, at_.w_x + k * dims_.nx);
    }
    if (k == N) break;
    read(batch.lower, k, dims_.rows, lower, k * dims_.rows);
    read(batch.upper, k, dims_.rows, upper, k * dims_.rows);
    read(batch.u_lower, k, dims_.nu, lower, at_.w_u + k * dims_.nu);
    read(batch.u_upper, k, dims_.nu, upper, at_.w_u + k * dims_.nu);
  }
  read(batch.lower_N, N, dims_.terminal_rows, lower, at_.z_N);
  read(batch.upper_N, N, dims_.terminal_rows, upper, at_.z_N);

  OcpBatch out = batch;
  out.size = 1;
  for (StageArray* a :
       {&out.Q, &out.R, &out.S, &out.q, &out.r, &out.Q_N, &out.q_N, &out.A, &out.B, &out.c, &out.x0, &out.C, &out.D,
        &out.C_N, &out.slack_linear, &out.slack_quadratic, &out.slack_linear_N, &out.slack_quadratic_N}) {
    if (a->data != nullptr) a->data += i * a->batch;
    a->batch = 0;
  }
  const auto bounds = [](std::vector<double>& from, int place, int stage) {
    return StageArray{from.data() + place, 0, stage, 0};
  };
  const StageArray none;
  out.lower = bounds(lower, 0, dims_.rows);
  out.upper = bounds(upper, 0, dims_.rows);
  out.lower_N = bounds(lower, at_.z_N, 0);
  out.upper_N = bounds(upper, at_.z_N, 0);
  out.x_lower = boxed_x_ ? bounds(lower, at_.w_x, dims_.nx) : none;
  out.x_upper = boxed_x_ ? bounds(upper, at_.w_x, dims_.nx) : none;
  out.u_lower = boxed_u_ ? bounds(lower, at_.w_u, dims_.nu) : none;
  out.u_upper = boxed_u_ ? bounds(upper, at_.w_u, dims_.nu) : none;
  return out;
}

void OcpBounds::free_soft(const OcpBatch& problem) {
  for_each_soft_row(problem, [&](int row) {
    lower[row] = -infinity;
    upper[row] = infinity;
  });
}

void OcpBounds::shift(const std::vector<double>& shift_lower, const std::vector<double>& shift_upper) {
  for (int row = 0; row < count(); ++row) {
    const double low = shift_lower[row], high = shift_upper[row];
    if (low > 0.0 && high > 0.0)  // crossed, and met in between
      lower[row] = upper[row] = 0.5 * (lower[row] - low + upper[row] + high);
    else if (low > 0.0)
      lower[row] = upper[row] = lower[row] - low;
    else if (high > 0.0)
      lower[row] = upper[row] = upper[row] + high;
  }
}

OcpBatch without_cost(OcpBatch batch) {
  for (StageArray* a : {&batch.Q, &batch.R, &batch.S, &batch.q, &batch.r, &batch.Q_N, &batch.q_N, &batch.slack_linear,
                        &batch.slack_quadratic, &batch.slack_linear_N, &batch.slack_quadratic_N})
    *a = StageArray();
  return batch;
}

}  // namespace qp_control
