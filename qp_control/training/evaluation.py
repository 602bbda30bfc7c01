"""How good a controller is: returns and successes of whole episodes from start states it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qp_control.mpc import MPC
from qp_control.training.rollout import Rollout, closed_loop
from qp_control.training.tasks import TrainingTask

HELD_OUT_SEED = 20_000  # far from the seeds of training and validation
VALIDATION_SEED = 10_000


@dataclass(frozen=True)
class Evaluation:
    """success: share of the episodes; mean_return: mean over episodes of the sum of rewards up to a failure.

    rollout: the episodes, not cut off.
    """

    success: float
    mean_return: float
    rollout: Rollout


def starts(task: TrainingTask, count: int, seed: int) -> Tensor:
    """Start states (count, nx)."""
    x0: Tensor = task.plant.sample_starts(count, seed)
    return x0


@torch.no_grad()
def evaluate(task: TrainingTask, controller: MPC, x0: Tensor) -> Evaluation:
    """Run whole episodes from x0 (B, nx)."""
    rollout = closed_loop(controller, task.plant.step, x0, task.plant.episode_steps, reward=task.plant.reward)
    success = task.plant.success(rollout.states).double().mean()
    states = rollout.states[:, 1:]
    failed = task.plant.failed(states.flatten(0, 1)).view(states.shape[:2]) | ~states.isfinite().all(2)
    # As in the environment: the step that fails is the last one that counts.
    over = failed.cumsum(1) - failed.long() > 0
    returns = torch.where(over, 0.0, rollout.rewards.nan_to_num()).sum(1)
    return Evaluation(float(success), float(returns.mean()), rollout)
