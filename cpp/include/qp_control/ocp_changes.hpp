// From a change of the data to the right-hand side of a tangent's system (derivatives.hpp), stage by stage: what
// ocp_gradients.hpp is for the adjoint.
#pragma once

#include "qp_control/ocp_system.hpp"

namespace qp_control {

// Writes at.rhs, of elements first..last-1; returns what the change of the cost makes of the objective where they are.
template <class Real>
Real read_change(OcpSystem<Real>& at, const OcpBatch& batch, const OcpBatch& change, int first, int last);

extern template Pack read_change(OcpSystem<Pack>&, const OcpBatch&, const OcpBatch&, int, int);
extern template double read_change(OcpSystem<double>&, const OcpBatch&, const OcpBatch&, int, int);

}  // namespace qp_control
