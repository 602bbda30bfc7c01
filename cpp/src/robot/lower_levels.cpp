#include "lower_levels.hpp"

#include <algorithm>
#include <cmath>

namespace qp_control {

using Eigen::VectorXd;

namespace {

// Those of qp_control/inverse_dynamics/hierarchy.py
constexpr double seen = 1e-10;
constexpr double settled = 1e-8;
constexpr double narrow = 1e-7;

bool unfinished(Status status) { return status == Status::MAX_ITER || status == Status::NUMERICAL_ERROR; }

// The part of a step z that the rows allow, which hold without it; nothing where that does not pay.
void allow(const ReducedLevel& level, VectorXd& change, Eigen::Ref<VectorXd> z) {
  change.noalias() = level.C * z;
  double part = 1.0;
  for (Eigen::Index i = 0; i < change.size(); ++i) {
    const double room = change[i] > 0.0 ? level.upper[i] : level.lower[i];
    if (change[i] != 0.0) part = std::min(part, room / change[i]);
  }
  z *= part;
  double cost = level.g.dot(z);
  for (Eigen::Index i = 0; i < z.size(); ++i) cost += 0.5 * z[i] * level.H.row(i).dot(z);
  if (!(cost < 0.0)) z.setZero();  // also where the step is no number
}

}  // namespace

LowerLevels::LowerLevels(int count, int n, int rows, const DenseQpMaker& solver)
    : n_(n), rows_(rows + n), solver_(solver), all_{Eigen::MatrixXd::Identity(n, n)} {
  for (int k = 0; k < count; ++k) levels_.emplace_back();
  above_.reserve(2);
  change_.resize(rows_);
  reset();
}

void LowerLevels::reset() {
  for (One& level : levels_)
    for (VectorXd* a : {&level.multipliers, &level.active}) a->setZero(rows_);
}

Status LowerLevels::solve(const RowMajorMatrix& A, const Level& first,
                          const std::function<void(int, RowMajorMatrix&, VectorXd&)>& cost, VectorXd& x,
                          int& iterations) {
  AA_.noalias() = A.transpose() * A;
  above_.clear();
  above_.emplace_back(AA_);
  above_.push_back(first.H);
  const Freedom* freedom = &all_;
  Status status = Status::SOLVED;
  for (std::size_t k = 0; k < levels_.size(); ++k) {
    One& level = levels_[k];
    level.level.see(above_, seen, *freedom);
    freedom = &level.level.freedom();
    if (freedom->basis.cols() == 0) break;
    cost(static_cast<int>(k), level.H, level.g);
    level.level.reduce({level.H, level.g, first.C, first.l, first.u, first.lb, first.ub}, x, settled, narrow);
    status = std::max(status, solve(level, iterations));
    if (status > Status::CLOSEST_FEASIBLE) break;
    x.noalias() += freedom->basis * level.point.x;
    above_.clear();
    above_.emplace_back(level.H);
  }
  return status;
}

Status LowerLevels::solve(One& one, int& iterations) {
  const ReducedLevel& level = one.level.reduced();
  const DenseDims dims{static_cast<int>(level.g.size()), 0, rows_};
  QpPoint& point = one.point;
  if (one.qps == nullptr || dims.n != point.x.size()) {
    one.qps = solver_.make(dims);
    point.resize(dims);
  }
  DenseQP qp;
  qp.dims = dims;
  qp.H = level.H.data();
  qp.g = level.g.data();
  qp.C = level.C.data();
  qp.l = level.lower.data();
  qp.u = level.upper.data();
  for (VectorXd* a : {&point.x, &point.z, &point.active}) a->setZero();
  for (const int i : level.used) {
    point.z[i] = one.multipliers[i];
    point.active[i] = one.active[i];
  }
  const DenseOutcome found = one.qps->solve(qp, true, point.view());
  iterations += found.iterations;
  one.multipliers.setZero();
  one.active.setZero();
  if (found.status <= Status::CLOSEST_FEASIBLE) {
    one.multipliers = point.z.head(rows_);
    one.active = point.active.head(rows_);
  } else if (unfinished(found.status)) {
    allow(level, change_, point.x);
    return Status::CLOSEST_FEASIBLE;
  }
  return found.status;
}

}  // namespace qp_control
