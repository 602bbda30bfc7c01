// Random problems for the C++ tests, and one solve of them.
#pragma once

#include <cmath>
#include <random>

#include "qp_control/dense_solver.hpp"

namespace qp_control {

inline std::mt19937 generator(7);

inline double normal() { return std::normal_distribution<double>()(generator); }

template <class Array>
Array random(int rows, int cols = 1) {
  Array a(rows, cols);
  for (int j = 0; j < cols; ++j)
    for (int i = 0; i < rows; ++i) a(i, j) = normal();
  return a;
}

// Feasible: bounds around the rows of a random point.
inline StackedQP random_qp(int n, int stored) {
  StackedQP qp(n, stored);
  const Matrix M = random<Matrix>(n, n);
  qp.H = M * M.transpose() + 0.1 * Matrix::Identity(n, n);
  qp.g = random<Vector>(n);
  qp.R = random<RowMatrix>(stored, n);
  Vector v(qp.rows());
  qp.apply_rows(random<Vector>(n), v);
  for (int i = 0; i < qp.rows(); ++i) {
    qp.lower[i] = i % 4 == 0 ? v[i] : v[i] - std::abs(normal());
    qp.upper[i] = i % 4 == 0 ? v[i] : v[i] + std::abs(normal());
  }
  return qp;
}

inline DenseQP view(const StackedQP& qp, const RowMatrix& H) {
  DenseQP out;
  out.dims = {qp.n(), 0, qp.stored_rows()};
  out.H = H.data();
  out.g = qp.g.data();
  out.C = qp.R.data();
  out.l = qp.lower.data();
  out.u = qp.upper.data();
  out.lb = qp.lower.data() + qp.stored_rows();
  out.ub = qp.upper.data() + qp.stored_rows();
  out.weight_in = qp.weight.data();
  out.weight_box = qp.weight.data() + qp.stored_rows();
  return out;
}

inline Solution solve(const StackedQP& qp, bool closest = false) {
  Settings settings;
  settings.closest = closest;
  const RowMatrix H = qp.H;
  Solution solution(qp.n(), qp.rows());
  DenseSolver solver({qp.n(), 0, qp.stored_rows()});
  solver.solve(view(qp, H), settings, Deadline(0.0), false, solution);
  return solution;
}

}  // namespace qp_control
