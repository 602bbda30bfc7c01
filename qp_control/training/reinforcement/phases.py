"""Recipes: closed-loop returns, learned by stable-baselines3's PPO and SAC with the controller as the actor."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from qp_control.envs.base import RobotVectorEnv
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.phase import Phase, Update
from qp_control.training.reinforcement.buffers import CarriedRolloutBuffer
from qp_control.training.reinforcement.guarded_adam import GuardedAdam
from qp_control.training.reinforcement.policies import ControllerPolicy, ControllerSACPolicy
from qp_control.training.reinforcement.robots import ControllerEnvs, StateObserved

VALUE_BATCH = 256  # samples per update of the value network alone


class _Reinforcement(Phase):
    """A number of iterations, each of `steps` control periods of `robots` robots and the updates that follow.

    Optimiser steps are taken inside `update`; the trainer's own step finds no gradient and does nothing. In the first
    `warm_up` iterations the controller is not updated, until values are useful.
    """

    def __init__(
        self,
        name: str,
        task: ClosedLoopTask,
        iterations: int,
        rate: float,
        robots: int,
        steps: int,
        controller_rate: float,
        fade: float,
        warm_up: int,
    ) -> None:
        super().__init__(name, iterations, rate)
        self.task, self.robots, self.steps = task, robots, steps
        self.controller_rate, self.fade, self.warm_up = controller_rate, fade, warm_up
        self.done = 0

    @abc.abstractmethod
    def _algorithm(self, envs: ControllerEnvs) -> Any:
        """The learner from stable-baselines3."""

    @abc.abstractmethod
    def _beside(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Networks and optimisers that are neither the controller's nor the phase's `optimizer`."""

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        learned = [p for p in module.parameters() if p.requires_grad]
        plant: Any = StateObserved(self.task.plant)
        robots = RobotVectorEnv(self.robots, autoreset_mode="SameStep", task=plant)
        self.envs = ControllerEnvs(robots, module, staggered=True)
        self.done = 0
        with global_random_state(self.task.options.seed):
            self.learner = self._algorithm(self.envs)
        self.learner.set_logger(Logger(None, []))
        self.envs.seed(self.task.options.seed)
        return learned

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        found: torch.optim.Optimizer = self.learner.policy.optimizer
        return found

    def update(self, module: Any, generator: torch.Generator) -> Update:
        self.envs.rewards.clear()
        self.envs.actor.forget()
        for optimizer in self._guarded():
            optimizer.taken.clear()
        faded = self.fade ** (self.done / max(1, self.iterations - 1))
        rate = self.pace * faded * self.controller_rate / self.rate if self.done >= self.warm_up else 0.0
        for group in self.learner.policy.optimizer.param_groups:
            if "rate_scale" in group:
                group["scale"] = rate * group["rate_scale"]
        with global_random_state(int(torch.randint(2**31, (), generator=generator))):
            self.learner.learn(self.steps * self.robots, reset_num_timesteps=False, log_interval=None)
            self._further()
        self.done += 1
        loss = torch.tensor(-np.mean(self.envs.rewards))
        actor = self.envs.actor
        status = torch.cat([s.flatten() for s in actor.statuses])
        return Update(loss, status, actor.failure, self.steps * self.robots)

    def lost(self, value: float, first: float, best: float) -> bool:
        """Returns may fall while values are learned, but not what had been learned before."""
        return not value >= first and best > first

    def _further(self) -> None:
        """What an iteration does after the learner's own updates."""

    def _guarded(self) -> list[GuardedAdam]:
        first = self.learner.policy.optimizer
        return [first, *(o for o in self._beside().values() if isinstance(o, GuardedAdam))]

    def backward(
        self, update: Update, optimizer: torch.optim.Optimizer, clip: float, generator: torch.Generator
    ) -> float:
        """The mean gradient norm of the steps taken; NaN if there were none."""
        optimizer.zero_grad()
        every = [norm for o in self._guarded() for norm in o.taken]
        finite = [norm for norm in self.learner.policy.optimizer.taken if math.isfinite(norm)]
        if every and not finite:
            return math.nan
        return float(np.mean(finite)) if finite else 0.0

    def memory(self) -> dict[str, Tensor]:
        if self.learner._last_obs is None:
            return {}
        kept = {"done": torch.tensor(self.done)}
        kept |= {f"envs.{name}": value for name, value in self.envs.snapshot().items()}
        kept["begun"] = torch.from_numpy(np.asarray(self.learner._last_episode_starts))
        for name, part in self._beside().items():
            if isinstance(part, nn.Module):
                kept |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
            else:
                for index, moments in part.state_dict()["state"].items():
                    kept |= {f"{name}.{index}.{key}": value for key, value in moments.items()}
        return kept

    def remember(self, memory: dict[str, Tensor]) -> None:
        if not memory:
            return
        self.done = int(memory["done"])
        self.envs.reset()
        self.learner._last_obs = self.envs.restore(_part(memory, "envs"))
        self.learner._last_episode_starts = memory["begun"].numpy()
        for name, part in self._beside().items():
            if isinstance(part, nn.Module):
                part.load_state_dict(_part(memory, name))
                continue
            whole = part.state_dict()
            count = sum(len(group["params"]) for group in whole["param_groups"])
            moments = {i: _part(memory, f"{name}.{i}") for i in range(count)}
            whole["state"] = {i: m for i, m in moments.items() if m}
            part.load_state_dict(whole)


