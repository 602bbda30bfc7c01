"""n copies of a task's plant: what the single and the vector environment share."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
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


class Simulation:
    """States, step counters, parameters, actions under way and generators of n robots.

    generators: one per robot. Each is used by its robot alone, in an order that only its own resets and steps decide:
    n robots have the same numbers as n simulations of one robot.
    """

    def __init__(self, task: RobotTask, n: int, randomisation: Randomisation) -> None:
        self.task, self.n, self.randomisation = task, n, randomisation
        self.generators = [seeding.np_random(None)[0] for _ in range(n)]
        box = task.observation_space
        self._low, self._high = box.low, box.high
        scale = randomisation.noise_scale(len(box.low))
        self._noise = None if scale is None else ObservationNoise(scale, n)
        self._pending = np.tile(task.rest_input, (n, randomisation.action_delay, 1))
        self._seen = np.zeros((n, len(box.low)))
        self.parameters = task.parameters.expand(n, -1).clone() if randomisation.of_parameters else task.parameters
        """(n_par,) or, where they are drawn, (n, n_par)."""
        self.x = np.zeros((n, task.nx))
        self.steps = np.zeros(n, dtype=np.int64)
        self.streak = np.zeros(n, dtype=np.int64)  # states in a row at the goal
        self.last: tuple[Floats, Floats] | None = None  # what the last step came from: states and inputs

    def reset(self, index: NDArray[np.int64], x: Floats | None = None) -> None:
        """New episodes of the robots `index` (m,), from the states x (m, nx) or from drawn ones."""
        task, random = self.task, self.randomisation
        own = [self.generators[i] for i in index.tolist()]
        if x is None:
            draw = np.stack([g.uniform(-1.0, 1.0, size=task.draws) for g in own])
            x = task.starts(draw).numpy()
        if random.of_parameters:
            draw = np.stack([g.uniform(-1.0, 1.0, size=random.draws(task)) for g in own])
            self.parameters[torch.from_numpy(index)] = random.parameters(task, draw)
        self.x[index] = x
        self.steps[index] = 0
        self._pending[index] = task.rest_input
        self.streak[index] = task.at_goal(torch.from_numpy(self.x[index])).numpy()
        self.last = None
        self.look(index)

    def look(self, index: NDArray[np.int64] | slice = slice(None)) -> None:
        """Observe the robots `index` anew: once per state, as noise is drawn."""
        seen = self.task.observe(torch.from_numpy(self.x[index])).numpy()
        if self._noise is not None:
            which = np.arange(self.n)[index]
            seen = seen + self._noise.of(which, self.steps[which], self.generators)
        self._seen[index] = np.clip(seen, self._low, self._high)

    def observation(self) -> Floats:
        """A copy of what was seen last, (n, n_obs)."""
        copy: Floats = self._seen.copy()
        return copy

    def _arriving(self, applied: Floats) -> Floats:
        """The actions that act now."""
        if self._pending.shape[1] == 0:
            return applied
        acting: Floats = self._pending[:, 0].copy()
        self._pending[:, :-1] = self._pending[:, 1:]
        self._pending[:, -1] = applied
        return acting

    def advance(self, action: Any) -> Transition:
        """Send action (n, nu). Entries outside the limits are clipped; an action that is not finite becomes
        zero; both are told in the info. ValueError for a wrong shape. `look` has to follow."""
        task = self.task
        asked = np.asarray(action, dtype=np.float64)
        if asked.shape != (self.n, task.dynamics.nu):
            raise ValueError(f"action has shape {asked.shape}, expected {(self.n, task.dynamics.nu)}")
        invalid = np.logical_not(np.isfinite(asked).all(axis=1, keepdims=True))[:, 0]
        finite = np.where(invalid[:, None], 0.0, asked)
        applied = np.clip(finite, task.action_space.low, task.action_space.high)
        clipped = (applied != finite).any(axis=1)
        acting = self._arriving(applied)
        u = torch.from_numpy(acting)
        with torch.no_grad():
            x_next = task.step(torch.from_numpy(self.x), u, self.parameters)
            # Bounded forces keep a real robot finite; should numbers run away all the same, the episode ends
            # at the last state that was a number.
            lost = ~torch.isfinite(x_next).all(dim=1)
            x_next = torch.where(lost[:, None], torch.from_numpy(self.x), x_next)
            reward = task.reward(x_next, u)
            lost = lost | ~torch.isfinite(reward)
            reward = torch.where(torch.isfinite(reward), reward, 0.0)
            terminated = (task.failed(x_next) | lost).numpy()
            goal = task.at_goal(x_next).numpy()
        self.last = self.x, acting
        self.x = x_next.numpy().copy()
        self.steps += 1
        self.streak = np.where(goal, self.streak + 1, 0)
        success = (self.steps >= task.episode_steps) & (self.streak > task.goal_steps) & ~terminated
        info: dict[str, NDArray[Any]] = {
            "applied_action": acting,
            "clipped": clipped,
            "invalid_action": invalid,
            "is_success": success,
        }
        return Transition(reward.numpy(), terminated, info)
