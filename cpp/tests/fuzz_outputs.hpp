// What a batch is solved and differentiated into, as the caller's own arrays.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "qp_control/dense_batch.hpp"
#include "qp_control/derivatives_batch.hpp"

namespace qp_control {

// The arrays of the solutions of a batch, or of a loss's gradients on them.
struct Outputs {
  Outputs(DenseDims d, int size) : dims(d), size(size), status(size), iterations(size) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const int widths[] = {d.n, d.n_eq, d.n_in, d.n, d.n_eq, d.n_in, d.n_in, d.n, d.n,
                          d.n, d.n_eq, d.n_in, d.n, 1,      1,      1,      1};
    for (int f = 0; f < fields; ++f) {
      values[f].assign(long(widths[f]) * size, nan);
      width[f] = widths[f];
    }
  }

  DenseBatchSolution view() {
    DenseBatchSolution out;
    MutableBatchArray* const arrays[] = {&out.x,
                                         &out.y,
                                         &out.z,
                                         &out.w,
                                         &out.s_eq,
                                         &out.s_lower,
                                         &out.s_upper,
                                         &out.s_lb,
                                         &out.s_ub,
                                         &out.certificate_x,
                                         &out.certificate_y,
                                         &out.certificate_z,
                                         &out.certificate_w,
                                         &out.objective,
                                         &out.primal_residual,
                                         &out.dual_residual,
                                         &out.duality_gap};
    for (int f = 0; f < fields; ++f) *arrays[f] = {values[f].data(), width[f]};
    out.status = status.data();
    out.iterations = iterations.data();
    return out;
  }

  Solution solution(int i) const {
    Solution s(dims.n, dims.rows());
    s.x = block(0, i);
    s.z << block(1, i), block(2, i), block(3, i);
    const Vector s_eq = block(4, i);
    s.shift_lower << (-s_eq).cwiseMax(0.0), block(5, i), block(7, i);
    s.shift_upper << s_eq.cwiseMax(0.0), block(6, i), block(8, i);
    s.certificate_x = block(9, i);
    s.certificate_z << block(10, i), block(11, i), block(12, i);
    s.objective = values[13][i];
    s.primal_residual = values[14][i];
    s.dual_residual = values[15][i];
    s.duality_gap = values[16][i];
    s.status = static_cast<Status>(status[i]);
    s.iterations = static_cast<int>(iterations[i]);
    return s;
  }

  ConstVectorMap block(int f, int i) const { return {values[f].data() + long(i) * width[f], width[f]}; }

  // Element i equals element k of the other, to the bit.
  bool same(int i, const Outputs& other, int k) const {
    if (status[i] != other.status[k] || iterations[i] != other.iterations[k]) return false;
    for (int f = 0; f < fields; ++f)
      for (long j = 0; j < width[f]; ++j) {
        const double a = block(f, i)[j], b = other.block(f, k)[j];
        if (std::memcmp(&a, &b, sizeof a) != 0 && !(std::isnan(a) && std::isnan(b))) return false;
      }
    return true;
  }

  static constexpr int fields = 17;
  DenseDims dims;
  int size;
  std::vector<double> values[fields];
  long width[fields];
  std::vector<long long> status, iterations;
};

// Gradients of a batch, per element.
struct Gradients {
  Gradients(DenseDims d, int size) : residual(size) {
    const long widths[] = {
        long(d.n) * d.n, d.n, long(d.n_eq) * d.n, d.n_eq, long(d.n_in) * d.n, d.n_in, d.n_in, d.n, d.n};
    for (int f = 0; f < fields; ++f) {
      values[f].assign(widths[f] * size, 0.0);
      width[f] = widths[f];
    }
  }

  DataBatch view(bool shared) {
    DataBatch out;
    MutableBatchArray* const arrays[] = {&out.H, &out.g, &out.A, &out.b, &out.C, &out.l, &out.u, &out.lb, &out.ub};
    for (int f = 0; f < fields; ++f) *arrays[f] = {values[f].data(), shared ? 0 : width[f]};
    return out;
  }

  static constexpr int fields = 9;
  std::vector<double> values[fields];
  long width[fields];
  std::vector<double> residual;
};

inline Outputs solve(const DenseBatch& batch, const Settings& settings, const Outputs* start = nullptr) {
  Outputs out = start != nullptr ? *start : Outputs(batch.dims, batch.size);
  solve_batch(batch, settings, start != nullptr, out.view(), [] { return false; });
  return out;
}

inline Gradients differentiate(const DenseBatch& batch, Outputs& solution, Outputs& loss, bool shared) {
  Gradients out(batch.dims, shared ? 1 : batch.size);
  out.residual.resize(batch.size);
  CertificateBatch certificate;
  certificate.residual = out.residual.data();
  adjoint_batch(batch, solution.view(), loss.view(), {}, out.view(shared), certificate);
  return out;
}

}  // namespace qp_control
