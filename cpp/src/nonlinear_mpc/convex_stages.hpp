// Curvature moved from stage to stage of optimal-control QPs whose Hessian is indefinite, until the stages are convex.
//
// On deviations that follow the dynamics, d_{k+1} = A_k d_k + B_k e_k + const, the terms 1/2 |d_{k+1}|_M^2 may be taken
// from stage k + 1 and given to stage k. The backward recursion
//
//     [Q S'; S R] = H_k + [A B]' M_{k+1} [A B],   M_k = Q - S'R^-1 S - delta I,   M_N = Q_N - delta I
//
// leaves [S'R^-1 S + delta I, S'; S R], convex wherever R is positive definite (Verschueren, Zanon, Quirynen and Diehl,
// SIAM J. Optim. 27, 2017). Where it is not, its eigenvalues may be replaced by their absolute values: another QP,
// whose solution is still a direction of descent.
#pragma once

namespace qp_control {

struct ConvexStagesSettings {
  double least = 1e-8;    // delta, relative to the size of the Hessian
  double regular = 1e-4;  // least pivot of R's Cholesky factor that is trusted, R's diagonal made one
  double growth = 1e6;    // largest M that is trusted, relative to the size of the Hessian
  bool repair = false;    // make R positive definite where it is not
};

// All arrays row-major, n = nx + nu, the states first: hessian (batch, N, n, n), last (batch, nx, nx), AB (batch, N,
// nx, n), size (batch): largest entry of the Hessian; stages like hessian, M (batch, N + 1, nx, nx). good: the
// elements for which it went well; the output of the others means nothing.
void convex_stages(int batch, int N, int nx, int nu, const double* hessian, const double* last, const double* AB,
                   const double* size, const ConvexStagesSettings& settings, int threads, double* stages, double* M,
                   bool* good);

}  // namespace qp_control
