#include "qp_control/dense_step_system.hpp"

#include <cmath>

namespace qp_control {

DenseStepSystem::DenseStepSystem(const DenseKkt& kkt)
    : n_(kkt.n()), stored_(kkt.stored_rows()), system_(n_, stored_), box_weight_(n_), d_(n_), a_(n_), dx_(n_) {
  bounded_.reserve(stored_);
  for (Reserved<Vector>* a : {&e_, &b_, &dm_}) a->reserve(stored_);
}

void DenseStepSystem::load(const DenseKkt& kkt) {
  const double *lower = numbers(kkt.lower()), *upper = numbers(kkt.upper());
  bounded_.clear();
  for (int i = 0; i < stored_; ++i)
    if (std::isfinite(lower[i]) || std::isfinite(upper[i])) bounded_.push_back(i);
  system_.load(kkt.hessian(), kkt.stored(), bounded_);
  for (Reserved<Vector>* a : {&e_, &b_, &dm_}) a->resize(bounded_.size());
}

bool DenseStepSystem::factor(const DenseKkt&, const PackArray& weight, double rho) {
  box_weight_ = ConstVectorMap(numbers(weight) + stored_, n_);
  d_ = box_weight_.array() + rho;
  for (std::size_t k = 0; k < bounded_.size(); ++k) e_[k] = 1.0 / numbers(weight)[bounded_[k]];
  return system_.factor(d_, e_);
}

void DenseStepSystem::solve(const DenseKkt& kkt, const PackArray& gradient, const PackArray& r, PackArray& dx,
                            PackArray& v, PackArray& dm) {
  const ConstVectorMap box_r(numbers(r) + stored_, n_);
  a_ = box_weight_.cwiseProduct(box_r) - numbers(gradient, n_);
  for (std::size_t k = 0; k < bounded_.size(); ++k) b_[k] = numbers(r)[bounded_[k]];
  system_.solve(a_, b_, dx_, dm_);
  numbers(dx, n_) = dx_;
  kkt.apply_rows(dx, v);
  dm.setConstant(Pack(0.0));
  for (std::size_t k = 0; k < bounded_.size(); ++k) numbers(dm)[bounded_[k]] = dm_[k];
  Eigen::Map<Vector>(numbers(dm) + stored_, n_) = box_weight_.cwiseProduct(dx_ - box_r);
}

template class InteriorPoint<DenseStepSystem>;

}  // namespace qp_control
