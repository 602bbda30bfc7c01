// Smaller multipliers for the same point.
#pragma once

#include <vector>

#include "qp_control/dense_qp.hpp"

namespace qp_control {

// Where active rows are dependent many multipliers belong to one point, and the rounding of large ones may exceed what
// the caller allows of the dual residual. Takes those of x towards the least ones as far as their signs allow; a row
// whose multiplier vanishes on the way leaves the active set. The last resort of a rescue: it takes memory of its own.
void shrink_multipliers(const StackedQP& qp, const Vector& x, std::vector<int>& active, Vector& z);

}  // namespace qp_control
