// Derivatives of many optimal-control QPs of one size in one call.
#pragma once

#include <vector>

#include "qp_control/ocp_adjoint.hpp"

namespace qp_control {

// A loss, by its gradients on the outputs (absent: zero), and where those by the data go.
struct OcpLoss {
  OcpBatchSolution fields;
  OcpGradients gradients;
  CertificateBatch certificate;
};

// Adds the gradients of the losses to arrays that hold zeros; the systems are factored once for all losses. Arrays
// without an axis of elements receive the sum over the batch, in an order that does not depend on the threads.
void ocp_adjoint_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                       const std::vector<OcpLoss>& losses);

// The arguments' fields, in one order everywhere.
struct OcpField {
  StageArray OcpBatch::* data;
  StageGradient OcpGradients::* gradient;
};
extern const OcpField ocp_fields[26];

}  // namespace qp_control
