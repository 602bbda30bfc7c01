#include "qp_control/lower_level.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int most_on_stack = 96;

// The part of a basis that belongs to negligible eigenvalues of S. largest: of the eigenvalues so far.
template <class Square>
void keep_unseen(const MatrixXd& S, double negligible, const MatrixXd& basis, double& largest, MatrixXd& out) {
  const Eigen::SelfAdjointEigenSolver<Square> solver{Square(S)};
  const auto& values = solver.eigenvalues();  // increasing
  largest = std::max(largest, values[S.rows() - 1]);
  const auto unseen = std::count_if(values.data(), values.data() + S.rows(),
                                    [&](double value) { return value <= negligible * largest; });
  out.noalias() = basis * solver.eigenvectors().leftCols(unseen);
}

}  // namespace

void LowerLevel::see(const std::vector<Eigen::Ref<const RowMajorMatrix>>& matrices, double negligible,
                     const Freedom& before) {
  const Eigen::Index r = before.basis.cols();
  freedom_.largest = before.largest;
  if (r == 0) {
    freedom_.basis.resize(before.basis.rows(), 0);
    return;
  }
  seen_.setZero(r, r);
  for (const auto& M : matrices) {  // each in a unit of its own
    MZ_.noalias() = M * before.basis;
    MZ_ /= std::max(M.diagonal().maxCoeff(), 1e-300);
    seen_.noalias() += before.basis.transpose() * MZ_;
  }
  using OnStack = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, most_on_stack, most_on_stack>;
  const auto keep = r <= most_on_stack ? keep_unseen<OnStack> : keep_unseen<MatrixXd>;
  keep(seen_, negligible, before.basis, freedom_.largest, freedom_.basis);
}

void LowerLevel::reduce(const Level& level, const VectorXd& x, double settled, double narrow) {
  const MatrixXd& Z = freedom_.basis;
  const Eigen::Index rows = level.C.rows(), n = x.size(), r = Z.cols();
  ReducedLevel& out = reduced_;
  HZ_.noalias() = level.H * Z;
  out.H.noalias() = Z.transpose() * HZ_;
  for (Eigen::Index i = 0; i < r; ++i)
    for (Eigen::Index j = 0; j < i; ++j) out.H(i, j) = out.H(j, i) = 0.5 * (out.H(i, j) + out.H(j, i));
  out.g.noalias() = Z.transpose() * level.g;
  out.g.noalias() += HZ_.transpose() * x;
  out.C.resize(rows + n, r);
  out.C.topRows(rows).noalias() = level.C * Z;
  out.C.bottomRows(n) = Z;
  out.lower.setConstant(rows + n, -infinity);
  out.upper.setConstant(rows + n, infinity);
  value_.noalias() = level.C * x;
  out.used.clear();
  for (Eigen::Index i = 0; i < rows + n; ++i) {
    const bool bound = i >= rows;
    const double value = bound ? x[i - rows] : value_[i];
    const double lower = (bound ? level.lb[i - rows] : level.l[i]) - value,
                 upper = (bound ? level.ub[i - rows] : level.u[i]) - value;
    const double was = bound ? 1.0 : level.C.row(i).norm();
    if ((!std::isfinite(lower) && !std::isfinite(upper)) || out.C.row(i).norm() < settled * was) {
      out.C.row(i).setZero();
      continue;
    }
    out.used.push_back(static_cast<int>(i));
    // An equality up to the tolerance with which x has been found is one.
    const bool fixed = upper - lower < narrow;
    out.lower[i] = fixed ? 0.0 : std::min(lower, 0.0);
    out.upper[i] = fixed ? 0.0 : std::max(upper, 0.0);
  }
}

}  // namespace qp_control
