// Proofs that a problem has no solution, checked on the caller's data before they are claimed.
#pragma once

#include "qp_control/dense_qp.hpp"
#include "qp_control/pivoted_qr.hpp"

namespace qp_control {

// Farkas: R'z = 0 and sum_i (upper_i z_i+ + lower_i z_i-) < 0, so that no x satisfies the rows. True when it excludes
// every point up to a million times as large as `x`, or as one.
bool is_farkas(const StackedQP& qp, const Vector& z, const Vector& x, Products& work);
bool is_farkas(const StackedQP& qp, const Vector& z, const Vector& x);
// The same with a loose relative tolerance: worth a closer look.
bool resembles_farkas(const StackedQP& qp, const Vector& z, double tolerance, Products& work);

// Memory for clean_ray, which takes it where it first needs it.
struct RayRoom {
  PivotedQr qr;
  Reserved<Matrix> basis;
  Reserved<Vector> along;
};

// Ray: H d = 0, g'd < 0, rows d inside the recession cone of the bounds. Cleans `ray`, a direction that the iterates
// run away along, and says whether the clean one passes the check.
bool is_ray(const StackedQP& qp, const Vector& ray, Products& work);
bool clean_ray(const StackedQP& qp, Vector& ray, Products& work, RayRoom& room);

}  // namespace qp_control
