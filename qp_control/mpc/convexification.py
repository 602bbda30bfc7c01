"""Convex stages for an optimal-control QP whose Hessian is indefinite, without changing the QP if that is possible.

On trajectories of the deviations, dx_{k+1} = A_k dx_k + B_k du_k + gap_k, the terms

    1/2 |A_k dx_k + B_k du_k + gap_k|_M^2 - 1/2 |dx_{k+1}|_M^2,   M = M_{k+1}

are zero: adding them moves curvature from stage to stage and changes no solution, only the multiplier y_{k+1}, by -M
dx_{k+1}. The backward recursion

    [Q S'; S R] = H_k + [A B]' M_{k+1} [A B],   M_k = Q - S'R^-1 S - delta I,   M_N = Q_N - delta I

leaves the stages [S'R^-1 S + delta I, S'; S R], which are convex wherever R is positive definite, that is, where the QP
is convex on the trajectories. Elsewhere it may be convex with the active rows and boxes: soft rows that are violated
add the curvature of their price, as if they were to stay violated; the squares of the others are added with a weight,
which costs nothing as long as they stay active. If that does not suffice, a fraction of the curvature is used, or none:
the Gauss-Newton step. Or R is made positive definite, stage by stage ("repair").

Source: R. Verschueren, M. Zanon, R. Quirynen, M. Diehl, "A sparsity preserving convexification procedure for indefinite
quadratic programs arising in direct optimal control", SIAM J. Optim. 27 (2017).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qp_control import _solver
from qp_control.mpc.nonlinear_kkt import cost_blocks, with_curvature
from qp_control.mpc.nonlinear_ocp import NonlinearOcp, full, times
from qp_control.ocp.layer import OcpLayerSolution
from qp_control.ocp.problem import OcpQP

# Terminal curvature that is left, relative to the largest entries of the Hessian, as in convex_stages.cpp.
_LEAST = 1e-8
# Weight of active rows, relative to the largest entries of the Hessian.
_HOLD = 10.0
# Of a curvature that cannot be made convex. The benchmark's arm takes 10.4 steps (160 starts), and 12.8 without them.
_FRACTIONS = (0.3, 0.1, 0.03)
_INFINITY = float("inf")
_ROW_DATA = {"slack_linear": 0.0, "slack_quadratic": 0.0, "lower": -_INFINITY, "upper": _INFINITY}


class Priced(NamedTuple):
    """Soft rows whose price is part of the cost of a convexified QP, where they have no bounds."""

    end: bool  # terminal rows
    rows: Tensor  # (B, N, rows, n) or (B, rows, nx)
    which: Tensor  # (B, N, rows) or (B, rows), as all that follows
    side: Tensor  # 1: beyond the upper bound, -1: beyond the lower one
    bound: Tensor
    linear: Tensor
    quadratic: Tensor

    def price(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Slacks and multipliers at states x (B, N + 1, nx) and inputs u (B, N, nu)."""
        at = x[:, -1] if self.end else torch.cat([x[:, :-1], u], -1)
        slack = self.side * (times(self.rows, at) - self.bound)
        return slack, self.side * (self.linear + self.quadratic * slack)


class Convexified(NamedTuple):
    """A convex QP in place of an indefinite one."""

    qp: OcpQP
    M: Tensor
    """(B, N + 1, nx, nx)"""
    priced: list[Priced]

    def solution(self, found: OcpLayerSolution, x: Tensor) -> OcpLayerSolution:
        """Solution of the original QP, around the states x, from the solution of this one."""
        fields = {"y": found.y + times(self.M, found.x - x)}
        for rows in self.priced:
            names = [f"{name}_N" if rows.end else name for name in ("z", "slack_lower", "slack_upper")]
            slack, z = rows.price(found.x, found.u)
            z = torch.where(z * rows.side > 0.0, z, 0.0)  # no longer violated
            slack = slack.clamp_min(0.0)
            new = z, torch.where(rows.side < 0.0, slack, 0.0), torch.where(rows.side > 0.0, slack, 0.0)
            for name, value in zip(names, new, strict=True):
                fields[name] = torch.where(rows.which, value, getattr(found, name))
        return found._replace(**fields)


