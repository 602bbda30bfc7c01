// Solves optimal-control QPs whose constraints do not contradict each other: as many at once as a vector register has
// lanes (Real = Pack), or one (Real = double). Others are left to the caller, with what is known of them.
#pragma once

#include <memory>

#include "qp_control/deadline.hpp"
#include "qp_control/ocp_solution.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

template <class Real>
class OcpSolver {
 public:
  explicit OcpSolver(const OcpBatch& batch);
  ~OcpSolver();

  // Elements first..last-1, at most one per lane; writes a solution and `solved`, or a verdict: INVALID_INPUT,
  // NON_CONVEX, or MAX_ITER for all that is to be looked at in another way. As a starting point out.x .. out.w_u are
  // read when warm. False: some Q or R is not equal to its transpose.
  bool solve(const OcpBatch& batch, int first, int last, const Settings& settings, const Deadline& deadline, bool warm,
             const OcpBatchSolution& out);

  static constexpr int width() { return std::is_same_v<Real, Pack> ? lanes : 1; }

 private:
  struct Workspace;
  std::unique_ptr<Workspace> work_;
};

extern template class OcpSolver<Pack>;
extern template class OcpSolver<double>;

}  // namespace qp_control
