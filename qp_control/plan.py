"""What a controller intends, and what its next call starts from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qp_control.settings import Status


@dataclass(frozen=True)
class Plan:
    """What one call of `MPC` returns and the next one takes. Batch of B, horizon N.

    states (B, N + 1, nx), inputs (B, N, nu) [N or N m]; both carry gradient.
    status (B,): `qc.Status` of the QP of each element; iterations (B,), primal_residual (B,), dual_residual (B,).
    z (B, n_in), w (B, N nu): multipliers of the QP, for the warm start.
    Where status is neither SOLVED nor CLOSEST_FEASIBLE, the plan is the one that was passed in.
    """

    states: Tensor
    inputs: Tensor
    status: Tensor
    iterations: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    z: Tensor
    w: Tensor

    @property
    def input(self) -> Tensor:
        """The input to apply now, u_0 (B, nu) [N or N m]."""
        return self.inputs[:, 0]

    @property
    def solved(self) -> Tensor:
        """(B,) bool: the QP of this element was solved, with state limits shifted or not."""
        return (self.status == Status.SOLVED) | (self.status == Status.CLOSEST_FEASIBLE)

    def shift(self) -> Plan:
        """The plan one control period later; its last stage is repeated."""

        def later(value: Tensor) -> Tensor:
            return torch.cat([value[:, 1:], value[:, -1:]], 1)

        batch, horizon, _ = self.inputs.shape
        w = later(self.w.view(batch, horizon, -1)).reshape(batch, -1)
        z = later(self.z.view(batch, horizon, -1)).reshape(batch, -1) if self.z.numel() else self.z
        return dataclasses.replace(self, states=later(self.states), inputs=later(self.inputs), z=z, w=w)

    def detach(self) -> Plan:
        """The same plan without gradient: what a controller outside of training carries."""
        return dataclasses.replace(self, states=self.states.detach(), inputs=self.inputs.detach())

    def __getitem__(self, elements: Any) -> Plan:
        """The plan of a part of the batch (an index that keeps the batch axis: slice, mask or index tensor)."""
        return Plan(*(getattr(self, field.name)[elements] for field in dataclasses.fields(self)))
