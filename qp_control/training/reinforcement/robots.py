"""Environments for stable-baselines3 that carry a controller's decisions from step to step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import Tensor

from qp_control.envs.stable_baselines import as_vec_env
from qp_control.envs.task import RobotTask
from qp_control.training.reinforcement.actor import Actor


class ControllerEnvs(VecEnvWrapper):
    """Robots with observations {"observation": that of the environment, "carried": what the controller carries}.

    envs: a Gymnasium vector environment with autoreset_mode="SameStep". controller: see `Actor`; it is called with the
    environment's observations. staggered: the first episodes end at evenly spaced times instead of all at once, so that
    rollouts contain samples of all phases of an episode; only for qp-control's environments.

    Actions are in [-1, 1]. Episodes start with nothing carried. The action actually applied (with exploration and
    clipping) replaces the controller's own input in what is carried on.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], controller: Any, *, staggered: bool = False) -> None:
        venv = as_vec_env(envs, unit_actions=True)
        box: Any = envs.single_action_space
        self.robots, self.staggered = envs, staggered
        observation, _ = envs.reset()
        self.actor = Actor(controller, box.low, box.high, torch.from_numpy(observation[:1]))
        carried = gym.spaces.Box(-np.inf, np.inf, (self.actor.size,), dtype=np.float64)
        spaces = gym.spaces.Dict({"observation": venv.observation_space, "carried": carried})
        super().__init__(venv, observation_space=spaces)
        self.rewards: list[float] = []
        """Means over the robots since the list was last cleared."""

    def reset(self) -> dict[str, Any]:
        self._seen = torch.from_numpy(self.venv.reset())
        if self.staggered:
            robots: Any = self.robots
            begun = np.arange(self.num_envs) * robots.max_episode_steps // self.num_envs
            robots.restore({**robots.snapshot(), "steps": begun})
        self._carried = self.actor.cold(len(self._seen))
        return self._told()

    def step_async(self, actions: Any) -> None:
        made = self.actor.decision_made(self._seen, self._carried)
        self._carried = self.actor.next(made, torch.as_tensor(actions, dtype=torch.float64))
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observation, reward, done, infos = self.venv.step_wait()
        self.rewards.append(float(reward.mean()))
        self._seen = torch.from_numpy(observation)
        ended = np.flatnonzero(done)
        for i in ended.tolist():
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = {"observation": last, "carried": self._carried[i].numpy()}
        if len(ended):
            self._carried = self._carried.clone()
            self._carried[ended] = self.actor.cold(len(ended))
        return self._told(), reward, done, infos

    def _told(self) -> dict[str, Any]:
        return {"observation": self._seen.numpy().copy(), "carried": self._carried.numpy().copy()}

    def snapshot(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on; only for qp-control's environments."""
        robots: Any = self.robots
        own = {name: torch.from_numpy(value) for name, value in robots.snapshot().items()}
        return own | {"seen": self._seen, "carried": self._carried}

    def restore(self, snapshot: dict[str, Tensor]) -> dict[str, Any]:
        """Continue from a snapshot; returns the observations."""
        robots: Any = self.robots
        robots.restore({n: v.numpy() for n, v in snapshot.items() if n not in ("seen", "carried")})
        self._seen, self._carried = snapshot["seen"].clone(), snapshot["carried"].clone()
        return self._told()


class StateObserved:
    """A robot task whose observation is the whole state, as required by controllers that plan with a model."""

    def __init__(self, task: RobotTask) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    @property
    def observation_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-np.inf, np.inf, (self._task.nx,), dtype=np.float64)

    def outcome(self, x_next: Any, u: Any) -> Any:
        return self._task.outcome(x_next, u)._replace(observation=x_next)
