"""Optimality conditions of a nonlinear optimal-control problem, read off the QP around a trajectory. No gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.nonlinear_ocp import NonlinearOcp, full, per_element, times
from qp_control.ocp.problem import OcpQP


def cost_blocks(data: dict[str, Tensor], ocp: NonlinearOcp) -> dict[str, Tensor]:
    """Q, R, S, q, r of all stages, (B, N, ...), and Q_N, q_N, (B, ...); absent ones are zero. Differentiable."""
    nx, nu, N = ocp.x0.shape[-1], ocp.dynamics.nu, ocp.horizon
    shapes = {"Q": (nx, nx), "R": (nu, nu), "S": (nu, nx), "q": (nx,), "r": (nu,)}
    blocks = {}
    for name, shape in shapes.items():
        value = full(name, data[name], ocp) if name in data else ocp.x0.new_zeros(ocp.batch, N, *shape)
        blocks[name] = value[:, :N]
        if name in ("Q", "q"):
            end = f"{name}_N"
            blocks[end] = full(end, data[end], ocp) if end in data else value[:, -1]
    return blocks


def cost_size(data: dict[str, Tensor], ocp: NonlinearOcp) -> Tensor:
    """Largest entry (B,) of the Hessian of the cost of states and inputs."""
    blocks = cost_blocks(data, ocp)
    return torch.cat([blocks[name].flatten(1) for name in ("Q", "R", "S", "Q_N")], 1).abs().amax(1)


def slack_size(data: dict[str, Tensor], ocp: NonlinearOcp) -> Tensor:
    """Largest quadratic weight (B,) of a soft row."""
    largest = ocp.x0.new_zeros(ocp.batch)
    for name in ("slack_quadratic", "slack_quadratic_N"):
        if name in data and data[name].shape[-1]:
            weights = full(name, data[name], ocp).flatten(1)
            largest = torch.maximum(largest, torch.where(weights.isfinite(), weights, 0.0).amax(1))
    return largest


def crossing(qp: OcpQP, ocp: NonlinearOcp) -> Tensor:
    """Which elements (B,) have a row or box whose lower bound is above the upper one."""
    data, found = qp.data(), torch.zeros(ocp.batch, dtype=torch.bool)
    for lower, upper in (("lower", "upper"), ("lower_N", "upper_N"), ("x_lower", "x_upper"), ("u_lower", "u_upper")):
        if lower in data and upper in data:
            found |= (full(lower, data[lower], ocp) > full(upper, data[upper], ocp)).flatten(1).any(1)
    return found


def cost_value(blocks: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
    """The cost (B,) of states x (B, N + 1, nx) and inputs u (B, N, nu); blocks: of `cost_blocks`."""
    before, end = x[:, :-1], x[:, -1]
    at_x = 0.5 * times(blocks["Q"], before) + times(blocks["S"].mT, u) + blocks["q"]
    at_u = 0.5 * times(blocks["R"], u) + blocks["r"]
    at_end = 0.5 * times(blocks["Q_N"], end) + blocks["q_N"]
    return (at_x * before).sum((1, 2)) + (at_u * u).sum((1, 2)) + (at_end * end).sum(1)


def cost_slopes(blocks: dict[str, Tensor], x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the cost with respect to x_0..x_{N-1}, u and x_N; blocks: of `cost_blocks`."""
    before = x[:, :-1]
    at_x = times(blocks["Q"], before) + times(blocks["S"].mT, u) + blocks["q"]
    at_u = times(blocks["S"], before) + times(blocks["R"], u) + blocks["r"]
    return at_x, at_u, times(blocks["Q_N"], x[:, -1]) + blocks["q_N"]


def with_curvature(qp: OcpQP, ocp: NonlinearOcp, x: Tensor, u: Tensor, stage: Tensor, end: Tensor) -> OcpQP:
    """The QP with stage (B, N, n, n) and end (B, nx, nx) added to its Hessian, and the same gradient at (x, u)."""
    nx, N = x.shape[-1], ocp.horizon
    slope = times(stage, torch.cat([x[:, :N], u], -1))
    old = cost_blocks(qp.data(), ocp)
    return dataclasses.replace(
        qp,
        Q=old["Q"] + stage[..., :nx, :nx],
        S=old["S"] + stage[..., nx:, :nx],
        R=old["R"] + stage[..., nx:, nx:],
        q=old["q"] - slope[..., :nx],
        r=old["r"] - slope[..., nx:],
        Q_N=old["Q_N"] + end,
        q_N=old["q_N"] - times(end, x[:, N]),
    )


