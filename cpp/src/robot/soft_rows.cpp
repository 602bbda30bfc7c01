#include "soft_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qp_control {

using Eigen::VectorXd;

namespace {

constexpr double price = 1e6;
constexpr double infinity = std::numeric_limits<double>::infinity();

int rows_of(WholeBodySizes s) { return s.n_eq + s.n_in + s.n; }

std::vector<int> finite_ones(const VectorXd& weights) {
  std::vector<int> out;
  for (int i = 0; i < weights.size(); ++i)
    if (std::isfinite(weights[i])) out.push_back(i);
  return out;
}

}  // namespace

SoftRows::SoftRows(WholeBodySizes sizes, const VectorXd& weights, const VectorXd& units, const DenseQpMaker& solver)
    : sizes_(sizes),
      units_(units),
      soft_(finite_ones(weights)),
      usual_(VectorXd::Ones(weights.size())),
      scale_(weights.size()),
      slope_(sizes.n + soft_.size()),
      lower_(weights.size()),
      upper_(weights.size()),
      cost_(slope_.size(), slope_.size()),
      G_(weights.size(), slope_.size()),
      dims_{static_cast<int>(slope_.size()), sizes.n_eq, sizes.n_in + sizes.n},
      qps_(solver.make(dims_, true)),
      point_(dims_) {
  for (const int i : soft_) usual_[i] = 1.0 / std::sqrt(weights[i]);
}

Status SoftRows::solve(const WholeBodyMatrices& of, VectorXd& x, VectorXd& shift, int& iterations) {
  const int n = sizes_.n, n_eq = sizes_.n_eq, n_in = sizes_.n_in, rows = rows_of(sizes_);
  G_.setZero();
  G_.topLeftCorner(n_eq, n) = of.A;
  G_.block(n_eq, 0, n_in, n) = of.C;
  for (int i = 0; i < n; ++i) G_(n_eq + n_in + i, i) = 1.0;
  lower_.head(n_eq) = upper_.head(n_eq) = of.b;
  lower_.segment(n_eq, n_in) = of.l;
  upper_.segment(n_eq, n_in) = of.u;
  lower_.tail(n) = of.lb;
  upper_.tail(n) = of.ub;
  for (int j = 0; j < n; ++j) G_.col(j) *= units_[j];
  // Of each row what is usual of it; hard rows are scaled by their own size.
  for (int i = 0; i < rows; ++i) scale_[i] = 1.0 / std::max(G_.row(i).head(n).cwiseAbs().maxCoeff(), 1e-300);
  for (const int i : soft_) scale_[i] = 1.0 / usual_[i];
  for (int i = 0; i < rows; ++i) {
    G_.row(i).head(n) *= scale_[i];
    lower_[i] *= scale_[i];
    upper_[i] *= scale_[i];
  }
  cost_.setZero();
  slope_.setZero();
  for (int i = 0; i < n; ++i) {
    slope_[i] = units_[i] * of.g[i];
    for (int j = 0; j < n; ++j) cost_(i, j) = units_[i] * of.H(i, j) * units_[j];
  }
  const double size = std::max({cost_.cwiseAbs().maxCoeff(), slope_.cwiseAbs().maxCoeff(), 1e-300});
  cost_ /= size;
  slope_ /= size;
  for (std::size_t k = 0; k < soft_.size(); ++k) {
    const int j = n + static_cast<int>(k);
    G_(soft_[k], j) = 1.0;
    cost_(j, j) = price;
  }
  DenseQP qp;
  qp.dims = dims_;
  qp.H = cost_.data();
  qp.g = slope_.data();
  qp.A = G_.data();
  qp.b = lower_.data();
  qp.C = qp.A + static_cast<std::ptrdiff_t>(n_eq) * slope_.size();
  qp.l = lower_.data() + n_eq;
  qp.u = upper_.data() + n_eq;
  const DenseOutcome found = qps_->solve(qp, false, point_.view());
  iterations += found.iterations;
  x = point_.x.head(n).cwiseProduct(units_);
  shift.setZero();
  for (std::size_t k = 0; k < soft_.size(); ++k) shift[soft_[k]] = point_.x[n + k] * usual_[soft_[k]];
  return found.status;
}

}  // namespace qp_control
