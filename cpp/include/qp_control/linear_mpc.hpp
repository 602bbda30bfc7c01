// A linear model-predictive controller that Python has exported (qp_control.export_mpc), as a control loop without
// Python. Its problem is that of ocp_qp.hpp, whose data are the same at every tick but for x0 and the reference.
//
// Like qp_control.MPC it starts each solve from its last plan, shifted by one control period. A tick whose problem has
// no answer keeps that plan, and sends what it intended. Limits that cannot be met are shifted by the least amount.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qp_control/parameter_files.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

class LinearMpc {
 public:
  // Throws std::runtime_error where the parameters are not those of such a controller.
  explicit LinearMpc(const ParameterFiles& parameters);
  explicit LinearMpc(const std::string& folder) : LinearMpc(read_parameters(folder)) {}
  ~LinearMpc();

  int horizon() const;  // N
  int nx() const;       // of the model
  int nu() const;
  double period() const;  // [s]

  // x (nx): the state now. The input (nu) to send, which lives until the next tick. Allocates nothing, but for a
  // problem that is too hard for the loop and goes to the general solver; Settings::time_limit bounds that.
  const double* tick(const double* x);
  // Forgets the ticks so far.
  void reset();
  // r (nx): the state to reach from the next tick on.
  void set_reference(const double* r);
  // Tolerances and limits; those of the exported controller to begin with.
  Settings& settings();

  // Of the last tick.
  Status status() const;
  int iterations() const;
  const double* inputs() const;      // the plan (N, nu)
  const double* state(int k) const;  // the plan's state x_k (nx), 0 <= k <= N

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
