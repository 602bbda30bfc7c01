// How good the loop's point is, in the caller's units: read off the equilibrated problem, whose factors are powers of
// two and round nothing.
#pragma once

#include <limits>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/settings.hpp"

namespace qp_control {

struct Judgement {
  void restart() { last = std::numeric_limits<double>::infinity(); }

  // At an outer step of the lanes of `arrived`.
  template <class Kkt>
  void look(const Kkt& kkt, const Equilibration& scaling, const Settings& settings, const Iterate& it,
            const Penalties& penalties, Mask arrived);

  Pack primal, dual, complementarity, gap, objective;  // see Residuals
  Pack error;                                          // largest of the first three
  Pack last;                                           // error of the outer step before
  Mask within;                                         // the tolerances
  Mask stagnates;                                      // the error has not fallen much
  Mask finished;                                       // within, and there is nothing left to gain
};

template <class Kkt>
void Judgement::look(const Kkt& kkt, const Equilibration& scaling, const Settings& settings, const Iterate& it,
                     const Penalties& penalties, Mask arrived) {
  const Pack zero = 0.0, c_inverse = Pack(1.0) / scaling.c;
  Pack violation = zero, wrong = zero, row_size = zero, bounds = zero;
  for (int i = 0; i < it.z.size(); ++i) {
    const Pack e = Pack(1.0) / scaling.E[i];
    violation = max(violation, e * max(it.above[i], -it.below[i]));
    row_size = max(row_size, e * abs(it.v[i]));
    const Mask upper = it.z[i] > zero, lower = it.z[i] < zero;
    const Pack distance = e * abs(select(upper, it.above[i], it.below[i]));
    const Pack multiplier = abs(it.z[i]) * scaling.E[i] * c_inverse;
    wrong = max(wrong, select(upper | lower, min(multiplier, distance), zero));
    // A multiplier within the tolerance may lean on a bound that is not there.
    const Pack bound = select(upper, kkt.upper()[i], kkt.lower()[i]);
    bounds += select((upper | lower) & finite(bound), it.z[i] * bound, zero);
  }
  Pack stationarity = zero, dual_size = zero, curvature = zero, linear = zero, poison = zero;
  for (int j = 0; j < it.x.size(); ++j) {
    const Pack unit = c_inverse / scaling.D[j], g = kkt.g()[j];
    const Pack residual = it.Hx[j] + g + it.Rz[j];
    poison += residual * zero;
    stationarity = max(stationarity, unit * abs(residual));
    dual_size = max(dual_size, unit * max(abs(it.Hx[j]), max(abs(g), abs(it.Rz[j]))));
    curvature += it.x[j] * it.Hx[j];
    linear += it.x[j] * g;
  }
  primal = kkt.max(violation);
  complementarity = kkt.max(wrong);
  dual = kkt.max(stationarity) + kkt.sum(poison);
  curvature = kkt.sum(curvature);
  linear = kkt.sum(linear);
  row_size = kkt.max(row_size);
  dual_size = kkt.max(dual_size);
  gap = c_inverse * abs(curvature + linear + kkt.sum(bounds));
  objective = c_inverse * (Pack(0.5) * curvature + linear);

  const Pack eps_primal = Pack(settings.eps_abs) + Pack(settings.eps_rel) * row_size;
  const Pack eps_dual = Pack(settings.eps_abs) + Pack(settings.eps_rel) * dual_size;
  within =
      (primal <= eps_primal) & (dual <= eps_dual) & (complementarity <= max(eps_primal, eps_dual)) & finite(objective);
  if (settings.eps_gap > 0.0) within = within & (gap <= Pack(settings.eps_gap));
  error = max(primal, max(complementarity, dual));
  stagnates = !(error < Pack(0.25) * last);
  const Mask exact = error <= Pack(1e-14) * (row_size + dual_size);
  const Mask settled = penalties.settling | (it.misses >= Pack(3.0));
  // Where the refinement is slow, the system is badly conditioned and each further digit of the residual counts.
  finished = within & ((exact & (error <= Pack(0.02) * last)) | (stagnates & settled));
  last = select(arrived, error, last);
}

}  // namespace qp_control
