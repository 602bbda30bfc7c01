"""A cart-pole kept upright by an MPC that knows nothing of its cost: reinforcement learning at its smallest.

The pole is 20 % heavier than the controller knows, with 20 % more friction. Learned are cost, terminal cost, bounds and
model (by PPO), from rewards alone.
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
from qp_control.training.phase import Phase

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
class CartPolePpoOptions(TrainingOptions):
    """A cart-pole is kept upright by MPC: PPO with the MPC as the actor."""

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
    rate: float = 1e-3
    """Learning rate of the value network."""
    controller_rate: float = 0.05
    """Learning rate of the controller."""
    deviation: float = 0.2
    """Of actions in [-1, 1], to begin with."""
    discount: float = 0.98
    """Of rewards, per control period."""


class CartPolePpo(_Balance):
    """Learned by PPO."""

    name = "cart_pole_ppo"
    options_type = CartPolePpoOptions
    needs = (("stable_baselines3", "rl"),)

    def phases(self) -> list[Phase]:
        # It needs stable-baselines3, which not everybody has.
        from qp_control.training.reinforcement import ProximalPolicy

        o: CartPolePpoOptions = self.options
        return [
            ProximalPolicy(
                self,
                o.ppo_iterations,
                o.rate,
                robots=o.robots,
                steps=o.steps,
                epochs=o.epochs,
                batch=o.batch,
                deviation=o.deviation,
                controller_rate=o.controller_rate,
                discount=o.discount,
            )
        ]


@dataclass(frozen=True)
class CartPoleSacOptions(TrainingOptions):
    """A cart-pole is kept upright by MPC: SAC with the MPC as the actor."""

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
    """Samples, of which updates are drawn."""
    rate: float = 1e-3
    """Learning rate of the critics."""
    controller_rate: float = 0.01
    """Learning rate of the controller."""
    deviation: float = 0.2
    """Of actions in [-1, 1], to begin with."""
    discount: float = 0.98
    """Of rewards, per control period."""


class CartPoleSac(_Balance):
    """Learned by SAC."""

    name = "cart_pole_sac"
    options_type = CartPoleSacOptions
    needs = (("stable_baselines3", "rl"),)

    def module(self, settings: Settings | None = None) -> MPC:
        """The model stays as it is: learned, it makes updates three times dearer, and SAC makes many."""
        controller = super().module(settings)
        controller.model.requires_grad_(False)
        return controller

    def phases(self) -> list[Phase]:
        from qp_control.training.reinforcement import SoftActorCritic

        o: CartPoleSacOptions = self.options
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
                deviation=o.deviation,
                controller_rate=o.controller_rate,
                discount=o.discount,
            )
        ]
