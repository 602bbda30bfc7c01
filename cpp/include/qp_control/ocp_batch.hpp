// Many optimal-control QPs of one size in one call.
#pragma once

#include "qp_control/ocp_solution.hpp"

namespace qp_control {

// out.x .. out.w_u hold the starting points when warm is true. `interrupted`: as in solve_batch.
BatchEnd solve_ocp_batch(const OcpBatch& batch, const Settings& settings, bool warm, const OcpBatchSolution& out,
                         const std::function<bool()>& interrupted);

// Whether problems of this size are solved in lanes. By size alone: an element's result must not depend on its
// neighbours.
bool ocp_in_lanes(const OcpDims& dims);

}  // namespace qp_control
