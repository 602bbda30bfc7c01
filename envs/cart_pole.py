"""`QPControl/CartPole-v0`: keep a pole upright on a cart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .arrays import Array
from .base import RobotEnv, RobotVectorEnv
from .cart_pole_swing_up import CartPoleSwingUp
from .task import Floats

START = (0.5, 0.15, 0.2, 0.2)  # largest initial position [m], angle [rad] and velocities [m/s, rad/s]
ANGLE_LIMIT = 0.6  # [rad] the pole has fallen


class CartPole(CartPoleSwingUp):
    """The plant of `CartPoleSwingUp`, controlled at 50 Hz and simulated at 100 Hz, the pole near upright."""

    name = "cart_pole"
    control_period = 0.02
    substeps = 2
    episode_steps = 500
    goal_steps = 50
    draws = 4

    def starts(self, draw: Floats) -> Tensor:
        """Within 0.5 m, 0.15 rad, 0.2 m/s and 0.2 rad/s of upright rest in the middle."""
        return torch.from_numpy(draw * np.array(START))

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.6 (1 - (angle / 0.6)^2) + 0.3 (1 - (position / track)^2) + 0.1 (1 - (force / limit)^2)."""
        upright = 1.0 - (x_next[..., 1] / ANGLE_LIMIT) ** 2
        centred = 1.0 - (x_next[..., 0] / self.track_limit) ** 2
        calm = 1.0 - (u[..., 0] / self.force_limit) ** 2
        return 0.6 * upright + 0.3 * centred + 0.1 * calm

    def failed(self, x: Array) -> Array:
        """Whether the cart is off the track or the pole has fallen."""
        return (abs(x[..., 0]) > self.track_limit) | (abs(x[..., 1]) > ANGLE_LIMIT)


class CartPoleEnv(RobotEnv):
    """Keep the pole upright for 10 s.

    ### Action space

    `Box(-10, 10, (1,), float64)`: the force on the cart [N], constant for 0.02 s.

    ### Observation space

    `Box((4,), float64)`, the state:

    | Num | Observation                            | Bounds       |
    |-----|----------------------------------------|--------------|
    | 0   | cart position [m]                      | +- 4.8       |
    | 1   | pole angle, 0 upright, unwrapped [rad] | +- 1000      |
    | 2   | cart velocity [m/s]                    | +- 20        |
    | 3   | pole rate [rad/s]                      | +- 100       |

    ### Rewards

    0.6 (1 - (angle / 0.6)^2) + 0.3 (1 - (position / 2.4)^2) + 0.1 (1 - (force / 10)^2), at most 1 per step.

    ### Starting state

    Uniform within 0.5 m, 0.15 rad, 0.2 m/s and 0.2 rad/s of upright rest in the middle.

    ### Episode end

    `terminated`: the cart is off the track, beyond +- 2.4 m, or the pole more than 0.6 rad from upright. `truncated`:
    500 steps (10 s). `info["is_success"]` in the last step: never terminated, and within 0.2 rad of upright for the
    last second.

    ### Arguments

    `pole_mass_scale`, `friction_scale`: the plant differs from the nominal model by these factors. Common to all
    environments are `render_mode`, `mass_spread`, `friction_spread`, `action_delay`, `observation_noise`
    (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = CartPole


class CartPoleVectorEnv(RobotVectorEnv):
    """`CartPoleEnv` for `num_envs` robots at once."""

    task_type = CartPole
