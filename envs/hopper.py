"""`QPControl/Hopper-v0`: hop after a mark that moves forward on the ground."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.robot.contact import Contact, ContactDynamics
from qp_control.viewer import Camera, Item, Shape

from .base import RobotEnv, RobotVectorEnv
from .contact_task import ContactTask
from .task import ASSETS, Floats

FRICTION = 0.9
CROUCH = (0.0, -0.5, 1.0, -0.5)  # [rad] pitch, hip, knee and ankle
START_ANGLE = 0.05  # [rad] around it
START_HEIGHT = 0.02  # [m] of the lower of heel and toe above the ground, at most
SPEED = (0.15, 0.4)  # [m/s] of the mark
NEAR = 0.5  # [m] distance within which the hopper is at the mark


class Hopper(ContactTask):
    """State x = (x, z [m] of the hip, pitch, angles of hip, knee and ankle [rad], their rates; mark [m], its speed
    [m/s]), u = torques of hip, knee and ankle [N m]."""

    name = "hopper"
    urdf = ASSETS / "hopper.urdf"
    control_period = 0.01
    substeps = 2
    episode_steps = 500
    goal_steps = 100
    draws = 6
    goal_size = 2
    ends = ("heel", "toe")
    radius = 0.03  # [m] of their balls

    def plant(self) -> ContactDynamics:
        contacts = [Contact(end, self.radius, FRICTION) for end in self.ends]
        # In the plane there are only two directions of friction.
        dt, substeps = self.control_period, self.substeps
        return ContactDynamics(self.urdf, dt=dt, substeps=substeps, contacts=contacts, directions=2)

    @property
    def observation_space(self) -> gym.spaces.Box:
        high = np.array([10.0, 2.0, 3.0, 3.0, *[4.0] * 3, *[20.0] * 2, *[100.0] * 4])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def starts(self, draw: Floats) -> Tensor:
        """At rest above the ground by up to 2 cm, crouching, each angle within 0.05 rad; the mark below the hip."""
        x = np.zeros((len(draw), self.nx))
        x[:, 2:6] = np.array(CROUCH) + START_ANGLE * draw[:, :4]
        q = torch.from_numpy(x[:, :6])
        lowest = self.dynamics.frame_motions(self.ends, q).position[..., 2].amin(-1).numpy()
        x[:, 1] = self.radius - lowest + START_HEIGHT * 0.5 * (1.0 + draw[:, 4])
        x[:, 13] = SPEED[0] + (SPEED[1] - SPEED[0]) * 0.5 * (1.0 + draw[:, 5])
        return torch.from_numpy(x)

    def next_goal(self, goal: Tensor) -> Tensor:
        mark, speed = goal[..., :1], goal[..., 1:]
        return torch.cat([mark + self.control_period * speed, speed], -1)

    def way(self, x: Tensor) -> Tensor:
        """Signed distance from the hip to the mark (n,) [m]."""
        return x[..., 12] - x[..., 0]

    def observe(self, x: Tensor) -> Tensor:
        """(distance to the mark, its speed, height of the hip, pitch, angles, rates)."""
        return torch.cat([self.way(x)[..., None], x[..., 13:14], x[..., 1:12]], -1)

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """0.6 / (1 + (distance / 0.5 m)^2) + 0.3 (1 + cos pitch) / 2 + 0.1 (1 - mean((torque / limit)^2))."""
        near = 1.0 / (1.0 + 4.0 * self.way(x_next).square())
        calm = 1.0 - (u / self.dynamics.effort_limit).square().mean(-1)
        return 0.6 * near + 0.15 * (1.0 + torch.cos(x_next[..., 2])) + 0.1 * calm

    def failed(self, x: Tensor) -> Tensor:
        """Whether the hip is lower than 0.45 m or the torso inclined by more than 1 rad."""
        return (x[..., 1] < 0.45) | (x[..., 2].abs() > 1.0)

    def at_goal(self, x: Tensor) -> Tensor:
        """Whether the hip is within 0.5 m of the mark."""
        return self.way(x).abs() <= NEAR

    def scenery(self) -> list[Item]:
        return [*super().scenery(), Shape("mark", 0.05, (0.0, 0.0, 0.0), 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        return {"mark": np.array([x[12], 0.0, 0.0])}

    def camera(self) -> Camera:
        return Camera(position=(0.5, -1.9, 0.95), target=(0.0, 0.0, 0.55), follow=True)


class HopperEnv(RobotEnv):
    """Hop in a vertical plane after a mark on the ground that moves forward.

    ### Action space

    `Box((3,), float64)`: the torques of hip, knee and ankle [N m], constant for 0.01 s; limits 100, 150, 60.

    ### Observation space

    `Box((13,), float64)`:

    | Num   | Observation                                 | Bounds |
    |-------|---------------------------------------------|--------|
    | 0     | from the hip to the mark [m]                | +- 10  |
    | 1     | speed of the mark [m/s]                     | +- 2   |
    | 2     | height of the hip [m]                       | +- 3   |
    | 3     | pitch of the torso, forward [rad]           | +- 3   |
    | 4-6   | angles of hip, knee and ankle [rad]         | +- 4   |
    | 7-8   | velocity of the hip, forward and up [m/s]   | +- 20  |
    | 9-12  | rates of pitch, hip, knee and ankle [rad/s] | +- 100 |

    ### Rewards

    0.6 / (1 + (distance to the mark / 0.5)^2) + 0.3 (1 + cos(pitch)) / 2 + 0.1 (1 - mean((torque / limit)^2)), at most
    1 per step.

    ### Starting state

    At rest, the lower of heel and toe up to 2 cm above the ground, pitch and angles within 0.05 rad of (0, -0.5, 1,
    -0.5); the mark below the hip, its speed 0.15 to 0.4 m/s; all uniform.

    ### Episode end

    `terminated`: the hip lower than 0.45 m or the torso inclined by more than 1 rad. Only heel and toe touch the
    ground. `truncated`: 500 steps (5 s). `info["is_success"]` in the last step: never terminated, and the hip within
    0.5 m of the mark for the last second.

    ### Arguments

    Those of all environments: `render_mode`, `mass_spread`, `friction_spread` (also for the ground under heel and toe,
    whose friction coefficient is 0.9), `action_delay`, `observation_noise` (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = Hopper


class HopperVectorEnv(RobotVectorEnv):
    """`HopperEnv` for `num_envs` robots at once."""

    task_type = Hopper
