// Dense QPs, one after the other and all of one size, for the other modules of this package. As with box_qps.hpp no
// more crosses from one module to the other than plain numbers, behind virtual functions.
#pragma once

#include <memory>

#include "qp_control/dense_data.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/status.hpp"

namespace qp_control {

// x (n), and arrays of rows: equalities, inequalities, box (see solution.hpp).
struct DensePoint {
  double *x, *z, *active, *shift_lower, *shift_upper;
};

struct DenseOutcome {
  Status status;
  int iterations;
};

// A workspace for one thread.
class DenseQps {
 public:
  virtual ~DenseQps() = default;
  // Writes the solution over the point, from whose x, z and active it starts where `warm`.
  virtual DenseOutcome solve(const DenseQP& qp, bool warm, const DensePoint& point) = 0;
};

// What the solver's module hands out, with its settings.
class DenseQpMaker {
 public:
  virtual ~DenseQpMaker() = default;
  // certify: contradicting constraints are never shifted, whatever the settings say.
  virtual std::unique_ptr<DenseQps> make(DenseDims dims, bool certify = false) const = 0;
};

// The solver's own.
std::unique_ptr<DenseQpMaker> dense_qp_maker(const Settings& settings);

}  // namespace qp_control
