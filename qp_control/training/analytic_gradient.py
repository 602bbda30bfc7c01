"""Recipe: closed-loop returns, differentiated through controller and plant (analytic policy gradient)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import starts
from qp_control.training.phase import DivisiblePhase, Update, chosen_parameters
from qp_control.training.rollout import Controller


class AnalyticGradient(DivisiblePhase):
    """Gradient steps on closed-loop returns.

    batch: closed loops per update; steps: control periods of each. truncate: control periods after which the gradient
    is truncated, for plants along which it grows without bound; None: never. fade: the learning rate decays to this
    share of `rate`, along half a cosine. learned: name prefixes of the parameters to learn; None: all that require
    grad.
    """

    def __init__(
        self,
        task: ClosedLoopTask,
        iterations: int,
        rate: float,
        *,
        batch: int,
        steps: int,
        truncate: int | None = None,
        fade: float = 1.0,
        learned: Sequence[str] | None = None,
        name: str = "closed_loop",
    ) -> None:
        super().__init__(name, iterations, rate)
        self.task, self.batch, self.steps, self.truncate, self.fade = task, batch, steps, truncate, fade
        self.learned = learned

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return chosen_parameters(module, self.learned)

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        left = 0.5 * (1.0 + math.cos(math.pi * done / max(1, self.iterations)))
        optimizer.param_groups[0]["lr"] = self.pace * self.rate * (self.fade + (1.0 - self.fade) * left)

    def lost(self, value: float, first: float, best: float) -> bool:
        """Gradients explode where robots almost fall; a step along such a gradient can make all of them fall."""
        return not value >= first

    def draw(self, module: Controller, generator: torch.Generator) -> Tensor:
        """Start states."""
        seed = int(torch.randint(2**20, 2**31, (), generator=generator))
        return starts(self.task.plant, self.batch, seed)

    def part(self, module: Controller, drawn: Tensor) -> Update:
        rollout = self.task.loops(module, drawn, self.steps, self.truncate)
        return Update(self.task.loss(rollout), rollout.status, rollout.failure, len(drawn) * self.steps)
