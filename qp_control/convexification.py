"""Convex stages for an optimal-control QP whose Hessian is indefinite, without changing the QP where that can be done.

On trajectories of the deviations, dx_{k+1} = A_k dx_k + B_k du_k + gap_k, the terms

    1/2 |A_k dx_k + B_k du_k + gap_k|_M^2 - 1/2 |dx_{k+1}|_M^2,   M = M_{k+1}

are zero: adding them moves curvature from stage to stage and changes no solution, only the multiplier y_{k+1}, by -M
dx_{k+1}. The backward recursion

    [Q S'; S R] = H_k + [A B]' M_{k+1} [A B],   M_k = Q - S'R^-1 S - delta I,   M_N = Q_N - delta I

leaves the stages [S'R^-1 S + delta I, S'; S R], which are convex wherever R is positive definite: where the QP is convex
on the trajectories. Elsewhere R gets weight on inputs at their bounds, which costs nothing as long as they stay there,
and then its negative eigenvalues are turned over: only that changes the QP.

Source: R. Verschueren, M. Zanon, R. Quirynen, M. Diehl, "A sparsity preserving convexification procedure for indefinite
quadratic programs arising in direct optimal control", SIAM J. Optim. 27 (2017).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from qp_control.nonlinear_kkt import cost_blocks, with_curvature
from qp_control.nonlinear_ocp import NonlinearOcp, full, times
from qp_control.ocp_problem import OcpQP

# delta and the least eigenvalue of R, relative to the largest entries of the Hessian.
_LEAST = 1e-8


def convexified(
    qp: OcpQP, ocp: NonlinearOcp, x: Tensor, u: Tensor, stage: Tensor, end: Tensor, at_bound: Tensor
) -> tuple[OcpQP, Tensor]:
    """The QP around x, u with the curvature stage (B, N, n, n) by (x, u), end (B, nx, nx) added and made convex.

    at_bound (B, N, nu) bool: inputs with an active bound. Returns the QP and M (B, N + 1, nx, nx): its multipliers plus
    M_k (x_k - x) are those of the QP that was asked for.
    """
    N, nx = ocp.horizon, x.shape[-1]
    old, data = cost_blocks(qp, ocp), qp.data()
    cost = torch.cat([torch.cat([old["Q"], old["S"].mT], -1), torch.cat([old["S"], old["R"]], -1)], -2)
    hessian, last = cost + stage, old["Q_N"] + end
    AB = torch.cat([full("A", data["A"], ocp), full("B", data["B"], ocp)], -1)
    gap = times(AB, torch.cat([x[:, :N], u], -1)) + full("c", data["c"], ocp) - x[:, 1:]
    delta = _LEAST * torch.cat([hessian.flatten(1), last.flatten(1)], 1).abs().amax(1)[:, None, None]
    eye = torch.eye(nx, dtype=x.dtype)
    M = x.new_empty(len(x), N + 1, nx, nx)
    M[:, N] = last - delta * eye
    stages, slopes = torch.empty_like(hessian), x.new_empty(len(x), N, AB.shape[-1])
    for k in range(N - 1, -1, -1):
        MAB = M[:, k + 1] @ AB[:, k]
        H = hessian[:, k] + AB[:, k].mT @ MAB
        R = _positive_definite(H[:, nx:, nx:], at_bound[:, k], delta)
        S = H[:, nx:, :nx]
        gain = S.mT @ torch.cholesky_solve(S, torch.linalg.cholesky(R))
        gain = 0.5 * (gain + gain.mT)
        M[:, k] = H[:, :nx, :nx] - gain - delta * eye
        stages[:, k] = torch.cat([torch.cat([gain + delta * eye, S.mT], -1), torch.cat([S, R], -1)], -2)
        slopes[:, k] = times(MAB.mT, gap[:, k])
    found = with_curvature(qp, ocp, x, u, stages - cost, delta * eye - old["Q_N"])
    assert found.q is not None and found.r is not None
    return dataclasses.replace(found, q=found.q + slopes[..., :nx], r=found.r + slopes[..., nx:]), M


def _positive_definite(R: Tensor, at_bound: Tensor, least: Tensor) -> Tensor:
    _, failed = torch.linalg.cholesky_ex(R - least * torch.eye(R.shape[-1], dtype=R.dtype))
    which = failed.nonzero()[:, 0]
    if not len(which):
        return R
    some = R[which]
    size = some.abs().amax((1, 2)).maximum(least[which, 0, 0])
    some = some + torch.diag_embed(2.0 * len(some[0]) * size[:, None] * at_bound[which])
    values, vectors = torch.linalg.eigh(some)
    values = values.abs().maximum(least[which, 0])
    R = R.clone()
    R[which] = (vectors * values[:, None, :]) @ vectors.mT
    return R
