"""A quadrotor that flies to three waypoints with a load unknown to its controller.

The controller is an MPC with a short horizon and a learned terminal cost, in real-time iterations. It is learned
through the plant's derivatives, or by PPO or SAC with the MPC as the actor; for comparison, PPO trains a plain network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qp_control.envs.quadrotor import Quadrotor
from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.ocp.problem import OcpQP
from qp_control.robot.dynamics import RobotDynamics
from qp_control.settings import Settings
from qp_control.training.analytic_gradient import AnalyticGradient
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.networks import Guide, NetworkController
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import FailedProblem, Phase
from qp_control.training.reinforcement_task import PpoOptions, PpoTask, RewardTask, SacOptions, SacTask

WAYPOINTS = 3
MASS_SCALE = 1.3  # of the plant
HORIZON = 6  # control periods of 0.05 s
TRIM = 0.2  # a step of Adam, the same for all parameters, changes weights five times as much as the hovering thrust


class Alike(nn.Module):
    """A diagonal W (n, n) with one weight exp(log_weight) for all coordinates of a group; initially the identity."""

    def __init__(self, groups: list[int]) -> None:
        super().__init__()
        self.groups = torch.tensor(groups)
        self.log_weight = nn.Parameter(torch.zeros(max(groups) + 1, dtype=torch.float64))

    def forward(self) -> Tensor:
        return torch.diag(self.log_weight.exp()[self.groups])

    @torch.no_grad()
    def assign(self, value: Tensor | Sequence[float]) -> None:
        """Set the diagonal (n,); the last coordinate of each group counts."""
        self.log_weight[self.groups] = torch.as_tensor(value, dtype=torch.float64).log()


class WaypointController(nn.Module):
    """An MPC that is called with the plant's states (B, nx): robot, waypoints and clock.

    Quantities about the body's x and y axes have the same weights. The cost of thrust is relative to exp(TRIM trim)
    times the hovering thrust of its model. guided: a small network scales Q and moves the waypoint.
    """

    def __init__(self, plant: Quadrotor, settings: Settings | None = None, *, guided: bool = False) -> None:
        super().__init__()
        self.plant = plant
        model = RobotDynamics(plant.dynamics.model, dt=plant.control_period, actuated=[2, 3, 4, 5])
        self.nx = model.nx
        low, high = (torch.from_numpy(bound) for bound in (plant.action_space.low, plant.action_space.high))
        vectors = [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]  # position, attitude, velocity, angular velocity
        self.mpc = MPC(
            model,
            HORIZON,
            state_cost=Alike(vectors),
            input_cost=Alike([0, 1, 1, 2]),
            terminal_cost=Alike(vectors),
            data={"u_lower": low, "u_upper": high},
            settings=settings,
        )
        # Bounds are given. Learning the model too would make PPO's updates three times as expensive, for little gain.
        for parameter in (*self.mpc.model_parameters, *self.mpc.parameters(recurse=False)):
            parameter.requires_grad_(False)
        self.trim = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.guide = Guide(21, weights=model.ndx, shifts=3) if guided else None
        self.input_limit = high

    def _cold_plan(self, x: Tensor) -> Plan:
        """Hovering in place."""
        plan = self.mpc.cold_plan(x[:, : self.nx])
        plan.inputs[..., 0] = self.plant.hover
        return plan

    def _problem(self, x: Tensor) -> dict[str, Tensor]:
        """Reference and weights for the states x (B, nx)."""
        # A state that is not finite has no waypoint and no plan: any reference will do.
        waypoint = self.plant.waypoint(x).nan_to_num(0.0, 0.0, 0.0)
        rest = self.mpc.dynamics.neutral_state()[3:].expand(len(x), -1)
        Q, R, P = self.mpc.state_cost(), self.mpc.input_cost(), self.mpc.terminal_cost()
        r = -self.plant.hover * (TRIM * self.trim).exp() * R[:, 0]
        if self.guide is not None:
            factor, shift = self.guide(self.plant.observe(x).nan_to_num(0.0, 0.0, 0.0))
            waypoint, Q = waypoint + shift, (factor[:, None] * Q)[:, None]
        return {"reference": torch.cat([waypoint, rest], 1), "Q": Q, "R": R, "Q_N": P, "r": r}

    def forward(self, x: Tensor, plan: Plan | None = None) -> Plan:
        """See `MPC`."""
        plan = self._cold_plan(x) if plan is None else plan
        found: Plan = self.mpc(x[:, : self.nx], plan, **self._problem(x))
        return found

    def build(self, x: Tensor, plan: Plan | None = None) -> OcpQP:
        """See `MPC.build`."""
        plan = self._cold_plan(x) if plan is None else plan
        return self.mpc.build(x[:, : self.nx], plan, **self._problem(x))


def by_hand(controller: WaypointController) -> WaypointController:
    """The controller with hand-tuned weights."""
    q, terminal = [10.0] * 3 + [1.0] * 6 + [0.1] * 3, [300.0] * 3 + [30.0] * 6 + [1.0] * 3
    controller.mpc.set_weights(q, [0.01, 1.0, 1.0, 1.0], terminal)
    return controller


class _QuadrotorTask(ClosedLoopTask):
    """State of `Quadrotor`, thrust [N] and torques [N m]."""

    environment = "QPControl/Quadrotor-v0"
    state_names = (
        *(f"{axis} [m]" for axis in "xyz"),
        *(f"quaternion {axis}" for axis in "xyzw"),
        *(f"velocity {axis} [m/s]" for axis in "xyz"),
        *(f"angular velocity {axis} [rad/s]" for axis in "xyz"),
    )
    input_names = ("thrust [N]", "torque x [N m]", "torque y [N m]", "torque z [N m]")

    def __init__(self, options: TrainingOptions | None = None) -> None:
        super().__init__(options)
        self.plant = Quadrotor(waypoints=WAYPOINTS, mass_scale=MASS_SCALE)
        self.state_scale = torch.ones(self.plant.nx, dtype=torch.float64)

    def module(self, settings: Settings | None = None) -> Any:
        """Weights by Bryson's rule: one over the square of a state's typical or an input's largest value."""
        controller = WaypointController(self.plant, settings, guided=getattr(self.options, "guided", False))
        usual = torch.tensor([1.0] * 3 + [0.5] * 3 + [1.0] * 3 + [5.0] * 3, dtype=torch.float64)
        controller.mpc.set_weights(usual**-2, controller.input_limit**-2, usual**-2)
        return by_hand(controller) if getattr(self.options, "tuned", False) else controller

    def hand_tuned(self) -> Any:
        return by_hand(WaypointController(self.plant))


