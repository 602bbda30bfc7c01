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

// `pairs` pairs of stored rows that contradict each other.
inline StackedQP contradicting_qp(int n, int stored, int pairs) {
  StackedQP qp = random_qp(n, stored);
  for (int i = 0; i < 2 * pairs; i += 2) {
    qp.R.row(i + 1) = qp.R.row(i);
    qp.lower[i + 1] = qp.upper[i] + 0.5;
    qp.upper[i + 1] = qp.lower[i + 1] + 1.0;
  }
  return qp;
}

// A linear program in units so many orders of magnitude apart; x is a solution. From eight on some need the rescue.
inline StackedQP linear_program(int n, int equalities, double orders, Vector& x) {
  StackedQP qp(n, equalities);
  std::uniform_real_distribution<double> uniform;
  Vector units(n), slope(n);
  x.setZero(n);
  for (int j = 0; j < n; ++j) {
    units[j] = std::pow(10.0, orders * (uniform(generator) - 0.5));
    slope[j] = 0.0;
    (uniform(generator) < 0.6 ? x[j] : slope[j]) = std::abs(normal());
  }
  x = x.cwiseQuotient(units);
  qp.linear_program = true;
  qp.R = random<RowMatrix>(equalities, n) * units.asDiagonal();
  qp.g = slope.cwiseProduct(units) - qp.R.transpose() * random<Vector>(equalities);
  qp.lower.head(equalities) = qp.upper.head(equalities) = qp.R * x;
  qp.lower.tail(n).setZero();
  return qp;
}

// max sum 10^(d-1-j) x_j  s.t.  2 sum_{j<i} 10^(i-j) x_j + x_i <= 100^i,  x >= 0: the optimum is 100^(d-1). Klee and
// Minty, "How good is the simplex algorithm?", Inequalities III, 1972.
inline StackedQP klee_minty_cube(int d) {
  StackedQP qp(d, d);
  qp.linear_program = true;
  for (int i = 0; i < d; ++i) {
    for (int j = 0; j < i; ++j) qp.R(i, j) = 2.0 * std::pow(10.0, i - j);
    qp.R(i, i) = 1.0;
    qp.upper[i] = std::pow(100.0, i);
    qp.g[i] = -std::pow(10.0, d - 1 - i);
  }
  qp.lower.tail(d).setZero();
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
