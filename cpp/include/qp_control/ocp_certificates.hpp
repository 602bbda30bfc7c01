// Proofs that an optimal-control QP has no solution, checked on the caller's data, in extended precision, before they
// are claimed. Problems: element 0 of a batch.
#pragma once

#include "qp_control/ocp_element.hpp"
#include "qp_control/ocp_residuals.hpp"

namespace qp_control {

// Ray (x, u): it follows the dynamics without their constants and has no curvature, the rows stay inside the recession
// cone of the bounds, and the cost falls along it.
bool is_ocp_ray(const OcpBatch& problem, const OcpElement& ray);

// Farkas vector (y, z) of `proof`, whose x and u are zero: see certificates.hpp. True when it excludes every point up
// to a million times as large as `size`, or as one.
bool is_ocp_farkas(const OcpBatch& problem, OcpElement& proof, double size, OcpGradientRoom& room);

}  // namespace qp_control
