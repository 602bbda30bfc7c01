// Many optimal-control QPs of one size in one call.
#pragma once

#include "qp_control/ocp_solution.hpp"

namespace qp_control {

// out.x .. out.w_u hold the starting points when warm is true. `interrupted`: as in solve_batch.
BatchEnd solve_ocp_batch(const OcpBatch& batch, const Settings& settings, bool warm, const OcpBatchSolution& out,
                         const std::function<bool()>& interrupted);

// Whether the problems are solved in lanes: by their size alone, so that an element's result does not depend on its
// neighbours; a problem without any fills a register by itself, several times faster than one lane of it.
bool ocp_in_lanes(const OcpBatch& batch);

}  // namespace qp_control
