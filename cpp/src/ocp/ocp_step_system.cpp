#include "qp_control/ocp_step_system.hpp"

namespace qp_control {
namespace {

constexpr int refinements = 2;

}  // namespace

OcpStepSystem::OcpStepSystem(const Kkt& kkt) : weight_(kkt.rows()), rhs_(kkt.unknowns()), residual_(kkt.unknowns()) {}

bool OcpStepSystem::factor(Kkt& kkt, const PackArray& weight, double rho) {
  weight_ = weight;
  rho_ = rho;
  return any(kkt.factor(weight, rho));
}

void OcpStepSystem::solve(const Kkt& kkt, const PackArray& gradient, const PackArray& r, PackArray& dx, PackArray& v,
                          PackArray& dm) {
  for (int i = 0; i < v.size(); ++i) v[i] = weight_[i] * r[i];
  rhs_.setConstant(Pack(0.0));
  kkt.add_rows_transposed(v, rhs_);
  for (int j = 0; j < dx.size(); ++j) rhs_[j] -= gradient[j];
  dx = rhs_;
  kkt.solve(dx);
  for (int k = 0; k < refinements; ++k) {
    kkt.apply_rows(dx, v);
    for (int i = 0; i < v.size(); ++i) v[i] *= weight_[i];
    kkt.apply_hessian(dx, residual_);
    kkt.add_rows_transposed(v, residual_);
    for (int j = 0; j < dx.size(); ++j)
      residual_[j] = rhs_[j] - residual_[j] - Pack(j < kkt.variables() ? rho_ : 0.0) * dx[j];
    kkt.solve(residual_);
    for (int j = 0; j < dx.size(); ++j) dx[j] += residual_[j];
  }
  kkt.apply_rows(dx, v);
  for (int i = 0; i < v.size(); ++i) dm[i] = weight_[i] * (v[i] - r[i]);
}

template class InteriorPoint<OcpStepSystem>;

}  // namespace qp_control
