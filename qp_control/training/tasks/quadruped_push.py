"""A quadruped that is pushed hard on ground of unknown friction, while standing or trotting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from qp_control.envs.pushed_quadruped import PushedQuadruped
from qp_control.legged.standing import Standing
from qp_control.legged.trotting import Trotting
from qp_control.legged.whole_body import WholeBody
from qp_control.settings import Settings
from qp_control.training import plots
from qp_control.training.analytic_gradient import AnalyticGradient
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import Evaluation, mean_interval, share_interval, starts
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import VALIDATION_SEED, Score

FADE = 0.2  # of the learning rate, along the run
BY_HAND: dict[str, Any] = {
    "friction": 0.8,
    "com_weight": [1.0, 1.0, 5.0],
    "com_stiffness": [100.0, 100.0, 200.0],
    "com_damping": [20.0, 20.0, 40.0],
    "momentum_weight": 1e-3,
}
BY_HAND_AT_A_TROT: dict[str, Any] = {
    "friction": 0.5,
    "com_weight": 3.0,
    "trunk_weight": 3.0,
    "momentum_weight": 1e-3,
}


@dataclass(frozen=True)
class PushOptions(TrainingOptions):
    """Pushes, and how they are learned from."""

    iterations: int = 16
    """Updates."""
    batch: int = 20
    """Pushes per update."""
    steps: int = 120
    """Control periods of 5 ms in a closed loop to learn from."""
    truncate: int = 120
    """Control periods after which the gradient is truncated."""
    rate: float = 0.1
    """Learning rate of Adam for the logarithms of the learned numbers."""
    least_push: float = 1.0
    """Smallest change of the trunk's velocity [m/s]."""
    largest_push: float = 2.0
    """Largest change of the trunk's velocity [m/s]."""
    validation_count: int = 32
    """Pushes per validation."""


@dataclass(frozen=True)
class QuadrupedStandOptions(PushOptions):
    """Pushes that a standing quadruped survives: weights, gains and friction of inverse dynamics from closed loops."""


@dataclass(frozen=True)
class QuadrupedTrotOptions(PushOptions):
    """Pushes that a trotting quadruped survives: also weights of a plan and foot placement, from closed loops."""

    iterations: int = 12
    """Updates."""
    steps: int = 140
    """Control periods of 5 ms in a closed loop to learn from."""
    truncate: int = 140
    """Control periods after which the gradient is truncated."""
    least_push: float = 0.8
    """Smallest change of the trunk's velocity [m/s]."""
    largest_push: float = 1.6
    """Largest change of the trunk's velocity [m/s]."""


class QuadrupedPushes(ClosedLoopTask):
    """Pushes on ground with friction coefficients from 0.3 to 0.7: survived if the robot does not fall within 2 s and
    ends upright at its nominal height."""

    environment = ""
    metrics = ("survived", "return")
    percent = ("survived",)
    failed_reward = -10.0
    state_names = ()
    input_names = ()
    when: ClassVar[tuple[int, int]] = (0, 0)

    def __init__(self, options: TrainingOptions | None = None) -> None:
        super().__init__(options)
        self.plant: PushedQuadruped = PushedQuadruped((self.options.least_push, self.options.largest_push), self.when)
        self.state_scale = torch.ones(self.plant.nx, dtype=torch.float64)

    def phases(self) -> list[Phase]:
        o: Any = self.options
        return [
            AnalyticGradient(self, o.iterations, o.rate, batch=o.batch, steps=o.steps, truncate=o.truncate, fade=FADE)
        ]

    @torch.no_grad()
    def score(self, module: Any, seed: int, count: int) -> Score:
        rollout = self.loops(module, starts(self.plant, count, seed), self.plant.episode_steps)
        survived = float(self.plant.survived(rollout.states).double().mean())
        returns = rollout.rewards.mean(1)
        values = {"survived": survived, "return": float(returns.mean())}
        intervals = {"survived": share_interval(survived, count), "return": mean_interval(returns.numpy())}
        seen = Evaluation(survived, returns, rollout)
        return Score(values, (survived, values["return"]), intervals, rollout.failure, seen)

    def search_loss(self) -> Callable[[Any], float]:
        x0 = starts(self.plant, self.options.batch, VALIDATION_SEED)
        return lambda module: self.loop_loss(module, x0, self.options.steps)

    def pictures(self, folder: Path, before: Score, after: Score) -> list[Path]:
        picture = folder / "pushes.png"
        begin = after.details.rollout.states[:, 0]
        kept = {
            name: self.plant.survived(score.details.rollout.states).numpy()
            for name, score in (("before", before), ("learned", after))
        }
        plots.pushes(picture, {self.name: (begin[:, -3:-1].numpy(), kept)})
        return [picture, self.write_replay(folder / "replay.html", after.details)]


class QuadrupedStand(QuadrupedPushes):
    """The quadruped stands, with all feet on the ground."""

    name = "quadruped_stand"
    options_type = QuadrupedStandOptions

    def module(self, settings: Settings | None = None) -> Standing:
        return Standing(WholeBody(self.plant.dynamics, self.plant.feet, settings=settings), self.plant.stand)

    def hand_tuned(self) -> Standing:
        return Standing(WholeBody(self.plant.dynamics, self.plant.feet, **BY_HAND), self.plant.stand)


class QuadrupedTrot(QuadrupedPushes):
    """It trots on the spot and is pushed at any phase of half its gait's cycle; the other half is the mirror image."""

    name = "quadruped_trot"
    options_type = QuadrupedTrotOptions
    when = (6, 41)

    def module(self, settings: Settings | None = None) -> Trotting:
        body = WholeBody(self.plant.dynamics, self.plant.feet, settings=settings)
        return Trotting(body, self.plant.stand, period=self.plant.control_period, settings=settings)

    def hand_tuned(self) -> Trotting:
        body = WholeBody(self.plant.dynamics, self.plant.feet, **BY_HAND_AT_A_TROT)
        return Trotting(body, self.plant.stand, period=self.plant.control_period, placement_gain=0.16)
