"""Penalty functions of nonlinear optimal-control problems, for line searches, and how far plans violate
their limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.nonlinear_kkt import cost_blocks, cost_slopes, cost_value
from qp_control.mpc.nonlinear_ocp import ROW_DATA, NonlinearOcp, StateRows, full, times
from qp_control.ocp.layer import OcpLayerSolution
from qp_control.ocp.problem import OcpQP
from qp_control.settings import Status

_MULTIPLIERS = ("y", "z", "z_N", "w_x", "w_u")


class Penalty:
    """The function (B,) that a line search decreases.

    Ordinarily cost + weight (sum of the dynamics' gaps and of the violations). If the QP had to shift rows: the
    Euclidean norm of the violations, which the least shift makes small, + weight (sum of the gaps). Violations of soft
    rows cost what their slacks do. The weights exceed the multipliers, so that the step to the QP's solution is a
    descent direction.

    ocp, qp: the problem and its QP around x, u; found: the QP's solution; least_weight (B,): of earlier steps.
    """

    def __init__(
        self, ocp: NonlinearOcp, qp: OcpQP, x: Tensor, u: Tensor, found: OcpLayerSolution, least_weight: Tensor
    ) -> None:
        self._ocp, self._blocks = ocp, cost_blocks(qp.data(), ocp)
        self.shifted = found.status == Status.CLOSEST_FEASIBLE
        largest = torch.cat([getattr(found, name).flatten(1).abs() for name in _MULTIPLIERS], 1).amax(1)
        self.weight = torch.where(self.shifted, least_weight, torch.maximum(least_weight, 1.1 * largest))
        self._gap_weight = self.weight
        self.start = self(x, u)
        self.slope = self._slope(x, u, found)
        if bool(self.shifted.any()):
            shift, price = _shift(ocp, qp, found)
            self._gap_weight = torch.where(self.shifted, 1.1 * price, self.weight)
            self.start = torch.where(self.shifted, self(x, u), self.start)
            self.slope = torch.where(self.shifted, shift - self.start, self.slope).clamp_max(0.0)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """At the trajectory x (B, N + 1, nx), u (B, N, nu)."""
        cost, gap, sum_, square = self._parts(x, u)
        ordinary = cost + self._gap_weight * gap + self.weight * sum_
        return torch.where(self.shifted, self._gap_weight * gap + square.sqrt(), ordinary)

    def _slope(self, x: Tensor, u: Tensor, found: OcpLayerSolution) -> Tensor:
        _, gap, sum_, _ = self._parts(x, u)
        dx, du, N = found.x - x, found.u - u, self._ocp.horizon
        at_x, at_u, at_end = cost_slopes(self._blocks, x, u)
        slope = (at_x * dx[:, :N]).sum((1, 2)) + (at_u * du).sum((1, 2)) + (at_end * dx[:, N]).sum(1)
        return slope - self.weight * (gap + sum_)

    def _parts(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cost, sum of the gaps, sum of the violations and of their squares."""
        cost = cost_value(self._blocks, x, u)
        gap = (self._ocp.step(x, u) - x[:, 1:]).abs().sum((1, 2))
        sum_ = square = torch.zeros_like(cost)
        for hard, price in _violations(self._ocp, x, u):
            sum_, square = sum_ + hard.flatten(1).sum(1), square + (hard * hard).flatten(1).sum(1)
            cost = cost if price is None else cost + price
        return cost, gap, sum_, square


def violations(ocp: NonlinearOcp, x: Tensor, u: Tensor) -> Tensor:
    """(B, entries) >= 0 by how much hard rows and boxes are violated, in the units of the rows. Differentiable."""
    return torch.cat([hard.flatten(1) for hard, _ in _violations(ocp, x, u)], 1)


def violation(ocp: NonlinearOcp, x: Tensor, u: Tensor) -> Tensor:
    """Euclidean norm (B,) of the violations of hard rows and boxes."""
    found: Tensor = torch.linalg.vector_norm(violations(ocp, x, u), dim=1)
    return found


def _violations(ocp: NonlinearOcp, x: Tensor, u: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Violations of the hard rows of every group, zero at soft ones, and the price (B,) of those of soft rows."""
    for values, lower, upper, linear, quadratic in _rows(ocp, x, u):
        beyond = torch.maximum(lower - values, values - upper).clamp_min(0.0)
        if linear is None and quadratic is None:
            yield beyond, None
            continue
        linear = torch.zeros_like(beyond) if linear is None else linear.expand_as(beyond)
        quadratic = torch.zeros_like(beyond) if quadratic is None else quadratic.expand_as(beyond)
        soft = linear.isfinite() & quadratic.isfinite()
        slack = torch.where(soft, beyond, 0.0)
        slope = torch.where(soft, linear, 0.0) + torch.where(soft, quadratic, 0.0) * 0.5 * slack
        yield torch.where(soft, 0.0, beyond), (slope * slack).flatten(1).sum(1)


def _shift(ocp: NonlinearOcp, qp: OcpQP, found: OcpLayerSolution) -> tuple[Tensor, Tensor]:
    """Norm of the least shift, and the largest price of a gap of the dynamics in it, (B,)."""
    data, N = qp.data(), ocp.horizon
    at_x, at_u = found.s_x_upper - found.s_x_lower, found.s_u_upper - found.s_u_lower
    rows, ends = found.s_upper - found.s_lower, found.s_upper_N - found.s_lower_N
    parts = (at_x, at_u, rows, ends)
    size = torch.stack([(part * part).flatten(1).sum(1) for part in parts]).sum(0).sqrt()
    slopes = at_x[:, 1:].clone()
    if "C" in data:
        slopes[:, :-1] += times(full("C", data["C"], ocp).mT, rows)[:, 1:]
    if "C_N" in data:
        slopes[:, -1] += times(full("C_N", data["C_N"], ocp).mT, ends)
    A = full("A", data["A"], ocp)
    price = slopes[:, -1]
    largest = price.abs().amax(1)
    for k in range(N - 1, 0, -1):
        price = slopes[:, k - 1] + times(A[:, k].mT, price)
        largest = torch.maximum(largest, price.abs().amax(1))
    return size, largest / size.clamp_min(1e-300)


def _rows(ocp: NonlinearOcp, x: Tensor, u: Tensor) -> Iterator[tuple[Tensor, Any, Any, Any, Any]]:
    """Values, bounds and slack weights (None: hard) of all rows and boxes."""
    data, N = ocp.data, ocp.horizon

    def of(name: str, missing: float | None = None) -> Any:
        if name not in data:
            return None if missing is None else x.new_tensor(missing)
        return full(name, data[name], ocp)

    infinity = float("inf")
    rows = [times(full(name, data[name], ocp), at) for name, at in (("C", x[:, :N]), ("D", u)) if name in data]
    if rows:
        values = sum(rows[1:], rows[0])
        bounds = of("lower", -infinity), of("upper", infinity)
        yield values, *bounds, of("slack_linear"), of("slack_quadratic")
    if "C_N" in data:
        values = times(full("C_N", data["C_N"], ocp), x[:, N])
        bounds = of("lower_N", -infinity), of("upper_N", infinity)
        yield values, *bounds, of("slack_linear_N"), of("slack_quadratic_N")
    for name, values in (("x", x[:, 1:]), ("u", u)):
        yield values, of(f"{name}_lower", -infinity), of(f"{name}_upper", infinity), None, None
    for group in ocp.rows:
        values = group.values(x[:, 1:] if isinstance(group, StateRows) else x[:, :N], u)
        lower, upper, linear, quadratic = (group.expanded(name, values) for name in ROW_DATA)
        weights = (linear, quadratic) if group.soft else (None, None)
        yield values, lower, upper, *weights
