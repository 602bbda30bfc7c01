"""`QPControl/ArmTrack-v0`: follow a moving point with the tool of an arm."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .arm import Arm
from .arrays import Array, library
from .base import RobotEnv, RobotVectorEnv
from .task import Floats

AXIS = 0.06  # [m] smallest length of the ellipse's half axes
AXIS_SPREAD = 0.04  # [m] by how much they may be longer
SPEED = 1.2  # [rad/s] mean of the phase's rate
SPEED_SPREAD = 0.4  # [rad/s] and its spread


class ArmTrack(Arm):
    """State x = (angles (n) [rad], rates (n) [rad/s]; ellipse: centre (3), half axes (3), (3) [m], phase [rad], its
    rate [rad/s]), u = torques (n) [N m]. The target is centre + cos(phase) first + sin(phase) second half axis."""

    name = "arm_track"
    episode_steps = 400
    goal_steps = 200
    more_draws = 6
    goal_size = 11
    near = 0.03

    def starts(self, draw: Floats) -> Tensor:
        """At rest within 0.2 rad of home; the ellipse upright in a plane turned about the vertical axis."""
        n = len(draw)
        arm, centre = self.start_and_place(draw)
        more = draw[:, 2 * self.joints :]
        turn = np.pi * more[:, 0]
        axes = np.zeros((n, 6))
        across = AXIS + AXIS_SPREAD * 0.5 * (1.0 + more[:, 1])
        axes[:, 0], axes[:, 1] = across * np.cos(turn), across * np.sin(turn)
        axes[:, 5] = AXIS + AXIS_SPREAD * 0.5 * (1.0 + more[:, 2])
        rate = np.where(more[:, 4] < 0.0, -1.0, 1.0) * (SPEED + SPEED_SPREAD * more[:, 5])
        phase = np.stack([np.pi * more[:, 3], rate], 1)
        return torch.from_numpy(np.concatenate([arm, centre, axes, phase], 1))

    def next_goal(self, goal: Array) -> Array:
        phase, rate = goal[..., 9:10], goal[..., 10:11]
        return library(goal).concatenate([goal[..., :9], phase + self.control_period * rate, rate], -1)

    def target(self, x: Array) -> Array:
        m = library(x)
        centre, first, second, phase, _ = self._ellipse(x)
        return centre + m.cos(phase) * first + m.sin(phase) * second

    def target_velocity(self, x: Array) -> Array:
        """(..., 3) [m/s]."""
        m = library(x)
        _, first, second, phase, rate = self._ellipse(x)
        return rate * (m.cos(phase) * second - m.sin(phase) * first)

    def _observation(self, x: Array, way: Array) -> Array:
        """(angles, rates, vector from the tool to the target, velocity of the target)."""
        return library(x).concatenate([x[..., : 2 * self.joints], way, self.target_velocity(x)], -1)

    def _ellipse(self, x: Array) -> tuple[Array, ...]:
        """(centre, first, second half axis, phase, its rate) of states."""
        goal = x[..., 2 * self.joints :]
        return goal[..., :3], goal[..., 3:6], goal[..., 6:9], goal[..., 9:10], goal[..., 10:]


class ArmTrackEnv(RobotEnv):
    """Follow a point on an ellipse with the tool of a six-joint arm.

    ### Action space

    `Box((6,), float64)`: the torques of shoulder pan, shoulder lift, elbow and three wrists [N m], constant for 0.02 s;
    limits 150, 150, 150, 28, 28, 28. Only they carry the arm's weight.

    ### Observation space

    `Box((18,), float64)`:

    | Num   | Observation                                 | Bounds                    |
    |-------|---------------------------------------------|---------------------------|
    | 0-5   | angles [rad]                                | +- (joint limit + 1)      |
    | 6-11  | rates [rad/s]                               | +- 31.5 (wrists 32)       |
    | 12-14 | from the tool to the target [m]             | +- 10                     |
    | 15-17 | velocity of the target [m/s]                | +- 10                     |

    ### Rewards

    0.8 / (1 + (distance / 0.2)^2) + 0.1 (1 - mean((rate / limit)^2)) + 0.1 (1 - mean((torque / limit)^2)), at most 1
    per step; rate limits 3.15 (wrists 3.2) rad/s, which are not enforced otherwise.

    ### Starting state

    At rest within 0.2 rad of (0, 0.2, 1.4, 0.3, 1, 0). The ellipse's centre is the tool's position for angles within
    (1.2, 0.5, 0.5, 0.8, 0.5, 0) rad of the same configuration; it stands upright, its half axes are 0.06 to 0.1 m;
    the phase turns either way at 0.8 to 1.6 rad/s; all uniform.

    ### Episode end

    `terminated`: a joint beyond its limits, +- (3.1, 2.2, 2.8, 3.1, 3.1, 3.1) rad; there are no mechanical stops. The
    links do not collide. `truncated`: 400 steps (8 s). `info["is_success"]` in the last step: never terminated, and the
    tool within 3 cm of the target for the last four seconds.

    ### Arguments

    `robot`: None, or "ur5" or "panda" of the optional extra `robots`, which have other limits; the panda has seven
    joints. Those of all environments: `render_mode`, `mass_spread`, `friction_spread`, `action_delay`,
    `observation_noise` (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = ArmTrack


class ArmTrackVectorEnv(RobotVectorEnv):
    """`ArmTrackEnv` for `num_envs` robots at once."""

    task_type = ArmTrack
