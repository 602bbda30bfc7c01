"""A controller as a function of an observation and of what it carries from call to call, as a vector of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qp_control.training.phase import FailedProblem
from qp_control.training.reinforcement.carried import CarriedNumbers
from qp_control.training.rollout import Carried, Controller, failed_problem

Floats = NDArray[np.float64]


class Actor:
    """What policies and environments share about a controller.

    controller: called with observations (B, n) and its previous decision or None. Decisions have a method
        `with_input(u)`, which returns the decision with another input.
    low, high: (nu,) bounds of its inputs [N or N m]. Actions in [-1, 1] are scaled to them.
    observation: (1, n) one that it can be called with.

    Carried numbers (B, size): first 1 if there is a previous decision, 0 at the start of an episode, then those of what
    it carries, such as a linearisation point and the multipliers that its QP starts from.
    """

    def __init__(self, controller: Controller, low: Floats, high: Floats, observation: Tensor) -> None:
        self.controller: Any = controller
        self.middle = torch.from_numpy(0.5 * (high + low)).double()
        self.half = torch.from_numpy(0.5 * (high - low)).double()
        with torch.no_grad():
            self.numbers = CarriedNumbers(controller(observation.double()).shift())
        self.size = 1 + self.numbers.size
        self.warm = torch.cat([torch.tensor([False]), self.numbers.warm])
        """bool (size,): the numbers that only serve to warm-start the solver."""
        self._made: tuple[Tensor, Carried] | None = None
        self.forget()

    def forget(self) -> None:
        """Clear the record of `statuses` and `failure`."""
        self.statuses: list[Tensor] = []
        self.failure: FailedProblem | None = None

    def pack(self, carried: Carried) -> Tensor:
        """The numbers (B, size) of what is carried."""
        numbers = self.numbers.pack(carried)
        return torch.cat([torch.ones_like(numbers[:, :1]), numbers], 1)

    def unpack(self, carried: Tensor) -> Carried:
        """What is carried, from numbers (B, size) that are not those of an episode's start."""
        return self.numbers.unpack(carried[:, 1:].double())

    def cold(self, count: int) -> Tensor:
        """The carried numbers (count, size) at the start of an episode."""
        return self.middle.new_zeros(count, self.size)

    def act(self, observation: Tensor, carried: Tensor) -> tuple[Tensor, Carried]:
        """Actions (B, nu) in [-1, 1], with gradient, and the decisions they come from."""
        begun, x = carried[:, 0] > 0.0, observation.double()
        if bool(begun.all()):
            made = self._call(x, self.unpack(carried))
        elif not bool(begun.any()):
            made = self._call(x, None)
        else:
            later = self._call(x[begun], self.unpack(carried[begun]))
            first = self._call(x[~begun], None)
            order = torch.where(begun, begun.cumsum(0) - 1, int(begun.sum()) + (~begun).cumsum(0) - 1)
            made = self.numbers.joined(later, first, order)
        if not torch.is_grad_enabled():
            self._made = carried, made
        return (made.input - self.middle) / self.half, made

    def _call(self, x: Tensor, given: Carried | None) -> Carried:
        made = self.controller(x, given)
        self.statuses.append(made.status)
        if self.failure is None and not bool(made.solved.all()):
            self.failure = failed_problem(self.controller, x, given, made, len(self.statuses) - 1)
        return made

    def decision_made(self, observation: Tensor, carried: Tensor) -> Carried:
        """The decision of the last `act` from these carried numbers, or a new one if there was none."""
        if self._made is None or not torch.equal(self._made[0], carried):
            with torch.no_grad():
                self.act(observation, carried)
        assert self._made is not None
        return self._made[1]

    def next(self, made: Carried, action: Tensor) -> Tensor:
        """The numbers (B, size) carried on from a decision if `action` (B, nu) was applied instead of its own input."""
        return self.pack(made.with_input(self.middle + self.half * action.clamp(-1.0, 1.0)).shift())

    def restarted(self, carried: Tensor, made: Carried) -> Tensor:
        """`carried` with the solution as warm start, for the next solve of the same problem."""
        return torch.where(self.warm & (carried[:, :1] > 0.0), self.pack(made.detach()), carried)
