// Derivatives of many optimal-control QPs of one size in one call.
#pragma once

#include "qp_control/ocp_adjoint.hpp"

namespace qp_control {

// Adds the gradients of a loss, from those on the outputs (absent: zero), to arrays that hold zeros. Arrays without an
// axis of elements receive the sum over the batch, in an order that does not depend on the threads.
void ocp_adjoint_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const OcpBatchSolution& loss,
                       const DerivativeSettings& settings, const OcpGradients& out,
                       const CertificateBatch& certificate);

// The arguments' fields, in one order everywhere.
struct OcpField {
  StageArray OcpBatch::* data;
  StageGradient OcpGradients::* gradient;
};
extern const OcpField ocp_fields[26];

}  // namespace qp_control
