"""Vector environments for stable-baselines3, which has its own interface (`VecEnv`).

envs = gym.make_vec("QPControl/ArmReach-v0", num_envs=16, autoreset_mode="SameStep")
PPO("MlpPolicy", VecMonitor(as_vec_env(envs, unit_actions=True))).learn(200_000)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as missing:
    raise ImportError(
        "qp_control.envs.stable_baselines needs stable-baselines3: pip install 'qp-control[rl]'"
    ) from missing


def as_vec_env(envs: VectorEnv[Any, Any, Any], *, unit_actions: bool = False) -> VecEnv:
    """A Gymnasium vector environment as stable-baselines3's `VecEnv`, all robots stepped at once.

    envs: created with autoreset_mode="SameStep". unit_actions: scale actions from [-1, 1] to forces and torques, as
        most learners expect: their initial policies have standard deviations of about one.

    The info of an episode's last step contains `terminal_observation`, `TimeLimit.truncated` and the environment's own
    info (`is_success`, ..); the infos of other steps are empty, as filling them would take longer than the step.
    Rewards are float32.
    """
    return _Adapter(envs, unit_actions)


class _Adapter(VecEnv):
    def __init__(self, envs: VectorEnv[Any, Any, Any], unit_actions: bool) -> None:
        if not isinstance(envs, VectorEnv):
            raise ValueError(
                f"envs is a {type(envs).__name__}, expected a vector environment, as of gymnasium.make_vec"
            )
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"the autoreset mode is {mode}, expected gymnasium.make_vec(.., autoreset_mode='SameStep')"
            )
        self.envs = envs
        box = envs.single_action_space
        self._scale = None
        if unit_actions:
            if not isinstance(box, gym.spaces.Box) or not box.is_bounded():
                raise ValueError(f"unit_actions needs a bounded Box as action space, got {box}")
            self._middle, self._scale = 0.5 * (box.high + box.low), 0.5 * (box.high - box.low)
            box = gym.spaces.Box(-1.0, 1.0, box.shape, dtype=np.float32)
        super().__init__(envs.num_envs, envs.single_observation_space, box)

    def reset(self) -> Any:
        seeds: Any = None if None in self._seeds else list(self._seeds)
        options = {key: np.stack([given[key] for given in self._options]) for key in self._options[0]}
        observation, _ = self.envs.reset(seed=seeds, options=options or None)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: Any) -> None:
        self._actions = actions if self._scale is None else self._middle + self._scale * np.clip(actions, -1.0, 1.0)

    def step_wait(self) -> Any:
        observation, reward, terminated, truncated, told = self.envs.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        last = {key: value for key, value in told.get("final_info", {}).items() if not key.startswith("_")}
        for i in np.flatnonzero(done).tolist():
            infos[i] = {key: value[i] for key, value in last.items()}
            infos[i]["terminal_observation"] = told["final_obs"][i]
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        self.envs.close()

    # Attributes and methods of one environment are those of the vector environment, the same for all.

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.envs, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self._all(indices)
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        self._all(indices)
        return [getattr(self.envs, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self._count(indices)

    def _count(self, indices: int | Iterable[int] | None) -> int:
        return len(list(self._get_indices(indices)))

    def _all(self, indices: int | Iterable[int] | None) -> None:
        if self._count(indices) != self.num_envs:
            raise ValueError(f"indices is {indices}, expected None: the environments are one object")