def residuals(ocp: NonlinearOcp, qp: OcpQP, point: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Primal and dual residual (B,) at the trajectory that `qp` was linearised around, and the scale of the dual one.

    point: x, u (the trajectory), y, z, z_N, w_x, w_u and the shifts. Primal: largest gap of the dynamics, violation of
    a (shifted) constraint or distance of a constraint with a multiplier from its bound. Scale: one, or the largest
    multiplier.
    """
    N, data = ocp.horizon, qp.data()
    x, u, y = point.x, point.u, point.y
    before, after = x[:, :N], y[:, 1:]
    A, B = full("A", data["A"], ocp), full("B", data["B"], ocp)
    at_x, at_u, at_end = cost_slopes(cost_blocks(data, ocp), x, u)
    at_x = at_x - y[:, :N] + times(A.mT, after) + point.w_x[:, :N]
    at_u = at_u + times(B.mT, after) + point.w_u
    at_end = at_end - y[:, N] + point.w_x[:, N]
    gap = times(A, before) + times(B, u) + full("c", data["c"], ocp) - x[:, 1:]
    primal = [gap.flatten(1), x[:, 0] - ocp.x0]
    for name, slope in (("C", at_x), ("D", at_u)):
        if name in data:
            slope += times(full(name, data[name], ocp).mT, point.z)
    if "C_N" in data:
        at_end += times(full("C_N", data["C_N"], ocp).mT, point.z_N)
    for sides in constraint_sides(ocp, qp, point):
        primal.append(_distance(*sides).flatten(1))
    dual = torch.cat([at_x.flatten(1), at_u.flatten(1), at_end], 1)
    multipliers = [v.flatten(1) for v in (y, point.z, point.z_N, point.w_x, point.w_u)]
    scale = torch.cat([torch.ones_like(x[:, 0, :1]), *multipliers], 1).abs().amax(1)
    return torch.cat(primal, 1).abs().amax(1), dual.abs().amax(1), scale


def constraint_sides(ocp: NonlinearOcp, qp: OcpQP, point: Any) -> list[tuple[Tensor, ...]]:
    """Values, multipliers, bounds, and shifts and slacks of the rows, terminal rows and boxes that are present."""
    data, N = qp.data(), ocp.horizon
    x, u = point.x, point.u
    groups: list[tuple[Tensor, Tensor, str, str, Tensor, Tensor]] = []
    rows = [times(full(name, data[name], ocp), of) for name, of in (("C", x[:, :N]), ("D", u)) if name in data]
    if rows:
        moved = point.s_lower + point.slack_lower, point.s_upper + point.slack_upper
        groups.append((sum(rows[1:], rows[0]), point.z, "lower", "upper", *moved))
    if "C_N" in data:
        values = times(full("C_N", data["C_N"], ocp), x[:, N])
        moved = point.s_lower_N + point.slack_lower_N, point.s_upper_N + point.slack_upper_N
        groups.append((values, point.z_N, "lower_N", "upper_N", *moved))
    later = slice(1, N + 1)
    shifts = point.s_x_lower[:, later], point.s_x_upper[:, later]
    groups.append((x[:, later], point.w_x[:, later], "x_lower", "x_upper", *shifts))
    groups.append((u, point.w_u, "u_lower", "u_upper", point.s_u_lower, point.s_u_upper))
    found = []
    for values, multipliers, low, high, s_low, s_high in groups:
        if low not in data and high not in data:
            continue
        sides = [
            full(name, data[name], ocp) if name in data else torch.full_like(values, missing)
            for name, missing in ((low, -float("inf")), (high, float("inf")))
        ]
        found.append((values, multipliers, *sides, s_low, s_high))
    return found


def elements_of(qp: OcpQP, which: Tensor) -> OcpQP:
    """A part of the batch of a QP; shared data stay as they are."""
    data = {
        name: value[which] if per_element(name, value) and len(value) > 1 else value
        for name, value in qp.data().items()
    }
    return OcpQP(**data, horizon=qp.horizon)


def _distance(v: Tensor, m: Tensor, lower: Tensor, upper: Tensor, s_lower: Tensor, s_upper: Tensor) -> Tensor:
    below, above = lower - s_lower - v, v - upper - s_upper
    violation = below.maximum(above).clamp_min(0.0)
    # Multipliers of shifted rows are free in sign.
    away = torch.where(m > 0.0, torch.minimum(m, above.abs()), torch.minimum(-m, below.abs()))
    away = torch.where(s_upper > 0.0, above.abs(), torch.where(s_lower > 0.0, below.abs(), away))
    return violation.maximum(torch.where((m == 0.0) & (s_upper == 0.0) & (s_lower == 0.0), 0.0, away))
