// How good a point of an optimal-control QP is, judged on the caller's data alone, in extended precision.
#pragma once

#include <vector>

#include "qp_control/ocp_solution.hpp"
#include "qp_control/residuals.hpp"

namespace qp_control {

// Memory for the gradient of one stage, and for the largest term of each of its entries.
struct OcpGradientRoom {
  explicit OcpGradientRoom(const OcpDims& dims)
      : gradient_x(dims.nx), gradient_u(dims.nu), size_x(dims.nx), size_u(dims.nu) {}
  std::vector<long double> gradient_x, gradient_u, size_x, size_u;
};

// Of element i; the dynamics' residuals count as primal ones. Absent fields of the solution are zero.
Residuals ocp_residuals(const OcpBatch& batch, int i, const OcpBatchSolution& solution, OcpGradientRoom& room);

}  // namespace qp_control
