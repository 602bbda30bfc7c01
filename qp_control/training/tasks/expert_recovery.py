"""Cost, bounds and model of an expert MPC, recovered from its plans: linear system, pendulum, cart-pole."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from qp_control.envs.task import ASSETS
from qp_control.mpc.controller import MPC
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.model_parameters import BodyScales, FreeParameters
from qp_control.robot.torch_dynamics import TorchDynamics
from qp_control.settings import Settings
from qp_control.training.expert_imitation import Demonstrations, ExpertImitation
from qp_control.training.expert_optimality import ExpertOptimality
from qp_control.training.expert_task import ExpertTask
from qp_control.training.identification import Identification
from qp_control.training.limit_intervals import LearnedLimit, WidestLimits, limit_estimates
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import Estimate

COSTS = ("state_cost", "terminal_cost")


@dataclass(frozen=True)
class RecoveryOptions(TrainingOptions):
    """Options of the three tasks."""

    demonstrations: int = 50
    """The expert's plans to learn from."""
    identification_iterations: int = 60
    """Updates of the model, from the states and inputs of the demonstrations."""
    optimality_iterations: int = 20
    """Updates of the cost, from the optimality conditions of the demonstrations."""
    imitation_iterations: int = 30
    """Updates of the cost, through the controller."""
    bound_iterations: int = 30
    """Updates of cost and bounds, through the controller."""
    batch: int = 50
    """Demonstrations per update."""
    horizon: int = 10
    """Control periods of a plan."""
    validate_every: int = 10


