// A controller by inverse dynamics in a control loop: one robot, and an answer at every tick.
//
//   NumberList numbers;
//   WholeBodySettings parts;                            // see whole_body.hpp
//   Term posture{TermKind::posture, {6, 7, 8}};         // which velocities
//   posture.weight = numbers.add(3, 1.0);
//   ...
//   parts.numbers = numbers.size();
//   Settings settings;
//   settings.closest = true;                            // limits that contradict each other give way
//   settings.reduced_eps_rel = 1e-10;                   // where rounding keeps an absolute tolerance out of reach
//   auto solver = dense_qp_maker(settings);
//   InverseDynamicsLoop loop(model, parts, *solver);
//   while (..) send(loop.tick(q, v, numbers.data()).torque);
//
// Nothing is allocated in a tick, but for what the solver does where it first needs it (see dense_solver.hpp).
#pragma once

#include <Eigen/Core>
#include <limits>
#include <memory>
#include <pinocchio/multibody/fwd.hpp>
#include <vector>

#include "qp_control/dense_qps.hpp"
#include "qp_control/whole_body.hpp"

namespace qp_control {

// The numbers of a controller's parts, side by side.
class NumberList {
 public:
  // Where they begin.
  int add(const std::vector<double>& values) {
    values_.insert(values_.end(), values.begin(), values.end());
    return size() - static_cast<int>(values.size());
  }
  int add(int count, double value) { return add(std::vector<double>(count, value)); }
  int size() const { return static_cast<int>(values_.size()); }
  double& operator[](int i) { return values_[i]; }
  const double* data() const { return values_.data(); }

 private:
  std::vector<double> values_;
};

struct LoopOptions {
  double torque_shift_weight = std::numeric_limits<double>::infinity();  // infinite: torque limits hold exactly
  // Of the rows of A, C and x, one after the other; empty: made from the numbers of the first tick.
  std::vector<double> shift_weights;
  std::vector<double> parameters;  // of the model, see rigid_body.hpp; empty: its own
};

struct ControlTick {
  Eigen::VectorXd torque;  // [N m or N], within limits that hold exactly; without an answer those of the tick before
  Eigen::VectorXd x;       // accelerations [m/s^2 or rad/s^2] and forces [N]; as they were without an answer
  Eigen::VectorXd shift;   // by how much each row gave way: of A, C and the bounds of accelerations
  Status status = Status::INVALID_INPUT;
  int iterations = 0;
};

class InverseDynamicsLoop {
 public:
  // The solver has to outlive it.
  InverseDynamicsLoop(const pinocchio::Model& model, WholeBodySettings parts, const DenseQpMaker& solver,
                      LoopOptions options = {});
  ~InverseDynamicsLoop();

  WholeBodySizes sizes() const;
  // q (nq), v (nv), numbers (parts.numbers); quaternions of q and of references of any length but zero; parameters of
  // the model for this tick, those of the options where there are none. It starts from the solution before.
  const ControlTick& tick(const double* q, const double* v, const double* numbers, const double* parameters = nullptr);
  // Forgets the ticks before.
  void reset();

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
