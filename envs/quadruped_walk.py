"""`QPControl/QuadrupedWalk-v0`: walk as commanded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Arrow, Item

from .base import RobotEnv, RobotVectorEnv
from .quadruped import Quadruped
from .task import Floats, rotation_by_rows

COMMAND = (0.5, 0.2, 0.5)  # largest velocity ahead and to the left [m/s], and turn to the left [rad/s]


class QuadrupedWalk(Quadruped):
    """State x = (the quadruped's; wanted velocity ahead and to the left [m/s], wanted turn to the left [rad/s])."""

    name = "quadruped_walk"
    goal_size = 3
    draws = Quadruped.draws + 3

    def starts(self, draw: Floats) -> Tensor:
        """The quadruped's; commands of up to 0.5 m/s ahead or back, 0.2 m/s aside, 0.5 rad/s."""
        command = torch.from_numpy(np.array(COMMAND) * draw[:, -3:])
        return torch.cat([super().starts(draw[:, :-3]), command], 1)

    def astray(self, x: Tensor) -> Tensor:
        """Velocity (n, 3) of the base ahead and to the left [m/s] and around its z axis [rad/s], less the command."""
        return torch.cat([x[..., 19:21], x[..., 24:25]], -1) - x[..., 37:40]

    def observe(self, x: Tensor) -> Tensor:
        """As the quadruped's, and behind it the command."""
        return torch.cat([super().observe(x), x[..., 37:40]], -1)

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """Half for the `posture`, half for obeying: 1 / (1 + |astray|^2 / 0.25^2)."""
        return 0.5 * self.posture(x_next, u) + 0.5 / (1.0 + 16.0 * self.astray(x_next).square().sum(-1))

    def at_goal(self, x: Tensor) -> Tensor:
        """Upright and at its height; within 0.2 m/s and 0.4 rad/s of the command."""
        astray = self.astray(x)
        return self.upstanding(x) & (astray[..., :2].norm(dim=-1) < 0.2) & (astray[..., 2].abs() < 0.4)

    def scenery(self) -> list[Item]:
        return [*super().scenery(), Arrow("command", 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        """The wanted velocity, of the next second, above the base."""
        R = rotation_by_rows(torch.from_numpy(x[3:7])).numpy().reshape(3, 3)
        return {"command": np.stack([x[:3] + np.array([0.0, 0.0, 0.15]), R @ np.array([x[37], x[38], 0.0])])}


class QuadrupedWalkEnv(RobotEnv):
    task_type = QuadrupedWalk


class QuadrupedWalkVectorEnv(RobotVectorEnv):
    """`QuadrupedWalkEnv` for `num_envs` robots at once."""

    task_type = QuadrupedWalk
