// Many problems of one size in one call.
#pragma once

#include <functional>

#include "qp_control/dense_qp.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// An array of the batch: element i stands at data + i * stride. Stride 0: shared by the batch; nullptr: absent.
struct BatchArray {
  const double* data = nullptr;
  long stride = 0;
  const double* at(int i) const { return data == nullptr ? nullptr : data + i * stride; }
};

struct MutableBatchArray {
  double* data = nullptr;
  long stride = 0;
  double* at(int i) const { return data == nullptr ? nullptr : data + i * stride; }
};

struct DenseBatch {
  DenseDims dims;
  int size = 0;
  BatchArray H, g, A, b, C, l, u, lb, ub, weight_eq, weight_in, weight_box;
  DenseQP at(int i) const;
};

// -1 where a row or variable is held at its lower bound, 1 at the upper one, 0 where its multiplier is zero.
struct SideArray {
  signed char* data = nullptr;
  long stride = 0;
  signed char* at(int i) const { return data == nullptr ? nullptr : data + i * stride; }
};

// Fields of the solutions, each (size, .) and contiguous. As a starting point only x, y, z, w are read.
struct DenseBatchSolution {
  MutableBatchArray x, y, z, w, s_eq, s_lower, s_upper, s_lb, s_ub;
  MutableBatchArray certificate_x, certificate_y, certificate_z, certificate_w;
  MutableBatchArray objective, primal_residual, dual_residual, duality_gap;
  SideArray active_in, active_box;
  BatchArray start_in, start_box;  // numbers whose signs name the active set of a starting point; nullptr: z and w
  long long* status = nullptr;
  long long* iterations = nullptr;
  MutableBatchArray kept;  // where keeps_factors()
};

// Whether a solve keeps its factors for the derivatives: not of large problems. By size and settings alone: an
// element's derivative must not depend, to the bit, on how many neighbours there are.
bool keeps_factors(const DenseDims& dims, const Settings& settings);
// Numbers per element: its KeptFactor, or in lanes what LaneKkt keeps of as many as share a register, side by side; and
// the elements that there must be room for, as the last register may have lanes without one.
long kept_size(const DenseDims& dims);
long kept_elements(const DenseDims& dims, long size);

// How a batch ended. ASYMMETRIC: all elements are solved, but some H was not equal to its transpose.
enum class BatchEnd { DONE, ASYMMETRIC, INTERRUPTED };

// out holds the starting points when warm is true. `interrupted` is asked between elements, on the
// caller's thread; once it says yes the rest is left as it is.
BatchEnd solve_batch(const DenseBatch& batch, const Settings& settings, bool warm, const DenseBatchSolution& out,
                     const std::function<bool()>& interrupted);

}  // namespace qp_control
