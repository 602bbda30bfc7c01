"""Recipe: returns of closed loops, differentiated through controller and plant (analytic policy gradient)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qp_control.mpc import MPC
from qp_control.training import losses
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import starts
from qp_control.training.phase import DivisiblePhase, Update
from qp_control.training.rollout import closed_loop


class AnalyticGradient(DivisiblePhase):
    """Learns everything that requires grad.

    batch: closed loops per update; steps: control periods of each. truncate: control periods after which the gradient
    is cut, for plants along which it grows without bound; None: never.
    """

    def __init__(
        self, task: ClosedLoopTask, iterations: int, rate: float, *, batch: int, steps: int, truncate: int | None = None
    ) -> None:
        super().__init__("closed_loop", iterations, rate)
        self.task, self.batch, self.steps, self.truncate = task, batch, steps, truncate

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return [p for p in module.parameters() if p.requires_grad]

    def draw(self, module: MPC, generator: torch.Generator) -> Tensor:
        """Start states."""
        seed = int(torch.randint(2**20, 2**31, (), generator=generator))
        return starts(self.task.plant, self.batch, seed)

    def part(self, module: MPC, drawn: Tensor) -> Update:
        plant = self.task.plant
        rollout = closed_loop(module, plant.step, drawn, self.steps, reward=plant.reward, truncate=self.truncate)
        loss = losses.negative_return(rollout, self.task.barrier(rollout.states))
        return Update(loss, rollout.status, rollout.failure, len(drawn) * self.steps)
