"""An arm of six joints, driven by torques: what `ArmReach` and `ArmTrack` share."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from qp_control.viewer import Camera, Shape

from .arrays import Array, constant, library
from .task import ASSETS, Floats, Outcome, RobotTask

HOME = (0.0, 0.2, 1.4, 0.3, 1.0, 0.0)  # [rad]
START_SPREAD = 0.2  # [rad] around it
REACH = (1.2, 0.5, 0.5, 0.8, 0.5, 0.0)  # [rad] joints around it that place the targets: all can be reached


class Arm(RobotTask):
    """State x = (angles (6) [rad], rates (6) [rad/s]; what is wanted), u = torques (6) [N m]."""

    takes_arrays = True
    urdf = ASSETS / "arm.urdf"
    control_period = 0.02
    substeps = 4
    near: float  # [m] distance of the tool from the target that counts as there

    def __init__(self) -> None:
        super().__init__()
        model = self.dynamics.model
        self.angle_limit = np.array(model.upperPositionLimit)  # symmetric [rad]
        self.rate_limit = np.array(model.upperVelocityLimit)  # [rad/s]
        self.torque_limit = self.dynamics.effort_limit.numpy()  # [N m]

    def tool(self, x: Array) -> Array:
        """Position of the tool (..., 3) [m]."""
        return self.dynamics.frame_positions(["tool"], x[..., :6])[..., 0, :]

    def target(self, x: Array) -> Array:
        """Where the tool should be (..., 3) [m]."""
        return x[..., 12:15]

    def way(self, x: Array) -> Array:
        """From the tool to the target (..., 3) [m]."""
        return self.target(x) - self.tool(x)

    @property
    def observation_space(self) -> gym.spaces.Box:
        more = self.observe(np.zeros((1, self.nx))).shape[1] - 12
        # A joint that leaves its limits ends the episode: there is little to see beyond. No torque reaches ten times
        # the rate limits within an episode.
        high = np.array([*(self.angle_limit + 1.0), *(10.0 * self.rate_limit), *[10.0] * more])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def start_and_place(self, draw: Floats) -> tuple[Floats, Floats]:
        """Arms (n, 12) at rest near home, and places (n, 3) within reach, from random numbers (n, 12)."""
        q = np.array(HOME) + START_SPREAD * draw[:, :6]
        there = np.array(HOME) + np.array(REACH) * draw[:, 6:12]
        return np.concatenate([q, np.zeros_like(q)], 1), self.tool(there)

    def observe(self, x: Array) -> Array:
        """(angles, rates, way from the tool to the target)."""
        return self._observation(x, self.way(x))

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.8 / (1 + (distance / 0.2 m)^2) + 0.1 (1 - mean((rate / limit)^2)) + 0.1 (1 - mean((torque / limit)^2))."""
        return self._reward(x_next, u, self.way(x_next))

    def failed(self, x: Array) -> Array:
        """A joint beyond its limits."""
        return (abs(x[..., :6]) > constant(self.angle_limit, x)).any(-1)

    def at_goal(self, x: Array) -> Array:
        """The tool is near its target."""
        return self._near(self.way(x))

    def outcome(self, x_next: Array, u: Array) -> Outcome:
        way = self.way(x_next)  # the tool's position takes as long as all the rest
        reward = self._reward(x_next, u, way)
        return Outcome(self._observation(x_next, way), reward, self.failed(x_next), self._near(way))

    def _observation(self, x: Array, way: Array) -> Array:
        return library(x).concatenate([x[..., :12], way], -1)

    def _reward(self, x_next: Array, u: Array, way: Array) -> Array:
        distance = (way * way).sum(-1)
        slow = 1.0 - ((x_next[..., 6:12] / constant(self.rate_limit, u)) ** 2).sum(-1) / 6.0
        calm = 1.0 - ((u / constant(self.torque_limit, u)) ** 2).sum(-1) / 6.0
        return 0.8 / (1.0 + distance / 0.04) + 0.1 * slow + 0.1 * calm

    def _near(self, way: Array) -> Array:
        return (way * way).sum(-1) <= self.near**2

    def scenery(self) -> list[Shape]:
        return [Shape("target", 0.04, (0.0, 0.0, 0.0), 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        return {"target": self.target(x)}

    def camera(self) -> Camera:
        return Camera(position=(1.3, -1.2, 0.9), target=(0.2, 0.0, 0.4))
