"""A robot task as data and functions of batches, so that training and environments share one definition."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qp_control.robot.contact import ContactDynamics
from qp_control.robot.dynamics import RobotDynamics
from qp_control.viewer import Camera, Item

from .arrays import Array, library

Floats = NDArray[np.float64]
Seed = int | np.random.Generator | None

ASSETS = Path(__file__).parent / "assets"


class Outcome(NamedTuple):
    """What the environments return for a control period of n robots."""

    observation: Array  # (n, n_obs)
    reward: Array  # (n,)
    failed: Array  # (n,)
    at_goal: Array  # (n,)


class RobotTask(abc.ABC):
    """A robot (the simulated plant) and what it should do.

    States x (n, nx), float64: the plant's (q, v), followed by `goal_size` numbers that define the goal, such as the
    position of a target. A step is a function of state and input alone.

    takes_arrays: all methods accept NumPy arrays as well as tensors (see `arrays`), which makes environments of a few
    robots several times faster. Otherwise methods are called with tensors only.
    """

    takes_arrays: ClassVar[bool] = False

    name: ClassVar[str]
    urdf: Path
    floating_base: ClassVar[bool] = False  # the viewer adds a free-flyer above the root
    package_dirs: Sequence[Path] = ()  # where the viewer finds meshes, besides the folder of the URDF
    locked: Sequence[str] = ()  # joints of the URDF that the plant does not have
    control_period: ClassVar[float]  # [s]
    substeps: ClassVar[int]  # simulation steps in a control period
    episode_steps: int  # control periods in an episode
    goal_steps: ClassVar[int]  # control periods at the goal, up to the end, required for success
    draws: int  # number of random numbers for a start state
    goal_size: int = 0

    def __init__(self) -> None:
        self.dynamics = self.plant()
        self.nx = self.dynamics.nx + self.goal_size
        self.parameters = self.dynamics.parameters  # of the plant
        limit = self.dynamics.effort_limit.numpy()
        self.rest_input = np.zeros(self.dynamics.nu)  # acts until the first action does, if actions are delayed
        self.action_space = gym.spaces.Box(-limit, limit, dtype=np.float64)

    def plant(self) -> RobotDynamics | ContactDynamics:
        """The simulated robot."""
        return RobotDynamics(self.urdf, dt=self.control_period, substeps=self.substeps, integrator="semi_implicit")

    @property
    @abc.abstractmethod
    def observation_space(self) -> gym.spaces.Box: ...

    @abc.abstractmethod
    def starts(self, draw: Floats) -> Tensor:
        """Start states (n, nx) from random numbers (n, draws), uniform in [-1, 1)."""

    @abc.abstractmethod
    def observe(self, x: Array) -> Array:
        """Observations (n, n_obs) of states (n, nx)."""

    @abc.abstractmethod
    def reward(self, x_next: Array, u: Array) -> Array:
        """Rewards (n,) for reaching x_next (n, nx) with the input u (n, nu); smooth in both."""

    @abc.abstractmethod
    def failed(self, x: Array) -> Array:
        """True (n,) where the robot has left the allowed region: the episode ends (`terminated`)."""

    @abc.abstractmethod
    def at_goal(self, x: Array) -> Array:
        """True (n,) where the state is at the goal."""

    def outcome(self, x_next: Array, u: Array) -> Outcome:
        """Results of `observe`, `reward`, `failed` and `at_goal`; a task may compute common parts once."""
        return Outcome(self.observe(x_next), self.reward(x_next, u), self.failed(x_next), self.at_goal(x_next))

    def next_goal(self, goal: Array) -> Array:
        """The goal one control period later, (n, goal_size)."""
        return goal

    def scenery(self) -> list[Item]:
        """What the viewer draws besides the robot."""
        return []

    def moved_scenery(self, x: Floats) -> dict[str, Floats]:
        """Positions of the items of the scenery that depend on the state x (nx,), by name."""
        return {}

    def drawn_forces(self, x: Tensor, u: Tensor, parameters: Tensor | None, x_next: Tensor) -> dict[str, Floats]:
        """Positions, in the states x_next (n, nx), of the items of the scenery that show the forces of the control
        periods from x (n, nx) under u (n, nu), by name: arrays of length n."""
        return {}

    def camera(self) -> Camera:
        """The viewer's camera."""
        return Camera()

    def sample_starts(self, n: int, seed: Seed = None) -> Tensor:
        """Start states (n, nx). The same seed gives the same states."""
        return self.starts(np.random.default_rng(seed).uniform(-1.0, 1.0, size=(n, self.draws)))

    def step(self, x: Array, u: Array, parameters: Array | None = None) -> Array:
        """The state one control period after x (n, nx) under u (n, nu); differentiable.

        parameters (n_par,) or (n, n_par): of the plant, see `RobotDynamics.parameters`; None: the task's own.
        """
        own: Array = self.parameters if isinstance(x, Tensor) else self.parameters.numpy()
        par: Array = own if parameters is None else parameters
        if not self.goal_size:
            return self.dynamics.step(x, u, par)
        plant, goal = x[..., : self.dynamics.nx], x[..., self.dynamics.nx :]
        return library(x).concatenate([self.dynamics.step(plant, u, par), self.next_goal(goal)], -1)

    def success(self, states: Tensor) -> Tensor:
        """True (n,) for trajectories (n, T + 1, nx) of a full episode without failure whose last `goal_steps` control
        periods are at the goal. A shorter trajectory has not succeeded (yet)."""
        if states.ndim != 3 or states.shape[2] != self.nx:
            raise ValueError(f"states has shape {tuple(states.shape)}, expected (n, T + 1, {self.nx})")
        if states.shape[1] < self.episode_steps + 1:
            return torch.zeros(states.shape[0], dtype=torch.bool)
        episode = states[:, : self.episode_steps + 1]
        flat = episode.reshape(-1, episode.shape[2])
        ok: Tensor = ~self.failed(flat).reshape(episode.shape[:2]).any(dim=1)
        goal: Tensor = self.at_goal(flat).reshape(episode.shape[:2])
        return ok & goal[:, -(self.goal_steps + 1) :].all(dim=1)


def positive_scales(**scales: Any) -> None:
    """Raise ValueError unless the named factors are finite and positive."""
    for key, scale in scales.items():
        if not (np.isfinite(scale) and scale > 0.0):
            raise ValueError(f"{key} is {scale}, expected a positive number")


def wrapped(angle: Array) -> Array:
    """Angles in (-pi, pi] [rad]."""
    m = library(angle)
    return m.arctan2(m.sin(angle), m.cos(angle))


def rotation_by_rows(quaternion: Array) -> Array:
    """Rotation matrices by rows (..., 9) of unit quaternions x y z w (..., 4)."""
    x, y, z, w = (quaternion[..., i] for i in range(4))
    a, b, c = 2.0 * x, 2.0 * y, 2.0 * z
    xx, xy, xz, xw, yy, yz, yw, zz, zw = a * x, a * y, a * z, a * w, b * y, b * z, b * w, c * z, c * w
    by_row = [1.0 - yy - zz, xy - zw, xz + yw, xy + zw, 1.0 - xx - zz, yz - xw, xz - yw, yz + xw, 1.0 - xx - yy]
    return library(quaternion).stack(by_row, -1)
