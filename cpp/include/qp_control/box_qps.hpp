// QPs with bounds, all of one size, for the other modules of this package. These are built with other vector flags, so
// that no more than this crosses from one to the other: plain numbers, behind virtual functions.
//
//   minimise  1/2 x'H x + g'x   subject to  lb <= x <= ub
#pragma once

#include <memory>

namespace qp_control {

// Arrays of up to `width` problems: H (count, n, n), the others (count, n).
struct BoxQpData {
  const double *H, *g, *lb, *ub;
};

// A workspace for one thread.
class BoxQps {
 public:
  virtual ~BoxQps() = default;
  // Solutions x and multipliers w of the bounds, (count, n) each, with a Status per problem; NaN where there is none.
  virtual void solve(int count, const BoxQpData& data, double* x, double* w, long long* status) = 0;
  // From the gradient by x those by g, lb and ub. The largest residual of the adjoint systems.
  virtual double adjoint(int count, const BoxQpData& data, const double* x, const double* w, const long long* status,
                         const double* by_x, double* by_g, double* by_lb, double* by_ub) = 0;
};

// What the solver's module hands out, with the settings of solver and derivatives.
class BoxQpMaker {
 public:
  virtual ~BoxQpMaker() = default;
  virtual int width() const = 0;  // problems solved together; what comes out does not depend on the neighbours
  virtual bool nan_without_solution() const = 0;  // of gradients, otherwise zero
  virtual std::unique_ptr<BoxQps> make(int n) const = 0;
};

}  // namespace qp_control
