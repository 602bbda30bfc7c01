"""An arm of six joints, driven by torques: what `ArmReach` and `ArmTrack` share."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np

from qp_control.robot.description import read_urdf
from qp_control.robot.dynamics import RobotDynamics
from qp_control.viewer import Camera, Item, Shape

from .arrays import Array, constant, library
from .robots import chosen, description
from .task import ASSETS, Floats, Outcome, RobotTask

START_SPREAD = 0.2  # [rad] around home


@dataclasses.dataclass(frozen=True)
class Build:
    """Data of an arm that its URDF does not contain."""

    urdf: str
    tool: str  # frame
    home: tuple[float, ...]  # [rad]
    reach: tuple[float, ...]  # [rad] spread of joint angles about home that determines targets, so all are reachable
    locked: tuple[str, ...] = ()  # joints of the gripper


SHIPPED = Build("arm.urdf", "tool", (0.0, 0.2, 1.4, 0.3, 1.0, 0.0), (1.2, 0.5, 0.5, 0.8, 0.5, 0.0))
ARMS = {
    "panda": Build(
        "panda_description/urdf/panda.urdf",
        "panda_hand_tcp",
        (0.0, -0.4, 0.0, -2.0, 0.0, 1.6, 0.8),
        (1.2, 0.5, 0.5, 0.6, 0.5, 0.5, 0.0),
        ("panda_finger_joint1", "panda_finger_joint2"),
    ),
    "ur5": Build(
        "ur_description/urdf/ur5_robot.urdf",
        "tool0",
        (0.0, -1.2, 1.7, -2.0, -1.6, 0.0),
        (1.2, 0.5, 0.5, 0.8, 0.5, 0.0),
    ),
}


class Arm(RobotTask):
    """State x = (angles (n) [rad], rates (n) [rad/s]; goal), u = torques (n) [N m], n = 6 joints.

    robot: None for the included one, "ur5" or "panda" (n = 7, gripper closed) of the optional extra `robots`.
    """

    takes_arrays = True
    urdf = ASSETS / SHIPPED.urdf
    control_period = 0.02
    substeps = 4
    near: float  # [m] distance of the tool within which it is at the target
    more_draws: int = 0  # random numbers besides those of start and place

    def __init__(self, *, robot: str | None = None) -> None:
        self.build = chosen(robot, ARMS) or SHIPPED
        if robot is not None:
            self.urdf, meshes = description(robot, self.build.urdf)
            self.package_dirs, self.locked = (meshes,), self.build.locked
        self.joints = len(self.build.home)
        self.draws = 2 * self.joints + self.more_draws
        super().__init__()
        model = self.dynamics.model
        self.lower_limit = np.array(model.lowerPositionLimit)  # [rad]
        self.upper_limit = np.array(model.upperPositionLimit)
        self.rate_limit = np.array(model.upperVelocityLimit)  # [rad/s]
        self.torque_limit = self.dynamics.effort_limit.numpy()  # [N m]

    def plant(self) -> RobotDynamics:
        model = read_urdf(self.urdf, locked=self.locked)
        return RobotDynamics(model, dt=self.control_period, substeps=self.substeps, integrator="semi_implicit")

    def tool(self, x: Array) -> Array:
        """Position of the tool (..., 3) [m]."""
        return self.dynamics.frame_positions([self.build.tool], x[..., : self.joints])[..., 0, :]

    def target(self, x: Array) -> Array:
        """Position of the target (..., 3) [m]."""
        return x[..., 2 * self.joints : 2 * self.joints + 3]

    def way(self, x: Array) -> Array:
        """Vector from the tool to the target (..., 3) [m]."""
        return self.target(x) - self.tool(x)

    @property
    def observation_space(self) -> gym.spaces.Box:
        more = self.observe(np.zeros((1, self.nx))).shape[1] - 2 * self.joints
        angle = np.maximum(-self.lower_limit, self.upper_limit)
        # A joint leaving its limits ends the episode, so a small margin is enough. No torque reaches ten times the rate
        # limits within an episode.
        high = np.array([*(angle + 1.0), *(10.0 * self.rate_limit), *[10.0] * more])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def start_and_place(self, draw: Floats) -> tuple[Floats, Floats]:
        """Arms at rest near home, and places (n, 3) [m] within reach, from two random numbers per joint."""
        home, joints = np.array(self.build.home), self.joints
        q = home + START_SPREAD * draw[:, :joints]
        there = home + np.array(self.build.reach) * draw[:, joints : 2 * joints]
        return np.concatenate([q, np.zeros_like(q)], 1), self.tool(there)

    def observe(self, x: Array) -> Array:
        """(angles, rates, vector from the tool to the target)."""
        return self._observation(x, self.way(x))

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.8 / (1 + (distance / 0.2 m)^2) + 0.1 (1 - mean((rate / limit)^2)) + 0.1 (1 - mean((torque / limit)^2))."""
        return self._reward(x_next, u, self.way(x_next))

    def failed(self, x: Array) -> Array:
        """Whether a joint is beyond its limits."""
        q = x[..., : self.joints]
        return ((q < constant(self.lower_limit, x)) | (q > constant(self.upper_limit, x))).any(-1)

    def at_goal(self, x: Array) -> Array:
        """Whether the tool is near its target."""
        return self._near(self.way(x))

    def outcome(self, x_next: Array, u: Array) -> Outcome:
        way = self.way(x_next)  # the tool's position takes as long as everything else
        reward = self._reward(x_next, u, way)
        return Outcome(self._observation(x_next, way), reward, self.failed(x_next), self._near(way))

    def _observation(self, x: Array, way: Array) -> Array:
        return library(x).concatenate([x[..., : 2 * self.joints], way], -1)

    def _reward(self, x_next: Array, u: Array, way: Array) -> Array:
        distance, rate = (way * way).sum(-1), x_next[..., self.joints : 2 * self.joints]
        slow = 1.0 - ((rate / constant(self.rate_limit, u)) ** 2).sum(-1) / self.joints
        calm = 1.0 - ((u / constant(self.torque_limit, u)) ** 2).sum(-1) / self.joints
        return 0.8 / (1.0 + distance / 0.04) + 0.1 * slow + 0.1 * calm

    def _near(self, way: Array) -> Array:
        return (way * way).sum(-1) <= self.near**2

    def scenery(self) -> list[Item]:
        return [Shape("target", 0.04, (0.0, 0.0, 0.0), 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        return {"target": self.target(x)}

    def camera(self) -> Camera:
        return Camera(position=(1.3, -1.2, 0.9), target=(0.2, 0.0, 0.4))
