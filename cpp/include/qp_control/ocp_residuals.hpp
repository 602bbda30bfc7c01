// How good a point of an optimal-control QP is, judged on the caller's data alone, in extended precision.
#pragma once

#include "qp_control/ocp_solution.hpp"
#include "qp_control/residuals.hpp"

namespace qp_control {

// Of element i; the dynamics' residuals count as primal ones. Absent fields of the solution are zero.
Residuals ocp_residuals(const OcpBatch& batch, int i, const OcpBatchSolution& solution);

}  // namespace qp_control
