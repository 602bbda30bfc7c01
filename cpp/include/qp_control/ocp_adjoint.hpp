// Gradients of a loss with respect to the data of optimal-control QPs, from its gradients with respect to their
// solutions: the formulas of derivatives.hpp with the dynamics among the equalities, the linear system solved by the
// Riccati recursion. The ordinary case, a solved problem whose KKT system on its active rows is regular, for as many as
// a register has lanes (Real = Pack) or for one (Real = double).
#pragma once

#include <memory>

#include "qp_control/derivatives_batch.hpp"
#include "qp_control/ocp_gradients.hpp"

namespace qp_control {

template <class Real>
class OcpAdjoint {
 public:
  explicit OcpAdjoint(const OcpBatch& batch);
  ~OcpAdjoint();

  // Factors the systems of elements first..last-1, at most one per lane.
  void prepare(const OcpBatch& batch, int first, int last, const OcpBatchSolution& solution);
  // Of the same elements, for any number of losses. Each is differentiated and its gradients added to `out`, or its
  // entry of `done` is false and nothing is.
  void put(const OcpBatch& batch, int first, int last, const OcpBatchSolution& loss, const OcpGradients& out,
           const CertificateBatch& certificate, bool* done);

  static constexpr int width() { return std::is_same_v<Real, Pack> ? lanes : 1; }

 private:
  struct Workspace;
  std::unique_ptr<Workspace> work_;
};

extern template class OcpAdjoint<Pack>;
extern template class OcpAdjoint<double>;

}  // namespace qp_control
