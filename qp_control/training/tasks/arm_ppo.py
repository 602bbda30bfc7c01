"""An arm that learns gains and an untold load from rewards: PPO with inverse dynamics as the actor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qp_control.envs.loaded_arm import RewardedArm
from qp_control.inverse_dynamics.policy import InverseDynamicsPolicy
from qp_control.settings import Settings
from qp_control.training.reinforcement_task import PpoOptions, PpoTask
from qp_control.training.tasks.arm_inverse_dynamics import BY_HAND, BY_HAND_TOLD
from qp_control.training.tasks.loaded_arm import LoadedArmTask, policy, tell


@dataclass(frozen=True)
class ArmPpoOptions(PpoOptions):
    """Gains, weights, load and friction of an arm's inverse-dynamics controller: PPO with it as the actor."""

    load: float = 4.0
    """Mass of the load that is unknown to the controller [kg]."""
    settle: int = 60
    """Control periods that the tool has to reach its target; the evolution strategy's errors count from then on."""
    ppo_iterations: int = 50
    robots: int = 32
    epochs: int = 4
    batch: int = 1024
    value_epochs: int = 6
    warm_up: int = 2
    rate: float = 3e-3
    controller_rate: float = 0.1
    fade: float = 0.2
    discount: float = 0.9
    trace: float = 0.9
    deviation: float = 0.1
    """Initial standard deviation of actions in [-1, 1]."""


class ArmPpo(LoadedArmTask, PpoTask):
    """Learns the same as `ArmInverseDynamics`, but without the plant's derivatives."""

    name = "arm_ppo"
    options_type = ArmPpoOptions
    plant: RewardedArm

    def __init__(self, options: ArmPpoOptions | None = None) -> None:
        super().__init__(options)
        self.plant, self.settle = RewardedArm(self.options.load, self.options.load), self.options.settle

    def module(self, settings: Settings | None = None) -> InverseDynamicsPolicy:
        return policy(self.plant, settings)

    def seen_by_critics(self) -> Callable[[Tensor], Tensor]:
        """The environment's observation and the logarithm of the distance: the effect of a torque lasts a few control
        periods and is small compared with the remaining distance."""

        def features(x: Tensor) -> Tensor:
            near = self.plant.nearness(self.plant.way(x))
            return torch.cat([self.plant.observe(x), near[:, None]], 1)

        return features

    def hand_tuned(self) -> InverseDynamicsPolicy:
        return policy(self.plant, load=1e-6, gains=BY_HAND)

    def others(self) -> dict[str, nn.Module]:
        told = tell(policy(self.plant, gains=BY_HAND_TOLD), self.options.load)
        return {"tuned by hand, load and friction told": told}
