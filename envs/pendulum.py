"""`QPControl/Pendulum-v0`: swing a hanging pendulum up with a torque too small to lift it."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Camera

from .arrays import Array, library
from .base import RobotEnv, RobotVectorEnv
from .task import ASSETS, Floats, RobotTask

START_RATE = 1.0  # [rad/s] largest rate at the start
GOAL_ANGLE = 0.2  # [rad] largest angle from upright that counts as upright


class Pendulum(RobotTask):
    """State x = (angle [rad], rate [rad/s]), u = torque [N m]. The angle is 0 upright and unwrapped."""

    takes_arrays = True
    name = "pendulum"
    urdf = ASSETS / "pendulum.urdf"
    control_period = 0.05
    substeps = 10
    episode_steps = 200
    goal_steps = 20
    draws = 2

    def __init__(self) -> None:
        super().__init__()
        self.torque_limit = float(self.dynamics.effort_limit[0])  # [N m]

    @property
    def observation_space(self) -> gym.spaces.Box:
        high = np.array([1.0, 1.0, float(self.dynamics.model.upperVelocityLimit[0])])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def starts(self, draw: Floats) -> Tensor:
        """Any angle, rates within 1 rad/s."""
        return torch.from_numpy(draw * np.array([np.pi, START_RATE]))

    def observe(self, x: Array) -> Array:
        """(cos angle, sin angle, rate)."""
        m = library(x)
        return m.stack([m.cos(x[..., 0]), m.sin(x[..., 0]), x[..., 1]], -1)

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.9 (1 + cos angle) / 2 + 0.1 (1 - (torque / limit)^2)."""
        calm = 1.0 - (u[..., 0] / self.torque_limit) ** 2
        return 0.45 * (1.0 + library(x_next).cos(x_next[..., 0])) + 0.1 * calm

    def failed(self, x: Array) -> Array:
        """Never."""
        return library(x).zeros_like(x[..., 0], dtype=bool)

    def at_goal(self, x: Array) -> Array:
        """Whether the pendulum is within 0.2 rad of upright."""
        return library(x).cos(x[..., 0]) >= math.cos(GOAL_ANGLE)

    def camera(self) -> Camera:
        return Camera(position=(0.0, -2.2, 0.2), target=(0.0, 0.0, 0.0))


class PendulumEnv(RobotEnv):
    """Swing a pendulum up within 10 s and keep it up; without swinging the torque lifts it by at most 0.42 rad.

    ### Action space

    `Box(-2, 2, (1,), float64)`: the torque at the joint [N m], constant for 0.05 s.

    ### Observation space

    `Box((3,), float64)`:

    | Num | Observation                  | Bounds |
    |-----|------------------------------|--------|
    | 0   | cos of the angle             | +- 1   |
    | 1   | sin of the angle             | +- 1   |
    | 2   | rate [rad/s]                 | +- 50  |

    The angle is 0 upright.

    ### Rewards

    0.9 (1 + cos angle) / 2 + 0.1 (1 - (torque / 2)^2), at most 1 per step.

    ### Starting state

    Any angle, rates within 1 rad/s, uniform.

    ### Episode end

    `terminated`: never; the joint has no limits. `truncated`: 200 steps (10 s). `info["is_success"]` in the last step:
    within 0.2 rad of upright for the last second.

    ### Arguments

    Those of all environments: `render_mode`, `mass_spread`, `friction_spread`, `action_delay`, `observation_noise`
    (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = Pendulum


class PendulumVectorEnv(RobotVectorEnv):
    """`PendulumEnv` for `num_envs` robots at once."""

    task_type = Pendulum
