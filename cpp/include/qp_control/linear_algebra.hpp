// The dense types used throughout the solver.
#pragma once

#include <Eigen/Core>

namespace qp_control {

using Vector = Eigen::VectorXd;
using Matrix = Eigen::MatrixXd;
using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using VectorMap = Eigen::Map<Vector>;
using ConstVectorMap = Eigen::Map<const Vector>;
using ConstRowMatrixMap = Eigen::Map<const RowMatrix>;
using RowMatrixMap = Eigen::Map<RowMatrix>;

// Largest absolute entry, 0 for an empty array (Eigen's maxCoeff asserts there); NaN entries make it NaN.
template <class Derived>
double norm_inf(const Eigen::DenseBase<Derived>& a) {
  return a.size() == 0 ? 0.0 : a.derived().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
}

}  // namespace qp_control
