// Derivatives of many optimal-control QPs of one size in one call. Elements that the recursions do not answer for go
// through the dense form, one by one.
#pragma once

#include <vector>

#include "qp_control/ocp_derivatives.hpp"

namespace qp_control {

// Adds the gradients of the losses to arrays that hold zeros; the systems are factored once for all losses. Arrays
// without an axis of elements receive the sum over the batch, in an order that does not depend on the threads.
void ocp_adjoint_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                       const std::vector<OcpLoss>& losses);

// Writes the outputs' changes, to arrays that hold zeros, with the systems factored once for all of them.
void ocp_tangent_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                       const std::vector<OcpChange>& changes);

// The pieces that derivatives of any order are composed of, to arrays that hold zeros: K^-1 of right-hand sides, and
// the solution as a vector of the system.
void ocp_system_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                      const std::vector<OcpRightHandSide>& sides);
void ocp_point_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                     const OcpSystemArrays& v, const OcpRoles& roles);

// The arguments' fields, in one order everywhere.
struct OcpField {
  StageArray OcpBatch::* data;
  StageGradient OcpGradients::* gradient;
};
extern const OcpField ocp_fields[26];

}  // namespace qp_control