class ProximalPolicy(_Reinforcement):
    """PPO. Learns all parameters of the controller that require grad.

    An iteration consists of `steps` control periods of `robots` robots, then `epochs` passes over these samples in
    batches of `batch`.
    rate: learning rate of the value network; controller_rate: of the controller, which decays to the share `fade`.
    warm_up: iterations in which only the value network learns.
    value_epochs: further, cheap passes in which only the value network learns. A controller's few numbers need few
        and long steps, along gradients that are only as good as the values they are based on.
    discount: of rewards, per control period.
    deviation: initial standard deviation of actions in [-1, 1], one for all inputs or one each.
    features: inputs of the value network from the plant's states (B, nx); None: the environment's observations.
    options: further options of stable-baselines3's PPO.
    """

    def __init__(
        self,
        task: ClosedLoopTask,
        iterations: int,
        rate: float = 1e-3,
        *,
        robots: int = 16,
        steps: int = 64,
        epochs: int = 5,
        batch: int = 256,
        value_epochs: int = 0,
        warm_up: int = 1,
        discount: float = 0.98,
        deviation: float | Sequence[float] = 0.2,
        controller_rate: float = 0.02,
        fade: float = 1.0,
        features: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__("ppo", task, iterations, rate, robots, steps, controller_rate, fade, warm_up)
        self.epochs, self.batch, self.value_epochs, self.deviation = epochs, batch, value_epochs, deviation
        self.discount, self.features, self.options = discount, features or task.plant.observe, options

    def _algorithm(self, envs: ControllerEnvs) -> PPO:
        return PPO(
            ControllerPolicy,
            envs,
            learning_rate=self.rate,
            n_steps=self.steps,
            batch_size=self.batch,
            n_epochs=self.epochs,
            max_grad_norm=math.inf,  # the optimiser clips, the controller's gradient separately
            policy_kwargs={
                "actor": envs.actor,
                "features": self.features,
                "log_std_init": np.log(self.deviation),
                "clip": self.task.options.clip,
                # Rewards of about one add up to it.
                "value_scale": 1.0 / (1.0 - self.discount),
            },
            gamma=self.discount,
            rollout_buffer_class=CarriedRolloutBuffer,
            device="cpu",
            **self.options,
        )

    def _further(self) -> None:
        """Further passes of the value network over the rollout."""
        policy: Any = self.learner.policy
        for _ in range(self.value_epochs):
            for samples in self.learner.rollout_buffer.get(VALUE_BATCH):
                policy.optimizer.zero_grad()
                values = policy.predict_values(samples.observations).flatten()
                torch.autograd.backward(nn.functional.mse_loss(values, samples.returns))
                policy.optimizer.step()

    def _beside(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        policy: Any = self.learner.policy
        return {"value": policy.value, "deviation": nn.ParameterList([policy.log_std])}


class SoftActorCritic(_Reinforcement):
    """SAC. Learns all parameters of the controller that require grad.

    An iteration consists of `steps` control periods of `robots` robots, each followed by `updates` updates with batches
    of `batch` from the last `kept` samples. For the other arguments see `ProximalPolicy`, with critics as the values.
    """

    def __init__(
        self,
        task: ClosedLoopTask,
        iterations: int,
        rate: float = 1e-3,
        *,
        robots: int = 8,
        steps: int = 32,
        updates: int = 2,
        batch: int = 64,
        kept: int = 20_000,
        warm_up: int = 2,
        discount: float = 0.98,
        deviation: float | Sequence[float] = 0.2,
        controller_rate: float = 0.005,
        fade: float = 1.0,
        features: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__("sac", task, iterations, rate, robots, steps, controller_rate, fade, warm_up)
        self.updates, self.batch, self.kept, self.deviation = updates, batch, kept, deviation
        self.discount, self.features, self.options = discount, features or task.plant.observe, options

    def _algorithm(self, envs: ControllerEnvs) -> SAC:
        return SAC(
            ControllerSACPolicy,
            envs,
            learning_rate=self.rate,
            buffer_size=self.kept,
            learning_starts=0,  # until then it would draw uniformly random actions
            batch_size=self.batch,
            train_freq=1,
            gradient_steps=self.updates,
            gamma=self.discount,
            policy_kwargs={
                "actor": envs.actor,
                "features": self.features,
                "log_std_init": np.log(self.deviation),
                "clip": self.task.options.clip,
            },
            replay_buffer_class=DictReplayBuffer,
            device="cpu",
            **self.options,
        )

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        # The trainer saves this one's moments; those of the others are in the memory.
        found: torch.optim.Optimizer = self.learner.policy.actor.optimizer
        self.learner.policy.optimizer = found
        return found

    def _beside(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        policy: Any = self.learner.policy
        beside = {
            "critic": policy.critic,
            "critic_target": policy.critic_target,
            "critic_optimizer": policy.critic.optimizer,
            "deviation": nn.ParameterList([policy.actor.log_std]),
        }
        if self.learner.ent_coef_optimizer is not None:
            beside["entropy_optimizer"] = self.learner.ent_coef_optimizer
        return beside

    def memory(self) -> dict[str, Tensor]:
        kept = super().memory()
        if not kept:
            return kept
        buffer = self.learner.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        kept |= {f"replay.{name}": torch.from_numpy(value[:filled]) for name, value in _arrays(buffer).items()}
        kept["replay_place"] = torch.tensor([buffer.pos, int(buffer.full)])
        if self.learner.log_ent_coef is not None:
            kept["log_ent_coef"] = self.learner.log_ent_coef.detach()
        return kept

    def remember(self, memory: dict[str, Tensor]) -> None:
        super().remember(memory)
        if not memory:
            return
        buffer = self.learner.replay_buffer
        arrays = _arrays(buffer)
        for name, value in _part(memory, "replay").items():
            arrays[name][: len(value)] = value.numpy()
        buffer.pos, buffer.full = int(memory["replay_place"][0]), bool(memory["replay_place"][1])
        if self.learner.log_ent_coef is not None:
            self.learner.log_ent_coef.data.copy_(memory["log_ent_coef"])


def _arrays(buffer: DictReplayBuffer) -> dict[str, Any]:
    """The contents of a replay buffer, by name."""
    found = {name: getattr(buffer, name) for name in ("actions", "rewards", "dones", "timeouts")}
    for name in ("observations", "next_observations"):
        found |= {f"{name}.{key}": value for key, value in getattr(buffer, name).items()}
    return found


def _part(memory: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors named prefix.name, by name."""
    return {name[len(prefix) + 1 :]: value for name, value in memory.items() if name.startswith(prefix + ".")}


@contextmanager
def global_random_state(seed: int) -> Iterator[None]:
    """Seed torch's and NumPy's global generators, which stable-baselines3 uses, for the block; then restore them."""
    before = np.random.get_state()  # noqa: NPY002, those it uses
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
