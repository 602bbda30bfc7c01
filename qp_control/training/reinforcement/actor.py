"""A controller as a function of an observation and of what it carries from call to call, as numbers in a row."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qp_control.mpc.plan import Plan
from qp_control.settings import Status
from qp_control.training.phase import FailedProblem
from qp_control.training.rollout import failed_problem

Floats = NDArray[np.float64]

_LINEARISATION = ("states", "inputs", "previous", "pending")
_MULTIPLIERS = ("y", "z", "z_N", "w_x", "w_u")


class Actor:
    """What policies and environments share about a controller.

    controller: called with observations (B, n) and a `Plan` or None, returns a plan, as `MPC` does with states. It has
        `reference`, an observation (n,) that it can be called with, and `cold_plan`.
    low, high: (nu,) bounds of its inputs [N or N m]. Actions are numbers in [-1, 1] between them.

    Carried numbers (B, size): the linearisation point of the next call (states, inputs, inputs before and under way)
    and the multipliers that it starts from.
    """

    def __init__(self, controller: Any, low: Floats, high: Floats) -> None:
        self.controller = controller
        self.middle = torch.from_numpy(0.5 * (high + low)).double()
        self.half = torch.from_numpy(0.5 * (high - low)).double()
        with torch.no_grad():
            example = controller(controller.reference[None])
        self._shapes = {name: getattr(example, name).shape[1:] for name in (*_LINEARISATION, *_MULTIPLIERS)}
        self.sizes = [shape.numel() for shape in self._shapes.values()]
        self.size = sum(self.sizes)
        self.start = sum(self.sizes[: len(_LINEARISATION)])
        """Where the multipliers begin."""
        self._made: tuple[Tensor, Plan] | None = None
        self.forget()

    def forget(self) -> None:
        """Begin the record of `statuses` and `failure` anew."""
        self.statuses: list[Tensor] = []
        self.failure: FailedProblem | None = None

    def pack(self, plan: Plan) -> Tensor:
        """The numbers (B, size) of a plan."""
        rows = []
        for name, shape in self._shapes.items():
            value = getattr(plan, name)
            # Before the first call there are no multipliers.
            rows.append(value.flatten(1) if value.shape[1:] == shape else value.new_zeros(len(value), shape.numel()))
        return torch.cat(rows, 1)

    def unpack(self, carried: Tensor) -> Plan:
        """The plan of numbers (B, size)."""
        B = len(carried)
        parts = torch.split(carried.double(), self.sizes, 1)
        named = {n: part.view(B, *shape) for (n, shape), part in zip(self._shapes.items(), parts, strict=True)}
        zero = carried.new_zeros(B)
        return Plan(
            status=torch.full((B,), int(Status.SOLVED)),
            iterations=torch.zeros(B, dtype=torch.int64),
            primal_residual=zero,
            dual_residual=zero,
            **named,
        )

    def cold(self, observation: Tensor) -> Tensor:
        """What is carried (B, size) at the beginning of an episode."""
        return self.pack(self.controller.cold_plan(observation))

    def act(self, observation: Tensor, carried: Tensor) -> tuple[Tensor, Plan]:
        """Actions (B, nu) in [-1, 1], with gradient, and the plans they come from."""
        given = self.unpack(carried)
        plan = self.controller(observation.double(), given)
        self.statuses.append(plan.status)
        if self.failure is None and not bool(plan.solved.all()):
            self.failure = failed_problem(self.controller, observation.double(), given, plan, len(self.statuses) - 1)
        if not torch.is_grad_enabled():
            self._made = carried, plan
        return (plan.input - self.middle) / self.half, plan

    def plan_made(self, observation: Tensor, carried: Tensor) -> Plan:
        """The plan of the action last taken from there: of `act`, or made now where nobody asked the controller."""
        if self._made is None or not torch.equal(self._made[0], carried):
            with torch.no_grad():
                self.act(observation, carried)
        assert self._made is not None
        return self._made[1]

    def next(self, plan: Plan, action: Tensor) -> Tensor:
        """What is carried (B, size) on from a plan when `action` (B, nu) was sent instead of its own input."""
        sent = self.middle + self.half * action.clamp(-1.0, 1.0)
        return self.pack(dataclasses.replace(plan, inputs=torch.cat([sent[:, None], plan.inputs[:, 1:]], 1)).shift())

    def restarted(self, carried: Tensor, plan: Plan) -> Tensor:
        """`carried` with the multipliers of its solution, where the same problem starts next time."""
        return torch.cat([carried[:, : self.start], self.pack(plan.detach())[:, self.start :]], 1)
