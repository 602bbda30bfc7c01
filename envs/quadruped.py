"""`QPControl/Quadruped-v0`: land on four feet, and stand."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.robot.contact import Contact, ContactDynamics
from qp_control.robot.description import read_urdf
from qp_control.viewer import Camera

from .base import RobotEnv, RobotVectorEnv
from .contact_task import ContactTask
from .robots import chosen, description
from .task import ASSETS, Floats, rotation_by_rows

FRICTION = 0.8
START_HEIGHT = 0.02  # [m] of the lowest foot above the ground, at most
START_TILT = 0.1  # [rad] largest roll and pitch
START_ANGLE = 0.15  # [rad] of the joints about those of standing
START_SPEED = 0.2  # [m/s, rad/s] of the base


@dataclasses.dataclass(frozen=True)
class Legs:
    """Data of a quadruped that its URDF does not contain. Legs: front left, front right, rear left, rear right."""

    urdf: str
    feet: tuple[str, ...]  # frames at the centres of the feet
    foot_radius: float  # [m]
    effort: tuple[float, ...] | None = None  # [N m] limits of a leg's motors, if the URDF has none


QUADRUPEDS = {
    "go2": Legs("go2_description/urdf/go2.urdf", ("FL_foot", "FR_foot", "RL_foot", "RR_foot"), 0.022),
    "solo12": Legs(
        "solo_description/robots/solo12.urdf", ("FL_FOOT", "FR_FOOT", "HL_FOOT", "HR_FOOT"), 0.016, (2.5, 2.5, 2.5)
    ),
}


class Quadruped(ContactTask):
    """State x = (position of the base [m], quaternion x y z w, angles (12) [rad]; velocity [m/s] and angular velocity
    [rad/s] of the base in its axes, rates (12) [rad/s]), u = torques (12) [N m]. Legs: front left, front right, rear
    left, rear right, each with the joints hip, thigh and calf.

    robot: None for the included one, "go2" or "solo12" of the optional extra `robots`.
    """

    name = "quadruped"
    urdf = ASSETS / "quadruped.urdf"
    floating_base = True
    control_period = 0.01
    substeps = 2
    episode_steps = 500
    goal_steps = 100
    draws = 22
    feet: tuple[str, ...] = ("FL_foot", "FR_foot", "RL_foot", "RR_foot")
    foot_radius = 0.022  # [m]
    leg = (0.0, 0.8, -1.6)  # [rad] of each, standing

    def __init__(self, *, robot: str | None = None) -> None:
        self._effort = None
        legs = chosen(robot, QUADRUPEDS)
        if robot is not None and legs is not None:
            self.urdf, meshes = description(robot, legs.urdf)
            self.package_dirs = (meshes,)
            self.feet, self.foot_radius, self._effort = legs.feet, legs.foot_radius, legs.effort
        super().__init__()
        plant = self.dynamics
        stand = plant.neutral_state()
        stand[7:19] = torch.tensor(self.leg * 4, dtype=torch.float64)
        stand[2] = self.height = float(self._clearance(stand[None, :19])[0])
        self.stand = stand
        """(nx of the plant,) at rest on four feet."""
        # The corresponding torques: each foot carries a quarter of the weight.
        q, rest = stand[:19], torch.zeros(18, dtype=torch.float64)
        J = plant.frame_jacobians(self.feet, q)[:, 2]
        weight = plant.inverse_dynamics(q, rest, rest)
        self.rest_input = (weight - 0.25 * weight[2] * J.sum(0))[6:].numpy()

    def plant(self) -> ContactDynamics:
        model = read_urdf(self.urdf, floating_base=True)
        if self._effort is not None:
            model.upperEffortLimit = np.array([*model.upperEffortLimit[:6], *self._effort * 4])
        contacts = [Contact(foot, self.foot_radius, FRICTION) for foot in self.feet]
        return ContactDynamics(model, dt=self.control_period, substeps=self.substeps, contacts=contacts)

    def _clearance(self, q: Tensor) -> Tensor:
        """Distance (n,) by which the lowest foot extends below the origin of the base's coordinates [m]."""
        heights = self.dynamics.frame_motions(self.feet, q).position[..., 2]
        return self.foot_radius - heights.amin(-1)

    @property
    def observation_space(self) -> gym.spaces.Box:
        more = self.observe(self.sample_starts(1, 0)).shape[1] - 34
        high = np.array([2.0, *[1.0] * 3, *[20.0] * 3, *[50.0] * 3, *[6.0] * 12, *[100.0] * 12, *[2.0] * more])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def starts(self, draw: Floats) -> Tensor:
        """The lowest foot up to 2 cm above the ground, roll and pitch up to 0.1 rad, angles within 0.15 rad of those of
        standing, up to 0.2 m/s and 0.2 rad/s; any heading."""
        n = len(draw)
        x = self.stand.numpy() * np.ones((n, 1))
        roll, pitch, yaw = 0.5 * START_TILT * draw[:, 0], 0.5 * START_TILT * draw[:, 1], 0.5 * np.pi * draw[:, 2]
        # Rotated about x, then y, then z.
        cr, sr, cp, sp, cy, sy = (f(angle) for angle in (roll, pitch, yaw) for f in (np.cos, np.sin))
        x[:, 3], x[:, 4] = sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy
        x[:, 5], x[:, 6] = cr * cp * sy - sr * sp * cy, cr * cp * cy + sr * sp * sy
        x[:, 7:19] += START_ANGLE * draw[:, 3:15]
        x[:, 19:25] = START_SPEED * draw[:, 15:21]
        q = torch.from_numpy(x[:, :19])
        q[:, 2] = 0.0
        q[:, 2] = self._clearance(q) + START_HEIGHT * torch.from_numpy(0.5 * (1.0 + draw[:, 21]))
        return torch.from_numpy(x)

    def upward(self, x: Tensor) -> Tensor:
        """The world's z axis in the axes of the base (n, 3)."""
        axis: Tensor = rotation_by_rows(x[..., 3:7])[..., 6:9]
        return axis

    def observe(self, x: Tensor) -> Tensor:
        """(height, upward direction, velocity, angular velocity, angles from those of standing, rates)."""
        angles = x[..., 7:19] - self.stand[7:19]
        return torch.cat([x[..., 2:3], self.upward(x), x[..., 19:25], angles, x[..., 25:37]], -1)

    def posture(self, x: Tensor, u: Tensor) -> Tensor:
        """0.4 (1 + R_zz) / 2 + 0.4 / (1 + ((height - standing) / 0.05 m)^2) + 0.2 (1 - mean((torque / limit)^2))."""
        upright = 0.5 * (1.0 + self.upward(x)[..., 2])
        low = ((x[..., 2] - self.height) / 0.05).square()
        calm = 1.0 - (u / self.dynamics.effort_limit).square().mean(-1)
        return 0.4 * upright + 0.4 / (1.0 + low) + 0.2 * calm

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """Half for the `posture`, half for standing still: 1 / (1 + |velocity|^2 / 0.25 + |angular velocity|^2)."""
        speed = 4.0 * x_next[..., 19:22].square().sum(-1) + x_next[..., 22:25].square().sum(-1)
        return 0.5 * self.posture(x_next, u) + 0.5 / (1.0 + speed)

    def failed(self, x: Tensor) -> Tensor:
        """Whether the base is below half its height, or tilted by more than 1 rad."""
        fallen: Tensor = (x[..., 2] < 0.5 * self.height) | (self.upward(x)[..., 2] < np.cos(1.0))
        return fallen

    def at_goal(self, x: Tensor) -> Tensor:
        """Within a sixth of the standing height, within 0.2 rad of upright, slower than 0.2 m/s and 0.5 rad/s."""
        still: Tensor = (x[..., 19:22].norm(dim=-1) < 0.2) & (x[..., 22:25].norm(dim=-1) < 0.5)
        return self.upstanding(x) & still

    def upstanding(self, x: Tensor) -> Tensor:
        """Within a sixth of the standing height and within 0.2 rad of upright."""
        standing: Tensor = ((x[..., 2] / self.height - 1.0).abs() < 1 / 6) & (self.upward(x)[..., 2] > np.cos(0.2))
        return standing

    def camera(self) -> Camera:
        return Camera(position=(0.55, -0.8, 0.42), target=(0.0, 0.0, 0.18), follow=True)


