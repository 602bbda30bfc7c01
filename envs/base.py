"""What all robot tasks share: a task as data and torch functions, and the environments around it.

A `RobotTask` knows the plant, the start distribution, the reward and success, all batched and in torch, so
that training and the environments use the same definitions. `RobotEnv` and `RobotVectorEnv` add Gymnasium's
rules. A step is a function of (state, action) alone.
"""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from qp_control.dynamics import RobotDynamics
from qp_control.viewer import Camera, LiveViewer, PictureTaker, Shape

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Seed = int | np.random.Generator | None

PICTURE_SIZE = (640, 480)


class RobotTask(abc.ABC):
    """A robot (the plant that is simulated) and what it should do. States x (n, nx) = (q, v), float64."""

    name: ClassVar[str]
    urdf: ClassVar[Path]
    control_period: ClassVar[float]  # [s]
    substeps: ClassVar[int]  # simulation steps in a control period
    episode_steps: ClassVar[int]  # control periods in an episode
    goal_steps: ClassVar[int]  # control periods at the goal, up to the end, that make a success

    def __init__(self) -> None:
        self.dynamics = RobotDynamics(
            self.urdf, dt=self.control_period, substeps=self.substeps, integrator="semi_implicit"
        )
        self.parameters = self.dynamics.parameters  # of the plant
        limit = self.dynamics.effort_limit.numpy()
        self.action_space = gym.spaces.Box(-limit, limit, dtype=np.float64)

    @property
    @abc.abstractmethod
    def observation_space(self) -> gym.spaces.Box: ...

    @abc.abstractmethod
    def sample_starts(self, n: int, seed: Seed = None) -> Tensor:
        """Start states (n, nx). The same seed gives the same states."""

    @abc.abstractmethod
    def observe(self, x: Tensor) -> Tensor:
        """Observations (n, n_obs) of states (n, nx)."""

    @abc.abstractmethod
    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """Rewards (n,) for reaching x_next (n, nx) with the input u (n, nu); smooth in both."""

    @abc.abstractmethod
    def failed(self, x: Tensor) -> Tensor:
        """True (n,) where the robot has left the region it may be in: the episode ends (`terminated`)."""

    @abc.abstractmethod
    def at_goal(self, x: Tensor) -> Tensor:
        """True (n,) where the state is where the task wants it."""

    def scenery(self) -> list[Shape]:
        """What the viewer draws beside the robot."""
        return []

    def camera(self) -> Camera:
        """Where the viewer looks from."""
        return Camera()

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        """The plant's state one control period after x (n, nx) under u (n, nu); differentiable."""
        return self.dynamics.step(x, u, self.parameters)

    def success(self, states: Tensor) -> Tensor:
        """True (n,) for trajectories (n, T + 1, nx) that reach the full episode and never fail in it, and
        whose last `goal_steps` control periods are at the goal. A shorter trajectory has not succeeded
        (yet)."""
        if states.ndim != 3 or states.shape[2] != self.dynamics.nx:
            raise ValueError(f"states has shape {tuple(states.shape)}, expected (n, T + 1, {self.dynamics.nx})")
        if states.shape[1] < self.episode_steps + 1:
            return torch.zeros(states.shape[0], dtype=torch.bool)
        episode = states[:, : self.episode_steps + 1]
        flat = episode.reshape(-1, episode.shape[2])
        ok = ~self.failed(flat).reshape(episode.shape[:2]).any(dim=1)
        goal = self.at_goal(flat).reshape(episode.shape[:2])
        return ok & goal[:, -(self.goal_steps + 1) :].all(dim=1)


@dataclasses.dataclass
class Transition:
    """One control period of n robots: arrays of length n."""

    observation: Floats
    reward: Floats
    terminated: Booleans
    info: dict[str, NDArray[Any]]


