#include "qp_control/augmented_lagrangian.hpp"

namespace qp_control {

void Penalties::reset(const Vector& lower, const Vector& upper) {
  for (int i = 0; i < mu.size(); ++i) {
    if (delta[i] > 0.0)
      mu[i] = 0.0;
    else
      mu[i] = lower[i] == upper[i] ? 1e-3 : 1e-1;
  }
}

void Penalties::tighten() {
  for (int i = 0; i < mu.size(); ++i)
    if (mu[i] > 0.0) mu[i] = std::max(smallest_, 0.1 * mu[i]);
}

}  // namespace qp_control
