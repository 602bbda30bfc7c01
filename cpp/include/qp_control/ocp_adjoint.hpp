// Gradients of a loss with respect to the data of optimal-control QPs, from its gradients with respect to their
// solutions: the formulas of derivatives.hpp with the dynamics among the equalities, the linear system solved by the
// Riccati recursion. The ordinary case, a solved problem whose KKT system on its active rows is regular, for as many as
// a register has lanes (Real = Pack) or for one (Real = double).
#pragma once

#include <memory>

#include "qp_control/derivatives_batch.hpp"
#include "qp_control/ocp_solution.hpp"

namespace qp_control {

// The gradient of one argument: of stage k of element i at data + i * batch + (k - first) * stage, as StageArray; what
// stages or elements share is added up, so it must begin with zeros.
struct StageGradient {
  double* data = nullptr;
  long batch = 0, stage = 0;
  int first = 0;
  long size = 0;  // of one element's stages together
  double* at(int i, int k) const { return data + i * batch + (k - first) * stage; }
};

struct OcpGradients {
  StageGradient Q, R, S, q, r, Q_N, q_N, A, B, c, x0, C, D, lower, upper, C_N, lower_N, upper_N;
  StageGradient x_lower, x_upper, u_lower, u_upper;
  StageGradient slack_linear, slack_quadratic, slack_linear_N, slack_quadratic_N;
};

template <class Real>
class OcpAdjoint {
 public:
  explicit OcpAdjoint(const OcpBatch& batch);
  ~OcpAdjoint();

  // Elements first..last-1, at most one per lane. Each is differentiated and its gradients added to `out`, or its entry
  // of `done` is false and nothing is.
  void put(const OcpBatch& batch, int first, int last, const OcpBatchSolution& solution, const OcpBatchSolution& loss,
           const OcpGradients& out, const CertificateBatch& certificate, bool* done);

  static constexpr int width() { return std::is_same_v<Real, Pack> ? lanes : 1; }

 private:
  struct Workspace;
  std::unique_ptr<Workspace> work_;
};

extern template class OcpAdjoint<Pack>;
extern template class OcpAdjoint<double>;

}  // namespace qp_control