class Simulation:
    """n copies of a task's plant with their step counters; what the single and the vector environment
    share."""

    def __init__(self, task: RobotTask, n: int) -> None:
        self.task, self.n = task, n
        self.x = np.zeros((n, task.dynamics.nx))
        self.steps = np.zeros(n, dtype=np.int64)
        self.streak = np.zeros(n, dtype=np.int64)  # states in a row at the goal

    def set(self, index: int, x: Floats) -> None:
        self.x[index] = x
        self.steps[index] = 0
        self.streak[index] = int(self.task.at_goal(torch.from_numpy(self.x[index : index + 1]))[0])

    def observation(self) -> Floats:
        box = self.task.observation_space
        seen: Floats = self.task.observe(torch.from_numpy(self.x)).numpy()
        clipped: Floats = np.clip(seen, box.low, box.high).astype(np.float64)  # a copy in every case
        return clipped

    def advance(self, action: Any) -> Transition:
        """Apply action (n, nu). Entries outside the limits are clipped; an action that is not finite becomes
        zero; both are told in the info. ValueError for a wrong shape."""
        task = self.task
        asked = np.asarray(action, dtype=np.float64)
        if asked.shape != (self.n, task.dynamics.nu):
            raise ValueError(f"action has shape {asked.shape}, expected {(self.n, task.dynamics.nu)}")
        invalid = np.logical_not(np.isfinite(asked).all(axis=1, keepdims=True))[:, 0]
        finite = np.where(invalid[:, None], 0.0, asked)
        applied = np.clip(finite, task.action_space.low, task.action_space.high)
        u = torch.from_numpy(applied)
        with torch.no_grad():
            x_next = task.step(torch.from_numpy(self.x), u)
            # Bounded forces keep a real robot finite; should numbers run away all the same, the episode ends
            # at the last state that was a number.
            lost = ~torch.isfinite(x_next).all(dim=1)
            x_next = torch.where(lost[:, None], torch.from_numpy(self.x), x_next)
            reward = task.reward(x_next, u).numpy().copy()
            terminated = (task.failed(x_next) | lost).numpy()
            goal = task.at_goal(x_next).numpy()
        self.x = x_next.numpy().copy()
        self.steps += 1
        self.streak = np.where(goal, self.streak + 1, 0)
        success = (self.steps >= task.episode_steps) & (self.streak > task.goal_steps) & ~terminated
        info: dict[str, NDArray[Any]] = {
            "applied_action": applied,
            "clipped": (applied != finite).any(axis=1),
            "invalid_action": invalid,
            "is_success": success,
        }
        return Transition(self.observation(), reward, terminated, info)


def _start_from(task: RobotTask, options: dict[str, Any] | None, shape: tuple[int, ...]) -> Floats | None:
    state = (options or {}).get("state")
    if state is None:
        return None
    x = np.asarray(state, dtype=np.float64)
    if x.shape != shape or not np.isfinite(x).all():
        raise ValueError(f"options['state'] is {state!r}, expected finite numbers of shape {shape}")
    return x


