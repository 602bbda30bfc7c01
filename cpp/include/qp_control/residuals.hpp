// How good a point is, judged on the caller's data alone.
#pragma once

#include "qp_control/dense_qp.hpp"
#include "qp_control/settings.hpp"

namespace qp_control {

struct Residuals {
  double primal = 0.0;           // largest violation of a row
  double dual = 0.0;             // |H x + g + R'z|
  double complementarity = 0.0;  // largest min(|z_i|, distance of row i to the bound that z_i's sign names)
  double gap = 0.0;              // x'H x + g'x + sum of bound times multiplier, signed
  double objective = 0.0;
  double primal_scale = 0.0, dual_scale = 0.0;  // of the terms, for the relative tolerance

  bool within(const Settings& settings) const;
};

// Rows with a crossed pair of bounds violate at least one of them.
Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z, Products& work);
Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z);
// The same in extended precision.
Residuals precise_residuals(const StackedQP& qp, const Vector& x, const Vector& z);

// Are the residuals r of (x, z) within the reduced tolerances? Where these count, a small dual residual that is no more
// than rounding of its terms, the products H_ij x_j among them, will do.
bool within_reduced(Residuals r, const Settings& settings, const StackedQP& qp, const Vector& x, const Vector& z);

// Where the gap alone is outside its tolerance and no more than the rounding of large numbers that cancel: moves one
// multiplier by as little as closes it. r: precise residuals of (x, z), before and after.
bool close_gap(const StackedQP& qp, const Settings& settings, const Vector& x, Vector& z, Residuals& r);

}  // namespace qp_control
