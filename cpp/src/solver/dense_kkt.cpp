#include "qp_control/dense_kkt.hpp"

namespace qp_control {

void DenseKkt::assemble(const Vector& weight, double rho) {
  M_ = qp.H;
  M_.diagonal().array() += rho;
  for (int i = 0; i < qp.stored_rows(); ++i) {
    if (weight[i] == 0.0) continue;
    row_ = qp.R.row(i);
    M_.selfadjointView<Eigen::Lower>().rankUpdate(row_, weight[i]);
  }
  M_.diagonal() += weight.tail(n());
  weight_ = weight;
  rho_ = rho;
  updates_ = 0;
  assembled_ = true;
}

bool DenseKkt::update(const Vector& weight) {
  const int stored = qp.stored_rows();
  int changed = 0, active = 0;
  double removed = 0.0;
  for (int i = 0; i < stored; ++i) {
    changed += weight[i] != weight_[i];
    active += weight[i] != 0.0;
    if (weight[i] < weight_[i]) removed = std::max(removed, weight_[i]);
  }
  // Rounding stays behind where a large weight is taken out again, so start afresh now and then.
  if (changed > active || updates_ + changed > 4 * n() + 20 || removed > 1e5) return false;
  for (int i = 0; i < stored; ++i) {
    if (weight[i] == weight_[i]) continue;
    row_ = qp.R.row(i);
    M_.selfadjointView<Eigen::Lower>().rankUpdate(row_, weight[i] - weight_[i]);
  }
  M_.diagonal() += weight.tail(n()) - weight_.tail(n());
  weight_ = weight;
  updates_ += changed;
  return true;
}

bool DenseKkt::factor(const Vector& weight, double rho) {
  if (!assembled_ || rho != rho_ || !update(weight)) assemble(weight, rho);
  L_.triangularView<Eigen::Lower>() = M_;
  return cholesky(L_);
}

void DenseKkt::solve(Vector& rhs) const { cholesky_solve(L_, rhs); }

}  // namespace qp_control
