// Solves optimal-control QPs of one size, whatever comes of them: a workspace for one thread of a batch, or for a
// control loop.
#pragma once

#include <memory>

#include "qp_control/dense_solver.hpp"
#include "qp_control/ocp_dense.hpp"
#include "qp_control/ocp_single.hpp"
#include "qp_control/ocp_solver.hpp"

namespace qp_control {

// What few problems need is made when one first does: the closest feasible solution, unless it was reserved, and the
// general solver behind it.
template <class Real>
class OcpWorker {
 public:
  explicit OcpWorker(const OcpBatch& batch) : structured_(batch) {}

  // After this, problems whose constraints contradict each other allocate nothing either.
  void reserve(const OcpBatch& batch);

  // Elements first..last-1 of a batch like that of the constructor, at most width() of them; out.x .. out.w_u hold the
  // starting points when warm is true. False: some Q or R is not equal to its transpose.
  bool solve(const OcpBatch& batch, int first, int last, const Settings& settings, bool warm,
             const OcpBatchSolution& out);

  static constexpr int width() { return OcpSolver<Real>::width(); }

 private:
  struct Dense {
    explicit Dense(const OcpBatch& batch)
        : form(batch), solver(form.dims()), solution(form.dims().n, form.dims().rows()) {}
    OcpDense form;
    DenseSolver solver;
    Solution solution;
  };
  OcpSingleSolver& single(const OcpBatch& batch);
  Dense& dense(const OcpBatch& batch);

  OcpSolver<Real> structured_;
  std::unique_ptr<OcpSingleSolver> single_;
  std::unique_ptr<Dense> dense_;
};

extern template class OcpWorker<Pack>;
extern template class OcpWorker<double>;

}  // namespace qp_control
