// Room for the solutions of QPs of one size.
#pragma once

#include <Eigen/Core>

#include "qp_control/dense_qps.hpp"

namespace qp_control {

struct QpPoint {
  QpPoint() = default;
  explicit QpPoint(DenseDims dims) { resize(dims); }

  void resize(DenseDims dims) {
    x.setZero(dims.n);
    for (Eigen::VectorXd* rows : {&z, &active, &shift_lower, &shift_upper}) rows->setZero(dims.rows());
  }
  DensePoint view() { return {x.data(), z.data(), active.data(), shift_lower.data(), shift_upper.data()}; }

  Eigen::VectorXd x, z, active, shift_lower, shift_upper;
};

}  // namespace qp_control
