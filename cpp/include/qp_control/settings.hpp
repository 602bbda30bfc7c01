// Options of the solver: one flat struct, a default and a meaning beside each field.
#pragma once

namespace qp_control {

struct Settings {
  double eps_abs = 1e-8;    // absolute tolerance on the unscaled primal and dual residual
  double eps_rel = 0.0;     // relative tolerance, on top of eps_abs
  double eps_gap = 0.0;     // absolute tolerance on the duality gap; 0: the gap is reported but not tested
  int max_iter = 2000;      // Newton steps
  double time_limit = 0.0;  // seconds per problem; 0: none
  bool closest = false;     // infeasible problems: the closest feasible one, or else a certificate
  int threads = 0;          // 0: as many as the process may run on
};

}  // namespace qp_control
