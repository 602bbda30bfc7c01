"""Swing-up of a cart-pole with a pole 20 % heavier and 20 % more joint friction than in the controller's model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc.controller import MPC
from qp_control.robot.dynamics import RobotDynamics
from qp_control.settings import Settings
from qp_control.training.analytic_gradient import AnalyticGradient
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.plan_imitation import PlanImitation, PlanImitationOptions
from qp_control.training.planner import PlannerCost

HORIZON = 25  # control periods of 0.05 s


@dataclass(frozen=True)
class CartPoleSwingUpOptions(TrainingOptions):
    """Swing-up of a cart-pole by MPC: imitation of a planner, then closed-loop returns."""

    imitation_iterations: int = 35
    """Updates from the planner's trajectories."""
    imitation_batch: int = 8
    """Trajectories per update."""
    imitation_steps: int = 50
    """Control periods along a trajectory."""
    imitation_rate: float = 0.15
    """Learning rate of Adam."""
    expert_count: int = 16
    """Number of the planner's trajectories."""
    expert_steps: int = 50
    """Control periods the planner optimises over."""
    closed_loop_iterations: int = 20
    """Updates from closed loops."""
    closed_loop_batch: int = 8
    """Closed loops per update."""
    closed_loop_steps: int = 100
    """Control periods of a closed loop."""
    closed_loop_rate: float = 0.03
    """Learning rate of Adam."""


class CartPoleSwingUpTraining(ClosedLoopTask):
    """State (cart position [m], pole angle [rad], cart velocity [m/s], pole rate [rad/s]), force on the cart [N]."""

    name = "cart_pole_swing_up"
    environment = "QPControl/CartPoleSwingUp-v0"
    options_type = CartPoleSwingUpOptions
    state_names = ("cart position [m]", "pole angle [rad]", "cart velocity [m/s]", "pole rate [rad/s]")
    input_names = ("force [N]",)

    def __init__(self, options: CartPoleSwingUpOptions | None = None) -> None:
        super().__init__(options)
        self.plant = CartPoleSwingUp(pole_mass_scale=1.2, friction_scale=1.2)
        self.model = RobotDynamics(self.plant.urdf, dt=self.plant.control_period)
        self.state_scale = torch.tensor([1.0, 1.0, 3.0, 6.0], dtype=torch.float64)
        self.state_limit = torch.tensor([self.plant.track_limit] + 3 * [math.inf], dtype=torch.float64)

    def module(self, settings: Settings | None = None) -> MPC:
        return MPC(self.model, HORIZON, state_limit=self.state_limit, settings=settings)

    def phases(self) -> list[Phase]:
        o: CartPoleSwingUpOptions = self.options
        imitation = PlanImitationOptions(
            iterations=o.imitation_iterations,
            rate=o.imitation_rate,
            batch=o.imitation_batch,
            steps=o.imitation_steps,
            expert_count=o.expert_count,
            expert_steps=o.expert_steps,
            seed=o.seed,
        )
        return [
            PlanImitation(self, imitation),
            AnalyticGradient(
                self,
                o.closed_loop_iterations,
                o.closed_loop_rate,
                batch=o.closed_loop_batch,
                steps=o.closed_loop_steps,
            ),
        ]

    def hand_tuned(self) -> MPC:
        return self.module().set_weights(q=[0.1, 1.0, 0.01, 0.01], r=[0.01], terminal=[10.0, 100.0, 10.0, 10.0])

    def planner_cost(self) -> PlannerCost:
        """What the long-horizon planner minimises."""
        return PlannerCost(
            q=torch.tensor([0.1, 1.0, 0.01, 0.01], dtype=torch.float64),
            r=torch.tensor([0.01], dtype=torch.float64),
            reference=torch.zeros(4, dtype=torch.float64),
            state_limit=self.state_limit,
        )

    def barrier(self, states: Tensor) -> Tensor:
        return 10.0 * torch.relu(states[..., 0].abs() - 0.95 * self.plant.track_limit) ** 2
