"""Policies of stable-baselines3 whose mean action is a controller's input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn
from torch.distributions import Normal

from qp_control.training.networks import dense_network
from qp_control.training.reinforcement.actor import Actor
from qp_control.training.reinforcement.guarded_adam import GuardedAdam, controller_groups
from qp_control.training.rollout import Carried

Features = Callable[[Tensor], Tensor]
Observations = dict[str, Tensor]

# tanh turns the mean of a squashed Gaussian into the action: at a bound of the controller, as close to it as this.
NEARLY_ONE = 0.99


def _features_of(observation_space: Any, features: Features | None) -> tuple[Features, int]:
    """The inputs of networks from an observation, and their number."""
    size = observation_space["observation"].shape[0]
    if features is None:
        return lambda seen: seen, size
    return features, features(torch.zeros(1, size, dtype=torch.float64)).shape[-1]


def _deviations(log_std: float | Sequence[float], action_space: Any) -> Tensor:
    """(nu,) of one number or of nu."""
    return torch.as_tensor(log_std, dtype=torch.float64).expand(action_space.shape).clone()


class ControllerPolicy(BasePolicy):
    """For PPO: Gaussian actions around the controller's, with a learned standard deviation, and a value network.

    actor: `ControllerEnvs.actor`.
    features: inputs of the value network from observations (B, n); None: the whole observation.
    log_std_init: logarithms of the standard deviations of actions in [-1, 1], or one for all.
    controller_rate: the learning rate of the controller's parameters as a multiple of the value network's.
    value_scale: of values; the network's output is multiplied by it.
    clip: largest norm of the gradient of each.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Callable[[float], float],
        use_sde: bool = False,
        *,
        actor: Actor,
        features: Features | None = None,
        net_arch: tuple[int, ...] = (64, 64),
        log_std_init: float | Sequence[float] = -1.0,
        controller_rate: float = 1.0,
        value_scale: float = 1.0,
        clip: float = math.inf,
    ) -> None:
        super().__init__(observation_space, action_space)
        if use_sde:
            raise ValueError("use_sde is True: noise that depends on the state is not for controllers")
        self.actor, self.controller = actor, actor.controller
        self.features, size = _features_of(observation_space, features)
        self.value, self.value_scale = dense_network([size, *net_arch, 1]), value_scale
        self.log_std = nn.Parameter(_deviations(log_std_init, action_space))
        groups = controller_groups(self.controller, controller_rate)
        groups.append({"params": [self.log_std, *self.value.parameters()]})
        self.optimizer = GuardedAdam(groups, clip=clip, lr=lr_schedule(1.0), eps=1e-5)

    def _distribution(self, obs: Observations) -> tuple[Any, Carried]:
        mean, made = self.actor.act(obs["observation"], obs["carried"])
        return Normal(mean, self.log_std.exp(), validate_args=False), made

    def forward(self, obs: Observations, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B, nu), values (B, 1) and logarithms of the actions' probabilities (B,)."""
        distribution, _ = self._distribution(obs)
        actions = distribution.mean if deterministic else distribution.sample()
        return actions, self.predict_values(obs), distribution.log_prob(actions).sum(-1)

    def _predict(self, observation: Observations, deterministic: bool = False) -> Tensor:
        actions, *_ = self.forward(observation, deterministic)
        return actions

    def predict_values(self, obs: Observations) -> Tensor:
        """Values (B, 1)."""
        values: Tensor = self.value(self.features(obs["observation"].double()))
        return self.value_scale * values

    def evaluate_actions(self, obs: Observations, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, 1), logarithms of the actions' probabilities (B,) and entropies (B,).

        The carried numbers in `obs` are replaced by those from which the same samples start next time.
        """
        distribution, made = self._distribution(obs)
        obs["carried"] = self.actor.restarted(obs["carried"], made)
        log_prob = distribution.log_prob(actions).sum(-1)
        return self.predict_values(obs), log_prob, distribution.entropy().sum(-1)


class SACActor(BasePolicy):
    """Gaussian around the controller's action, squashed into [-1, 1], with learned standard deviations."""

    def __init__(
        self, observation_space: Any, action_space: Any, actor: Actor, log_std_init: float | Sequence[float]
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        self.actor, self.controller = actor, actor.controller
        self.log_std = nn.Parameter(_deviations(log_std_init, action_space))
        self.distribution = SquashedDiagGaussianDistribution(action_space.shape[0])

    def _mean(self, obs: Observations) -> Tensor:
        action, _ = self.actor.act(obs["observation"], obs["carried"])
        return torch.atanh(action.clamp(-NEARLY_ONE, NEARLY_ONE))

    def forward(self, obs: Observations, deterministic: bool = False) -> Tensor:
        """Actions (B, nu)."""
        found: Tensor = self.distribution.actions_from_params(self._mean(obs), self.log_std, deterministic)
        return found

    def _predict(self, observation: Observations, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)

    def action_log_prob(self, obs: Observations) -> tuple[Tensor, Tensor]:
        """Actions (B, nu) and the logarithms of their probabilities (B,)."""
        found: tuple[Tensor, Tensor] = self.distribution.log_prob_from_params(self._mean(obs), self.log_std)
        return found


class ObservedFeatures(BaseFeaturesExtractor):
    """Inputs of the critics: the observation without what the controller carries."""

    def __init__(self, observation_space: Any, features: Features | None = None) -> None:
        chosen, size = _features_of(observation_space, features)
        super().__init__(observation_space, size)
        self.features = chosen

    def forward(self, observations: Observations) -> Tensor:
        """Features (B, features_dim)."""
        return self.features(observations["observation"].double())


class ControllerSACPolicy(SACPolicy):
    """For SAC: stable-baselines3's critics in double precision, and a controller as the actor.

    Arguments as of `ControllerPolicy`; controller_rate is a multiple of the critics' learning rate.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Callable[[float], float],
        *,
        actor: Actor,
        features: Features | None = None,
        net_arch: tuple[int, ...] = (64, 64),
        log_std_init: float | Sequence[float] = -1.0,
        controller_rate: float = 1.0,
        clip: float = math.inf,
        use_sde: bool = False,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde is True: noise that depends on the state is not for controllers")
        self._parts = actor, log_std_init, controller_rate, clip
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=list(net_arch),
            features_extractor_class=ObservedFeatures,
            features_extractor_kwargs={"features": features},
        )

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        _, _, scale, clip = self._parts
        groups = [*controller_groups(self.actor.controller, scale), {"params": [self.actor.log_std]}]
        self.actor.optimizer = GuardedAdam(groups, clip=clip, lr=lr_schedule(1.0))
        critics = [{"params": list(self.critic.parameters())}]
        self.critic.optimizer = GuardedAdam(critics, clip=clip, lr=lr_schedule(1.0))

    def make_actor(self, features_extractor: Any = None) -> SACActor:
        actor, log_std_init, *_ = self._parts
        return SACActor(self.observation_space, self.action_space, actor, log_std_init)

    def make_critic(self, features_extractor: Any = None) -> ContinuousCritic:
        return super().make_critic(features_extractor).double()
