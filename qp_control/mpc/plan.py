"""What a controller plans, and where its next call starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from qp_control.ocp.problem import OcpQP
from qp_control.ocp.solve import OcpStart
from qp_control.settings import Status

_STAGES = ("states", "inputs", "y", "z", "w_x", "w_u")


@dataclass(frozen=True)
class Plan:
    """What one call of `MPC` returns and the next one takes, for a batch of B and horizon N.

    states (B, N + 1, nx), inputs (B, N, nu) [N or N m]; both carry gradients.
    status (B,): `qc.Status` of each element; iterations (B,), primal_residual (B,), dual_residual (B,).
    previous (B, nu): the input before inputs[:, 0]; pending (B, delay, nu): inputs sent that have not taken effect yet,
    oldest first.
    y, z, z_N, w_x, w_u: multipliers of the problem, for the warm start; empty before the first call.
    If status is neither SOLVED nor CLOSEST_FEASIBLE, the plan is the one that was passed in (a converged controller
    returns its last trajectory with MAX_ITER).
    """

    warm: ClassVar[tuple[str, ...]] = ("y", "z", "z_N", "w_x", "w_u")
    """Fields that serve only as the solver's starting point."""

    states: Tensor
    inputs: Tensor
    status: Tensor
    iterations: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    previous: Tensor
    pending: Tensor
    y: Tensor
    z: Tensor
    z_N: Tensor
    w_x: Tensor
    w_u: Tensor

    @classmethod
    def at_rest(cls, x0: Tensor, horizon: int, nu: int, delay: int = 0) -> Plan:
        """The plan that stays at x0 (B, nx) with zero input."""
        batch, nx = x0.shape
        zero, none = x0.new_zeros(batch), x0.new_zeros(batch, 0)
        return cls(
            states=x0[:, None].expand(batch, horizon + 1, nx),
            inputs=x0.new_zeros(batch, horizon, nu),
            status=torch.full((batch,), int(Status.SOLVED)),
            iterations=torch.zeros(batch, dtype=torch.int64),
            primal_residual=zero,
            dual_residual=zero,
            previous=x0.new_zeros(batch, nu),
            pending=x0.new_zeros(batch, delay, nu),
            y=none,
            z=none,
            z_N=none,
            w_x=none,
            w_u=none,
        )

    @property
    def input(self) -> Tensor:
        """The input to send now, u_0 (B, nu) [N or N m]."""
        return self.inputs[:, 0]

    @property
    def solved(self) -> Tensor:
        """(B,) bool: the problem of this element was solved, with limits shifted or not."""
        return (self.status == Status.SOLVED) | (self.status == Status.CLOSEST_FEASIBLE)

    def shift(self) -> Plan:
        """The plan one control period later; its last stage is repeated."""

        N = self.inputs.shape[1]
        stages = torch.arange(1, N + 2)
        stages[N] = N
        inputs = torch.arange(1, N + 1)
        inputs[N - 1] = N - 1
        moved = {}
        for name in _STAGES:
            value = getattr(self, name)
            if value.ndim == 3 and value.shape[-1] > 0:
                moved[name] = value.index_select(1, stages if value.shape[1] > N else inputs)
        pending = torch.cat([self.pending, self.inputs[:, :1]], 1)[:, 1:]
        return dataclasses.replace(self, **moved, previous=self.inputs[:, 0], pending=pending)

    def with_input(self, u: Tensor) -> Plan:
        """The plan with u (B, nu) sent now instead of its own input. Raises ValueError for another shape."""
        if u.shape != self.inputs[:, 0].shape:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected (B, nu) = {tuple(self.inputs[:, 0].shape)}")
        return dataclasses.replace(self, inputs=torch.cat([u[:, None], self.inputs[:, 1:]], 1))

    def detach(self) -> Plan:
        """The same plan without gradients, for controllers outside of training."""
        return Plan(*(getattr(self, field.name).detach() for field in dataclasses.fields(self)))

    def warm_start(self, x: Tensor, u: Tensor, qp: OcpQP) -> Any:
        """A start of the QP around the trajectory x, u with this plan's multipliers, zero where the QP has other rows;
        None before the first call."""
        if self.y.ndim != 3:
            return None
        z, z_N = self.z, self.z_N
        matrix = qp.D if qp.C is None else qp.C
        rows, terminal = (0 if m is None else m.shape[-2] for m in (matrix, qp.C_N))
        if z.shape[-1] != rows:
            z = z.new_zeros(*z.shape[:-1], rows)
        if z_N.shape[-1] != terminal:
            z_N = z_N.new_zeros(*z_N.shape[:-1], terminal)
        return OcpStart(x, u, self.y, z, z_N, self.w_x, self.w_u)

    def where(self, good: Tensor, state: Tensor) -> Plan:
        """This plan for the elements `good` (B,), for the others the plan at rest at `state` (nx,)."""
        three, two = good[:, None, None], good[:, None]
        return dataclasses.replace(
            self,
            states=torch.where(three, self.states, state),
            inputs=torch.where(three, self.inputs, 0.0),
            previous=torch.where(two, self.previous, 0.0),
            pending=torch.where(three, self.pending, 0.0),
        )

    def replaced(self, usable: Tensor, out: Any, status: Tensor, states: Tensor) -> Plan:
        """The plan given by the solution `out` of the problem where it is usable (B,), this one elsewhere.

        states (B, N + 1, nx): the model's states in the solution.
        """

        all_usable = bool(usable.all())

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return new if all_usable else torch.where(usable.view(-1, *[1] * (new.ndim - 1)), new, old)

        def multipliers(name: str) -> Tensor:
            new: Tensor = getattr(out, name).detach()
            old: Tensor = getattr(self, name)
            if all_usable:
                return new
            return choose(new, old if old.shape == new.shape else torch.zeros_like(new))

        return Plan(
            states=choose(states, self.states),
            inputs=choose(out.u, self.inputs),
            status=status,
            iterations=out.iterations,
            primal_residual=out.primal_residual.detach(),
            dual_residual=out.dual_residual.detach(),
            previous=self.previous,
            pending=self.pending,
            **{name: multipliers(name) for name in ("y", "z", "z_N", "w_x", "w_u")},
        )

    def __getitem__(self, elements: Any) -> Plan:
        """The plan of a part of the batch (an index that keeps the batch axis: slice, mask or index tensor)."""
        return Plan(*(getattr(self, field.name)[elements] for field in dataclasses.fields(self)))
