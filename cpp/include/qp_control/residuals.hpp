// How good a point is, judged on the caller's data alone.
#pragma once

#include "qp_control/dense_qp.hpp"
#include "qp_control/settings.hpp"

namespace qp_control {

struct Residuals {
  double primal = 0.0;           // largest violation of a row
  double dual = 0.0;             // |H x + g + R'z|
  double complementarity = 0.0;  // largest min(|z_i|, distance of row i to the bound that z_i's sign names)
  double gap = 0.0;              // |x'H x + g'x + sum of bound times multiplier|
  double objective = 0.0;
  double primal_scale = 0.0, dual_scale = 0.0;  // of the terms, for the relative tolerance

  bool within(const Settings& settings) const;
};

// Rows with a crossed pair of bounds violate at least one of them.
Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z, Products& work);
Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z);

}  // namespace qp_control
