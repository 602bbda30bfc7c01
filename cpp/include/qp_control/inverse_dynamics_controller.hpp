// A controller by inverse dynamics that Python has exported (qp_control.export_inverse_dynamics), as a control loop
// without Python:
//
//   InverseDynamicsController controller("controller");
//   auto reference = controller.number("posture.reference");
//   while (..) {
//     reference = ..;
//     send(controller.tick(q, v).torque);
//   }
//
// Its QPs are those of the controller's `compute`, and so are its answers.
#pragma once

#include <map>
#include <string>

#include "qp_control/inverse_dynamics_loop.hpp"

namespace qp_control {

class InverseDynamicsController {
 public:
  using Numbers = Eigen::Map<Eigen::VectorXd>;

  // Throws std::runtime_error for files that are missing or damaged, or are not those of such a controller.
  explicit InverseDynamicsController(const std::string& folder);
  ~InverseDynamicsController();

  // The robot, as it was exported: names and order of joints.
  const pinocchio::Model& model() const;
  // Numbers of a part, by their name in Python, to be read and set between ticks: they stay where they are. What
  // follows from others in Python (damping from stiffness) is a number of its own. Throws std::invalid_argument where
  // there are none.
  Numbers number(const std::string& name);
  std::vector<std::string> names() const;
  const std::vector<int>& actuated() const;  // the velocities that torques drive, in their order

  // As InverseDynamicsLoop.
  const ControlTick& tick(const double* q, const double* v);
  void reset();

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
