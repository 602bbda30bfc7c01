"""Derivatives of an optimal-control QP's solution to any order, in torch operations, at a cost linear in the horizon.

The two operations of `kkt_functions`, the solution as an implicit function of the data and a solve with its KKT matrix,
with the products of stages.py. `_solver.ocp_system` solves by the Riccati recursion.

Tensors are float64 on the CPU. Which bounds take part, `roles` (B, 3, rows), is constant between two kinks of the
solution and has no derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from qp_control import _solver
from qp_control.ocp.problem import OCP_NAMES, OcpSizes, base_rank
from qp_control.ocp.solve import OUTPUTS, POINT, SLACKS
from qp_control.ocp.stages import BOUNDS, SHIFT_PARTS, Data, Roles, StageSystem, Vector, named
from qp_control.qp.kkt_functions import fold, inside_jvp, refuse_old_vmap, to_array
from qp_control.qp.kkt_products import Optional
from qp_control.settings import Settings, Status
from qp_control.tracing import refuse_tracing

DATA = len(OCP_NAMES)
FIELDS = len(OUTPUTS)


@dataclass(frozen=True)
class OcpSetup:
    """What a call needs besides tensors."""

    sizes: OcpSizes
    settings: Settings
    symmetry_tolerance: float = 1e-10

    def with_batch(self, batch: int) -> OcpSetup:
        return OcpSetup(self.sizes._replace(batch=batch, batched=True), self.settings, self.symmetry_tolerance)

    @cached_property
    def native(self) -> _solver.Settings:
        return self.settings.native("closest")

    @cached_property
    def derivative(self) -> _solver.DerivativeSettings:
        return self.settings.native_derivative()


def fold_data(data: Sequence[Any], dims: Sequence[int | None], axis: int, batch: int) -> list[Optional]:
    """`fold` for the data."""
    out = []
    for name, value, dim in zip(OCP_NAMES, data, dims, strict=True):
        rank = base_rank(name)
        if value is not None and dim is not None and value.dim() - 1 == rank:
            value, dim = value.movedim(dim, 0).unsqueeze(1), 0
        out.append(fold(value, dim, rank + 1, axis, batch))
    return out


def fold_fields(sizes: OcpSizes, fields: Sequence[Any], dims: Sequence[int | None], axis: int) -> list[Optional]:
    """`fold` for a solution's fields, or the first of them."""
    shapes = sizes.field_shapes
    return [fold(f, d, len(s), axis, sizes.batch) for f, d, s in zip(fields, dims, shapes, strict=False)]


def refuse_smoothed(settings: Settings) -> None:
    if settings.weakly_active == "smoothed":
        raise NotImplementedError('weakly_active="smoothed" has first derivatives backward only')


class OcpKktSolve(torch.autograd.Function):
    """K^-1 rhs; (setup, status, *data, *fields, rhs), with the 19 fields (B, .) of the solution and rhs (B, count, .);
    one factorisation per element for any count."""

    @staticmethod
    def forward(setup: OcpSetup, status: torch.Tensor, *tensors: Any) -> torch.Tensor:
        data, fields, rhs = tensors[:DATA], tensors[DATA:-1], tensors[-1]
        refuse_old_vmap(rhs)
        solved = _solver.ocp_system(
            setup.sizes.native,
            [to_array(t) for t in data],
            [to_array(t) for t in fields],
            status.numpy(),
            rhs.detach().contiguous().numpy(),
            setup.derivative,
        )
        return torch.from_numpy(solved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.setup, *tensors = inputs
        ctx.save_for_backward(*tensors[:-1], output)
        ctx.save_for_forward(*tensors[:-1], output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Optional, ...]:
        status, *tensors, solved = ctx.saved_tensors
        q = OcpKktSolve.apply(ctx.setup, status, *tensors, grad)  # type: ignore[no-untyped-call]
        sizes = ctx.setup.sizes
        system = StageSystem(sizes, named(tensors[:DATA]))
        found = system.gradients(Vector.split(solved, sizes).times(-1.0), Vector.split(q, sizes))
        data = [found.get(name) for name in OCP_NAMES]  # of the matrices; the vectors have no part in K
        return (None, None, *data, *[None] * FIELDS, q)

    @staticmethod
    def jvp(ctx: Any, _: None, _status: None, *tangents: Any) -> torch.Tensor:
        with inside_jvp(ctx) as (status, *tensors, solved):
            sizes = ctx.setup.sizes
            system = StageSystem(sizes, named(tensors[:DATA]))
            rhs = -system.product(named(tangents[:DATA]), Vector.split(solved, sizes)).packed()
            if tangents[-1] is not None:
                rhs = rhs + tangents[-1]
            return OcpKktSolve.apply(ctx.setup, status, *tensors, rhs)  # type: ignore[no-untyped-call,no-any-return]

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: OcpSetup, *tensors: Any) -> tuple[torch.Tensor, int]:
        *system, rhs = tensors
        axis, sizes = info.batch_size, setup.sizes
        if all(dim is None for dim in dims[1:-1]):
            # Only right-hand sides: more of them for the same factorisation.
            moved = rhs.movedim(dims[-1], 1)
            out = OcpKktSolve.apply(setup, *system, moved.flatten(1, 2))  # type: ignore[no-untyped-call]
            return out.unflatten(1, moved.shape[1:3]), 1
        status, data, fields = system[0], system[1 : DATA + 1], system[DATA + 1 :]
        out = OcpKktSolve.apply(  # type: ignore[no-untyped-call]
            setup.with_batch(axis * sizes.batch),
            fold(status, dims[1], 0, axis, sizes.batch),
            *fold_data(data, dims[2 : DATA + 2], axis, sizes.batch),
            *fold_fields(sizes, fields, dims[DATA + 2 : -1], axis),
            fold(rhs, dims[-1], 2, axis, sizes.batch),
        )
        return out.unflatten(0, (axis, sizes.batch)), 0


