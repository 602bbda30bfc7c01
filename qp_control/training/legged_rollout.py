"""Closed loops of a legged robot and its controller, differentiable from end to end, and learning from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qp_control.envs.task import RobotTask
from qp_control.inverse_dynamics.controller import ControlProblem
from qp_control.settings import Status
from qp_control.training.phase import FailedProblem, Phase, Update
from qp_control.training.rollout import Rollout

FALLEN = 10.0  # reward that a control period after a fall costs


class LeggedController(Protocol):
    """What a closed loop needs of a controller, such as `Standing` or `Trotting`."""

    def start(self, x: Tensor) -> Any:
        """What the first tick is to be given, from states (B, nx)."""

    def problem(self, x: Tensor, memory: Any) -> ControlProblem:
        """The QPs of a tick, as data."""

    def __call__(self, x: Tensor, memory: Any) -> tuple[Any, Any]:
        """`Control` for states x (B, nx), and what the next tick is to be given."""


def legged_loop(
    controller: LeggedController, plant: RobotTask, x0: Tensor, steps: int, *, truncate: int | None = None
) -> Rollout:
    """Let the controller run the plant from x0 (B, nx of the plant) for `steps` control periods.

    Rewards are the plant's until a robot falls, and -FALLEN from then on: what the gradient passes through ends there.
    truncate: it is cut after every so many control periods.
    """
    own = plant.dynamics.nx
    x, memory = x0, controller.start(x0[:, :own])
    alive = torch.ones(len(x0), dtype=torch.bool)
    states: list[Tensor] = [x0]
    inputs: list[Tensor] = []
    rewards: list[Tensor] = []
    status: list[Tensor] = []
    failure = None
    for t in range(steps):
        if truncate is not None and t > 0 and t % truncate == 0:
            x, memory = x.detach(), memory.detach()
        if not bool(alive.any()):
            x = x.detach()
            states.append(x)
            inputs.append(torch.zeros_like(inputs[-1]))
            rewards.append(x.new_full((len(x),), -FALLEN))
            status.append(torch.zeros_like(status[-1]))
            continue
        given = memory
        found, memory = controller(x[:, :own], given)
        if failure is None and bool((found.status > Status.CLOSEST_FEASIBLE).any()):
            failure = failed_tick(controller, x[:, :own], given, found.status, t)
        x = plant.step(x, found.torque)
        # A robot that fell, or whose numbers have run away, stays where it was.
        alive = alive & x.detach().isfinite().all(1)
        x = torch.where(alive[:, None], x, states[-1].detach())
        states.append(x)
        inputs.append(found.torque)
        rewards.append(torch.where(alive, plant.reward(x, found.torque), -FALLEN))
        status.append(found.status)
        alive = alive & ~plant.failed(x.detach())
    return Rollout(
        torch.stack(states, 1),
        torch.stack(inputs, 1),
        torch.stack(rewards, 1),
        torch.stack(status, 1),
        torch.zeros(len(x0), steps, dtype=torch.int64),
        failure,
    )


@torch.no_grad()
def failed_tick(
    controller: LeggedController, x: Tensor, memory: Any, status: Tensor, step: int, element: int | None = None
) -> FailedProblem:
    """The QP of one element: the first one without an answer unless `element` says which."""
    index = int((status > Status.CLOSEST_FEASIBLE).nonzero()[0]) if element is None else element
    problem = controller.problem(x, memory)
    data = {name: value for name, value in problem._asdict().items() if name not in ("T", "t")}
    data = {name: value if name.startswith("weight") else value[index] for name, value in data.items()}
    return FailedProblem(data, step, index, Status(int(status[index])))


class LeggedGradient(Phase):
    """Returns of closed loops, differentiated through controller and contact dynamics.

    sample: start states from (count, seed). batch: closed loops per update; steps: control periods of each; truncate:
    control periods after which the gradient is cut; None: never.
    """

    def __init__(
        self,
        plant: RobotTask,
        sample: Callable[[int, int], Tensor],
        iterations: int,
        rate: float,
        *,
        batch: int,
        steps: int,
        truncate: int | None = None,
    ) -> None:
        super().__init__("closed_loop", iterations, rate)
        self.plant, self.sample = plant, sample
        self.batch, self.steps, self.truncate = batch, steps, truncate

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Steps become smaller, to a fifth at the end."""
        optimizer.param_groups[0]["lr"] = self.rate * (1.0 - 0.8 * done / self.iterations)

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return [p for p in module.parameters() if p.requires_grad]

    def update(self, module: Any, generator: torch.Generator) -> Update:
        seed = int(torch.randint(2**20, 2**31, (), generator=generator))
        rollout = legged_loop(module, self.plant, self.sample(self.batch, seed), self.steps, truncate=self.truncate)
        return Update(-rollout.rewards.mean(), rollout.status, rollout.failure, self.batch * self.steps)
