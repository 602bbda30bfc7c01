"""Masses, lengths, and dry and viscous friction of a cart-pole, from trajectories in which it sticks and slides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.envs.task import ASSETS
from qp_control.robot.contact import ContactDynamics
from qp_control.robot.model_parameters import BodyScales
from qp_control.settings import Settings
from qp_control.training.evaluation import mean_interval
from qp_control.training.identification import Identification
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import VALIDATION_SEED, Estimate, Score, TrainingTask
from qp_control.training.trajectory_fit import TrajectoryFit

SCALE = torch.tensor([0.1, 0.1, 0.5, 1.0], dtype=torch.float64)
LARGEST_FORCE = 4.0  # [N]
NOMINAL_DRY_FRICTION = (0.3, 0.02)  # [N], [N m]
NUMBERS = (
    "mass of both [kg]",
    "moment of the pole [kg m]",
    "inertia of the pole [kg m^2]",
    "viscous friction of the cart [N s/m]",
    "viscous friction of the pole [N m s]",
    "dry friction of the cart [N]",
    "dry friction of the pole [N m]",
)


@dataclass(frozen=True)
class CartPoleIdentificationOptions(TrainingOptions):
    """Masses and friction of a cart-pole, from trajectories."""

    trajectories: int = 16
    """Trajectories to learn from."""
    length: int = 40
    """Control periods of each."""
    noise: float = 1e-9
    """Standard deviation of the noise in measured states, in units of (0.1 m, 0.1 rad, 0.5 m/s, 1 rad/s)."""
    steps: int = 1
    """Control periods predicted ahead of every measured state: more than one if there is noise."""
    iterations: int = 80
    """Updates from predictions."""
    trajectory_iterations: int = 15
    """Updates from whole trajectories, with unknown initial states."""
    validate_every: int = 10


class CartPoleModel(nn.Module):
    """A cart-pole with dry friction in both joints. log_dry_friction (2,): relative to the nominal one."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        nominal = torch.tensor(NOMINAL_DRY_FRICTION, dtype=torch.float64)
        self.dynamics = ContactDynamics(
            ASSETS / "cart_pole.urdf", dt=0.05, substeps=5, dry_friction=nominal, joint_limits=False, settings=settings
        )
        self.scales = BodyScales(self.dynamics)
        self.log_dry_friction = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def dry_friction(self) -> Tensor:
        """(2,) [N], [N m]."""
        return self.dynamics.dry_friction * self.log_dry_friction.exp()

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """State (B, 4) one control period after x (B, 4) under the force u (B, 1) [N]."""
        return self.dynamics.step(x, u, self.scales(), dry_friction=self.dry_friction())

    def rollout(self, x: Tensor, u: Tensor) -> Tensor:
        """States (B, T, 4) after x (B, 4) under the forces u (B, T, 1) [N]."""
        return self.dynamics.rollout(x, u, self.scales(), dry_friction=self.dry_friction())

    def identifiable(self) -> Tensor:
        """(7,) the mass of both, the pole's m c and inertia about its joint, viscous and dry friction."""
        p = self.scales()
        return torch.cat([torch.stack([p[0] + p[10], p[13], p[16], p[20], p[21]]), self.dry_friction()])


class CartPoleIdentification(TrainingTask):
    """The learner starts from the nominal cart-pole; the real one has a lighter cart, a heavier and longer pole, twice
    the viscous and three times the dry friction.

    Scores: root mean square error of predictions one control period ahead on held-out trajectories, in units of the
    states' scale, and the largest relative error of the identifiable numbers.
    """

    name = "cart_pole_identification"
    options_type = CartPoleIdentificationOptions
    metrics = ("prediction error", "parameter error")

    def __init__(self, options: CartPoleIdentificationOptions | None = None) -> None:
        super().__init__(options)
        self.truth = truth = CartPoleModel().requires_grad_(False)
        truth.scales.log_mass.copy_(torch.tensor([0.8, 1.3]).log())
        truth.scales.log_length.copy_(torch.tensor([1.0, 1.1]).log())
        truth.scales.log_damping.fill_(math.log(2.0))
        truth.log_dry_friction.fill_(math.log(3.0))

    def module(self, settings: Settings | None = None) -> CartPoleModel:
        return CartPoleModel(settings)

    def phases(self) -> list[Phase]:
        o: CartPoleIdentificationOptions = self.options
        measured, inputs = self.measured()
        return [
            Identification(CartPoleModel.forward, measured, inputs, SCALE, o.iterations, steps=o.steps),
            self.fit(),
        ]

    def measured(self) -> tuple[Tensor, Tensor]:
        """Noisy states, and inputs, of the trajectories to learn from."""
        o: CartPoleIdentificationOptions = self.options
        states, inputs = self.trajectories(o.trajectories, o.seed)
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(o.seed), dtype=torch.float64)
        return states + o.noise * SCALE * noise, inputs

    def fit(self) -> TrajectoryFit:
        """The second phase, which also provides standard deviations of the numbers."""
        measured, inputs = self.measured()
        iterations = self.options.trajectory_iterations
        return TrajectoryFit(CartPoleModel.forward, CartPoleModel.rollout, measured, inputs, SCALE, iterations)

    def estimates(self, module: CartPoleModel) -> list[Estimate]:
        deviations = self.fit().deviations(module, CartPoleModel.identifiable)
        rows = zip(NUMBERS, module.identifiable().tolist(), deviations.tolist(), strict=True)
        return [Estimate(name, value, deviation) for name, value, deviation in rows]

    @torch.no_grad()
    def trajectories(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """States (count, T + 1, 4) and forces (count, T, 1) of the real cart-pole with hanging pole; each force is held
        for a quarter of a second."""
        length, generator = self.options.length, torch.Generator().manual_seed(2**20 + seed)

        def draw(*shape: int) -> Tensor:
            return 2.0 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1.0

        inputs = LARGEST_FORCE * draw(count, -(-length // 5), 1).repeat_interleave(5, 1)[:, :length]
        x = draw(count, 4) * torch.tensor([0.5, 0.5, 0.5, 1.0]) + torch.tensor([0.0, math.pi, 0.0, 0.0])
        states = [x]
        for u in inputs.unbind(1):
            states.append(self.truth(states[-1], u))
        return torch.stack(states, 1), inputs

    def _squares(self, module: CartPoleModel, seed: int, count: int) -> Tensor:
        states, inputs = self.trajectories(count, seed)
        ahead = module(states[:, :-1].flatten(0, 1), inputs.flatten(0, 1))
        error: Tensor = (ahead - states[:, 1:].flatten(0, 1)) / SCALE
        return error.square().mean(1).view(count, -1).mean(1)

    @torch.no_grad()
    def score(self, module: CartPoleModel, seed: int, count: int) -> Score:
        squares = self._squares(module, seed, count)
        truth = self.truth.identifiable()
        error = float(squares.mean().sqrt())
        values = {
            "prediction error": error,
            "parameter error": float((module.identifiable() / truth - 1.0).abs().max()),
        }
        low, high = mean_interval(squares)
        return Score(values, (-error,), {"prediction error": (math.sqrt(low), math.sqrt(high))})

    def search_loss(self) -> Callable[[Any], float]:
        @torch.no_grad()
        def loss(module: CartPoleModel) -> float:
            value = float(self._squares(module, VALIDATION_SEED, self.options.trajectories).mean())
            return value if value == value else math.inf

        return loss
