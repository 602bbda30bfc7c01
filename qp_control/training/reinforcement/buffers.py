"""A rollout buffer in double precision, whose samples keep their warm starts from epoch to epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples


class CarriedRolloutBuffer(DictRolloutBuffer):
    """stable-baselines3's buffer, for observations of `ControllerEnvs`.

    The original rounds actions and probabilities to single precision, which alone changes probability ratios by 1e-6.
    Carried numbers that a policy writes into a sample's observations are kept for the next epoch.
    """

    def reset(self) -> None:
        super().reset()
        for name in ("actions", "rewards", "returns", "values", "log_probs", "advantages"):
            setattr(self, name, getattr(self, name).astype(np.float64))

    def get(self, batch_size: int | None = None) -> Iterator[DictRolloutBufferSamples]:
        for samples in super().get(batch_size):
            yield samples
            self.observations["carried"][self._drawn] = samples.observations["carried"].numpy()

    def _get_samples(self, batch_inds: Any, env: Any = None) -> DictRolloutBufferSamples:
        self._drawn = batch_inds
        return DictRolloutBufferSamples(
            observations={key: self.to_torch(seen[batch_inds]) for key, seen in self.observations.items()},
            actions=self.to_torch(self.actions[batch_inds]),
            old_values=self.to_torch(self.values[batch_inds].flatten()),
            old_log_prob=self.to_torch(self.log_probs[batch_inds].flatten()),
            advantages=self.to_torch(self.advantages[batch_inds].flatten()),
            returns=self.to_torch(self.returns[batch_inds].flatten()),
        )
