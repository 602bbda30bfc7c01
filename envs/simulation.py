"""n copies of a task's plant: what the single and the vector environments have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from numpy.typing import NDArray

from .randomisation import ObservationNoise, Randomisation
from .task import Floats, RobotTask

Booleans = NDArray[np.bool_]


@dataclasses.dataclass
class Transition:
    """One control period of n robots: arrays of length n."""

    reward: Floats
    terminated: Booleans
    info: dict[str, NDArray[Any]]


# The state of a simulation, apart from its random generators.
_KEPT = ("x", "steps", "streak", "parameters", "_pending", "_exact", "_seen", "_begun")


class Simulation:
    """States, step counters, parameters, delayed actions and generators of n robots.

    generators: one per robot, used only by it and in an order that depends only on its own resets and steps: n robots
    have the same numbers as n simulations of one robot.
    """

    def __init__(self, task: RobotTask, n: int, randomisation: Randomisation) -> None:
        self.task, self.n, self.randomisation = task, n, randomisation
        self.generators = [seeding.np_random(None)[0] for _ in range(n)]
        box, limits = task.observation_space, task.action_space
        self._low, self._high = box.low, box.high
        self._least, self._most = limits.low, limits.high
        scale = randomisation.noise_scale(len(box.low))
        self._noise = None if scale is None else ObservationNoise(scale, n)
        self._pending = np.tile(task.rest_input, (n, randomisation.action_delay, 1))
        self._exact = np.zeros((n, len(box.low)))  # observations of the states, without noise
        self._seen = self._exact.copy()
        self.parameters = task.parameters.numpy().copy()
        """(n_par,), or (n, n_par) if randomised."""
        if randomisation.of_parameters:
            self.parameters = np.tile(self.parameters, (n, 1))
        self.x = np.zeros((n, task.nx))
        self.steps = np.zeros(n, dtype=np.int64)
        self.streak = np.zeros(n, dtype=np.int64)  # number of latest states at the goal, in a row
        self.last: tuple[Floats, Floats] | None = None  # states and inputs before the last step
        self._begun = np.zeros(n, dtype=np.bool_)
        self._all_begun = False

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copies of everything that the next steps depend on."""
        arrays = {name: getattr(self, name).copy() for name in _KEPT}
        states = np.stack([generator_state(generator) for generator in self.generators])
        noise = {} if self._noise is None else {"noise": self._noise.block.copy()}
        return arrays | {"generators": states} | noise

    def restore(self, snapshot: dict[str, NDArray[Any]]) -> None:
        """Continue from a snapshot. ValueError if it is one of other robots."""
        for name in _KEPT:
            expected, got = getattr(self, name).shape, snapshot[name].shape
            if got != expected:
                raise ValueError(f"{name} of the snapshot has shape {got}, expected {expected}")
            setattr(self, name, snapshot[name].copy())
        for generator, state in zip(self.generators, snapshot["generators"], strict=True):
            set_generator_state(generator, state)
        if self._noise is not None:
            self._noise.block = snapshot["noise"].copy()
        self.last, self._all_begun = None, bool(self._begun.all())

    def _call(self, method: Callable[..., Any], *arrays: Floats) -> Any:
        """Call a method of the task with arrays, converted to tensors if the task only takes these."""
        if self.task.takes_arrays:
            return method(*arrays)
        with torch.no_grad():
            found = method(*map(torch.from_numpy, arrays))
        return found.numpy() if isinstance(found, torch.Tensor) else tuple(value.numpy() for value in found)

    def _draw(self, index: list[int], size: int) -> Floats:
        """Random numbers (m, size), uniform in [-1, 1), each row by its robot's generator."""
        draw = np.empty((len(index), size))
        for row, i in zip(draw, index, strict=True):
            self.generators[i].random(out=row)
        numbers: Floats = 2.0 * draw - 1.0
        return numbers

    def reset(self, index: NDArray[np.int64], x: Floats | None = None) -> None:
        """New episodes of the robots `index` (m,), from the states x (m, nx) or from random ones."""
        task, random, which = self.task, self.randomisation, index.tolist()
        if x is None:
            x = task.starts(self._draw(which, task.draws)).numpy()
        if random.of_parameters:
            draw = self._draw(which, random.draws(task))
            self.parameters[index] = random.parameters(task, draw).numpy()
        self._begun[index] = True
        self._all_begun = bool(self._begun.all())
        self.x[index] = x
        self.steps[index] = 0
        self._pending[index] = task.rest_input
        with np.errstate(all="ignore"):
            seen, _, _, goal = self._call(task.outcome, x, np.tile(task.rest_input, (len(which), 1)))
        self._exact[index] = seen
        self.streak[index] = goal
        self.last = None
        self.look(index)

    def look(self, index: NDArray[np.int64] | slice = slice(None)) -> None:
        """Observe the robots `index` anew; once per state, as this draws noise."""
        seen = self._exact[index]
        if self._noise is not None:
            which = np.arange(self.n)[index]
            seen = seen + self._noise.of(which, self.steps[which], self.generators)
        self._seen[index] = np.minimum(np.maximum(seen, self._low), self._high)

    def observation(self) -> Floats:
        """A copy of the latest observations (n, n_obs)."""
        copy: Floats = self._seen.copy()
        return copy

    def _arriving(self, applied: Floats) -> Floats:
        """The actions that take effect now."""
        if self._pending.shape[1] == 0:
            return applied
        acting: Floats = self._pending[:, 0].copy()
        self._pending[:, :-1] = self._pending[:, 1:]
        self._pending[:, -1] = applied
        return acting

    def advance(self, action: Any) -> Transition:
        """Apply action (n, nu). Entries outside the limits are clipped; an action that is not finite becomes zero; the
        info reports both. ValueError for a wrong shape. Call `look` afterwards."""
        if not self._all_begun:
            raise ResetNeeded("call reset() before the first step()")
        task = self.task
        asked = np.asarray(action, dtype=np.float64)
        if asked.shape != (self.n, task.dynamics.nu):
            raise ValueError(f"action has shape {asked.shape}, expected {(self.n, task.dynamics.nu)}")
        invalid = np.zeros(self.n, dtype=np.bool_)
        if not np.isfinite(asked).all():
            invalid[:] = ~np.isfinite(asked).all(axis=1)
            asked = np.where(invalid[:, None], 0.0, asked)
        applied = np.minimum(np.maximum(asked, self._least), self._most)
        clipped = (applied != asked).any(axis=1)
        acting = self._arriving(applied)
        with np.errstate(all="ignore"):
            x_next, (seen, reward, terminated, goal) = self._follow(acting)
        self.last = self.x, acting
        self.x, self._exact = x_next, seen
        self.steps += 1
        self.streak = (self.streak + 1) * goal
        success = (self.steps >= task.episode_steps) & (self.streak > task.goal_steps) & ~terminated
        info: dict[str, NDArray[Any]] = {
            "applied_action": acting,
            "clipped": clipped,
            "invalid_action": invalid,
            "is_success": success,
        }
        return Transition(reward, terminated, info)

    def _follow(self, u: Floats) -> tuple[Floats, Any]:
        """The states after a control period under u (n, nu), and the task's outcome.

        Bounded forces keep a real robot finite; if the simulation diverges nevertheless, the episode ends at the last
        finite state.
        """
        x_next = self._call(self.task.step, self.x, u, self.parameters)
        lost = None
        if not np.isfinite(x_next).all():
            lost = ~np.isfinite(x_next).all(axis=1)
            x_next = np.where(lost[:, None], self.x, x_next)
        seen, reward, failed, goal = self._call(self.task.outcome, x_next, u)
        if not np.isfinite(reward).all():
            lost = ~np.isfinite(reward) | (False if lost is None else lost)
            reward = np.where(np.isfinite(reward), reward, 0.0)
        terminated = failed if lost is None else failed | lost
        # Copies, as they are modified and a task may return views.
        return x_next, (np.array(seen), np.array(reward), np.array(terminated), goal)


def generator_state(generator: np.random.Generator) -> NDArray[np.int64]:
    """The state (6,) of a PCG64 generator: two numbers of 128 bits, and the unused half of a drawn number."""
    state: Any = generator.bit_generator.state
    wide = [state["state"][name] >> shift for name in ("state", "inc") for shift in (0, 64)]
    numbers = [*(n & (2**64 - 1) for n in wide), state["has_uint32"], state["uinteger"]]
    return np.array(numbers, dtype=np.uint64).view(np.int64)


def set_generator_state(generator: np.random.Generator, numbers: NDArray[np.int64]) -> None:
    """The inverse of `generator_state`."""
    n = [int(value) for value in numbers.view(np.uint64)]
    wide = {"state": n[0] | n[1] << 64, "inc": n[2] | n[3] << 64}
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": wide,
        "has_uint32": n[4],
        "uinteger": n[5],
    }
