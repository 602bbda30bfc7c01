// A QP and the derivative of its solution, without Python.
//
//   minimise  1/2 |x|^2 - p'x   subject to  x1 + x2 <= 1        the projection of p on a half-plane
//
// At p = (2, 1) the solution is (1, 0), and dx/dp = [1/2 -1/2; -1/2 1/2].
#include <cstdio>

#include "qp_control/dense_solver.hpp"
#include "qp_control/derivatives.hpp"

using namespace qp_control;

int main() {
  const DenseDims dims{2, 0, 1};  // variables, equalities, two-sided rows
  const double H[] = {1.0, 0.0, 0.0, 1.0}, g[] = {-2.0, -1.0}, C[] = {1.0, 1.0}, u[] = {1.0};
  DenseQP qp;  // arrays are borrowed, row-major; what is left out is zero, or infinite for bounds
  qp.dims = dims;
  qp.H = H;
  qp.g = g;
  qp.C = C;
  qp.u = u;

  DenseSolver solver(dims);  // allocates; solve does not
  Solution solution(dims.n, dims.rows());
  solver.solve(qp, Settings(), Deadline(0.0), false, solution);
  std::printf("status %d  x %.4f %.4f  multiplier %.4f\n", static_cast<int>(solution.status), solution.x[0],
              solution.x[1], solution.z[0]);

  // The gradient of the loss x1, by all data.
  const int stored = dims.n_eq + dims.n_in;
  StackedQP stacked(dims.n, stored);
  stack(qp, stacked);
  OutputDerivative loss(dims.n, dims.rows());
  loss.fill(0.0);
  loss.x[0] = 1.0;
  DataDerivative gradient(dims.n, stored);
  const DerivativeCertificate certificate = adjoint(stacked, solution, loss, DerivativeSettings(), gradient);
  std::printf("dx1/dg %.4f %.4f  dx1/du %.4f  residual %.1e\n", gradient.g[0], gradient.g[1], gradient.upper[0],
              certificate.residual);
  return solution.status == Status::SOLVED ? 0 : 1;
}
