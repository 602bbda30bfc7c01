// One optimal-control QP of a batch, with room of its own for a point, its shifts, and bounds that may be changed. What
// belongs to the rows stands in the order: rows of the stages, terminal rows, boxes of x_0 .. x_N, boxes of u.
#pragma once

#include <vector>

#include "qp_control/ocp_slacks.hpp"
#include "qp_control/ocp_solution.hpp"
#include "qp_control/residuals.hpp"

namespace qp_control {

struct OcpRowPlaces {
  explicit OcpRowPlaces(const OcpDims& dims)
      : z_N(dims.horizon * dims.rows),
        w_x(z_N + dims.terminal_rows),
        w_u(w_x + (dims.horizon + 1) * dims.nx),
        count(w_u + dims.horizon * dims.nu) {}
  int z_N, w_x, w_u, count;
};

// A point and its shifts.
class OcpElement {
 public:
  explicit OcpElement(const OcpDims& dims);

  // The arrays of a solution of one problem, which stand here. The residuals and the status do not.
  OcpBatchSolution arrays();
  void fill(double value);
  bool finite() const;
  void write(const OcpBatchSolution& to, int i) const;

  std::vector<double> x, u, y, z, shift_lower, shift_upper;
  std::vector<double> slack_lower, slack_upper;  // of the rows of the stages and the terminal ones

 private:
  OcpRowPlaces at_;
};

// Rows in the order above to and from the loop's vectors: an OcpBatchSolution whose multipliers are `rows`.
OcpBatchSolution as_rows(const OcpDims& dims, std::vector<double>& rows);

class OcpBounds {
 public:
  explicit OcpBounds(const OcpBatch& batch);

  // Element i alone, with these bounds, which are first read from it; valid as long as both live.
  OcpBatch of(const OcpBatch& batch, int i);
  int count() const { return static_cast<int>(lower.size()); }
  bool crossed(int row) const { return lower[row] > upper[row]; }
  bool crossed() const;
  bool equality(int row) const { return lower[row] == upper[row]; }
  // Soft rows, those of the problem's weights, lose their bounds.
  void free_soft(const OcpBatch& problem);
  // Which bounds are violated is told by shifts of either side, all >= 0. A shifted row is then held at its value.
  void shift(const std::vector<double>& shift_lower, const std::vector<double>& shift_upper);

  std::vector<double> lower, upper;

 private:
  OcpRowPlaces at_;
  OcpDims dims_;
  bool boxed_x_, boxed_u_;
};

// Calls body(row) for the soft rows of one problem, in the order of the bounds.
template <class Body>
void for_each_soft_row(const OcpBatch& problem, const Body& body) {
  for (int k = 0; k <= problem.dims.horizon; ++k)
    for (int i = 0; i < problem.dims.rows_of(k) && problem.softens(k); ++i)
      if (SlackWeights(problem.linear(k).at(0, k), problem.quadratic(k).at(0, k), i).soft())
        body(k * problem.dims.rows + i);
}

// Element i with only what its constraints are made of, as if they were hard.
OcpBatch without_cost(OcpBatch batch);

}  // namespace qp_control
