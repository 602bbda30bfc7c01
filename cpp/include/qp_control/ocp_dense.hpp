// An optimal-control QP as a dense one in all its states and inputs, (u_0, x_0, .., u_{N-1}, x_{N-1}, x_N), and the
// slacks of soft rows behind them, with the dynamics as equalities; a hard row leaves out its slacks (ocp_slacks.hpp):
// what the structured code is held against, and what is left to do where it gives up.
#pragma once

#include <vector>

#include "qp_control/dense_solver.hpp"
#include "qp_control/ocp_derivatives.hpp"

namespace qp_control {

class OcpDense {
 public:
  explicit OcpDense(const OcpBatch& batch);

  DenseDims dims() const { return dims_; }
  // Of element i; lives until the next call. The dynamics are never shifted.
  DenseQP problem(const OcpBatch& batch, int i);

  // An element's solution from one of the dense problem.
  void write(const OcpBatch& batch, const Solution& from, const OcpBatchSolution& to, int i) const;

  // Solution i with its shifts, the gradient of a loss by it, and gradients of the dense data added to the stages'; a
  // change of the data, and that of the solution.
  void read_solution(const OcpBatch& batch, const OcpBatchSolution& from, int i, Solution& to) const;
  void read_loss(const OcpBatchSolution& from, int i, OutputDerivative& to) const;
  void add_gradients(const OcpBatch& batch, const DataDerivative& from, const OcpGradients& to, int i) const;
  void read_change(const OcpBatch& batch, const OcpBatch& change, int i, DataDerivative& to) const;
  void write_change(const OutputDerivative& from, const OcpBatchSolution& to, int i) const;

  // Vectors of the system; what the rows do.
  void read(const OcpSystemArrays& from, const RowPattern& pattern, int i, KktVector& to) const;
  void write(const KktVector& from, const RowPattern& pattern, const OcpSystemArrays& to, int i) const;
  void write(const RowPattern& from, const OcpRoles& to, int i) const;

 private:
  int first_of(int k) const { return k * (at_.nu + at_.nx); }
  int x_of(int k) const { return first_of(k) + (k < at_.N ? at_.nu : 0); }
  int dynamics_of(int k) const { return (fixed_start_ ? k : k - 1) * at_.nx; }  // the equalities of y_k
  int rows_of(int k) const { return dims_.n_eq + k * at_.stage_rows; }
  // The first slacks of stage k, lower ones, then as many upper ones.
  int slacks_of(int k) const { return x_of(at_.N) + at_.nx + k * 2 * at_.soft_rows; }
  // Calls body(array, position, size, place), as for_each_piece.
  template <class Unknowns, class Rows>
  void for_each(const OcpBatchSolution& s, const Unknowns& unknowns, const Rows& rows) const;
  // Calls body(k, i, row, slack, sign, weights) for every slack of the element: the i-th row of stage k, its place,
  // that of the slack, and the sign of that in it, with its weights.
  template <class Body>
  void for_each_soft(const OcpBatch& batch, int element, const Body& body) const;
  void read_point(const OcpBatchSolution& from, int i, Vector& x, Vector& z) const;
  void read_shifts(const OcpBatchSolution& from, int i, Vector& lower, Vector& upper) const;

  // Calls the functions of `body` for each argument, a member of `of`, with its place in the dense data.
  template <class Fields, class Body>
  void for_each_argument(const OcpBatch& batch, const Fields& of, int i, Body body) const;

  OcpLayout<Pack> at_;
  bool fixed_start_;
  DenseDims dims_;
  std::vector<double> H_, g_, A_, b_, C_, l_, u_, lb_, ub_, weight_;
};

}  // namespace qp_control
