// Minimises one optimal-control QP whose bounds do not cross: the loop on the Riccati back end, and a judge who sees
// every outer step and keeps the best point.
#pragma once

#include <optional>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/ocp_element.hpp"
#include "qp_control/ocp_residuals.hpp"
#include "qp_control/ocp_step_system.hpp"
#include "qp_control/riccati_kkt.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/suspicion.hpp"

namespace qp_control {

struct OcpOutcome {
  explicit OcpOutcome(const OcpDims& dims) : point(dims) {}
  Verdict verdict = Verdict::GO_ON;
  int steps = 0;
  OcpElement point;
  Residuals residuals;
};

// A workspace for problems like those of a batch.
class OcpMinimiser {
 public:
  explicit OcpMinimiser(const OcpBatch& batch);

  // Element 0 of `problem`, a batch of one: matrices that the batch shares are those of the first call. The outcome
  // lives until the next one.
  const OcpOutcome& run(const OcpBatch& problem, const Settings& settings, const Deadline& deadline,
                        bool look_for_certificates);
  const OcpOutcome& outcome() const { return outcome_; }
  // The ray (x, u) of an outcome that is DUAL_INFEASIBLE.
  const OcpElement& ray() const { return ray_; }

 private:
  class Judge;

  RiccatiKkt<double> kkt_;
  Equilibration scaling_;
  Iterate iterate_;
  Penalties penalties_;
  PackArray x_, z_, v_, weight_;  // of the judge: not those of the loop
  FarkasRoom room_;
  OcpElement ray_;
  OcpGradientRoom gradient_;
  std::optional<InteriorPoint<OcpStepSystem>> rescue_;
  OcpOutcome outcome_;
};

// A point of the loop to the caller's units, and arrays.
void read_iterate(const OcpLayout<double>& at, const Equilibration& scaling, const PackArray& x, const PackArray& z,
                  OcpElement& out);

}  // namespace qp_control
