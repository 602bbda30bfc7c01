// Solves as many problems at once as a vector register has lanes: the ordinary case, small and solvable. A problem that
// does not turn out to be ordinary (infeasible, unbounded, not convex, invalid, slow) is left to DenseSolver.
#pragma once

#include <memory>

#include "qp_control/deadline.hpp"
#include "qp_control/dense_batch.hpp"

namespace qp_control {

class LaneSolver {
 public:
  explicit LaneSolver(const DenseBatch& batch);
  ~LaneSolver();

  // Elements first..last-1 of the batch, last - first <= lanes; each of them is solved and written to `out`, or its
  // entry of `solved` is false and nothing is written. As a starting point out.x, .y, .z, .w are read when warm.
  // False: some H is not equal to its transpose.
  bool solve(const DenseBatch& batch, int first, int last, const Settings& settings, const Deadline& deadline,
             bool warm, const DenseBatchSolution& out, bool* solved);

  // Whether problems of this size are worth it. The choice must not depend on anything but the size and the settings:
  // an element's result is the same in every batch.
  static bool suits(const DenseDims& dims, const Settings& settings);
  static int width();
  static bool small(const DenseDims& dims);

 private:
  struct Workspace;
  std::unique_ptr<Workspace> work_;
};

}  // namespace qp_control
