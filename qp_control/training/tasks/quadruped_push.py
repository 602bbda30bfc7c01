"""A quadruped that is pushed hard on ground whose friction it does not know: stay on four feet, or on two at a trot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qp_control.envs.quadruped import Quadruped
from qp_control.legged.standing import Standing
from qp_control.legged.whole_body import WholeBody
from qp_control.settings import Settings
from qp_control.training import plots
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import Evaluation, mean_interval, share_interval
from qp_control.training.legged_rollout import LeggedGradient, failed_tick, legged_loop
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import FailedProblem, Phase
from qp_control.training.task import VALIDATION_SEED, Score

FRICTION = (0.3, 0.7)  # coefficient, of the ground under all feet


class PushedQuadruped(Quadruped):
    """State x = (the quadruped's; coefficient of friction of the ground). A start state is one at rest whose trunk has
    just been pushed.

    push: least and largest change of the trunk's velocity, in any direction [m/s].
    """

    name = "pushed_quadruped"
    control_period = 0.005
    substeps = 2
    episode_steps = 400
    goal_size = 1
    draws = 3

    def __init__(self, push: tuple[float, float]) -> None:
        self.push = push
        super().__init__()

    def starts(self, draw: Any) -> Tensor:
        """Standing, pushed in any direction."""
        share = 0.5 * (1.0 + torch.from_numpy(draw))
        x = torch.cat([self.stand.expand(len(draw), -1), share[:, :1]], 1)
        speed = self.push[0] + (self.push[1] - self.push[0]) * share[:, 0]
        x[:, 19], x[:, 20] = speed * torch.cos(2 * math.pi * share[:, 1]), speed * torch.sin(2 * math.pi * share[:, 1])
        x[:, -1] = FRICTION[0] + (FRICTION[1] - FRICTION[0]) * share[:, 2]
        return x

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        plant, bodies, _, friction = self._split(x, parameters)
        after = self.dynamics.step(plant, u, bodies, friction=friction.expand(-1, len(self.feet)))
        return torch.cat([after, friction], -1)

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """-(10 (1 - R_zz) + 10 (height / standing - 1)^2 + 0.3 |velocity|^2 + 0.03 |angular velocity|^2)."""
        low = (x_next[..., 2] / self.height - 1.0).square()
        speed = x_next[..., 19:22].square().sum(-1) + 0.1 * x_next[..., 22:25].square().sum(-1)
        return -(10.0 * (1.0 - self.upward(x_next)[..., 2]) + 10.0 * low + 0.3 * speed)

    def survived(self, states: Tensor) -> Tensor:
        """True (n,) for trajectories (n, T + 1, nx) that never fall, and end upright and at their height."""
        fallen = self.failed(states.flatten(0, 1)).view(states.shape[:2]).any(1)
        return ~fallen & self.upstanding(states[:, -1])


@dataclass(frozen=True)
class QuadrupedStandOptions(TrainingOptions):
    """Pushes survived by a standing quadruped: weights, gains and friction of inverse dynamics from closed loops."""

    iterations: int = 20
    """Updates."""
    batch: int = 24
    """Pushes per update."""
    steps: int = 120
    """Control periods of 5 ms after each push."""
    truncate: int = 120
    """Control periods after which the gradient is cut."""
    rate: float = 0.1
    """Learning rate of Adam, of the logarithms of what is learned."""
    validation_count: int = 50
    """Pushes of a validation."""


class QuadrupedStand(ClosedLoopTask):
    """Pushes of 1 to 2 m/s on ground with coefficients of friction from 0.3 to 0.7: survived where the robot never
    falls within 2 s, and ends upright."""

    name = "quadruped_stand"
    environment = ""
    options_type: type[TrainingOptions] = QuadrupedStandOptions
    metrics = ("survived", "return")
    percent = ("survived",)
    state_names = ()
    input_names = ()
    push = (1.0, 2.0)

    def __init__(self, options: TrainingOptions | None = None) -> None:
        super().__init__(options)
        self.plant: PushedQuadruped = PushedQuadruped(self.push)
        self.state_scale = torch.ones(self.plant.nx, dtype=torch.float64)

    def module(self, settings: Settings | None = None) -> Any:
        return Standing(WholeBody(self.plant.dynamics, self.plant.feet, settings=settings), self.plant.stand)

    def hand_tuned(self) -> Any:
        return self.module()

    def phases(self) -> list[Phase]:
        o: Any = self.options
        return [
            LeggedGradient(
                self.plant,
                self.plant.sample_starts,
                o.iterations,
                o.rate,
                batch=o.batch,
                steps=o.steps,
                truncate=o.truncate,
            )
        ]

    @torch.no_grad()
    def score(self, module: Any, seed: int, count: int) -> Score:
        rollout = legged_loop(module, self.plant, self.plant.sample_starts(count, seed), self.plant.episode_steps)
        survived = float(self.plant.survived(rollout.states).double().mean())
        returns = rollout.rewards.mean(1)
        values = {"survived": survived, "return": float(returns.mean())}
        intervals = {"survived": share_interval(survived, count), "return": mean_interval(returns.numpy())}
        seen = Evaluation(survived, returns, rollout)
        return Score(values, (survived, values["return"]), intervals, rollout.failure, seen)

    def search_loss(self) -> Callable[[Any], float]:
        x0 = self.plant.sample_starts(self.options.batch, VALIDATION_SEED)
        return lambda module: self.loop_loss(module, x0, self.options.steps)

    @torch.no_grad()
    def loop_loss(self, module: Any, x0: Tensor, steps: int) -> float:
        loss = -float(legged_loop(module, self.plant, x0, steps).rewards.mean())
        return loss if loss == loss else math.inf

    def first_problem(self, module: Any) -> FailedProblem:
        x = self.plant.sample_starts(1, VALIDATION_SEED)[:, : self.plant.dynamics.nx]
        return failed_tick(module, x, module.start(x), torch.zeros(1, dtype=torch.int64), 0, 0)

    def pictures(self, folder: Path, before: Score, after: Score) -> list[Path]:
        picture = folder / "pushes.png"
        starts = after.details.rollout.states[:, 0]
        plots.pushes(
            picture,
            self.name,
            starts[:, 19:21].numpy(),
            {
                name: self.plant.survived(score.details.rollout.states).numpy()
                for name, score in (("before", before), ("learned", after))
            },
        )
        return [picture, self.write_replay(folder / "replay.html", after.details)]
