"""An unknown polytope within which an expert stays: directions and distances of its walls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StateRows
from qp_control.settings import Settings
from qp_control.training.coordinate_search import CoordinateSearch, Directions
from qp_control.training.expert_imitation import Demonstrations, ExpertImitation
from qp_control.training.expert_task import ExpertTask
from qp_control.training.limit_intervals import LearnedLimit, limit_estimates
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import Estimate
from qp_control.training.tasks.constraint_learning import point_controller

ANGLES, DISTANCES = (1.7, 3.5, 5.6), (0.3, 0.35, 0.32)  # of the walls: direction [rad], distance from the origin [m]
BELIEVED = (1.85, 3.35, 5.7)  # [rad]
CHANGES = (-0.4, -0.2, -0.1, -0.05, -0.025, 0.025, 0.05, 0.1, 0.2, 0.4)  # of angles and log_distances, tried
PLACES = 24  # directions in which each wall is placed anew
NEAR = 0.05  # [m] distance from a wall within which a demonstration reaches it


@dataclass(frozen=True)
class PolytopeLearningOptions(TrainingOptions):
    """Directions and distances of three walls, from an expert that stops before them where it can."""

    demonstrations: int = 100
    """The expert's plans to learn from."""
    rounds: int = 3
    """Searches, each followed by gradient updates: gradients alone end where a wall no longer touches any plan, or in
    narrow valleys."""
    iterations: int = 30
    """Gradient updates per round."""
    horizon: int = 10
    """Control periods of 0.2 s in a plan."""
    shift_weight: float = 0.0
    """Weight of the squared shifts of walls where the expert kept its own, in all rounds but the last."""
    validate_every: int = 20


class Walls(nn.Module):
    """normal(angle)'p <= exp(log_distance) [m] for positions p in the plane."""

    def __init__(self, angles: Tensor, distances: Tensor) -> None:
        super().__init__()
        self.angle, self.log_distance = nn.Parameter(angles), nn.Parameter(distances.log())

    def normals(self) -> Tensor:
        """(walls, 2)"""
        return torch.stack([self.angle.cos(), self.angle.sin()], -1)

    def forward(self) -> StateRows:
        def along(x: Tensor, normals: Tensor) -> Tensor:
            return (normals @ x[..., :2, None])[..., 0]

        return StateRows(along, upper=self.log_distance.exp(), data=(self.normals(),))


class PolytopeLearning(ExpertTask):
    """Some of the starts are too fast to stop in time: there the expert goes through the walls by the least amount.

    Scores: besides the action error, the largest of the relative errors of distances and the errors of angles [rad],
    and the share of the plans that stay within the expert's walls, among those that can.
    """

    name = "polytope_learning"
    options_type = PolytopeLearningOptions
    metrics = ("action error", "wall error", "kept walls")
    percent = ("kept walls",)
    state_scale = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64)

    def _controller(self, angles: Tensor, distances: Tensor, settings: Settings | None = None) -> MPC:
        return point_controller(self.options.horizon, [Walls(angles, distances)], settings)

    def make_expert(self) -> MPC:
        return self._controller(_vector(ANGLES), _vector(DISTANCES))

    def starts(self, count: int, seed: int) -> Tensor:
        """States (count, 4) near the origin, fast."""
        draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (2.0 * draw - 1.0) * _vector((0.2, 0.2, 1.4, 1.4))

    def module(self, settings: Settings | None = None) -> MPC:
        """Walls rotated by up to 0.15 rad, at the distance within which three of four demonstrations stay."""
        angles = _vector(BELIEVED)
        normals = torch.stack([angles.cos(), angles.sin()])
        farthest = (self.shown.states[..., :2] @ normals).amax(1).clamp(min=0.0)
        return self._controller(angles, farthest.quantile(0.75, 0), settings)

    def phases(self) -> list[Phase]:
        o: PolytopeLearningOptions = self.options
        phases: list[Phase] = []
        for k in range(o.rounds):
            weight = o.shift_weight if k < o.rounds - 1 else 0.0

            def search(
                name: str, count: int, changes: Sequence[float], directions: Directions, weight: float = weight
            ) -> Phase:
                return CoordinateSearch(name, self.shown, count, changes, directions=directions, shift_weight=weight)

            phases += [
                search("placing", 3 * PLACES, (1.0,), self.places),
                search("search", 6, CHANGES, self.turns_and_distances),
                ExpertImitation("walls", self.shown, o.iterations, batch=o.demonstrations, shift_weight=weight),
            ]
        return phases

    def turns_and_distances(self, values: Tensor) -> Tensor:
        """Directions (6, 6) of angles and log_distances: each wall rotated about the point where demonstrations reach
        it, which also changes its distance from the origin; and each distance."""
        angles, distances = values[:3], values[3:].exp()
        normals, along = (torch.stack([a.cos(), a.sin()]) for a in (angles, angles + 0.5 * torch.pi))
        position = self.shown.states[:, 1:, :2].flatten(0, 1)
        near = ((position @ normals - distances).abs() < NEAR).double()
        touched = (near * (position @ along)).sum(0) / near.sum(0).clamp(min=1.0)
        eye = torch.eye(6, dtype=values.dtype)
        eye[:3, 3:] = torch.diag(touched / distances)
        return eye

    def places(self, values: Tensor) -> Tensor:
        """Changes (3 PLACES, 6) of angles and log_distances that place one wall anew: in any direction, as near as
        demonstrations that stay within the walls allow. So a useless wall is exchanged for a useful one."""
        angles = torch.arange(PLACES, dtype=values.dtype) * (2.0 * torch.pi / PLACES)
        kept = self.shown.states[self.shown.feasible] if bool(self.shown.feasible.any()) else self.shown.states
        farthest = (kept[:, 1:, :2] @ torch.stack([angles.cos(), angles.sin()])).amax((0, 1)).clamp(min=0.05)
        moved = values.new_zeros(3, PLACES, 6)
        for k in range(3):
            moved[k, :, k], moved[k, :, 3 + k] = angles - values[k], farthest.log() - values[3 + k]
        return moved.flatten(0, 1)

    def estimates(self, module: MPC) -> list[Estimate]:
        distances = [
            LearnedLimit(f"distance of wall {k} [m]", lambda mpc: walls(mpc).log_distance, math.exp, k)
            for k in range(len(walls(module).angle))
        ]
        return limit_estimates(module, self.shown, distances)

    def further_values(self, module: MPC, states: Tensor, truth: Demonstrations) -> dict[str, float]:
        found, expert = walls(module), walls(self.expert)
        errors = torch.cat([(found.log_distance - expert.log_distance).expm1(), found.angle - expert.angle])
        position = states[truth.feasible, 1:, :2]
        through = (position @ expert.normals().T - expert.log_distance.exp()).amax((1, 2))
        return {
            "wall error": float(errors.abs().max().detach()),
            "kept walls": float((through < 1e-3).double().mean()),
        }


def walls(mpc: MPC) -> Walls:
    """The learned walls of a controller of this task."""
    (found,) = mpc.learned_rows
    assert isinstance(found, Walls)
    return found


def _vector(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