class RobotEnv(gym.Env[Floats, Floats]):
    """One robot. Actions are generalized forces [N or N m]; entries outside the box are clipped, an action
    that is not finite is replaced by zero; `info` tells: `applied_action`, `clipped`, `invalid_action`,
    `is_success`.

    `reset(options={"state": x})` starts from the state x (nx,). The time limit (`truncated`) is the TimeLimit
    wrapper's.
    Rendering: "rgb_array" draws in a headless browser, "human" opens meshcat on 127.0.0.1.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012, Gymnasium's form

    def __init__(self, task: RobotTask, render_mode: str | None = None) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode is {render_mode!r}, expected one of {self.metadata['render_modes']}")
        self.task = task
        self.render_mode = render_mode
        self.action_space = task.action_space
        self.observation_space: gym.spaces.Space[Floats] = cast(Any, task.observation_space)
        self._simulation = Simulation(task, 1)
        self._viewer: PictureTaker | LiveViewer | None = None

    @property
    def state(self) -> Floats:
        """A copy of the state x (nx,)."""
        copy: Floats = self._simulation.x[0].copy()
        return copy

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        start = _start_from(self.task, options, (self.task.dynamics.nx,))
        if start is None:
            start = self.task.sample_starts(1, self.np_random)[0].numpy()
        self._simulation.set(0, start)
        if self.render_mode == "human":
            self.render()
        return self._simulation.observation()[0], {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        asked = np.asarray(action, dtype=np.float64)
        if asked.shape != self.action_space.shape:
            raise ValueError(f"action has shape {asked.shape}, expected {self.action_space.shape}")
        now = self._simulation.advance(asked[None])
        info = {key: value[0] if value.ndim > 1 else bool(value[0]) for key, value in now.info.items()}
        if self.render_mode == "human":
            self.render()
        return now.observation[0], float(now.reward[0]), bool(now.terminated[0]), False, info

    def render(self) -> Any:
        """An (480, 640, 3) uint8 picture for "rgb_array"; shows the state in meshcat for "human".

        Raises `qp_control.viewer.BrowserNotFound` where "rgb_array" finds no Chromium or Chrome.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='human' or 'rgb_array' in gymnasium.make")
            return None
        if self._viewer is None:
            kind = PictureTaker if self.render_mode == "rgb_array" else LiveViewer
            self._viewer = kind(self.task.urdf, scenery=self.task.scenery(), camera=self.task.camera())
        if isinstance(self._viewer, PictureTaker):
            return self._viewer.picture(self._simulation.x[0], *PICTURE_SIZE)
        self._viewer.display(self._simulation.x[0], pause=self.task.control_period)
        return None

    def close(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None


class RobotVectorEnv(VectorEnv[Floats, Floats, Any]):
    """num_envs robots in one call of C++ per step; the same numbers as `num_envs` single environments.

    Environment i of `reset(seed=s)` equals a single one with seed s + i. `autoreset_mode`: "NextStep",
    "SameStep" or "Disabled" (then reset with options={"reset_mask": ...}).
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        task: RobotTask,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, expected at least 1")
        if render_mode is not None:
            raise ValueError(f"render_mode is {render_mode!r}, expected None: render a single environment")
        self.task, self.num_envs, self.render_mode = task, num_envs, None
        self.max_episode_steps = max_episode_steps or task.episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.single_action_space, self.single_observation_space = task.action_space, task.observation_space
        self.action_space = batch_space(task.action_space, num_envs)
        self.observation_space = batch_space(task.observation_space, num_envs)
        self._simulation = Simulation(task, num_envs)
        self._done = np.zeros(num_envs, dtype=np.bool_)
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]

    def _restart(self, index: int) -> None:
        self._simulation.set(index, self.task.sample_starts(1, self._generators[index])[0].numpy())
        self._done[index] = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        n = self.num_envs
        seeds = list(seed) if isinstance(seed, list) else [None if seed is None else seed + i for i in range(n)]
        if len(seeds) != n:
            raise ValueError(f"seed has length {len(seeds)}, expected num_envs = {n}")
        mask = np.asarray((options or {}).get("reset_mask", np.ones(n, dtype=np.bool_)))
        if mask.shape != (n,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"options['reset_mask'] is {mask!r}, expected {n} booleans, not all False")
        start = _start_from(self.task, options, (n, self.task.dynamics.nx))
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                self._generators[i] = seeding.np_random(seeds[i])[0]
            self._restart(i)
            if start is not None:
                self._simulation.set(i, start[i])
        return self._simulation.observation(), {}

    def step(self, actions: Floats) -> tuple[Floats, Floats, Booleans, Booleans, dict[str, Any]]:
        restarted = self._done.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED and restarted.any():
            raise gym.error.ResetNeeded(f"environments {np.flatnonzero(restarted).tolist()} have ended")
        now = self._simulation.advance(actions)
        truncated = self._simulation.steps >= self.max_episode_steps
        if restarted.any():  # the next step after the end of an episode is the reset
            for i in np.flatnonzero(restarted).tolist():
                self._restart(i)
            now.reward[restarted] = 0.0
            now.terminated[restarted] = False
            truncated[restarted] = False
            now.observation = self._simulation.observation()
            for value in now.info.values():
                value[restarted] = 0
        infos: dict[str, Any] = {}
        for key, value in now.info.items():
            infos[key], infos["_" + key] = value, ~restarted
        self._done = now.terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            for i in np.flatnonzero(self._done).tolist():
                final = {key: value[i].copy() for key, value in now.info.items()}
                infos = self._add_info(infos, {"final_obs": now.observation[i].copy(), "final_info": final}, i)
                self._restart(i)
                for key in now.info:
                    infos[key][i] = 0
                    infos["_" + key][i] = False
            now.observation = self._simulation.observation()
        return now.observation, now.reward, now.terminated, truncated, infos
