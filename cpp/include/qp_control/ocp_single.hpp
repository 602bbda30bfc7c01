// Solves one optimal-control QP, whatever comes of it, at a cost that is linear in the horizon: for those that do not
// let go of the loop as the ordinary ones do (ocp_solver.hpp). Infeasible ones get their closest feasible solution, in
// which the dynamics are never shifted, or the proof that they are infeasible.
#pragma once

#include <memory>

#include "qp_control/deadline.hpp"
#include "qp_control/ocp_least_shift.hpp"
#include "qp_control/ocp_minimiser.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

class OcpSingleSolver {
 public:
  explicit OcpSingleSolver(const OcpBatch& batch);

  // Room for constraints that contradict each other, which is otherwise made when they first do.
  void reserve(const OcpBatch& batch) {
    if (!levels_) levels_ = std::make_unique<Levels>(batch);
  }

  // Element i, whose data are known to be valid and convex. Writes all of its solution, and adds to its iterations.
  void solve(const OcpBatch& batch, int i, const Settings& settings, const Deadline& deadline,
             const OcpBatchSolution& out);

 private:
  struct Levels {
    explicit Levels(const OcpBatch& batch) : hard(batch), first(batch), second(batch), proof(batch.dims) {}
    OcpBounds hard;  // without the soft rows, which can always be met
    OcpLeastShift first;
    OcpMinimiser second;
    OcpElement proof;
  };
  struct Answer {
    explicit Answer(const OcpDims& dims) : point(dims), certificate(dims) {}
    OcpElement point, certificate;
    Residuals residuals;
    Status status = Status::NUMERICAL_ERROR;
    int steps = 0;
  };

  void take(const OcpMinimiser& from);
  void judge_point(const OcpBatch& problem, Status status);
  void certify_crossed(const OcpBatch& problem);
  void look_closer(const OcpBatch& problem, bool crossed, const Settings& settings, const Deadline& deadline);
  void drop_suspicion(const OcpBatch& problem, const Settings& settings, const Deadline& deadline);
  bool claim_infeasible(const OcpBatch& problem);
  void solve_shifted(const OcpBatch& problem, const Settings& settings, const Deadline& deadline);

  OcpBounds bounds_;
  OcpMinimiser minimiser_;
  Answer answer_;
  bool suspected_ = false;  // the loop has stopped at what looks like a Farkas vector
  OcpGradientRoom gradient_;
  std::unique_ptr<Levels> levels_;  // made where they are first needed
};

}  // namespace qp_control
