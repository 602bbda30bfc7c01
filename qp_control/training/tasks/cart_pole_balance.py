"""A cart-pole kept upright by an MPC with unknown cost: the smallest example of reinforcement learning.

The pole is 20 % heavier than in the controller's model, with 20 % more friction. Cost, terminal cost, bounds and (by
PPO) the model are learned from rewards alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qp_control.envs.cart_pole import CartPole
from qp_control.mpc.controller import MPC
from qp_control.robot.dynamics import RobotDynamics
from qp_control.settings import Settings
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.options import TrainingOptions
from qp_control.training.reinforcement_task import PpoOptions, PpoTask, SacOptions, SacTask

HORIZON = 10  # control periods of 0.02 s


class _Balance(ClosedLoopTask):
    """State (cart position [m], pole angle [rad], cart velocity [m/s], pole rate [rad/s]), force on the cart [N]."""

    environment = "QPControl/CartPole-v0"
    state_names = ("cart position [m]", "pole angle [rad]", "cart velocity [m/s]", "pole rate [rad/s]")
    input_names = ("force [N]",)

    def __init__(self, options: TrainingOptions | None = None) -> None:
        super().__init__(options)
        self.plant = CartPole(pole_mass_scale=1.2, friction_scale=1.2)
        self.model = RobotDynamics(self.plant.urdf, dt=self.plant.control_period)
        self.state_scale = torch.tensor([1.0, 0.5, 1.0, 2.0], dtype=torch.float64)

    def module(self, settings: Settings | None = None) -> MPC:
        return MPC(self.model, HORIZON, settings=settings)

    def hand_tuned(self) -> MPC:
        return self.module().set_weights(q=[1.0, 1.0, 0.1, 0.1], r=[0.01], terminal=[10.0, 100.0, 10.0, 10.0])


@dataclass(frozen=True)
class CartPolePpoOptions(PpoOptions):
    """A cart-pole is kept upright by MPC: PPO with the MPC as the actor."""

    deviation: float = 0.2
    """Initial standard deviation of actions in [-1, 1]."""


class CartPolePpo(_Balance, PpoTask):
    """Learned by PPO."""

    name = "cart_pole_ppo"
    options_type = CartPolePpoOptions


@dataclass(frozen=True)
class CartPoleSacOptions(SacOptions):
    """A cart-pole is kept upright by MPC: SAC with the MPC as the actor."""

    deviation: float = 0.2
    """Initial standard deviation of actions in [-1, 1]."""


class CartPoleSac(_Balance, SacTask):
    """Learned by SAC."""

    name = "cart_pole_sac"
    options_type = CartPoleSacOptions

    def module(self, settings: Settings | None = None) -> MPC:
        """The model is not learned: that would make SAC's many updates three times as expensive."""
        controller = super().module(settings)
        controller.model.requires_grad_(False)
        return controller
