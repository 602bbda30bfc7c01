// Options of the solver: one flat struct, a default and a meaning beside each field.
#pragma once

namespace qp_control {

struct Settings {
  double eps_abs = 1e-8;         // absolute tolerance on the unscaled primal and dual residual
  double eps_rel = 0.0;          // relative tolerance, on top of eps_abs
  double reduced_eps_rel = 0.0;  // the same where that one cannot be reached, as rounding is above it
  double eps_gap = 0.0;          // absolute tolerance on the duality gap; 0: the gap is reported but not tested
  int max_iter = 2000;           // Newton steps
  double time_limit = 0.0;       // seconds per problem; 0: none
  bool closest = false;          // infeasible problems: the closest feasible one, or else a certificate
  int threads = 0;               // 0: as many as the process may run on

  // A gap that is tested has rounding of its own, of which a looser relative tolerance says nothing.
  bool reducible() const { return reduced_eps_rel > eps_rel && eps_gap <= 0.0; }
  // Those that the best point found is held to in the end.
  Settings reduced() const {
    Settings out = *this;
    if (reducible()) out.eps_rel = reduced_eps_rel;
    return out;
  }
};

}  // namespace qp_control
