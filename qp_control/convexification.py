"""Convex stages for an optimal-control QP whose Hessian is indefinite, without changing the QP where that can be done.

On trajectories of the deviations, dx_{k+1} = A_k dx_k + B_k du_k + gap_k, the terms

    1/2 |A_k dx_k + B_k du_k + gap_k|_M^2 - 1/2 |dx_{k+1}|_M^2,   M = M_{k+1}

are zero: adding them moves curvature from stage to stage and changes no solution, only the multiplier y_{k+1}, by -M
dx_{k+1}. The backward recursion

    [Q S'; S R] = H_k + [A B]' M_{k+1} [A B],   M_k = Q - S'R^-1 S - delta I,   M_N = Q_N - delta I

leaves the stages [S'R^-1 S + delta I, S'; S R], which are convex wherever R is positive definite: where the QP is
convex on the trajectories. Where it is not, the squares of the active rows and boxes are added with a weight, which
costs nothing as long as they stay active. Where that does not do either, the step is the one of Gauss and Newton:
without the curvature.

Source: R. Verschueren, M. Zanon, R. Quirynen, M. Diehl, "A sparsity preserving convexification procedure for indefinite
quadratic programs arising in direct optimal control", SIAM J. Optim. 27 (2017).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from qp_control import _solver
from qp_control.nonlinear_kkt import cost_blocks, with_curvature
from qp_control.nonlinear_ocp import NonlinearOcp, full, times
from qp_control.ocp_problem import OcpQP

# Terminal curvature that is left, relative to the largest entries of the Hessian, as in convex_stages.cpp.
_LEAST = 1e-8
# Weight of active rows, relative to the largest entries of the Hessian.
_HOLD = 10.0


def convexified(
    qp: OcpQP, ocp: NonlinearOcp, x: Tensor, u: Tensor, stage: Tensor, end: Tensor, point: Any
) -> tuple[OcpQP, Tensor]:
    """The QP around x, u with the curvature stage (B, N, n, n) by (x, u), end (B, nx, nx) added and made convex.

    point: its z, z_N, w_x, w_u say which rows are active. Returns the QP and M (B, N + 1, nx, nx): its multipliers plus
    M_k (x_k - x) are those of the QP that was asked for.
    """
    N, nx = ocp.horizon, x.shape[-1]
    old, data = cost_blocks(qp, ocp), qp.data()
    cost = torch.cat([torch.cat([old["Q"], old["S"].mT], -1), torch.cat([old["S"], old["R"]], -1)], -2)
    hessian, last = cost + stage, old["Q_N"] + end
    AB = torch.cat([full("A", data["A"], ocp), full("B", data["B"], ocp)], -1)
    size = torch.cat([hessian.flatten(1), last.flatten(1)], 1).abs().amax(1)
    new, M, done = _recursion(hessian, last, AB, size)
    if not bool(done.all()):
        left = (~done).nonzero()[:, 0]
        held, held_last = _active_squares(qp, ocp, point, left)
        weight = _HOLD * size[left][:, None, None]
        again = _recursion(
            hessian[left] + weight[:, None] * held, last[left] + weight * held_last, AB[left], size[left]
        )
        new[left], M[left], done[left] = again
    delta = _LEAST * size[:, None, None] * torch.eye(nx, dtype=x.dtype)
    new_last = delta.clone()
    if not bool(done.all()):
        left = (~done).nonzero()[:, 0]
        new[left], new_last[left], M[left] = cost[left], old["Q_N"][left], 0.0
    gap = times(AB, torch.cat([x[:, :N], u], -1)) + full("c", data["c"], ocp) - x[:, 1:]
    slope = times(AB.mT @ M[:, 1:], gap)
    found = with_curvature(qp, ocp, x, u, new - cost, new_last - old["Q_N"])
    assert found.q is not None and found.r is not None
    return dataclasses.replace(found, q=found.q + slope[..., :nx], r=found.r + slope[..., nx:]), M


def _recursion(hessian: Tensor, last: Tensor, AB: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convex stages (B, N, n, n), M (B, N + 1, nx, nx), and for which elements that went well (B,)."""
    h, q, d, s = (value.contiguous().numpy() for value in (hessian, last, AB, size))
    stages, M, good = map(torch.from_numpy, _solver.convex_stages(h, q, d, s))
    return stages, M, good


def _active_squares(qp: OcpQP, ocp: NonlinearOcp, point: Any, elements: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of c c' over active rows c of the stages (B, N, n, n) and of the end (B, nx, nx), for some elements."""
    data, N = qp.data(), ocp.horizon
    w = torch.cat([point.w_x[:, :N], point.w_u], -1)[elements]
    total = torch.diag_embed((w != 0.0).to(w.dtype))
    end = torch.diag_embed((point.w_x[elements, N] != 0.0).to(w.dtype))
    if "C" in data or "D" in data:
        shape = (ocp.batch, N, point.z.shape[-1])
        parts = [
            full(name, data[name], ocp) if name in data else w.new_zeros(*shape, size)
            for name, size in (("C", ocp.x0.shape[-1]), ("D", ocp.dynamics.nu))
        ]
        rows = torch.cat(parts, -1)[elements]
        total = total + rows.mT @ ((point.z[elements] != 0.0)[..., None] * rows)
    if "C_N" in data:
        rows = full("C_N", data["C_N"], ocp)[elements]
        end = end + rows.mT @ ((point.z_N[elements] != 0.0)[..., None] * rows)
    return total, end