@dataclass(frozen=True)
class QuadrotorAnalyticOptions(TrainingOptions):
    """Quadrotor with an unknown load flies to waypoints by MPC: gradients through controller and plant."""

    closed_loop_iterations: int = 40
    """Updates from closed loops."""
    closed_loop_batch: int = 8
    """Closed loops per update."""
    closed_loop_steps: int = 50
    """Control periods of a closed loop."""
    closed_loop_rate: float = 0.1
    """Learning rate of Adam."""


class QuadrotorAnalytic(_QuadrotorTask):
    """Learned by gradients through the plant."""

    name = "quadrotor_analytic"
    options_type = QuadrotorAnalyticOptions

    def phases(self) -> list[Phase]:
        o: QuadrotorAnalyticOptions = self.options
        return [
            AnalyticGradient(
                self,
                o.closed_loop_iterations,
                o.closed_loop_rate,
                batch=o.closed_loop_batch,
                steps=o.closed_loop_steps,
            )
        ]


@dataclass(frozen=True)
class QuadrotorPpoOptions(PpoOptions):
    """Quadrotor with an unknown load flies to waypoints by MPC: PPO with the MPC as the actor."""

    ppo_iterations: int = 60
    robots: int = 64
    steps: int = 32
    epochs: int = 1
    batch: int = 2048
    value_epochs: int = 6
    warm_up: int = 3
    rate: float = 3e-3
    controller_rate: float = 0.2
    fade: float = 0.3
    thrust_deviation: float = 0.4
    """Initial standard deviation of thrusts in [-1, 1]."""
    torque_deviation: float = 0.06
    """Initial standard deviation of torques in [-1, 1]."""
    guided: bool = False
    """A small network scales Q and moves the waypoint."""
    tuned: bool = False
    """Start from the hand-tuned weights."""


class _Rewarded(_QuadrotorTask, RewardTask):
    """What the tasks that learn from rewards have in common."""

    def deviation(self) -> list[float]:
        return [self.options.thrust_deviation] + 3 * [self.options.torque_deviation]

    def seen_by_critics(self) -> Callable[[Tensor], Tensor]:
        """Includes the clock, as rewards change with the next waypoint."""

        def features(x: Tensor) -> Tensor:
            leg = x[:, -1:] / self.plant.leg_steps
            return torch.cat([self.plant.observe(x), leg - leg.floor(), leg / self.plant.waypoints], 1)

        return features


class QuadrotorPpo(_Rewarded, PpoTask):
    """Learned by PPO."""

    name = "quadrotor_ppo"
    options_type = QuadrotorPpoOptions


@dataclass(frozen=True)
class QuadrotorSacOptions(SacOptions):
    """Quadrotor with an unknown load flies to waypoints by MPC: SAC with the MPC as the actor."""

    sac_iterations: int = 60
    robots: int = 64
    steps: int = 32
    updates: int = 1
    batch: int = 128
    kept: int = 50_000
    warm_up: int = 6
    rate: float = 3e-3
    controller_rate: float = 0.02
    discount: float = 0.95
    thrust_deviation: float = 0.4
    """Initial standard deviation of thrusts in [-1, 1]."""
    torque_deviation: float = 0.06
    """Initial standard deviation of torques in [-1, 1]."""


class QuadrotorSac(_Rewarded, SacTask):
    """Learned by SAC."""

    name = "quadrotor_sac"
    options_type = QuadrotorSacOptions
    # Target critics should follow within a thousand updates. A larger entropy bonus makes the quadrotor tip over.
    further: ClassVar[dict[str, Any]] = {"tau": 0.02, "ent_coef": 0.003}


@dataclass(frozen=True)
class QuadrotorNetworkOptions(QuadrotorPpoOptions):
    """Quadrotor with an unknown load flies to waypoints by a plain network: PPO, for comparison."""

    epochs: int = 10  # the better of 3 and 10; a network benefits from many short steps
    batch: int = 256
    controller_rate: float = 1e-3
    fade: float = 1.0


class QuadrotorNetwork(QuadrotorPpo):
    """A network with two hidden layers of 64 units in place of the MPC."""

    name = "quadrotor_network"
    options_type = QuadrotorNetworkOptions

    def module(self, settings: Settings | None = None) -> NetworkController:
        low, high = (torch.from_numpy(bound) for bound in (self.plant.action_space.low, self.plant.action_space.high))
        size = self.plant.observation_space.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            return NetworkController(self.plant.observe, size, low, high)

    def first_problem(self, module: Any) -> FailedProblem | None:
        return None
