"""The exact l1 penalty function of a nonlinear optimal-control problem, for line searches. No gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qp_control.nonlinear_kkt import cost_blocks
from qp_control.nonlinear_ocp import NonlinearOcp, StateRows, full, times
from qp_control.ocp_problem import OcpQP

_SHIFTS = ("s_lower", "s_upper", "s_lower_N", "s_upper_N", "s_x_lower", "s_x_upper", "s_u_lower", "s_u_upper")


class L1Penalty:
    """Cost of a trajectory + weight (sum of the gaps of the dynamics and of the violations), (B,).

    Violations of soft rows cost what their slacks do. qp: the problem's QP around some trajectory; weight (B,).
    """

    def __init__(self, ocp: NonlinearOcp, qp: OcpQP, weight: Tensor) -> None:
        self._ocp, self._blocks, self._weight = ocp, cost_blocks(qp, ocp), weight

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """At the trajectory x (B, N + 1, nx), u (B, N, nu)."""
        cost, infeasible = self._parts(x, u)
        return cost + self._weight * infeasible

    def along(self, x: Tensor, u: Tensor, found: Any) -> tuple[Tensor, Tensor]:
        """The value at (x, u) and its slope towards the solution of the QP there."""
        cost, infeasible = self._parts(x, u)
        b, N = self._blocks, self._ocp.horizon
        dx, du = found.x - x, found.u - u
        at_x = times(b["Q"], x[:, :N]) + times(b["S"].mT, u) + b["q"]
        at_u = times(b["S"], x[:, :N]) + times(b["R"], u) + b["r"]
        at_end = times(b["Q_N"], x[:, N]) + b["q_N"]
        slope = (at_x * dx[:, :N]).sum((1, 2)) + (at_u * du).sum((1, 2)) + (at_end * dx[:, N]).sum(1)
        left = torch.stack([getattr(found, name).flatten(1).sum(1) for name in _SHIFTS]).sum(0)
        return cost + self._weight * infeasible, slope - self._weight * (infeasible - left)

    def _parts(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        b, N = self._blocks, self._ocp.horizon
        before, end = x[:, :N], x[:, N]
        at_x = 0.5 * times(b["Q"], before) + times(b["S"].mT, u) + b["q"]
        at_u = 0.5 * times(b["R"], u) + b["r"]
        cost = (at_x * before).sum((1, 2)) + (at_u * u).sum((1, 2))
        cost = cost + ((0.5 * times(b["Q_N"], end) + b["q_N"]) * end).sum(1)
        infeasible = (self._ocp.step(x, u) - x[:, 1:]).abs().sum((1, 2))
        for values, lower, upper, linear, quadratic in _rows(self._ocp, x, u):
            beyond = torch.maximum(lower - values, values - upper).clamp_min(0.0)
            if linear is None and quadratic is None:
                infeasible = infeasible + beyond.flatten(1).sum(1)
                continue
            linear = torch.zeros_like(beyond) if linear is None else linear.expand_as(beyond)
            quadratic = torch.zeros_like(beyond) if quadratic is None else quadratic.expand_as(beyond)
            soft = linear.isfinite() & quadratic.isfinite()
            slack = torch.where(soft, beyond, 0.0)
            price = torch.where(soft, linear, 0.0) * slack + torch.where(soft, quadratic, 0.0) * 0.5 * slack * slack
            cost = cost + price.flatten(1).sum(1)
            infeasible = infeasible + torch.where(soft, 0.0, beyond).flatten(1).sum(1)
        return cost, infeasible


def _rows(ocp: NonlinearOcp, x: Tensor, u: Tensor) -> Iterator[tuple[Tensor, Any, Any, Any, Any]]:
    """Values, bounds and slack weights (None: hard) of all rows and boxes."""
    data, N = ocp.data, ocp.horizon

    def of(name: str, missing: float | None = None) -> Any:
        if name not in data:
            return None if missing is None else x.new_tensor(missing)
        value = full(name, data[name], ocp)
        return value[:, -N:] if name.startswith("x_") else value

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
        numbers = [None if v is None else torch.as_tensor(v, dtype=x.dtype)
                   for v in (group.lower, group.upper, group.slack_linear, group.slack_quadratic)]
        yield values, *numbers
