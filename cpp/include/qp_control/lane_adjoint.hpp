// The adjoint of as many solutions at once as a vector register has lanes: the ordinary case, a solved problem whose
// KKT system on its active rows is regular. Others are left to adjoint() (derivatives.hpp), where the formulas stand.
#pragma once

#include <memory>

#include "qp_control/derivatives_batch.hpp"

namespace qp_control {

class LaneAdjoint {
 public:
  explicit LaneAdjoint(const DenseBatch& batch);
  ~LaneAdjoint();

  // Elements first..last-1, last - first <= lanes. Each is differentiated and its gradients put into `out` (added where
  // they are shared), or its entry of `done` is false and nothing is written.
  void put(const DenseBatch& batch, int first, int last, const DenseBatchSolution& solution,
           const DenseBatchSolution& loss, const DataBatch& out, const CertificateBatch& certificate, bool* done);

  // As LaneSolver::suits.
  static bool suits(const DenseDims& dims, const DerivativeSettings& settings);

 private:
  struct Workspace;
  std::unique_ptr<Workspace> work_;
};

}  // namespace qp_control
