"""Recipe: a search that tries changes of the parameters one by one on demonstrations, to initialise gradient descent.

A limit that no plan reaches has no gradient, and if several are too tight at once they contradict each other, and
gradients trade one for another. Trying values depends on neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.mpc.controller import MPC
from qp_control.settings import Status
from qp_control.training.expert_imitation import Demonstrations, ExpertImitation
from qp_control.training.gauss_newton import flat
from qp_control.training.phase import Update

CHANGES = (-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3)  # suitable for logarithms, logits and angles [rad]
Directions = Callable[[Tensor], Tensor]  # (directions, n) of parameters (n,)
_UNSOLVED = 10.0  # added to the loss for a problem without an answer


class CoordinateSearch(ExpertImitation):
    """Tries `changes` of each learned number in turn and keeps the one with the smallest loss.

    count: of the numbers. sweeps: number of passes over them. directions: changed instead of single numbers, `count`
    directions in the space of all of them, queried before every turn: if numbers have to change together, changes of
    one alone end in a narrow valley. It takes one update for the module as it is, and one per turn and change. Batches
    are all of the demonstrations. shift_weight, learned: see `ExpertImitation`.
    """

    def __init__(
        self,
        name: str,
        demonstrations: Demonstrations,
        count: int,
        changes: Sequence[float] = CHANGES,
        *,
        sweeps: int = 1,
        directions: Directions | None = None,
        learned: Sequence[str] | None = None,
        shift_weight: float = 0.0,
    ) -> None:
        self.changes, self.sweeps, self.directions = tuple(changes), sweeps, directions
        iterations = 1 + sweeps * count * len(changes)
        batch = len(demonstrations)
        super().__init__(name, demonstrations, iterations, batch=batch, learned=learned, shift_weight=shift_weight)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return Trials(parameters, self.changes, self.sweeps, self.directions)

    def part(self, module: MPC, drawn: Tensor) -> Update:
        with torch.no_grad():
            update = super().part(module, drawn)
        unsolved = (update.status > Status.CLOSEST_FEASIBLE).double().mean()
        return dataclasses.replace(update, loss=update.loss + _UNSOLVED * unsolved, residuals=None)

    def gradients(self, update: Update, parameters: list[nn.Parameter], generator: torch.Generator) -> Tensor:
        return torch.zeros(1, sum(p.numel() for p in parameters), dtype=torch.float64)

    def take(self, loss: float, gradients: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> float:
        assert isinstance(optimizer, Trials)
        optimizer.judge(loss)
        return 0.0

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        """No damping to set."""


class Trials(torch.optim.Optimizer):
    """One change along one direction per step, from the best of all previous turns."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        changes: Sequence[float],
        sweeps: int,
        directions: Directions | None = None,
    ) -> None:
        super().__init__(parameters, {"changes": tuple(changes), "sweeps": sweeps})
        self.directions = directions or (lambda values: torch.eye(len(values), dtype=values.dtype))

    @torch.no_grad()
    def judge(self, loss: float) -> None:
        """Record the loss of the values being tried."""
        parameters = self.param_groups[0]["params"]
        state, here = self.state[parameters[0]], flat(parameters, parameters)
        if not state:
            state.update(tried=here.new_tensor(0.0), base=here, best=here, loss=here.new_tensor(loss))
        elif loss < float(state["loss"]):
            state.update(best=here, loss=here.new_tensor(loss))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Go to the next values; after the last ones, to the best."""
        parameters, changes = self.param_groups[0]["params"], self.param_groups[0]["changes"]
        state = self.state[parameters[0]]
        turn, change = divmod(int(state["tried"]), len(changes))
        if change == 0:
            state["base"] = state["best"]
        directions = self.directions(state["base"])
        next_values = state["best"].clone()
        if turn < self.param_groups[0]["sweeps"] * len(directions):
            next_values = state["base"] + changes[change] * directions[turn % len(directions)]
        state["tried"] = state["tried"] + 1
        for p, value in zip(parameters, next_values.split([p.numel() for p in parameters]), strict=True):
            p.copy_(value.view_as(p))
        return None
