// Where the loop begins on an optimal-control QP.
#pragma once

#include "qp_control/augmented_lagrangian.hpp"

namespace qp_control {

// A full Newton step on the active set of the start (it.x, it.z): its states follow the dynamics from x0, in closed
// loop, which does not overflow where the dynamics are unstable.
template <class Kkt>
void obey_dynamics(Kkt& kkt, Penalties& penalties, Mask able, Iterate& it) {
  penalties.settling = Mask::all(true);
  penalties.apply();
  find_active(kkt, it.z, it);
  it.x_center = it.x;
  it.z_center = it.z;
  refresh(kkt, Mask::all(true), it);
  evaluate(kkt, penalties, it);
  newton_step(kkt, penalties, able, it);
  evaluate(kkt, penalties, it);
}

// Whether the iterate is within the bounds, or nearly.
template <class Kkt>
Mask within_bounds(const Kkt& kkt, const Iterate& it) {
  Pack violation = 0.0;
  for (int i = 0; i < it.v.size(); ++i) violation = max(violation, max(it.above[i], -it.below[i]));
  return kkt.max(violation) <= Pack(1e-6);
}

}  // namespace qp_control
