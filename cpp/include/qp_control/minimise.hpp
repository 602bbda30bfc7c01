// Minimises one dense QP whose bounds do not cross: equilibration, the augmented-Lagrangian loop, and a judge who sees
// every outer step in the caller's units.
#pragma once

#include <optional>
#include <vector>

#include "qp_control/active_set.hpp"
#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/certificates.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/dense_qp.hpp"
#include "qp_control/dense_step_system.hpp"
#include "qp_control/residuals.hpp"
#include "qp_control/rounding.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// How a run that ends with this verdict is reported.
Status status_of(Verdict verdict);
// A run's verdict on the best point that it has found: where the tolerances are out of reach, the reduced ones count.
Verdict verdict_on(bool within_reduced, Verdict verdict, const Settings& settings);

// Where a run begins. sides: the signs name the active set; z itself where the caller knows no better.
struct Start {
  Start(int n, int rows) : x(n), z(rows), sides(rows) {}
  Vector x, z, sides;
};

struct Outcome {
  Outcome(int n, int rows) : x(n), z(rows), ray(n) {}
  Verdict verdict = Verdict::GO_ON;
  int steps = 0;
  Vector x, z, ray;
  Residuals residuals;
};

// A workspace for problems of one size. Allocates in its constructor, and once more each where a problem first needs
// the rescue or the ray of an unbounded one, which few do.
class Minimiser {
 public:
  // equalities: see DenseKkt.
  Minimiser(int n, int stored_rows, int equalities = 0);

  // Takes the problem in; qp must outlive what follows. same_hessian: H is that of the last call. False: H is not
  // semidefinite, up to rounding.
  bool load(const StackedQP& qp, bool same_hessian = false);
  // The same where only the vectors have changed since the last call.
  bool load_vectors(const StackedQP& qp);
  // From zero without a start. The outcome lives until the next call.
  const Outcome& run(const Settings& settings, const Deadline& deadline, const Start* start,
                     bool look_for_certificates);
  const Outcome& outcome() const { return outcome_; }
  // The factor of the last Newton step.
  void keep(KeptFactor to) const { kkt_.keep(scaling_, to); }

 private:
  class Judge;

  // may_give_up: the loop may begin the rescue before its steps are up. True: it has.
  bool run_once(const Settings& settings, const Deadline& deadline, const Start* start, bool look_for_certificates,
                bool may_give_up);

  const StackedQP* qp_ = nullptr;
  DenseKkt kkt_;
  Equilibration scaling_;
  Iterate iterate_;
  Penalties penalties_;
  Vector x_, z_, step_;  // unscaled
  Products products_;
  RoundingBounds<double> rounding_;
  std::vector<int> active_, tried_;  // rows
  Polish polish_;
  std::optional<InteriorPoint<DenseStepSystem>> rescue_;
  RayRoom ray_room_;
  Outcome outcome_;
};

}  // namespace qp_control
