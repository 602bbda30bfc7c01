"""`QPControl/CartPoleSwingUp-v0`: swing a hanging pole up by moving its cart, and keep it there."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Camera, Item, Shape

from .arrays import Array, library
from .base import RobotEnv, RobotVectorEnv
from .task import ASSETS, Floats, RobotTask, positive_scales

START_POSITION = 0.5  # [m] largest distance of the cart from the middle at the start
START_ANGLE = 0.3  # [rad] largest angle of the pole from hanging at the start
GOAL_ANGLE = 0.2  # [rad] largest angle of the pole from upright that counts as upright


class CartPoleSwingUp(RobotTask):
    """State x = (cart position [m], pole angle [rad], cart velocity [m/s], pole rate [rad/s]), u = force [N].

    The angle is 0 upright and pi hanging, and unwrapped. Masses, lengths, viscous joint friction, the
    force limit and the length of the track are those of `assets/cart_pole.urdf`; the plant is simulated at
    200 Hz and controlled at 20 Hz.

    pole_mass_scale: factor on the pole's mass and moments of inertia; friction_scale: factor on the friction
    of both joints. 1 is the nominal model; with 1.2 for both, for example, the plant differs from a controller's model.
    """

    takes_arrays = True
    name = "cart_pole_swing_up"
    urdf = ASSETS / "cart_pole.urdf"
    control_period = 0.05
    substeps = 10
    episode_steps = 200
    goal_steps = 20
    draws = 2

    def __init__(self, *, pole_mass_scale: float = 1.0, friction_scale: float = 1.0) -> None:
        super().__init__()
        positive_scales(pole_mass_scale=pole_mass_scale)
        if friction_scale != 0.0:
            positive_scales(friction_scale=friction_scale)
        names = self.dynamics.parameter_names
        for i, parameter in enumerate(names):
            if parameter.endswith(".damping"):
                self.parameters[i] *= friction_scale
            elif parameter.startswith("pole_joint."):
                self.parameters[i] *= pole_mass_scale
        self.track_limit = float(self.dynamics.model.upperPositionLimit[0])  # [m]
        self.force_limit = float(self.dynamics.effort_limit[0])  # [N]

    @property
    def observation_space(self) -> gym.spaces.Box:
        velocity = np.asarray(self.dynamics.model.upperVelocityLimit)
        seconds = self.episode_steps * self.control_period
        high = np.array([2 * self.track_limit, velocity[1] * seconds, *velocity])
        return gym.spaces.Box(-high, high, dtype=np.float64)

    def starts(self, draw: Floats) -> Tensor:
        """Starts (n, 4): at rest, cart within 0.5 m of the middle, pole within 0.3 rad of hanging."""
        x = np.zeros((len(draw), 4))
        x[:, 0] = START_POSITION * draw[:, 0]
        x[:, 1] = np.pi + START_ANGLE * draw[:, 1]
        return torch.from_numpy(x)

    def observe(self, x: Array) -> Array:
        """The state itself."""
        return x

    def reward(self, x_next: Array, u: Array) -> Array:
        """0.7 (1 + cos angle) / 2 + 0.2 (1 - (position / track)^2) + 0.1 (1 - (force / limit)^2).

        In [0, 1] on the track, so that leaving the track early never pays.
        """
        upright = 0.5 * (1.0 + library(x_next).cos(x_next[..., 1]))
        centred = 1.0 - (x_next[..., 0] / self.track_limit) ** 2
        calm = 1.0 - (u[..., 0] / self.force_limit) ** 2
        return 0.7 * upright + 0.2 * centred + 0.1 * calm

    def failed(self, x: Array) -> Array:
        """Whether the cart is off the track."""
        return abs(x[..., 0]) > self.track_limit

    def at_goal(self, x: Array) -> Array:
        """Whether the cart is on the track with the pole within 0.2 rad of upright."""
        return (library(x).cos(x[..., 1]) >= math.cos(GOAL_ANGLE)) & ~self.failed(x)

    def scenery(self) -> list[Item]:
        reach = self.track_limit + 0.2  # the cart's middle stops at the limit, its side here
        return [
            Shape("left_end", (0.04, 0.3, 0.3), (-reach, 0.0, 0.05), 0xB03030),
            Shape("right_end", (0.04, 0.3, 0.3), (reach, 0.0, 0.05), 0xB03030),
            Shape("goal", (2 * self.track_limit, 0.02, 0.02), (0.0, 0.3, 1.0), 0x2E8B2E),
        ]

    def camera(self) -> Camera:
        return Camera(position=(0.0, -3.2, 0.6), target=(0.0, 0.0, 0.1))


class CartPoleSwingUpEnv(RobotEnv):
    """Swing the pole up within 10 s and keep it up.

    ### Action space

    `Box(-10, 10, (1,), float64)`: the force on the cart [N], constant for 0.05 s.

    ### Observation space

    `Box((4,), float64)`, the state:

    | Num | Observation                            | Bounds       |
    |-----|----------------------------------------|--------------|
    | 0   | cart position [m]                      | +- 4.8       |
    | 1   | pole angle, 0 upright, unwrapped [rad] | +- 1000      |
    | 2   | cart velocity [m/s]                    | +- 20        |
    | 3   | pole rate [rad/s]                      | +- 100       |

    ### Rewards

    0.7 (1 + cos angle) / 2 + 0.2 (1 - (position / 2.4)^2) + 0.1 (1 - (force / 10)^2), at most 1 per step.

    ### Starting state

    At rest, the cart within 0.5 m of the middle, the pole within 0.3 rad of hanging; both uniform.

    ### Episode end

    `terminated`: the cart is off the track, beyond +- 2.4 m. `truncated`: 200 steps (10 s). `info["is_success"]` in the
    last step: on the track throughout and within 0.2 rad of upright for the last second.

    ### Arguments

    `pole_mass_scale`, `friction_scale`: the plant differs from the nominal model by these factors. Common to all
    environments are `render_mode`, `mass_spread`, `friction_spread`, `action_delay`, `observation_noise`
    (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = CartPoleSwingUp


class CartPoleSwingUpVectorEnv(RobotVectorEnv):
    """`CartPoleSwingUpEnv` for `num_envs` robots at once."""

    task_type = CartPoleSwingUp
