"""A `RobotTask` as a Gymnasium environment: a single one, and many in one call.

The options of all environments (`mass_spread`, `friction_spread`, `action_delay`, `observation_noise`) are those of
`Randomisation`; further ones are those of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from qp_control.qp.problem import as_integer
from qp_control.viewer import LiveViewer, PictureTaker, write_replay

from .randomisation import Randomisation
from .simulation import Booleans, Simulation
from .task import Floats, RobotTask

PICTURE_SIZE = (640, 480)
_NEVER = np.iinfo(np.int64).max


def _start_from(options: dict[str, Any] | None, task: RobotTask, *count: int) -> Floats | None:
    shape = (*count, task.nx)
    state = (options or {}).get("state")
    if state is None:
        return None
    x = np.asarray(state, dtype=np.float64)
    if x.shape != shape or not np.isfinite(x).all():
        raise ValueError(f"options['state'] is {state!r}, expected finite numbers of shape {shape}")
    if not bool(task.dynamics.on_manifold(torch.tensor(x[..., : task.dynamics.nx])).all()):
        raise ValueError(f"options['state'] is {state!r}, expected quaternions of length one")
    return x


class RobotEnv(gym.Env[Floats, Floats]):
    """One robot. Actions are generalised forces [N or N m]; entries outside the box are clipped, an action that is not
    finite is replaced by zero. `info` contains `applied_action` (the action in effect), `clipped`, `invalid_action` and
    `is_success`.

    `reset(options={"state": x})` starts from the state x (nx,); other options are ignored. The time limit (`truncated`)
    is that of the TimeLimit wrapper.
    Rendering: "rgb_array" draws in a headless browser, "human" opens meshcat on 127.0.0.1.
    """

    task_type: ClassVar[type[RobotTask]]
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012, Gymnasium's form

    def __init__(
        self,
        render_mode: str | None = None,
        *,
        mass_spread: float = 0.0,
        friction_spread: float = 0.0,
        action_delay: int = 0,
        observation_noise: float | Sequence[float] = 0.0,
        **options: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode is {render_mode!r}, expected one of {self.metadata['render_modes']}")
        self.task = task = self.task_type(**options)
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": round(1.0 / task.control_period)}
        self.action_space = task.action_space
        self.observation_space: gym.spaces.Space[Floats] = cast(Any, task.observation_space)
        random = Randomisation(mass_spread, friction_spread, action_delay, observation_noise)
        self._simulation = Simulation(task, 1, random)
        self._viewer: PictureTaker | LiveViewer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_viewer": None}  # a copy opens one of its own

    @property
    def state(self) -> Floats:
        """A copy of the state x (nx,)."""
        copy: Floats = self._simulation.x[0].copy()
        return copy

    @property
    def parameters(self) -> Floats:
        """A copy of the plant's parameters (n_par,) in this episode."""
        copy: Floats = self._simulation.parameters.reshape(-1).copy()
        return copy

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        start = _start_from(options, self.task)
        self._simulation.generators[0] = self.np_random
        self._simulation.reset(np.zeros(1, dtype=np.int64), None if start is None else start[None])
        if self.render_mode == "human":
            self.render()
        return self._simulation.observation()[0], {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        asked = np.asarray(action, dtype=np.float64)
        if asked.shape != self.action_space.shape:
            raise ValueError(f"action has shape {asked.shape}, expected {self.action_space.shape}")
        now = self._simulation.advance(asked[None])
        self._simulation.look()
        info = {key: value[0] if value.ndim > 1 else bool(value[0]) for key, value in now.info.items()}
        if self.render_mode == "human":
            self.render()
        return self._simulation.observation()[0], float(now.reward[0]), bool(now.terminated[0]), False, info

    def render(self) -> Any:
        """A (480, 640, 3) uint8 picture for "rgb_array"; shows the state in meshcat for "human".

        Raises `qp_control.viewer.BrowserNotFound` if "rgb_array" finds no Chromium or Chrome.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='human' or 'rgb_array' in gymnasium.make")
            return None
        task, x = self.task, self._simulation.x[0]
        if self._viewer is None:
            kind = PictureTaker if self.render_mode == "rgb_array" else LiveViewer
            self._viewer = kind(task.urdf, **look(task))
        robot, moved = x[: task.dynamics.nx], task.moved_scenery(x)
        if self._simulation.last is not None:
            before, acting = map(torch.from_numpy, self._simulation.last)
            forces = task.drawn_forces(
                before, acting, torch.from_numpy(self._simulation.parameters), torch.from_numpy(x[None])
            )
            moved = moved | {name: values[0] for name, values in forces.items()}
        if isinstance(self._viewer, PictureTaker):
            return self._viewer.picture(robot, *PICTURE_SIZE, moved=moved)
        self._viewer.display(robot, pause=task.control_period, moved=moved)
        return None

    def close(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None


def look(task: RobotTask) -> dict[str, Any]:
    """The viewer's arguments for a task."""
    names = {"floating_base": task.floating_base, "package_dirs": task.package_dirs, "locked": task.locked}
    return {"scenery": task.scenery(), "camera": task.camera(), **names}


def moved_paths(task: RobotTask, states: Floats) -> dict[str, Floats]:
    """Positions of the moving scenery in the states (T + 1, nx), by name."""
    each = [task.moved_scenery(state) for state in states]
    return {name: np.stack([values[name] for values in each]) for name in each[0]}


def write_rollout(
    path: str | Path,
    task: RobotTask,
    states: Any,
    inputs: Any = None,
    *,
    parameters: torch.Tensor | None = None,
    title: str | None = None,
) -> Path:
    """Write states (T + 1, nx), a control period apart, as one html file that opens offline (see `write_replay`).

    inputs (T, nu): if given, contact forces are drawn. parameters: of the plant, for these forces; None: the task's.
    """
    x = np.asarray(states, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != task.nx:
        raise ValueError(f"states has shape {x.shape}, expected (T + 1, {task.nx})")
    moved = moved_paths(task, x)
    if inputs is not None:
        u = np.asarray(inputs, dtype=np.float64)
        if u.shape != (len(x) - 1, task.dynamics.nu):
            raise ValueError(f"inputs has shape {u.shape}, expected (T, nu) = {(len(x) - 1, task.dynamics.nu)}")
        before, after = torch.from_numpy(x[:-1]), torch.from_numpy(x[1:])
        for name, values in task.drawn_forces(before, torch.from_numpy(u), parameters, after).items():
            moved[name] = np.concatenate([np.full_like(values[:1], np.nan), values])
    times, robot = task.control_period * np.arange(len(x)), x[:, : task.dynamics.nx]
    return write_replay(path, task.urdf, times, robot, moved=moved, title=title or task.name, **look(task))


class RobotVectorEnv(VectorEnv[Floats, Floats, Any]):
    """num_envs robots in one C++ call per step; identical to `num_envs` single environments.

    After `reset(seed=s)`, environment i is identical to a single one with seed s + i. `autoreset_mode`: "NextStep",
    "SameStep" or "Disabled" (then reset with options={"reset_mask": ...}); the option "state" (num_envs, nx) of `reset`
    sets the initial states, others are ignored. max_episode_steps: None for the task's own, -1 for no limit, as in
    gymnasium.make. task: an existing one instead of one of `task_type` with these options.
    """

    task_type: ClassVar[type[RobotTask]]
    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        *,
        mass_spread: float = 0.0,
        friction_spread: float = 0.0,
        action_delay: int = 0,
        observation_noise: float | Sequence[float] = 0.0,
        task: RobotTask | None = None,
        **options: Any,
    ) -> None:
        num_envs = as_integer("num_envs", num_envs, 1)
        if render_mode is not None:
            raise ValueError(f"render_mode is {render_mode!r}, expected None: render a single environment")
        self.task = task = self.task_type(**options) if task is None else task
        self.num_envs, self.render_mode = num_envs, None
        steps = task.episode_steps if max_episode_steps is None else max_episode_steps
        self.max_episode_steps = _NEVER if steps == -1 else as_integer("max_episode_steps", steps, 1)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.single_action_space, self.single_observation_space = task.action_space, task.observation_space
        self.action_space = batch_space(task.action_space, num_envs)
        self.observation_space = batch_space(task.observation_space, num_envs)
        random = Randomisation(mass_spread, friction_spread, action_delay, observation_noise)
        self._simulation = Simulation(task, num_envs, random)
        self._done = np.zeros(num_envs, dtype=np.bool_)

    @property
    def state(self) -> Floats:
        """A copy of the states (num_envs, nx)."""
        copy: Floats = self._simulation.x.copy()
        return copy

    @property
    def parameters(self) -> Floats:
        """A copy of the plants' parameters (num_envs, n_par) in these episodes."""
        p = self._simulation.parameters
        copy: Floats = np.broadcast_to(p, (self.num_envs, p.shape[-1])).copy()
        return copy

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copies of everything that the next steps depend on, including the random generators."""
        return {**self._simulation.snapshot(), "done": self._done.copy()}

    def restore(self, snapshot: dict[str, NDArray[Any]]) -> None:
        """Continue from a snapshot of these environments or of identically constructed ones."""
        self._simulation.restore(snapshot)
        self._done = snapshot["done"].copy()

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
        start = _start_from(options, self.task, n)
        index = np.flatnonzero(mask)
        for i in index.tolist():
            if seeds[i] is not None:
                self._simulation.generators[i] = seeding.np_random(seeds[i])[0]
        self._simulation.reset(index, None if start is None else start[index])
        self._done[index] = False
        return self._simulation.observation(), {}

    def step(self, actions: Floats) -> tuple[Floats, Floats, Booleans, Booleans, dict[str, Any]]:
        simulation, restarted = self._simulation, self._done
        some = bool(restarted.any())
        if some and self.autoreset_mode == AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(f"environments {np.flatnonzero(restarted).tolist()} have ended")
        now = simulation.advance(actions)
        truncated = simulation.steps >= self.max_episode_steps
        if some:  # the next step after the end of an episode is the reset
            simulation.look(np.flatnonzero(~restarted))
            simulation.reset(np.flatnonzero(restarted))
            now.reward[restarted] = 0.0
            now.terminated[restarted] = False
            truncated[restarted] = False
            for value in now.info.values():
                value[restarted] = 0
        else:
            simulation.look()
        infos: dict[str, Any] = {}
        for key, value in now.info.items():
            infos[key], infos["_" + key] = value, ~restarted
        self._done = now.terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            infos = self._restart_at_once(infos, now.info)
        return simulation.observation(), now.reward, now.terminated, truncated, infos

    def _restart_at_once(self, infos: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
        ended = self._done
        final: dict[str, Any] = {}
        for key, value in last.items():
            final[key] = np.where(ended[:, None] if value.ndim > 1 else ended, value, np.zeros((), value.dtype))
            final["_" + key] = ended.copy()
            infos[key][ended] = 0
            infos["_" + key][ended] = False
        index = np.flatnonzero(ended)
        seen = np.full(self.num_envs, None, dtype=object)
        for i, row in zip(index.tolist(), self._simulation.observation()[index], strict=True):
            seen[i] = row
        infos |= {"final_obs": seen, "_final_obs": ended.copy(), "final_info": final, "_final_info": ended.copy()}
        self._simulation.reset(index)
        self._done = np.zeros(self.num_envs, dtype=np.bool_)
        return infos
