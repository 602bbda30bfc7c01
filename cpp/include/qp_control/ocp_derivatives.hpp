// Derivatives at solutions of optimal-control QPs, by the formulas of derivatives.hpp with the dynamics among the
// equalities, from the systems of ocp_system.hpp. Each is found to the accepted residual and written, or its entry of
// `done` is false and nothing is.
#pragma once

#include "qp_control/derivatives_batch.hpp"
#include "qp_control/ocp_gradients.hpp"
#include "qp_control/ocp_system.hpp"

namespace qp_control {

// A loss, by its gradients on the outputs (absent: zero), and where those by the data go.
struct OcpLoss {
  OcpBatchSolution fields;
  OcpGradients gradients;
  CertificateBatch certificate;
};

// A change of the data, in the sizes of the batch (absent: none), and where those of the outputs go.
struct OcpChange {
  OcpBatch data;
  OcpBatchSolution fields;
  CertificateBatch certificate;
};

// A vector of the system: (x, y), the slacks and z; (eta, pi) and omega s of a shifted solution (kkt_system.hpp).
struct OcpSystemArrays {
  OcpBatchSolution point, level;
};
struct OcpRightHandSide {
  OcpSystemArrays rhs, q;
};

// What the rows do: 1 where a row's bound is the lower or the upper one, 1/2 where it is the middle of both; 1 / omega
// on shifted ones.
struct OcpRoles {
  OcpBatchSolution lower, upper, shifted;
};

// Adds gradients of the data.
template <class Real>
void differentiate(OcpSystem<Real>& at, const OcpBatch& batch, int first, int last, const OcpLoss& loss, bool* done);
// Writes changes of the outputs.
template <class Real>
void differentiate(OcpSystem<Real>& at, const OcpBatch& batch, int first, int last, const OcpChange& change,
                   bool* done);
// Writes K^-1 rhs.
template <class Real>
void solve(OcpSystem<Real>& at, int first, int last, const OcpRightHandSide& side, bool* done);

// The solution itself as a vector of the system, and what its rows do.
template <class Real>
void write_point(const OcpSystem<Real>& at, int first, int last, const OcpSystemArrays& v, const OcpRoles& roles);

}  // namespace qp_control