class OcpSolutionPoint(torch.autograd.Function):
    """(setup, status, *data, *fields) -> v (B, .) and the roles at a solution, v an implicit function of the data."""

    @staticmethod
    def forward(setup: OcpSetup, status: torch.Tensor, *tensors: Any) -> tuple[torch.Tensor, torch.Tensor]:
        refuse_tracing()
        data, fields = ([to_array(t) for t in group] for group in (tensors[:DATA], tensors[DATA:]))
        v, roles = _solver.ocp_point(setup.sizes.native, data, fields, status.numpy(), setup.derivative)
        return torch.from_numpy(v), torch.from_numpy(roles)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.setup, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Optional, ...]:
        point = SolvedPoint(ctx.setup, ctx.saved_tensors)
        found = point.adjoint(Vector.split(grad.unsqueeze(1), ctx.setup.sizes))
        return (None, None, *(found[name] for name in OCP_NAMES), *[None] * FIELDS)

    @staticmethod
    def jvp(ctx: Any, _: None, _status: None, *tangents: Any) -> tuple[torch.Tensor, None]:
        with inside_jvp(ctx) as saved:
            moved = SolvedPoint(ctx.setup, saved).tangent(named(tangents[:DATA]))
            return moved.packed().squeeze(1), None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: OcpSetup, *tensors: Any) -> tuple[Any, tuple[int, int]]:
        axis, sizes = info.batch_size, setup.sizes
        out = OcpSolutionPoint.apply(  # type: ignore[no-untyped-call]
            setup.with_batch(axis * sizes.batch),
            fold(tensors[0], dims[1], 0, axis, sizes.batch),
            *fold_data(tensors[1 : DATA + 1], dims[2 : DATA + 2], axis, sizes.batch),
            *fold_fields(sizes, tensors[DATA + 1 :], dims[DATA + 2 :], axis),
        )
        return tuple(t.unflatten(0, (axis, sizes.batch)) for t in out), (0, 0)


