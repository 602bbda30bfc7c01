"""Deviations from the nominal plant, as options of all environments."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .task import Floats, RobotTask

BLOCK = 64  # number of observations whose noise is drawn at once


@dataclasses.dataclass(frozen=True)
class Randomisation:
    """All off by default; random numbers come from the environment's generator, so the seed determines everything.

    mass_spread: in every episode each body's mass and inertia are multiplied by a factor, uniform in
        [1 - spread, 1 + spread], spread in [0, 1).
    friction_spread: the same for the viscous friction of each velocity coordinate and the friction coefficient of each
        ground contact, spread in [0, 1].
    action_delay: control periods before an action takes effect; until the first one does, the task's `rest_input` acts.
    observation_noise: standard deviation of Gaussian noise, one number or one per entry of the observation, in its
        units. Noisy observations are clipped to their box.
    """

    mass_spread: float = 0.0
    friction_spread: float = 0.0
    action_delay: int = 0
    observation_noise: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.mass_spread < 1.0:
            raise ValueError(f"mass_spread is {self.mass_spread}, expected a number in [0, 1)")
        if not 0.0 <= self.friction_spread <= 1.0:
            raise ValueError(f"friction_spread is {self.friction_spread}, expected a number in [0, 1]")
        try:
            delay = operator.index(self.action_delay)
        except TypeError:
            delay = -1
        if delay < 0:
            raise ValueError(f"action_delay is {self.action_delay!r}, expected a number of control periods, 0 or more")

    @property
    def of_parameters(self) -> bool:
        return self.mass_spread > 0.0 or self.friction_spread > 0.0

    @staticmethod
    def draws(task: RobotTask) -> int:
        """Number of random numbers for the parameters: one per body, then one per friction coefficient."""
        return len(task.parameters) - 9 * task.dynamics.bodies

    def parameters(self, task: RobotTask, draw: Floats) -> Tensor:
        """Parameters (n, n_par) from random numbers (n, draws), uniform in [-1, 1)."""
        bodies = task.dynamics.bodies
        mass = np.repeat(1.0 + self.mass_spread * draw[:, :bodies], 10, axis=1)  # ten numbers, all linear in the mass
        friction = 1.0 + self.friction_spread * draw[:, bodies:]
        return task.parameters * torch.from_numpy(np.concatenate([mass, friction], axis=1))

    def noise_scale(self, size: int) -> Floats | None:
        """Standard deviations (size,), or None without noise."""
        scale = np.asarray(self.observation_noise, dtype=np.float64)
        if scale.shape not in ((), (size,)) or not (np.isfinite(scale) & (scale >= 0.0)).all():
            raise ValueError(
                f"observation_noise is {self.observation_noise!r}, expected one number >= 0 or {size} of them"
            )
        return np.broadcast_to(scale, (size,)) if scale.any() else None


class ObservationNoise:
    """Noise for n environments. Each has its own generator; as a loop over them would take longer than a step, noise is
    drawn for BLOCK observations at once."""

    def __init__(self, scale: Floats, n: int) -> None:
        self.scale = scale
        self.block = np.zeros((n, BLOCK, len(scale)))

    def of(self, index: Any, steps: Any, generators: list[np.random.Generator]) -> Floats:
        """Noise (m, n_obs) of the environments `index` (m,), which are at `steps` (m,) of their episodes."""
        now = steps % BLOCK
        for i in index[now == 0].tolist():
            self.block[i] = generators[i].standard_normal(self.block.shape[1:])
        noise: Floats = self.scale * self.block[index, now]
        return noise
