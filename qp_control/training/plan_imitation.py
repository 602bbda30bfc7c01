"""Recipe: the controller's plans regressed onto long-horizon trajectories of a planner on the same model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from qp_control.envs.task import RobotTask
from qp_control.exceptions import TrainingError
from qp_control.mpc.controller import MPC
from qp_control.robot.dynamics import RobotDynamics
from qp_control.training import losses
from qp_control.training.evaluation import starts
from qp_control.training.phase import DivisiblePhase, Update
from qp_control.training.planner import PlannerCost, Trajectories, experts

SETTLING_STEPS = 40  # control periods after which an expert must have arrived


@dataclass(frozen=True)
class PlanImitationOptions:
    """iterations, learning rate; batch: trajectories per update; steps: control periods along each.

    expert_count: number of the planner's trajectories; expert_steps: control periods it optimises over; seed: of their
    starts.
    """

    iterations: int
    rate: float
    batch: int
    steps: int
    expert_count: int
    expert_steps: int
    seed: int


class PlannedTask(Protocol):
    """What the recipe requires of a task."""

    plant: RobotTask
    model: RobotDynamics
    state_scale: Tensor

    def planner_cost(self) -> PlannerCost:
        """What the long-horizon planner minimises."""
        ...


class PlanImitation(DivisiblePhase):
    """Learns only the costs: the planner has the controller's limits and model; only the plant differs."""

    def __init__(self, task: PlannedTask, options: PlanImitationOptions) -> None:
        super().__init__("imitation", options.iterations, options.rate)
        self.task, self.options = task, options
        self._experts: Trajectories | None = None

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        assert isinstance(module, MPC)
        costs = (module.state_cost, module.input_cost, module.terminal_cost)
        return [p for cost in costs for p in cost.parameters()]

    def draw(self, module: MPC, generator: torch.Generator) -> Tensor:
        """Indices of trajectories."""
        return torch.randint(len(self._known(module.horizon).cost), (self.options.batch,), generator=generator)

    def part(self, module: MPC, drawn: Tensor) -> Update:
        steps = self.options.steps
        loss, status, failure = losses.imitation(
            module, self._known(module.horizon)[drawn], steps, self.task.state_scale
        )
        return Update(loss, status, failure, len(drawn) * steps)

    def _known(self, horizon: int) -> Trajectories:
        if self._experts is None:
            self._experts = self._plan(horizon)
        return self._experts

    def _plan(self, horizon: int) -> Trajectories:
        """The planner's trajectories that end near the reference, from starts that depend only on the seed."""
        o, cost = self.options, self.task.planner_cost()
        found = experts(
            self.task.model,
            starts(self.task.plant, o.expert_count, 2**19 + o.seed),
            cost,
            steps=o.expert_steps,
            total_steps=max(o.expert_steps, o.steps + horizon) + SETTLING_STEPS,
            generator=torch.Generator().manual_seed(o.seed),
        )
        final = (found.states[:, -1] - cost.reference) / self.task.state_scale
        arrived = final.abs().amax(1) < 0.2
        if int(arrived.sum()) < max(1, o.expert_count // 4):
            raise TrainingError(
                f"only {int(arrived.sum())} of {o.expert_count} of the planner's trajectories arrive at the reference; "
                "more expert_steps may help"
            )
        return found[arrived]