class ExpertRecovery(ExpertTask):
    """An expert MPC with hidden cost, bounds and model, and a learner that sees only its plans.

    The cost is identifiable only up to its scale, so R is that of the expert. Scores: besides the action error, the
    largest relative errors of costs, bounds and the model's identifiable numbers.
    """

    metrics = ("action error", "cost error", "bound error", "model error")
    spread: ClassVar[Tensor]  # largest start state
    q: ClassVar[tuple[float, ...]]
    r: ClassVar[tuple[float, ...]]
    terminal: ClassVar[tuple[float, ...]]
    bound: ClassVar[float]  # share of the input limits that the expert uses

    def make_expert(self) -> MPC:
        expert = self._controller(None).set_weights(q=self.q, terminal=self.terminal)
        assert expert.input_fraction is not None
        with torch.no_grad():
            self.disguise(expert)
            expert.input_fraction.fill_(math.log(self.bound / (1.0 - self.bound)))
        return expert

    @abc.abstractmethod
    def dynamics(self) -> Any:
        """The learner's initial model."""

    @abc.abstractmethod
    def disguise(self, expert: MPC) -> None:
        """Set the expert's model to the parameters to be found."""

    @abc.abstractmethod
    def identifiable(self, controller: MPC) -> Tensor:
        """The numbers of the model that its motion determines."""

    def _controller(self, settings: Settings | None) -> MPC:
        controller = MPC(
            self.dynamics(), self.options.horizon, terminal_cost="diagonal", mode="converged", settings=settings
        ).set_weights(r=self.r)
        controller.input_cost.requires_grad_(False)
        return controller

    def module(self, settings: Settings | None = None) -> MPC:
        """All weights one, the nominal model, and the largest inputs observed as bounds: bounds that no plan reaches
        have no gradient."""
        controller = self._controller(settings)
        seen = self.shown.inputs.abs().amax((0, 1)) / controller.input_limit
        assert controller.input_fraction is not None
        with torch.no_grad():
            controller.input_fraction.copy_(torch.logit(seen.clamp(max=0.999)))
        return controller

    def starts(self, count: int, seed: int) -> Tensor:
        """States (count, nx), uniform."""
        draw = torch.rand(count, len(self.spread), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (2.0 * draw - 1.0) * self.spread

    def limits(self) -> list[LearnedLimit]:
        """The bounds of the inputs, as shares of the known limits."""

        def bound(i: int) -> LearnedLimit:
            largest = float(self.expert.input_limit[i])

            def value(entry: float) -> float:
                return largest / (1.0 + math.exp(-entry))

            return LearnedLimit(f"bound of input {i}", lambda module: module.input_fraction, value, i, reach=8.0)

        return [bound(i) for i in range(len(self.expert.input_limit))]

    def estimates(self, module: MPC) -> list[Estimate]:
        return limit_estimates(module, self.shown, self.limits())

    def phases(self) -> list[Phase]:
        o: RecoveryOptions = self.options
        return [
            Identification(
                lambda module, x, u: module.dynamics.step(x, u, module.model()),
                self.shown.states,
                self.shown.inputs,
                self.state_scale,
                o.identification_iterations,
                learned=["model"],
            ),
            ExpertOptimality(self.shown, o.optimality_iterations, learned=COSTS),
            ExpertImitation("cost", self.shown, o.imitation_iterations, batch=o.batch, learned=COSTS),
            ExpertImitation(
                "cost_and_bounds", self.shown, o.bound_iterations, batch=o.batch, learned=[*COSTS, "input_fraction"]
            ),
            WidestLimits("widest", self.shown, self.limits()),
        ]

    def further_values(self, module: MPC, states: Tensor, truth: Demonstrations) -> dict[str, float]:
        return {
            "cost error": self.cost_error(module),
            "bound error": float((module.input_bound() / self.expert.input_bound() - 1.0).abs().max()),
            "model error": _largest(self.identifiable(module), self.identifiable(self.expert)),
        }

    def cost_error(self, module: MPC) -> float:
        """Largest relative error of the diagonals of Q and of the terminal weight."""
        pairs = ((module.state_cost, self.expert.state_cost), (module.terminal_cost, self.expert.terminal_cost))
        return max(_largest(a().diagonal(), b().diagonal()) for a, b in pairs)


def _largest(value: Tensor, truth: Tensor) -> float:
    """Largest relative error; of entries that are zero, relative to the largest."""
    size = torch.where(truth == 0.0, truth.abs().max(), truth.abs())
    return float(((value - truth).abs() / size).max().detach())


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class LqrRecoveryOptions(RecoveryOptions):
    """Cost, bounds and model of an expert that steers an unstable linear system, from its plans."""


class LqrRecovery(ExpertRecovery):
    """An unstable linear system with four states and two inputs, whose A and B are unknown too."""

    name = "lqr_recovery"
    options_type = LqrRecoveryOptions
    state_scale, spread = _vector(1.0, 1.0, 1.0, 1.0), _vector(2.0, 2.0, 2.0, 2.0)
    q, r, terminal = (1.0, 0.5, 2.0, 1.0), (0.5, 1.0), (4.0, 2.0, 3.0, 5.0)
    bound = 0.6

    def dynamics(self) -> TorchDynamics:
        def step(x: Tensor, u: Tensor, p: Tensor) -> Tensor:
            A, B = p[..., :16].view(*p.shape[:-1], 4, 4), p[..., 16:].view(*p.shape[:-1], 4, 2)
            ahead: Tensor = A @ x[..., None] + B @ u[..., None]
            return ahead[..., 0]

        nominal = torch.cat([torch.eye(4, dtype=torch.float64).flatten(), 0.3 * torch.ones(8, dtype=torch.float64)])
        return TorchDynamics(step, 4, 2, parameters=nominal, input_limit=_vector(1.0, 1.0))

    def disguise(self, expert: MPC) -> None:
        draw = torch.randn(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert isinstance(expert.model, FreeParameters) and expert.model.value is not None
        expert.model.value.copy_(expert.model.value + torch.cat([0.15 * draw[:16], 0.3 * draw[16:]]))

    def identifiable(self, controller: MPC) -> Tensor:
        numbers: Tensor = controller.model()
        return numbers


@dataclass(frozen=True)
class PendulumRecoveryOptions(RecoveryOptions):
    """Cost, bounds and model of an expert that steers a pendulum, from its plans."""


class PendulumRecovery(ExpertRecovery):
    """A pendulum near upright, heavier and shorter than assumed, with more friction."""

    name = "pendulum_recovery"
    options_type = PendulumRecoveryOptions
    state_scale, spread = _vector(0.5, 1.0), _vector(0.5, 1.0)
    q, r, terminal = (4.0, 0.5), (1.0,), (20.0, 4.0)
    bound = 0.8

    def dynamics(self) -> RobotDynamics:
        return RobotDynamics(ASSETS / "pendulum.urdf", dt=0.05)

    def disguise(self, expert: MPC) -> None:
        model = expert.model
        assert isinstance(model, BodyScales)
        model.log_mass.fill_(math.log(1.2))
        model.log_length.fill_(math.log(0.8))
        model.log_damping.fill_(math.log(2.0))

    def identifiable(self, controller: MPC) -> Tensor:
        """m c, the inertia about the joint, friction."""
        p: Tensor = controller.model()
        return p[[3, 6, 10]]


@dataclass(frozen=True)
class CartPoleRecoveryOptions(RecoveryOptions):
    """Cost, bounds and model of an expert that steers a cart-pole, from its plans."""


class CartPoleRecovery(ExpertRecovery):
    """A cart-pole near upright, with a lighter cart and a heavier, longer pole than assumed."""

    name = "cart_pole_recovery"
    options_type = CartPoleRecoveryOptions
    state_scale, spread = _vector(0.5, 0.3, 1.0, 1.0), _vector(0.5, 0.3, 0.5, 0.5)
    q, r, terminal = (4.0, 10.0, 0.5, 0.5), (0.1,), (40.0, 40.0, 4.0, 4.0)
    bound = 0.7

    def dynamics(self) -> RobotDynamics:
        return RobotDynamics(ASSETS / "cart_pole.urdf", dt=0.05)

    def disguise(self, expert: MPC) -> None:
        model = expert.model
        assert isinstance(model, BodyScales)
        model.log_mass.copy_(_vector(0.8, 1.2).log())
        model.log_length.copy_(_vector(1.0, 1.1).log())
        model.log_damping.fill_(math.log(2.0))

    def identifiable(self, controller: MPC) -> Tensor:
        """The total mass, the pole's m c and inertia about its joint, friction."""
        p = controller.model()
        return torch.stack([p[0] + p[10], p[13], p[16], p[20], p[21]])
