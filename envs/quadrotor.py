"""`QPControl/Quadrotor-v0`: hover at a point, or fly to one waypoint after the other."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.robot.description import read_urdf
from qp_control.robot.dynamics import RobotDynamics
from qp_control.viewer import Camera, Item, Shape

from .arrays import Array, constant, library
from .base import RobotEnv, RobotVectorEnv
from .task import ASSETS, Floats, Outcome, RobotTask, positive_scales, rotation_by_rows

LIMITS = np.array([12.0, 0.5, 0.5, 0.1])  # thrust [N], torques [N m]
MIDDLE = np.array([0.0, 0.0, 1.5])  # [m] of the flight space
ROOM = np.array([4.0, 4.0, 1.5])  # [m] largest distance from the middle
WAYPOINTS = (1.0, 1.0, 0.5)  # [m] largest distance of waypoints from the middle
START = (0.5, 0.5, 0.3)  # [m] and of starts
START_TILT = 0.5  # [rad] largest rotation about each axis, as a rotation vector
START_SPEED = 0.3  # [m/s, rad/s]
NEAR = 0.15  # [m] distance within which it is at the waypoint
HOLD = 1.0  # [s] at the end of each waypoint's time


class Quadrotor(RobotTask):
    """State x = (position [m], quaternion x y z w, velocity [m/s] and angular velocity [rad/s] in the body's axes;
    waypoints (waypoints, 3) [m]; control periods since the start), u = (thrust [N], torques in the body's axes [N m]).

    The plant is `qp_control.systems.flying_body`: thrust along the body's z axis and three torques, instead of four
    rotors. waypoints: their number, with equal parts of the episode; 1: hover. mass_scale: factor on mass and moments
    of inertia; 1 is the nominal model, 1.3 for example that with an unknown load.
    """

    takes_arrays = True
    name = "quadrotor"
    urdf = ASSETS / "quadrotor.urdf"
    floating_base = True
    control_period = 0.05
    substeps = 5
    episode_steps = 200
    goal_steps = 200  # `at_goal` requires something only in the last second of each waypoint's time

    def __init__(self, *, waypoints: int = 1, mass_scale: float = 1.0) -> None:
        positive_scales(mass_scale=mass_scale)
        if not isinstance(waypoints, int) or not 1 <= waypoints <= 5:
            raise ValueError(f"waypoints is {waypoints!r}, expected 1 to 5")
        self.waypoints = waypoints
        self.goal_size = 3 * waypoints + 1
        self.draws = 12 + 3 * waypoints
        self.leg_steps = self.episode_steps // waypoints
        super().__init__()
        low = np.array([0.0, *(-limit for limit in LIMITS[1:])])
        self.action_space = gym.spaces.Box(low, LIMITS, dtype=np.float64)
        self.hover = float(self.parameters[0]) * 9.81  # [N] of the nominal model
        self.rest_input[0] = self.hover
        self.parameters[:10] *= mass_scale

    def plant(self) -> RobotDynamics:
        model = read_urdf(self.urdf, floating_base=True)
        model.upperEffortLimit = np.array([0.0, 0.0, *LIMITS])
        actuated = [2, 3, 4, 5]
        dt, substeps = self.control_period, self.substeps
        return RobotDynamics(model, dt=dt, substeps=substeps, integrator="semi_implicit", actuated=actuated)

    @property
    def observation_space(self) -> gym.spaces.Box:
        high = np.array([20.0] * 6 + [1.0] * 9 + [50.0] * 6)
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def starts(self, draw: Floats) -> Tensor:
        """Within (0.5, 0.5, 0.3) m of (0, 0, 1.5) m, rotated by up to 0.5 rad about each axis, 0.3 m/s, 0.3 rad/s."""
        n = len(draw)
        turn = START_TILT * draw[:, 3:6]
        angle = np.linalg.norm(turn, axis=1, keepdims=True)
        x = np.zeros((n, self.nx))
        x[:, :3] = MIDDLE + np.array(START) * draw[:, :3]
        x[:, 3:6] = 0.5 * turn * np.sinc(angle / (2.0 * np.pi))
        x[:, 6:7] = np.cos(0.5 * angle)
        x[:, 7:13] = START_SPEED * draw[:, 6:12]
        x[:, 13:-1] = (MIDDLE + np.array(WAYPOINTS) * draw[:, 12:].reshape(n, -1, 3)).reshape(n, -1)
        return torch.from_numpy(x)

    def next_goal(self, goal: Array) -> Array:
        return library(goal).concatenate([goal[..., :-1], goal[..., -1:] + 1.0], -1)

    def waypoint(self, x: Array, ahead: int = 0) -> Array:
        """The current waypoint (..., 3) [m], or the one `ahead` places later."""
        if self.waypoints == 1:
            return x[..., 13:16]
        leg = (library(x).floor(x[..., -1:] / self.leg_steps) + ahead).clip(0, self.waypoints - 1)
        now = leg == constant(np.arange(self.waypoints), x)
        return (now[..., None] * x[..., 13:-1].reshape(*x.shape[:-1], self.waypoints, 3)).sum(-2)

    def observe(self, x: Array) -> Array:
        """(vectors to the waypoint and to the next one, rotation matrix by rows, velocities in the body's axes)."""
        return self._observation(x, self.waypoint(x))

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.7 / (1 + distance^2) + 0.2 (1 + R_zz) / 2 + 0.1 (1 - mean(((u - hovering) / limits)^2))."""
        return self._reward(x_next, u, self.waypoint(x_next))

    def failed(self, x: Array) -> Array:
        """Whether it is outside the room, whose floor is at z = 0."""
        return (abs(x[..., :3] - constant(MIDDLE, x)) > constant(ROOM, x)).any(-1)

    def at_goal(self, x: Array) -> Array:
        """Whether it is within 0.15 m of the waypoint, or not yet in the last second of its time."""
        return self._at(x, self.waypoint(x))

    def outcome(self, x_next: Array, u: Array) -> Outcome:
        point = self.waypoint(x_next)
        reward = self._reward(x_next, u, point)
        return Outcome(self._observation(x_next, point), reward, self.failed(x_next), self._at(x_next, point))

    def _observation(self, x: Array, point: Array) -> Array:
        here = x[..., :3]
        ways = [point - here, self.waypoint(x, 1) - here]
        return library(x).concatenate([*ways, rotation_by_rows(x[..., 3:7]), x[..., 7:13]], -1)

    def _reward(self, x_next: Array, u: Array, point: Array) -> Array:
        distance = ((x_next[..., :3] - point) ** 2).sum(-1)
        upright = 1.0 - (x_next[..., 3:5] ** 2).sum(-1)  # (1 + R_zz) / 2
        effort = (u - constant(self.rest_input, u)) / constant(LIMITS, u)
        return 0.7 / (1.0 + distance) + 0.2 * upright + 0.1 * (1.0 - (effort**2).sum(-1) / 4.0)

    def _at(self, x: Array, point: Array) -> Array:
        clock = x[..., -1]
        near = ((x[..., :3] - point) ** 2).sum(-1) <= NEAR**2
        early = clock % self.leg_steps < self.leg_steps - round(HOLD / self.control_period)
        return near | (early & (clock < self.waypoints * self.leg_steps))

    def scenery(self) -> list[Item]:
        floor = Shape("floor", (2 * ROOM[0], 2 * ROOM[1], 0.02), (0.0, 0.0, -0.03), 0xD8DCE2)
        return [floor, Shape("target", 0.08, (0.0, 0.0, 1.5), 0x2E8B2E)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        return {"target": self.waypoint(x)}

    def camera(self) -> Camera:
        return Camera(position=(1.3, -2.2, 2.2), target=(0.0, 0.0, 1.4))


class QuadrotorEnv(RobotEnv):
    """Fly to a point and hover there, or with `waypoints=K` to K points in turn, within 10 s.

    ### Action space

    `Box([0, -0.5, -0.5, -0.1], [12, 0.5, 0.5, 0.1], (4,), float64)`, constant for 0.05 s: thrust along the body's z
    axis [N] (4.905 to hover), and torques about the body's axes [N m]. An action that is not finite becomes zero: no
    thrust.

    ### Observation space

    `Box((21,), float64)`:

    | Num   | Observation                                              | Bounds |
    |-------|----------------------------------------------------------|--------|
    | 0-2   | from the quadrotor to the waypoint, world's axes [m]     | +- 20  |
    | 3-5   | from the quadrotor to the next waypoint [m]              | +- 20  |
    | 6-14  | rotation matrix of the body, by rows                     | +- 1   |
    | 15-17 | velocity in the body's axes [m/s]                        | +- 50  |
    | 18-20 | angular velocity in the body's axes [rad/s]              | +- 50  |

    ### Rewards

    0.7 / (1 + distance^2) + 0.2 (1 + R_zz) / 2 + 0.1 (1 - mean(((u - hovering) / (12, 0.5, 0.5, 0.1))^2)), at most 1
    per step; distance to the waypoint [m].

    ### Starting state

    Within (0.5, 0.5, 0.3) m of (0, 0, 1.5) m, rotated by up to 0.5 rad about each axis, up to 0.3 m/s and 0.3 rad/s
    along each; waypoints within (1, 1, 0.5) m of (0, 0, 1.5) m; all uniform.

    ### Episode end

    `terminated`: further than (4, 4, 1.5) m from (0, 0, 1.5) m, which includes the floor at z = 0. `truncated`: 200
    steps (10 s). `info["is_success"]` in the last step: never terminated, and within 0.15 m of each waypoint during
    the last second of its time (10 s / K).

    ### Arguments

    `waypoints`: K, 1 to 5; 1 by default. `mass_scale`: the plant differs from the nominal model by this factor. Those
    of all environments: `render_mode`, `mass_spread`, `friction_spread` (without effect, as there is no drag),
    `action_delay` (the nominal hovering thrust acts until the first action does), `observation_noise`
    (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = Quadrotor


class QuadrotorVectorEnv(RobotVectorEnv):
    """`QuadrotorEnv` for `num_envs` robots at once."""

    task_type = Quadrotor
