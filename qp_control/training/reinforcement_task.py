"""Tasks learned from rewards: the common options and phases of PPO and of SAC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase


@dataclass(frozen=True)
class PpoOptions(TrainingOptions):
    """Options of PPO."""

    ppo_iterations: int = 25
    """Rollouts, each with its updates."""
    robots: int = 16
    """At once."""
    steps: int = 64
    """Control periods of each, per rollout."""
    epochs: int = 5
    """Passes over a rollout."""
    batch: int = 256
    """Samples per update."""
    value_epochs: int = 5
    """Further passes for the value network only."""
    warm_up: int = 1
    """Initial rollouts from which only the value network learns."""
    rate: float = 1e-3
    """Learning rate of the value network."""
    controller_rate: float = 0.05
    """Learning rate of the controller."""
    fade: float = 1.0
    """Share of the controller's learning rate that remains at the end."""
    discount: float = 0.98
    """Of rewards, per control period."""
    trace: float = 0.95
    """lambda of generalised advantage estimation."""


@dataclass(frozen=True)
class SacOptions(TrainingOptions):
    """Options of SAC."""

    sac_iterations: int = 40
    """Rollouts, each with its updates."""
    robots: int = 8
    """At once."""
    steps: int = 32
    """Control periods of each, per rollout."""
    updates: int = 2
    """After each control period."""
    batch: int = 64
    """Samples per update."""
    kept: int = 20_000
    """Number of latest samples kept, from which updates draw."""
    warm_up: int = 2
    """Initial rollouts from which only the critics learn."""
    rate: float = 1e-3
    """Learning rate of the critics."""
    controller_rate: float = 0.01
    """Learning rate of the controller."""
    discount: float = 0.98
    """Of rewards, per control period."""


class RewardTask(ClosedLoopTask):
    """Learns only from what the plant returns after each step."""

    needs: ClassVar[tuple[tuple[str, str], ...]] = (("stable_baselines3", "rl"),)

    def deviation(self) -> list[float]:
        """Initial standard deviation (nu,) of actions in [-1, 1]."""
        return [self.options.deviation] * len(self.plant.action_space.low)

    def seen_by_critics(self) -> Callable[[Tensor], Tensor]:
        """The function from states (B, nx) to the inputs of the value network or the critics."""
        observe: Callable[[Tensor], Tensor] = self.plant.observe
        return observe


class PpoTask(RewardTask):
    """Learned by PPO; its options are `PpoOptions`."""

    def phases(self) -> list[Phase]:
        # Needs stable-baselines3, an optional package.
        from qp_control.training.reinforcement import ProximalPolicy

        o: PpoOptions = self.options
        return [
            ProximalPolicy(
                self,
                o.ppo_iterations,
                o.rate,
                robots=o.robots,
                steps=o.steps,
                epochs=o.epochs,
                batch=o.batch,
                value_epochs=o.value_epochs,
                warm_up=o.warm_up,
                deviation=self.deviation(),
                controller_rate=o.controller_rate,
                fade=o.fade,
                discount=o.discount,
                features=self.seen_by_critics(),
                gae_lambda=o.trace,
            )
        ]


class SacTask(RewardTask):
    """Learned by SAC; its options are `SacOptions`. further: additional options of stable-baselines3's SAC."""

    further: ClassVar[dict[str, Any]] = {}

    def phases(self) -> list[Phase]:
        from qp_control.training.reinforcement import SoftActorCritic

        o: SacOptions = self.options
        return [
            SoftActorCritic(
                self,
                o.sac_iterations,
                o.rate,
                robots=o.robots,
                steps=o.steps,
                updates=o.updates,
                batch=o.batch,
                kept=o.kept,
                warm_up=o.warm_up,
                deviation=self.deviation(),
                controller_rate=o.controller_rate,
                discount=o.discount,
                features=self.seen_by_critics(),
                **self.further,
            )
        ]