class SolvedPoint:
    """A solution, (status, *data, *fields, v, roles), and its derivatives composed of torch operations."""

    def __init__(self, setup: OcpSetup, saved: Sequence[Any]) -> None:
        refuse_smoothed(setup.settings)
        self.setup, (*self.inputs, v, roles) = setup, saved
        self.status = self.inputs[0]
        self.v = Vector.split(v.unsqueeze(1), setup.sizes)
        self.roles = Roles.split(roles, setup.sizes)
        self.system = StageSystem(setup.sizes, named(self.inputs[1 : DATA + 1]))

    @classmethod
    def of(cls, setup: OcpSetup, status: torch.Tensor, data: Sequence[Optional], fields: Sequence[Any]) -> SolvedPoint:
        """v and the roles as functions of the data; status and fields with or without a batch axis."""
        batch, shapes = setup.sizes.batch, setup.sizes.field_shapes
        inputs = [
            status.reshape(batch),
            *data,
            *(f.detach().reshape(batch, *shape) for f, shape in zip(fields, shapes, strict=True)),
        ]
        return cls(setup, (*inputs, *OcpSolutionPoint.apply(setup, *inputs)))  # type: ignore[no-untyped-call]

    def solve(self, rhs: Vector) -> Vector:
        solved = OcpKktSolve.apply(self.setup, *self.inputs, rhs.packed())  # type: ignore[no-untyped-call]
        return Vector.split(solved, self.setup.sizes)

    def adjoint(self, grad: Vector) -> Data:
        """Gradients of the data from that of v."""
        q = self.solve(grad).times(-1.0)
        found = self.system.gradients(q, self.v)
        return found | self.system.slope_gradients(q) | self.system.constant_gradients(q, self.roles)

    def tangent(self, change: Data) -> Vector:
        """The change of v."""
        return self.solve(self.system.residual_change(change, self.v, self.roles).times(-1.0))

    @property
    def _solved(self) -> torch.Tensor:
        solved: torch.Tensor = self.status.unsqueeze(-1) <= Status.CLOSEST_FEASIBLE
        return solved

    def _cost_slope(self) -> Vector:
        """H v + g of the cost."""
        cost, data = self.v.of_cost(), self.system.data
        return self.system.cost_product(data, cost).plus(self.system.cost_slope(data, cost))

    def _shift_sides(self, lower: Sequence[Any], upper: Sequence[Any]) -> list[tuple[Any, ...]]:
        """For each of z, z_N, w_x and w_u: both sides, the share of the lower bound, and 1 on shifted rows."""
        return list(zip(lower, upper, self.roles.lower, self.roles.shifted, strict=True))

    def adjoint_of_fields(self, loss: Sequence[Optional]) -> list[Optional]:
        """Gradients of the data from those of the 19 fields and the objective (None: zero)."""
        batch, system = self.setup.sizes.batch, self.system
        blocks = [
            self.v.x.new_zeros(batch, 1, *shape) if grad is None else grad.reshape(batch, 1, *shape)
            for grad, shape in zip(loss, [*self.setup.sizes.field_shapes, ()], strict=True)
        ]
        point, shifts, slacks = blocks[:7], blocks[7:15], blocks[15:19]
        objective = torch.where(self._solved, blocks[19], 0.0)
        sides = self._shift_sides(shifts[::2], shifts[1::2])
        of_shifts = [
            shifted * (torch.where(share < 1, upper, 0.0) - torch.where(share > 0, lower, 0.0))
            for lower, upper, share, shifted in sides
        ]
        v_bar = self.v.zeros()._replace(
            **dict(zip((*POINT, *SLACKS), (*point, *slacks), strict=True)),
            **dict(zip(SHIFT_PARTS, of_shifts, strict=True)),
        )
        if loss[FIELDS] is not None:
            v_bar = v_bar.plus(self._cost_slope().times(objective))
        gradients = self.adjoint(v_bar)

        # What depends on the data directly: the objective, and the shifts of rows that are shifted on both sides.
        direct: Data = {}
        if loss[FIELDS] is not None:
            cost = self.v.of_cost()
            direct = system.cost_gradients(cost.times(0.5 * objective), cost)
            direct |= system.slope_gradients(cost.times(objective))
        for names, (lower, upper, share, shifted) in zip(BOUNDS, sides, strict=True):
            half = torch.where((share == 0.5) & (shifted > 0), 0.5 * (lower + upper), 0.0)
            for name, sign in zip(names, (1.0, -1.0), strict=True):
                direct[name] = system.bound_gradient(name, sign * half)
        for name, term in direct.items():
            gradient = gradients[name]
            if gradient is not None and term is not None:
                gradients[name] = gradient + term
        return [gradients[name] for name in OCP_NAMES]

    def tangents_of_fields(self, change: Data) -> list[torch.Tensor]:
        """Changes of the 19 fields and the objective."""
        moved, cost, system = self.tangent(change), self.v.of_cost(), self.system
        lower, upper = zip(*system.bound_changes(change, self.v), strict=True)
        shifts = []
        for (low, high, share, shifted), s in zip(self._shift_sides(lower, upper), moved.shifts, strict=True):
            gap = low - high
            shifts.append(torch.where((shifted > 0) & (share > 0), (1.0 - share) * gap - shifted * s, 0.0))
            shifts.append(torch.where((shifted > 0) & (share < 1), shifted * s + share * gap, 0.0))
        curved, flat = system.cost_product(change, cost), system.cost_slope(change, cost)
        objective = self._cost_slope().dot(moved) + curved.times(0.5).plus(flat).dot(cost)
        without = float("nan") if self.setup.settings.on_failure == "nan" else 0.0
        objective = torch.where(self._solved, objective, without)
        fields = [*moved[:7], *shifts, *moved[7:11], objective]
        return [field.squeeze(1) if self.setup.sizes.batched else field.squeeze(1).squeeze(0) for field in fields]
