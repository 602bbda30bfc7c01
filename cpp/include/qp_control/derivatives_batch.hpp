// Derivatives of many problems of one size in one call.
#pragma once

#include "qp_control/dense_batch.hpp"
#include "qp_control/derivatives.hpp"

namespace qp_control {

// The data's gradients, or its changes. Absent arrays are not computed, or zero.
struct DataBatch {
  MutableBatchArray H, g, A, b, C, l, u, lb, ub;
};

// One entry per element; absent fields are not written.
struct CertificateBatch {
  double* residual = nullptr;
  long long* weakly_active = nullptr;
  long long* rank_deficiency = nullptr;
};

inline void write_certificate(const DerivativeCertificate& from, const CertificateBatch& to, int i) {
  if (to.residual != nullptr) to.residual[i] = from.residual;
  if (to.weakly_active != nullptr) to.weakly_active[i] = from.weakly_active;
  if (to.rank_deficiency != nullptr) to.rank_deficiency[i] = from.rank_deficiency;
}

// Writes the gradients of a loss, from those on the outputs (absent: zero). Arrays of stride 0 receive the sum over the
// batch, in an order that does not depend on the threads.
void adjoint_batch(const DenseBatch& batch, const DenseBatchSolution& solution, const DenseBatchSolution& loss,
                   const DerivativeSettings& settings, const DataBatch& out, const CertificateBatch& certificate);

// Changes of the outputs from those of the data.
void tangent_batch(const DenseBatch& batch, const DenseBatchSolution& solution, const DataBatch& change,
                   const DerivativeSettings& settings, const DenseBatchSolution& out,
                   const CertificateBatch& certificate);

// The pieces that derivatives of any order are composed of. `pattern` has (5, rows) entries per element: active,
// shifted, weight, lower_share, compliance; a vector (x, eta, z, s) has 2 n + 2 rows.
void solution_point_batch(const DenseBatch& batch, const DenseBatchSolution& solution,
                          const DerivativeSettings& settings, MutableBatchArray pattern, MutableBatchArray v);

// Solves K out = rhs for `count` right-hand sides per element; of the batch only H, A and C are read.
void kkt_solve_batch(const DenseBatch& batch, const long long* status, BatchArray pattern, int count, BatchArray rhs,
                     const DerivativeSettings& settings, MutableBatchArray out);

}  // namespace qp_control
