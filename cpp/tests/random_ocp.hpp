// Random optimal-control QPs for the C++ tests, with the memory of their data and solutions.
#pragma once

#include <deque>

#include "qp_control/ocp_derivatives.hpp"
#include "random_problems.hpp"

namespace qp_control {

// Data that all stages share, starts and input bounds of each element. Upper bounds on inputs are narrow enough to be
// active.
class RandomOcp {
 public:
  RandomOcp(int N, int nx, int nu, int size, bool fixed_start = true) {
    batch.dims = {N, nx, nu, 1, 1};
    batch.size = size;
    const auto identity = [&](int n, double scale, double noise) {
      double* out = numbers(n * n, noise);
      for (int i = 0; i < n; ++i) out[i * n + i] += scale;
      return out;
    };
    batch.Q = {identity(nx, 1.0, 0.0), 0, 0};
    batch.R = {identity(nu, 1.0, 0.0), 0, 0};
    batch.A = {identity(nx, 1.0, 0.2), 0, 0};
    batch.B = {numbers(nx * nu, 1.0), 0, 0};
    batch.q = {numbers(nx, 1.0), 0, 0};
    batch.C = batch.C_N = {numbers(nx, 0.1), 0, 0};
    batch.lower = batch.lower_N = {constant(1, -50.0), 0, 0};
    batch.u_lower = {constant(nu, -5.0), 0, 0};
    batch.u_upper = {constant(nu, 0.2), 0, 0};
    if (fixed_start) batch.x0 = {numbers(size * nx, 1.0), nx, 0};
    solution = fields();
    status.resize(size);
    iterations.resize(size);
    solution.status = status.data();
    solution.iterations = iterations.data();
  }

  // Rows that the ordinary solution violates, soft with these weights, of the terminal row twice as large.
  void soften(double linear, double quadratic) {
    batch.upper = batch.upper_N = {constant(1, -0.3), 0, 0};
    batch.slack_linear = {constant(1, linear), 0, 0};
    batch.slack_quadratic = {constant(1, quadratic), 0, 0};
    batch.slack_linear_N = {constant(1, 2.0 * linear), 0, 0};
    batch.slack_quadratic_N = {constant(1, 2.0 * quadratic), 0, 0};
  }

  // A solution's arrays, zero.
  OcpBatchSolution fields() {
    const auto [N, nx, nu, rows, terminal_rows] = batch.dims;
    OcpBatchSolution out;
    const auto add = [&](MutableBatchArray& array, long per_element) {
      array = {constant(per_element * batch.size, 0.0), per_element};
    };
    for (auto* array : {&out.x, &out.y, &out.w_x, &out.s_x_lower, &out.s_x_upper}) add(*array, (N + 1) * nx);
    for (auto* array : {&out.u, &out.w_u, &out.s_u_lower, &out.s_u_upper}) add(*array, N * nu);
    for (auto* array : {&out.z, &out.s_lower, &out.s_upper, &out.slack_lower, &out.slack_upper}) add(*array, N * rows);
    for (auto* array : {&out.z_N, &out.s_lower_N, &out.s_upper_N, &out.slack_lower_N, &out.slack_upper_N})
      add(*array, terminal_rows);
    for (auto* array : {&out.objective, &out.primal_residual, &out.dual_residual, &out.duality_gap}) add(*array, 1);
    return out;
  }

  double* numbers(long size, double scale) {
    double* out = constant(size, 0.0);
    for (long i = 0; i < size; ++i) out[i] = scale * normal();
    return out;
  }
  double* constant(long size, double value) {
    memory_.emplace_back(size, value);
    return memory_.back().data();
  }

  OcpBatch batch;
  OcpBatchSolution solution;
  std::vector<long long> status, iterations;

 private:
  std::deque<std::vector<double>> memory_;
};

}  // namespace qp_control
