"""Swing-up of a cart-pole with a pole 20 % heavier and 20 % more joint friction than the controller knows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qp_control.dynamics import RobotDynamics
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc import MPC
from qp_control.settings import Settings
from qp_control.training.planner import PlannerCost
from qp_control.training.tasks.base import TrainingTask

HORIZON = 25  # control periods of 0.05 s


class CartPoleSwingUpTraining(TrainingTask):
    """State (cart position [m], pole angle [rad], cart velocity [m/s], pole rate [rad/s]), force on the cart [N]."""

    name = "cart_pole_swing_up"
    environment = "QPControl/CartPoleSwingUp-v0"
    state_names = ("cart position [m]", "pole angle [rad]", "cart velocity [m/s]", "pole rate [rad/s]")
    input_names = ("force [N]",)

    def __init__(self) -> None:
        self.plant = CartPoleSwingUp(pole_mass_scale=1.2, friction_scale=1.2)
        self.model = RobotDynamics(self.plant.urdf, dt=self.plant.control_period)
        self.state_scale = torch.tensor([1.0, 1.0, 3.0, 6.0], dtype=torch.float64)
        self.state_limit = torch.tensor([self.plant.track_limit] + 3 * [math.inf], dtype=torch.float64)

    def controller(self, settings: Settings | None = None) -> MPC:
        return MPC(self.model, HORIZON, state_limit=self.state_limit, settings=settings)

    def hand_tuned(self) -> MPC:
        return self.controller().set_weights(q=[0.1, 1.0, 0.01, 0.01], r=[0.01], terminal=[10.0, 100.0, 10.0, 10.0])

    def planner_cost(self) -> PlannerCost:
        return PlannerCost(
            q=torch.tensor([0.1, 1.0, 0.01, 0.01], dtype=torch.float64),
            r=torch.tensor([0.01], dtype=torch.float64),
            reference=torch.zeros(4, dtype=torch.float64),
            state_limit=self.state_limit,
        )

    def barrier(self, states: Tensor) -> Tensor:
        return 10.0 * torch.relu(states[..., 0].abs() - 0.95 * self.plant.track_limit) ** 2
