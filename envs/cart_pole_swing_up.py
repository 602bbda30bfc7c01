"""`QPControl/CartPoleSwingUp-v0`: swing a hanging pole up by moving its cart, and keep it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from qp_control.viewer import Camera, Shape

from .base import RobotEnv, RobotTask, RobotVectorEnv, Seed

START_POSITION = 0.5  # [m] largest distance of the cart from the middle at the start
START_ANGLE = 0.3  # [rad] largest angle of the pole from hanging at the start
GOAL_ANGLE = 0.2  # [rad] largest angle of the pole from upright that counts as upright


def angle_from_upright(x: Tensor) -> Tensor:
    """The pole's angle in (-pi, pi] [rad] of states (..., 4)."""
    return torch.atan2(torch.sin(x[..., 1]), torch.cos(x[..., 1]))


class CartPoleSwingUp(RobotTask):
    """State x = (cart position [m], pole angle [rad], cart velocity [m/s], pole rate [rad/s]), u = force [N].

    The angle is 0 upright and pi hanging, and counts turns. Masses, lengths, viscous joint friction, the
    force limit and the length of the track are those of `assets/cart_pole.urdf`; the plant is simulated at
    200 Hz and controlled at 20 Hz.

    pole_mass_scale: factor on the pole's mass and moments of inertia; friction_scale: factor on the friction
    of both joints. 1 is the nominal model; with 1.2 for both the plant is one that the controller does not
    know.
    """

    name = "cart_pole_swing_up"
    urdf = Path(__file__).parent / "assets" / "cart_pole.urdf"
    control_period = 0.05
    substeps = 10
    episode_steps = 200
    goal_steps = 20

    def __init__(self, *, pole_mass_scale: float = 1.0, friction_scale: float = 1.0) -> None:
        super().__init__()
        for key, scale in (("pole_mass_scale", pole_mass_scale), ("friction_scale", friction_scale)):
            if not (np.isfinite(scale) and scale >= 0.0) or (scale == 0.0 and key == "pole_mass_scale"):
                raise ValueError(f"{key} is {scale}, expected a positive number")
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

    def sample_starts(self, n: int, seed: Seed = None) -> Tensor:
        """Starts (n, 4): at rest, cart within 0.5 m of the middle, pole within 0.3 rad of hanging."""
        draw = np.random.default_rng(seed).uniform(-1.0, 1.0, size=(n, 2))
        x = np.zeros((n, 4))
        x[:, 0] = START_POSITION * draw[:, 0]
        x[:, 1] = np.pi + START_ANGLE * draw[:, 1]
        return torch.from_numpy(x)

    def observe(self, x: Tensor) -> Tensor:
        """The state itself."""
        return x

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """0.7 (1 + cos angle) / 2 + 0.2 (1 - (position / track)^2) + 0.1 (1 - (force / limit)^2).

        In [0, 1] on the track, so that leaving the track early never pays.
        """
        upright = 0.5 * (1.0 + torch.cos(x_next[..., 1]))
        centred = 1.0 - (x_next[..., 0] / self.track_limit) ** 2
        calm = 1.0 - (u[..., 0] / self.force_limit) ** 2
        return 0.7 * upright + 0.2 * centred + 0.1 * calm

    def failed(self, x: Tensor) -> Tensor:
        """Off the track."""
        return x[..., 0].abs() > self.track_limit

    def at_goal(self, x: Tensor) -> Tensor:
        """On the track with the pole within 0.2 rad of upright."""
        return (angle_from_upright(x).abs() <= GOAL_ANGLE) & ~self.failed(x)

    def scenery(self) -> list[Shape]:
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

    Observation: the state (cart position [m], pole angle [rad] counted from upright, cart velocity [m/s],
    pole rate [rad/s]), Box(4,) float64. Action: force on the cart [N], Box(-10, 10, (1,)) float64. Reward:
    see `CartPoleSwingUp.reward`, at most 1 per step. Start: hanging (pi +- 0.3 rad), cart +- 0.5 m, at rest.
    `terminated`: the cart is off the track (+- 2.4 m). `truncated`: 200 steps (10 s). Success
    (`info["is_success"]` in the last step): on the track throughout and within 0.2 rad of upright for the
    last second.

    pole_mass_scale, friction_scale: the plant differs from the nominal model by these factors.
    """

    def __init__(
        self, render_mode: str | None = None, pole_mass_scale: float = 1.0, friction_scale: float = 1.0
    ) -> None:
        task = CartPoleSwingUp(pole_mass_scale=pole_mass_scale, friction_scale=friction_scale)
        super().__init__(task, render_mode)


class CartPoleSwingUpVectorEnv(RobotVectorEnv):
    """`CartPoleSwingUpEnv` for `num_envs` robots at once."""

    def __init__(
        self, num_envs: int = 1, pole_mass_scale: float = 1.0, friction_scale: float = 1.0, **options: Any
    ) -> None:
        task = CartPoleSwingUp(pole_mass_scale=pole_mass_scale, friction_scale=friction_scale)
        super().__init__(task, num_envs, **options)
