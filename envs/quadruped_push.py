"""`QPControl/QuadrupedPush-v0`: stay on four feet while being pushed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Arrow, Item

from .base import RobotEnv, RobotVectorEnv
from .quadruped import Quadruped
from .task import Floats, rotation_by_rows

PUSHES = 3
PUSH = (0.6, 0.4)  # [m/s] largest, forward and to the left
FIRST, EVERY, WITHIN = 40, 105, 90  # control periods: start of the first push's interval, their spacing and length


class QuadrupedPush(Quadruped):
    """State x = (that of the quadruped; pushes (3, 3): control period, change of velocity forward and to the left
    [m/s]; control periods since the start)."""

    name = "quadruped_push"
    goal_size = 3 * PUSHES + 1
    draws = Quadruped.draws + 3 * PUSHES

    def starts(self, draw: Floats) -> Tensor:
        """Those of the quadruped; one push each within the control periods 40..129, 145..234 and 250..339."""
        random = draw[:, -3 * PUSHES :].reshape(-1, PUSHES, 3)
        when = FIRST + EVERY * np.arange(PUSHES) + np.floor(0.5 * WITHIN * (1.0 + random[:, :, 0]))
        pushes = np.concatenate([when[:, :, None], np.array(PUSH) * random[:, :, 1:]], 2)
        goal = np.concatenate([pushes.reshape(len(draw), -1), np.zeros((len(draw), 1))], 1)
        return torch.cat([super().starts(draw[:, : -3 * PUSHES]), torch.from_numpy(goal)], 1)

    def next_goal(self, goal: Tensor) -> Tensor:
        return torch.cat([goal[..., :-1], goal[..., -1:] + 1.0], -1)

    def pushed(self, plant: Tensor, goal: Tensor) -> Tensor:
        """A push changes the velocity of the base instantaneously, in its axes."""
        when, change = _pushes(goal)
        now = (when == goal[..., -1:])[..., None]
        position, velocity, rest = torch.split(plant, [19, 2, 16], -1)
        return torch.cat([position, velocity + (now * change).sum(-2), rest], -1)

    def scenery(self) -> list[Item]:
        return [*super().scenery(), Arrow("push", 0x7B3FA0)]

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        """A push is shown for a fifth of a second."""
        when, change = _pushes(torch.from_numpy(x[37:]))
        age = x[-1] - when.numpy() - 1.0
        shown = change.numpy()[(age >= 0.0) & (age < 0.2 / self.control_period)]
        if not len(shown):
            return {"push": np.full((2, 3), np.nan)}
        R = rotation_by_rows(torch.from_numpy(x[3:7])).numpy().reshape(3, 3)
        vector = R @ np.array([*shown[-1], 0.0])
        return {"push": np.stack([x[:3] - vector, vector])}


def _pushes(goal: Tensor) -> tuple[Tensor, Tensor]:
    """Control periods (..., pushes), and changes of velocity (..., pushes, 2) [m/s]."""
    pushes = goal[..., :-1].reshape(*goal.shape[:-1], PUSHES, 3)
    return pushes[..., 0], pushes[..., 1:]


class QuadrupedPushEnv(RobotEnv):
    """Stay on four feet while the base is pushed three times in an episode.

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
    Three pushes, each at the start of one of the control periods 40 to 129, 145 to 234 and 250 to 339, change the
    velocity of the base by up to 0.6 m/s forward or backward and 0.4 m/s sideways, uniform. Pushes are not observed.

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

    task_type = QuadrupedPush


class QuadrupedPushVectorEnv(RobotVectorEnv):
    """`QuadrupedPushEnv` for `num_envs` robots at once."""

    task_type = QuadrupedPush
