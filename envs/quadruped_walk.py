"""`QPControl/QuadrupedWalk-v0`: walk as commanded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Arrow, Item

from .base import RobotEnv, RobotVectorEnv
from .quadruped import Quadruped
from .task import Floats, rotation_by_rows

COMMAND = (0.5, 0.2, 0.5)  # largest velocity forward and to the left [m/s], and turning rate to the left [rad/s]


class QuadrupedWalk(Quadruped):
    """State x = (that of the quadruped; command: velocity forward and to the left [m/s], turning rate [rad/s])."""

    name = "quadruped_walk"
    goal_size = 3
    draws = Quadruped.draws + 3

    def starts(self, draw: Floats) -> Tensor:
        """Those of the quadruped; commands of up to 0.5 m/s forward or backward, 0.2 m/s sideways, 0.5 rad/s."""
        command = torch.from_numpy(np.array(COMMAND) * draw[:, -3:])
        return torch.cat([super().starts(draw[:, :-3]), command], 1)

    def astray(self, x: Tensor) -> Tensor:
        """Velocity (n, 3) of the base forward, to the left [m/s] and about its z axis [rad/s], minus the command."""
        return torch.cat([x[..., 19:21], x[..., 24:25]], -1) - x[..., 37:40]

    def observe(self, x: Tensor) -> Tensor:
        """The quadruped's observation, followed by the command."""
        return torch.cat([super().observe(x), x[..., 37:40]], -1)

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """Half for the `posture`, half for following the command: 1 / (1 + |astray|^2 / 0.25^2)."""
        return 0.5 * self.posture(x_next, u) + 0.5 / (1.0 + 16.0 * self.astray(x_next).square().sum(-1))

    def at_goal(self, x: Tensor) -> Tensor:
        """Upright and at the standing height; within 0.2 m/s and 0.4 rad/s of the command."""
        astray = self.astray(x)
        obeys: Tensor = (astray[..., :2].norm(dim=-1) < 0.2) & (astray[..., 2].abs() < 0.4)
        return self.upstanding(x) & obeys

    def scenery(self) -> list[Item]:
        return [*super().scenery(), Arrow("command", 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        """The commanded velocity above the base, as the distance covered in one second."""
        R = rotation_by_rows(torch.from_numpy(x[3:7])).numpy().reshape(3, 3)
        return {"command": np.stack([x[:3] + np.array([0.0, 0.0, 0.15]), R @ np.array([x[37], x[38], 0.0])])}


class QuadrupedWalkEnv(RobotEnv):
    """Walk forward, backward and sideways, and turn, as commanded.

    ### Action space

    `Box((12,), float64)`: the torques of hip, thigh and calf of the front left, front right, rear left and rear right
    leg [N m], constant for 0.01 s; limits 23.7, 23.7, 45.4 for each leg.

    ### Observation space

    `Box((37,), float64)`:

    | Num   | Observation                                                | Bounds |
    |-------|------------------------------------------------------------|--------|
    | 0     | height of the base [m]                                     | +- 2   |
    | 1-3   | upward direction, in the axes of the base                  | +- 1   |
    | 4-6   | velocity of the base in its axes [m/s]                     | +- 20  |
    | 7-9   | angular velocity of the base in its axes [rad/s]           | +- 50  |
    | 10-21 | angles, minus those of standing: 0, 0.8, -1.6 a leg [rad]  | +- 6   |
    | 22-33 | rates [rad/s]                                              | +- 100 |
    | 34-35 | commanded velocity forward and to the left [m/s]           | +- 2   |
    | 36    | commanded turning rate to the left [rad/s]                 | +- 2   |

    ### Rewards

    0.2 (1 + R_zz) / 2 + 0.2 / (1 + ((height - 0.319) / 0.05)^2) + 0.1 (1 - mean((torque / limit)^2))
    + 0.5 / (1 + |(velocity forward, to the left, turning rate) - command|^2 / 0.25^2), at most 1 per step.

    ### Starting state

    The lowest foot up to 2 cm above the ground, any heading, roll and pitch of up to 0.1 rad, angles within 0.15 rad of
    those of standing, up to 0.2 m/s and 0.2 rad/s along each axis; all uniform.
    Commands of up to 0.5 m/s forward or backward, 0.2 m/s sideways and 0.5 rad/s, uniform, constant for the episode.

    ### Episode end

    `terminated`: the base lower than half its standing height, or tilted by more than 1 rad. Only the feet touch the
    ground. `truncated`: 500 steps (5 s). `info["is_success"]` in the last step: never terminated, and for the last
    second within 0.2 rad of upright, a sixth of the standing height, and 0.2 m/s and 0.4 rad/s of the command.

    ### Arguments

    `robot`: None, or "go2" or "solo12" of the optional extra `robots`, with other heights and limits. Common to all
    environments are `render_mode`, `mass_spread`, `friction_spread` (also for the ground under each foot, whose
    friction coefficient is 0.8), `action_delay` (the torques of standing act until the first action does),
    `observation_noise` (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = QuadrupedWalk


class QuadrupedWalkVectorEnv(RobotVectorEnv):
    """`QuadrupedWalkEnv` for `num_envs` robots at once."""

    task_type = QuadrupedWalk
