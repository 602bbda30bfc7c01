// Minimises one dense QP whose bounds do not cross: equilibration, the augmented-Lagrangian loop, the polish on the
// active set, and a judge who sees every outer step in the caller's units.
#pragma once

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/dense_qp.hpp"
#include "qp_control/residuals.hpp"
#include "qp_control/settings.hpp"

namespace qp_control {

struct Outcome {
  Verdict verdict;
  int steps;
  Vector x, z, ray;
  Residuals residuals;
};

struct Minimiser {
  const Settings& settings;
  const double regularisation;  // of H, for the factorisations only
  const Deadline deadline;

  // From (x, z), or from zero where they are nullptr.
  Outcome operator()(const StackedQP& qp, const Vector* x, const Vector* z, bool look_for_certificates) const;
};

// Is H semidefinite up to rounding? `regularisation` is what makes it safely definite for the factorisations, 0 if it
// is already.
bool convex(const StackedQP& qp, double& regularisation);

}  // namespace qp_control