def convexified(
    qp: OcpQP, ocp: NonlinearOcp, x: Tensor, u: Tensor, stage: Tensor, end: Tensor, point: Any, *, repair: bool = False
) -> Convexified:
    """The QP around x, u with the curvatures stage (B, N, n, n), of (x, u), and end (B, nx, nx) added, made convex.

    point: its z, z_N, w_x, w_u say which rows are active. `Convexified.M`: the multipliers of the original QP are those
    of this one plus M_k (x_k - x). repair: change the stages rather than use a fraction of the curvature.
    """
    N, nx = ocp.horizon, x.shape[-1]
    data = qp.data()
    old = cost_blocks(data, ocp)
    cost = torch.cat([torch.cat([old["Q"], old["S"].mT], -1), torch.cat([old["S"], old["R"]], -1)], -2)
    hessian, last = cost + stage, old["Q_N"] + end
    AB = torch.cat([full("A", data["A"], ocp), full("B", data["B"], ocp)], -1)
    size = torch.cat([hessian.flatten(1), last.flatten(1)], 1).abs().amax(1)
    new, M, done = _recursion(hessian, last, AB, size)
    priced: list[Priced] = []
    left = (~done).nonzero()[:, 0]
    if len(left):
        squares, squares_N, priced = _active_squares(qp, ocp, point, _HOLD * size)
        held, held_last = hessian[left] + squares[left], last[left] + squares_N[left]
        new[left], M[left], done[left] = _recursion(held, held_last, AB[left], size[left])
        for fraction in (1.0,) if repair else _FRACTIONS:
            still = left[~done[left]]
            if not len(still):
                break
            less = cost[still] + squares[still] + fraction * stage[still]
            less_last = old["Q_N"][still] + squares_N[still] + fraction * end[still]
            new[still], M[still], done[still] = _recursion(less, less_last, AB[still], size[still], repair=repair)
        changed = torch.zeros_like(done)
        changed[left] = done[left]
        priced = [rows._replace(which=rows.which & _like(changed, rows.which)) for rows in priced]
    delta = _LEAST * size[:, None, None] * torch.eye(nx, dtype=x.dtype)
    new_last = delta.clone()
    left = (~done).nonzero()[:, 0]
    if len(left):
        new[left], new_last[left], M[left] = cost[left], old["Q_N"][left], 0.0
    gap = times(AB, torch.cat([x[:, :N], u], -1)) + full("c", data["c"], ocp) - x[:, 1:]
    slope = times(AB.mT @ M[:, 1:], gap)
    found = with_curvature(qp, ocp, x, u, new - cost, new_last - old["Q_N"])
    assert found.q is not None and found.r is not None and found.q_N is not None
    changes = {"q": found.q + slope[..., :nx], "r": found.r + slope[..., nx:], "q_N": found.q_N}
    for rows in priced:
        _, z = rows.price(x, u)
        slope = times(rows.rows.mT, torch.where(rows.which, z, 0.0))
        if rows.end:
            changes["q_N"] = changes["q_N"] + slope
        else:
            changes |= {"q": changes["q"] + slope[..., :nx], "r": changes["r"] + slope[..., nx:]}
        for name, free in (("lower", -_INFINITY), ("upper", _INFINITY)):
            name += "_N" * rows.end
            if name in data:
                changes[name] = torch.where(rows.which, free, full(name, data[name], ocp))
    return Convexified(dataclasses.replace(found, **changes), M, priced)


def _recursion(
    hessian: Tensor, last: Tensor, AB: Tensor, size: Tensor, repair: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Convex stages (B, N, n, n), M (B, N + 1, nx, nx), and for which elements (B,) this succeeded."""
    h, q, d, s = (value.contiguous().numpy() for value in (hessian, last, AB, size))
    stages, M, good = map(torch.from_numpy, _solver.convex_stages(h, q, d, s, repair=repair))
    return stages, M, good


def _active_squares(qp: OcpQP, ocp: NonlinearOcp, point: Any, weight: Tensor) -> tuple[Tensor, Tensor, list[Priced]]:
    """Sums of w c c' over active rows c of the stages (B, N, n, n) and of the end (B, nx, nx), and the rows priced.

    w: the quadratic weight of soft rows that are violated, and weight (B,) for all others.
    """
    data, N = qp.data(), ocp.horizon
    w = torch.cat([point.w_x[:, :N], point.w_u], -1)
    squares = {False: torch.diag_embed(torch.where(w != 0.0, weight[:, None, None], 0.0))}
    squares[True] = torch.diag_embed(torch.where(point.w_x[:, N] != 0.0, weight[:, None], 0.0))
    priced = []
    for end in (False, True):
        suffix, z = ("_N", point.z_N) if end else ("", point.z)
        names = ["C_N"] if end else ["C", "D"]
        if not any(name in data for name in names):
            continue
        sizes = {"C": ocp.x0.shape[-1], "D": ocp.dynamics.nu}
        parts = [full(name, data[name], ocp) if name in data else z.new_zeros(*z.shape, sizes[name]) for name in names]
        rows = torch.cat(parts, -1)
        linear, quadratic, lower, upper = (
            full(name + suffix, data[name + suffix], ocp).expand_as(z)
            if name + suffix in data
            else torch.full_like(z, missing)
            for name, missing in _ROW_DATA.items()
        )
        violated = (quadratic > 0.0) & quadratic.isfinite() & linear.isfinite() & (z.abs() > linear)
        weights = torch.where(violated, quadratic, torch.where(z != 0.0, _like(weight, z), 0.0))
        squares[end] = squares[end] + rows.mT @ (weights[..., None] * rows)
        bound = torch.where(z > 0.0, upper, lower)
        priced.append(Priced(end, rows, violated, z.sign(), torch.where(violated, bound, 0.0), linear, quadratic))
    return squares[False], squares[True], [rows for rows in priced if bool(rows.which.any())]


def _like(value: Tensor, other: Tensor) -> Tensor:
    """value (B,) with as many axes as other."""
    return value.view(-1, *[1] * (other.ndim - 1))