class QuadrupedEnv(RobotEnv):
    """Land on four feet and stand still.

    ### Action space

    `Box((12,), float64)`: the torques of hip, thigh and calf of the front left, front right, rear left and rear right
    leg [N m], constant for 0.01 s; limits 23.7, 23.7, 45.4 for each leg.

    ### Observation space

    `Box((34,), float64)`:

    | Num   | Observation                                                | Bounds |
    |-------|------------------------------------------------------------|--------|
    | 0     | height of the base [m]                                     | +- 2   |
    | 1-3   | upward direction, in the axes of the base                  | +- 1   |
    | 4-6   | velocity of the base in its axes [m/s]                     | +- 20  |
    | 7-9   | angular velocity of the base in its axes [rad/s]           | +- 50  |
    | 10-21 | angles, minus those of standing: 0, 0.8, -1.6 a leg [rad]  | +- 6   |
    | 22-33 | rates [rad/s]                                              | +- 100 |

    ### Rewards

    0.2 (1 + R_zz) / 2 + 0.2 / (1 + ((height - 0.319) / 0.05)^2) + 0.1 (1 - mean((torque / limit)^2))
    + 0.5 / (1 + |velocity|^2 / 0.25 + |angular velocity|^2), at most 1 per step; 0.319 m is the standing height.

    ### Starting state

    The lowest foot up to 2 cm above the ground, any heading, roll and pitch of up to 0.1 rad, angles within 0.15 rad of
    those of standing, up to 0.2 m/s and 0.2 rad/s along each axis; all uniform.

    ### Episode end

    `terminated`: the base lower than half its standing height, or tilted by more than 1 rad. Only the feet touch the
    ground. `truncated`: 500 steps (5 s). `info["is_success"]` in the last step: never terminated, and for the last
    second within 0.2 rad of upright, within a sixth of the standing height, slower than 0.2 m/s and 0.5 rad/s.

    ### Arguments

    `robot`: None, or "go2" or "solo12" of the optional extra `robots`, with other heights and limits. Common to all
    environments are `render_mode`, `mass_spread`, `friction_spread` (also for the ground under each foot, whose
    friction coefficient is 0.8), `action_delay` (the torques of standing act until the first action does),
    `observation_noise` (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = Quadruped


class QuadrupedVectorEnv(RobotVectorEnv):
    """`QuadrupedEnv` for `num_envs` robots at once."""

    task_type = Quadruped
