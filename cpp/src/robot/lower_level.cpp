#include "qp_control/lower_level.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

void see(const std::vector<Eigen::Ref<const RowMajorMatrix>>& matrices, double negligible, Freedom& freedom) {
  const int r = static_cast<int>(freedom.basis.cols());
  if (r == 0) return;
  MatrixXd S = MatrixXd::Zero(r, r);
  for (const auto& M : matrices)  // each in a unit of its own
    S += freedom.basis.transpose() * M * freedom.basis / std::max(M.diagonal().maxCoeff(), 1e-300);
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(S);
  const VectorXd& values = solver.eigenvalues();  // increasing
  freedom.largest = std::max(freedom.largest, values[r - 1]);
  const auto unseen = std::count_if(values.data(), values.data() + r,
                                    [&](double value) { return value <= negligible * freedom.largest; });
  freedom.basis = (freedom.basis * solver.eigenvectors().leftCols(unseen)).eval();
}

ReducedLevel reduce(const Level& level, const VectorXd& x, const Freedom& freedom, double settled, double narrow) {
  const MatrixXd& Z = freedom.basis;
  const int rows = static_cast<int>(level.C.rows()), n = static_cast<int>(x.size());
  ReducedLevel out;
  const MatrixXd HZ = level.H * Z;
  out.H.noalias() = Z.transpose() * HZ;
  out.H = (0.5 * (out.H + out.H.transpose())).eval();
  out.g.noalias() = Z.transpose() * (level.g + level.H * x);
  const RowMajorMatrix CZ = level.C * Z;
  const VectorXd value = level.C * x;
  // Row i of [C; 1] in coordinates z, its value, length and bounds.
  const auto bounds = [&](int i) {
    return i < rows ? std::pair(level.l[i] - value[i], level.u[i] - value[i])
                    : std::pair(level.lb[i - rows] - x[i - rows], level.ub[i - rows] - x[i - rows]);
  };
  for (int i = 0; i < rows + n; ++i) {
    const auto [lower, upper] = bounds(i);
    if (!std::isfinite(lower) && !std::isfinite(upper)) continue;
    const double length = i < rows ? CZ.row(i).norm() : Z.row(i - rows).norm();
    if (length >= settled * (i < rows ? level.C.row(i).norm() : 1.0)) out.used.push_back(i);
  }
  const int count = static_cast<int>(out.used.size());
  out.C.resize(count, Z.cols());
  out.lower.resize(count);
  out.upper.resize(count);
  for (int k = 0; k < count; ++k) {
    const int i = out.used[k];
    if (i < rows)
      out.C.row(k) = CZ.row(i);
    else
      out.C.row(k) = Z.row(i - rows);
    const auto [lower, upper] = bounds(i);
    // An equality up to the tolerance with which x has been found is one.
    const bool fixed = upper - lower < narrow;
    out.lower[k] = fixed ? 0.0 : std::min(lower, 0.0);
    out.upper[k] = fixed ? 0.0 : std::max(upper, 0.0);
  }
  return out;
}

}  // namespace qp_control
