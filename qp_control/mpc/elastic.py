"""A nonlinear optimal-control problem whose limits may all be exceeded, at a quadratic cost.

    minimise    share * cost + 1/2 weight * (sum of the squares of the violations)
    subject to  the dynamics

Soft rows stay soft: their slacks are part of the cost. Boxes become rows, the last ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.nonlinear_kkt import cost_blocks, cost_slopes
from qp_control.mpc.nonlinear_ocp import ROW_DATA, NonlinearOcp, Rows, StageRows, StateRows, full

_INFINITY = float("inf")
_SIDES = (("lower", -_INFINITY), ("upper", _INFINITY))


@dataclass(frozen=True)
class Elastic:
    """The elastic problem of `original`; gradients pass to its data.

    weight (B,), share: see the top of this file. near: a trajectory x, u; the cost is then the distance from it,
    1/2 |(x, u) - near|^2 in the metric of the cost's Hessian, and soft rows cost nothing.
    """

    original: NonlinearOcp
    weight: Tensor
    share: float
    near: tuple[Tensor, Tensor] | None = None

    def problem(self) -> NonlinearOcp:
        ocp = self.original
        of_x, x_lower, x_upper = self._box("x")
        of_u, u_lower, u_upper = self._box("u")
        boxes: list[Rows] = [
            StateRows(lambda x: x[..., of_x], x_lower, x_upper),
            StageRows(lambda x, u: u[..., of_u], u_lower, u_upper),
        ]
        rows = [*ocp.rows, *(box for box, chosen in zip(boxes, (of_x, of_u), strict=True) if len(chosen))]
        data = {name: value for name, value in ocp.data.items() if name[1:] not in ("_lower", "_upper")}
        data |= self._cost() | self._linear_rows("", ("C", "D")) | self._linear_rows("_N", ("C_N",))
        return dataclasses.replace(ocp, data=data, rows=[self._soft_rows(r) for r in rows])

    def unfold(self, rows: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parts for rows, terminal rows, boxes of states and boxes of inputs of the original, from those for the
        rows (B, N, rows) and terminal rows (B, terminal rows) of the elastic problem."""
        ocp = self.original
        (of_x, *_), (of_u, *_) = self._box("x"), self._box("u")
        m, end = rows.shape[-1] - len(of_x) - len(of_u), ends.shape[-1] - len(of_x)
        at_x = rows.new_zeros(ocp.batch, ocp.horizon + 1, ocp.x0.shape[-1])
        at_u = rows.new_zeros(ocp.batch, ocp.horizon, ocp.dynamics.nu)
        at_x[:, 1:, of_x] = torch.cat([rows[:, 1:, m : m + len(of_x)], ends[:, None, end:]], 1)
        at_u[..., of_u] = rows[..., m + len(of_x) :]
        return rows[..., :m], ends[..., :end], at_x, at_u

    def _cost(self) -> dict[str, Tensor]:
        ocp = self.original
        blocks = cost_blocks(ocp.data, ocp)
        if self.near is not None:
            none = {name: torch.zeros_like(blocks[name]) for name in ("q", "r", "q_N")}
            at_x, at_u, at_end = cost_slopes(blocks | none, *self.near)
            blocks |= {"q": -at_x, "r": -at_u, "q_N": -at_end}
        return {name: self.share * value for name, value in blocks.items()}

    def _linear_rows(self, suffix: str, matrices: tuple[str, ...]) -> dict[str, Tensor]:
        ocp, data = self.original, self.original.data
        sizes = [data[name].shape[-2] for name in matrices if name in data]
        if not sizes:
            return {}
        shape = (ocp.batch, 1 if suffix else ocp.horizon, sizes[0])
        given = []
        for name in ROW_DATA:
            value = data.get(name + suffix)
            value = None if value is None else full(name + suffix, value, ocp)
            given.append(value[:, None] if suffix and value is not None else value)
        soft = (value.expand(shape) for value in self._softened(*given))
        return {name + suffix: v[:, 0] if suffix else v for name, v in zip(ROW_DATA, soft, strict=True)}

    def _soft_rows(self, rows: Rows) -> Rows:
        soft = self._softened(*(getattr(rows, name) for name in ROW_DATA))
        changes: dict[str, Any] = dict(zip(ROW_DATA, soft, strict=True))
        return dataclasses.replace(rows, **changes)

    def _softened(self, lower: Any, upper: Any, linear: Any, quadratic: Any) -> tuple[Tensor, ...]:
        """Bounds and slack weights of rows that had these, or None."""

        def tensor(value: Any, missing: float) -> Tensor:
            return torch.as_tensor(missing if value is None else value, dtype=self.weight.dtype)

        weight, was_hard = self.weight[:, None, None], linear is None and quadratic is None
        lower, upper = tensor(lower, -_INFINITY), tensor(upper, _INFINITY)
        if was_hard:
            return lower, upper, torch.zeros_like(weight), weight
        linear, quadratic = tensor(linear, 0.0), tensor(quadratic, 0.0)
        soft = linear.isfinite() & quadratic.isfinite()
        if self.near is not None:
            lower, upper = torch.where(soft, -_INFINITY, lower), torch.where(soft, _INFINITY, upper)
        return (
            lower,
            upper,
            torch.where(soft, self.share * linear, 0.0),
            torch.where(soft, self.share * quadratic, weight),
        )

    def _box(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Which coordinates (n,) have limits, and the limits (B, N, n)."""
        ocp, N = self.original, self.original.horizon
        size = ocp.x0.shape[-1] if name == "x" else ocp.dynamics.nu
        sides = []
        for side, missing in _SIDES:
            value = ocp.data.get(f"{name}_{side}")
            if value is None:
                sides.append(ocp.x0.new_full((ocp.batch, N, size), missing))
            else:
                sides.append(full(f"{name}_{side}", value, ocp))
        chosen = (sides[0].isfinite() | sides[1].isfinite()).flatten(0, 1).any(0).nonzero()[:, 0]
        return chosen, sides[0][..., chosen], sides[1][..., chosen]
