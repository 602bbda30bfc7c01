"""An arm of six joints, driven by torques: what `ArmReach` and `ArmTrack` share."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Camera, Item, Shape

from .task import ASSETS, Floats, RobotTask

HOME = (0.0, 0.2, 1.4, 0.3, 1.0, 0.0)  # [rad]
START_SPREAD = 0.2  # [rad] around it
REACH = (1.2, 0.5, 0.5, 0.8, 0.5, 0.0)  # [rad] joints around it that place the targets: all can be reached


class Arm(RobotTask):
    """State x = (angles (6) [rad], rates (6) [rad/s]; what is wanted), u = torques (6) [N m]."""

    urdf = ASSETS / "arm.urdf"
    control_period = 0.02
    substeps = 4
    near: float  # [m] distance of the tool from the target that counts as there

    def __init__(self) -> None:
        super().__init__()
        model = self.dynamics.model
        self.angle_limit = torch.from_numpy(np.array(model.upperPositionLimit))  # symmetric [rad]
        self.rate_limit = torch.from_numpy(np.array(model.upperVelocityLimit))  # [rad/s]

    def tool(self, x: Tensor) -> Tensor:
        """Position of the tool (..., 3) [m]."""
        q = x[..., :6]
        rest = torch.zeros_like(q)
        return self.dynamics.frame_motions(["tool"], q, rest, rest).position[..., 0, :]

    def target(self, x: Tensor) -> Tensor:
        """Where the tool should be (..., 3) [m]."""
        return x[..., 12:15]

    @property
    def observation_space(self) -> gym.spaces.Box:
        more = self.observe(torch.zeros(1, self.nx, dtype=torch.float64)).shape[1] - 12
        angle, rate = self.angle_limit.numpy(), self.rate_limit.numpy()
        # A joint that leaves its limits ends the episode: there is little to see beyond. No torque reaches ten times
        # the rate limits within an episode.
        high = np.array([*(angle + 1.0), *(10.0 * rate), *[10.0] * more])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def start_and_place(self, draw: Floats) -> tuple[Floats, Floats]:
        """Arms (n, 12) at rest near home, and places (n, 3) within reach, from random numbers (n, 12)."""
        q = np.array(HOME) + START_SPREAD * draw[:, :6]
        there = torch.from_numpy(np.array(HOME) + np.array(REACH) * draw[:, 6:12])
        return np.concatenate([q, np.zeros_like(q)], 1), self.tool(there).numpy()

    def observe(self, x: Tensor) -> Tensor:
        """(angles, rates, way from the tool to the target)."""
        return torch.cat([x[..., :12], self.target(x) - self.tool(x)], -1)

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """0.8 / (1 + (distance / 0.2 m)^2) + 0.1 (1 - mean((rate / limit)^2)) + 0.1 (1 - mean((torque / limit)^2))."""
        distance = (self.target(x_next) - self.tool(x_next)).square().sum(-1)
        slow = 1.0 - (x_next[..., 6:12] / self.rate_limit).square().mean(-1)
        calm = 1.0 - (u / self.dynamics.effort_limit).square().mean(-1)
        return 0.8 / (1.0 + distance / 0.04) + 0.1 * slow + 0.1 * calm

    def failed(self, x: Tensor) -> Tensor:
        """A joint beyond its limits."""
        return (x[..., :6].abs() > self.angle_limit).any(-1)

    def at_goal(self, x: Tensor) -> Tensor:
        """The tool is near its target."""
        distance: Tensor = torch.linalg.vector_norm(self.target(x) - self.tool(x), dim=-1)
        return distance <= self.near

    def scenery(self) -> list[Item]:
        return [Shape("target", 0.04, (0.0, 0.0, 0.0), 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        return {"target": self.target(torch.from_numpy(x)).numpy()}

    def camera(self) -> Camera:
        return Camera(position=(1.3, -1.2, 0.9), target=(0.2, 0.0, 0.4))
