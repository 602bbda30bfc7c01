#include "qp_control/augmented_lagrangian.hpp"

namespace qp_control {
namespace {

constexpr double first_mu_of_equalities = 1e-3, least_mu = 1e-8;

}  // namespace

void Penalties::reset(const PackArray& lower, const PackArray& upper) {
  for (int i = 0; i < base.size(); ++i) {
    const Pack hard = select(lower[i] == upper[i], Pack(first_mu_of_equalities), first_mu);
    base[i] = select(delta[i] > Pack(0.0), 0.0, hard);
  }
  rho = least_rho;
  level = 1.0;
  settling = Mask::all(false);
  apply();
}

void Penalties::apply() {
  for (int i = 0; i < mu.size(); ++i) {
    const Pack scheduled = max(Pack(least_mu), base[i] * level);
    const Pack chosen = select(settling, min(Pack(settled_mu), scheduled), scheduled);
    mu[i] = select(base[i] > Pack(0.0), chosen, 0.0);
    stiffness[i] = Pack(1.0) / (mu[i] + delta[i]);
  }
}

Iterate::Iterate(int n, int rows) {
  for (PackArray* a : {&x, &Hx, &Rz, &x_center, &gradient, &dx, &Hdx, &x_saved}) a->setConstant(n, Pack(0.0));
  for (PackArray* a : {&z, &v, &above, &below, &over, &under, &z_center, &dv, &weight, &active, &z_saved})
    a->setConstant(rows, Pack(0.0));
}

void begin_settling(Mask where, Penalties& penalties, Iterate& it) {
  penalties.settling = penalties.settling | where;
  for (int j = 0; j < it.x.size(); ++j) it.x_saved[j] = select(where, it.x[j], it.x_saved[j]);
  for (int i = 0; i < it.z.size(); ++i) it.z_saved[i] = select(where, it.z[i], it.z_saved[i]);
}

}  // namespace qp_control
