"""Tasks whose controller runs a plant: judged by returns and successes of whole episodes."""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qp_control.envs.base import write_rollout
from qp_control.envs.task import RobotTask
from qp_control.settings import Settings
from qp_control.training import losses, plots
from qp_control.training.checkpoint import RunError
from qp_control.training.evaluation import Evaluation, evaluate, mean_interval, share_interval, starts
from qp_control.training.phase import FailedProblem
from qp_control.training.rollout import Rollout, closed_loop, failed_problem
from qp_control.training.task import VALIDATION_SEED, Score, TrainingTask

SEARCH_EPISODES = 8


class ClosedLoopTask(TrainingTask):
    """A plant and a controller.

    plant: the environment's task, possibly with other masses than the controller's model.
    state_scale (nx,): typical size of the state's coordinates.
    failed_reward: if a failure ends the loops that are learned from, the reward of each control period after it; None:
    the loops continue.
    """

    environment: ClassVar[str]  # Gymnasium id of the plant
    state_names: ClassVar[tuple[str, ...]]
    input_names: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]] = ("success", "return")
    percent = ("success",)
    failed_reward: ClassVar[float | None] = None
    plant: RobotTask
    state_scale: Tensor

    @abc.abstractmethod
    def module(self, settings: Settings | None = None) -> Any:
        """A `Controller` for closed loops."""

    def barrier(self, states: Tensor) -> Tensor:
        """Penalty (B, T + 1) on states (B, T + 1, nx) near the boundary of the allowed region; zero inside."""
        return states.new_zeros(states.shape[:2])

    def loops(self, module: Any, x0: Tensor, steps: int, truncate: int | None = None) -> Rollout:
        """Closed loops of `steps` control periods from x0 (B, nx)."""
        plant, reward = self.plant, self.failed_reward
        failed = None if reward is None else plant.failed
        return closed_loop(
            module,
            plant.step,
            x0,
            steps,
            reward=plant.reward,
            failed=failed,
            failed_reward=reward or 0.0,
            truncate=truncate,
        )

    def loss(self, rollout: Rollout) -> Tensor:
        """What is minimised: mean of the barrier minus mean reward, unless a task overrides it."""
        return losses.negative_return(rollout, self.barrier(rollout.states))

    def score(self, module: Any, seed: int, count: int) -> Score:
        result = evaluate(self.plant, module, starts(self.plant, count, seed))
        values = {"success": result.success, "return": result.mean_return}
        intervals = {
            "success": share_interval(result.success, count),
            "return": mean_interval(result.returns.numpy()),
        }
        return Score(values, (result.success, result.mean_return), intervals, result.rollout.failure, result)

    def search_loss(self) -> Callable[[Any], float]:
        """The closed loops' loss over whole episodes from a few start states."""
        x0 = starts(self.plant, SEARCH_EPISODES, VALIDATION_SEED)
        return lambda module: self.loop_loss(module, x0, self.plant.episode_steps)

    @torch.no_grad()
    def loop_loss(self, module: Any, x0: Tensor, steps: int) -> float:
        """Loss of closed loops of `steps` control periods from x0 (B, nx); infinite instead of NaN."""
        loss = float(self.loss(self.loops(module, x0, steps)))
        return loss if loss == loss else float("inf")

    def first_problem(self, module: Any) -> FailedProblem | None:
        x0 = starts(self.plant, 1, VALIDATION_SEED)
        with torch.no_grad():
            return failed_problem(module, x0, None, module(x0), 0, 0)

    def pictures(self, folder: Path, before: Score, after: Score) -> list[Path]:
        picture = folder / "before_and_after.png"
        plots.before_and_after(picture, self, before.details.rollout, after.details.rollout)
        return [picture, self.write_replay(folder / "replay.html", after.details)]

    def write_replay(self, path: Path, result: Evaluation) -> Path:
        """Write the first episode as a page, as far as its states are finite. Raises RunError if that fails."""
        states, inputs = result.rollout.states[0].numpy(), result.rollout.inputs[0].numpy()
        shown = max(1, int(np.isfinite(states).all(1).cumprod().sum()))
        try:
            write_rollout(path, self.plant, states[:shown], inputs[: shown - 1], title=f"{self.name}, learned")
        except OSError as error:
            raise RunError(f"cannot write {str(path)!r}: {error}") from error
        return path

    def times(self, count: int) -> Any:
        """Times of `count` states [s]."""
        return self.plant.control_period * np.arange(count)
