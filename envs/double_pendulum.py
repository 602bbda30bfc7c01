"""`QPControl/DoublePendulum-v0`: swing up a double pendulum that is driven only at its elbow (the acrobot)."""

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

START_ANGLE = 0.1  # [rad] largest angle of either link from hanging at the start
GOAL_ANGLE = 0.2  # [rad] largest angle of either link from upright that counts as upright


class DoublePendulum(RobotTask):
    """State x = (shoulder [rad], elbow [rad], their rates [rad/s]), u = torque at the elbow [N m].

    The shoulder's angle is 0 upright, the elbow's 0 when stretched; both are unwrapped.
    """

    takes_arrays = True
    name = "double_pendulum"
    urdf = ASSETS / "double_pendulum.urdf"
    control_period = 0.05
    substeps = 10
    episode_steps = 300
    goal_steps = 20
    draws = 2

    def __init__(self) -> None:
        super().__init__()
        self.torque_limit = float(self.dynamics.effort_limit[0])  # [N m]

    @property
    def observation_space(self) -> gym.spaces.Box:
        high = np.array([1.0, 1.0, 1.0, 1.0, *np.asarray(self.dynamics.model.upperVelocityLimit)])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def starts(self, draw: Floats) -> Tensor:
        """At rest, both links within 0.1 rad of hanging."""
        x = np.zeros((len(draw), 4))
        x[:, 0] = np.pi + START_ANGLE * draw[:, 0]
        x[:, 1] = START_ANGLE * (draw[:, 1] - draw[:, 0])
        return torch.from_numpy(x)

    def observe(self, x: Array) -> Array:
        """(cos and sin of the shoulder, cos and sin of the elbow, rates)."""
        m = library(x)
        shoulder, elbow = x[..., 0], x[..., 1]
        turns = [m.cos(shoulder), m.sin(shoulder), m.cos(elbow), m.sin(elbow)]
        return m.stack([*turns, x[..., 2], x[..., 3]], -1)

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.9 (1 + height) / 2 + 0.1 (1 - (torque / limit)^2), the tip's height in units of the length, in [-1, 1]."""
        m = library(x_next)
        upper = x_next[..., 0]
        height = 0.5 * (m.cos(upper) + m.cos(upper + x_next[..., 1]))
        calm = 1.0 - (u[..., 0] / self.torque_limit) ** 2
        return 0.45 * (1.0 + height) + 0.1 * calm

    def failed(self, x: Array) -> Array:
        """Never."""
        return library(x).zeros_like(x[..., 0], dtype=bool)

    def at_goal(self, x: Array) -> Array:
        """Whether both links are within 0.2 rad of upright."""
        m, least = library(x), math.cos(GOAL_ANGLE)
        return (m.cos(x[..., 0]) >= least) & (m.cos(x[..., 0] + x[..., 1]) >= least)

    def camera(self) -> Camera:
        return Camera(position=(0.0, -3.8, 0.3), target=(0.0, 0.0, 0.0))


class DoublePendulumEnv(RobotEnv):
    """Swing both links up within 15 s and keep them up, by a torque at the elbow alone.

    ### Action space

    `Box(-10, 10, (1,), float64)`: the torque at the elbow [N m], constant for 0.05 s.

    ### Observation space

    `Box((6,), float64)`:

    | Num  | Observation                       | Bounds |
    |------|-----------------------------------|--------|
    | 0, 1 | cos, sin of the shoulder          | +- 1   |
    | 2, 3 | cos, sin of the elbow             | +- 1   |
    | 4, 5 | rates of shoulder, elbow [rad/s]  | +- 100 |

    The shoulder's angle is 0 upright, the elbow's 0 when stretched.

    ### Rewards

    0.9 (1 + (cos shoulder + cos(shoulder + elbow)) / 2) / 2 + 0.1 (1 - (torque / 10)^2), at most 1 per step.

    ### Starting state

    At rest, both links uniform within 0.1 rad of hanging.

    ### Episode end

    `terminated`: never; the joints have no limits, the links do not collide. `truncated`: 300 steps (15 s).
    `info["is_success"]` in the last step: both links within 0.2 rad of upright for the last second.

    ### Arguments

    Those of all environments: `render_mode`, `mass_spread`, `friction_spread`, `action_delay`, `observation_noise`
    (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = DoublePendulum


class DoublePendulumVectorEnv(RobotVectorEnv):
    """`DoublePendulumEnv` for `num_envs` robots at once."""

    task_type = DoublePendulum
