"""How good a controller is: returns and successes of whole episodes from held-out start states."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qp_control.envs.task import RobotTask
from qp_control.training.rollout import Controller, Rollout, closed_loop


@dataclass(frozen=True)
class Evaluation:
    """success: share of the episodes; returns (B,): sums of rewards up to a failure.

    rollout: the episodes in full, also after a failure.
    """

    success: float
    returns: Tensor
    rollout: Rollout

    @property
    def mean_return(self) -> float:
        """Mean over episodes."""
        return float(self.returns.mean())


def starts(plant: RobotTask, count: int, seed: int) -> Tensor:
    """Start states (count, nx)."""
    x0: Tensor = plant.sample_starts(count, seed)
    return x0


@torch.no_grad()
def evaluate(plant: RobotTask, controller: Controller, x0: Tensor) -> Evaluation:
    """Run whole episodes from x0 (B, nx)."""
    rollout = closed_loop(controller, plant.step, x0, plant.episode_steps, reward=plant.reward)
    finite = rollout.states.isfinite().all(2)
    states = torch.where(finite[..., None], rollout.states, x0[:, None])  # robot functions refuse invalid states
    success = (plant.success(states) & finite.all(1)).double().mean()
    failed = plant.failed(states[:, 1:].flatten(0, 1)).view(len(x0), -1) | ~finite[:, 1:]
    # As in the environment: the step that fails is the last one that counts.
    over = failed.cumsum(1) - failed.long() > 0
    return Evaluation(float(success), torch.where(over, 0.0, rollout.rewards.nan_to_num()).sum(1), rollout)


def mean_interval(values: Any, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % confidence interval of the mean of values (n,), by bootstrap.

    Source: B. Efron, R. Tibshirani, "An introduction to the bootstrap", 1993 (percentile interval).
    """
    values = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def share_interval(share: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share observed in `count` samples.

    Source: E. B. Wilson, "Probable inference", J. Am. Stat. Assoc. 22 (1927).
    """
    z = 1.959964
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1.0 - share) / count + z * z / (4 * count * count))
    scale = 1.0 + z * z / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
