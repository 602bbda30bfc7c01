"""Unknown limits of an expert, learned from its plans: a track, a speed limit, an obstacle's margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StateRows, keep_out, speed_limit
from qp_control.robot.torch_dynamics import TorchDynamics
from qp_control.settings import Settings
from qp_control.training.coordinate_search import CoordinateSearch
from qp_control.training.expert_imitation import Demonstrations, ExpertImitation
from qp_control.training.expert_task import ExpertTask
from qp_control.training.limit_intervals import LearnedLimit, WidestLimits, limit_estimates
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import Estimate

TRACK, SPEED, RADIUS = 0.5, 1.0, 0.6  # the expert's: |y| [m], |v| [m/s], distance from the obstacle [m]
OBSTACLE = (1.0, 0.3)  # [m]
WIDEST = 2.0  # [m] known upper bound of the track limit


@dataclass(frozen=True)
class ConstraintLearningOptions(TrainingOptions):
    """A track, a speed limit and an obstacle's margin, from an expert that cannot always keep them."""

    demonstrations: int = 40
    """The expert's plans to learn from."""
    iterations: int = 30
    """Updates."""
    horizon: int = 15
    """Control periods of 0.2 s in a plan."""
    shift_weight: float = 0.0
    """Weight of the squared shifts of limits where the expert kept its own, until the last updates."""
    validate_every: int = 10


class SpeedLimit(nn.Module):
    """|v| <= exp(log_limit) [m/s]."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.log_limit = nn.Parameter(torch.tensor([math.log(limit)], dtype=torch.float64))

    def forward(self) -> StateRows:
        return speed_limit(lambda x: x[..., 2:], self.log_limit.exp())


class Margin(nn.Module):
    """Distance from the obstacle of at least exp(log_radius) [m]."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.log_radius = nn.Parameter(torch.tensor([math.log(radius)], dtype=torch.float64))

    def forward(self) -> StateRows:
        return keep_out(lambda x: x[..., :2], OBSTACLE, self.log_radius.exp())


def point_controller(
    horizon: int,
    rows: Sequence[nn.Module],
    settings: Settings | None = None,
    state_limit: Sequence[float] | None = None,
) -> MPC:
    """A point in the plane, state (x, y [m], velocities [m/s]), input accelerations [m/s^2], on its way to the origin.

    Its cost is known; its limits are to be learned.
    """
    dt = 0.2
    A, B = torch.eye(4, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    A[0, 2] = A[1, 3] = B[2, 0] = B[3, 1] = dt
    B[0, 0] = B[1, 1] = 0.5 * dt * dt
    dynamics = TorchDynamics(lambda x, u: x @ A.T + u @ B.T, 4, 2, input_limit=torch.tensor([2.0, 2.0]))
    mpc = MPC(
        dynamics,
        horizon,
        state_limit=state_limit,
        terminal_cost="diagonal",
        rows=rows,
        mode="converged",
        settings=settings,
    ).set_weights(q=[1.0, 1.0, 0.1, 0.1], r=[0.1, 0.1], terminal=[10.0, 10.0, 1.0, 1.0])
    for known in (mpc.state_cost, mpc.input_cost, mpc.terminal_cost):
        known.requires_grad_(False)
    assert mpc.input_fraction is not None
    mpc.input_fraction.requires_grad_(False)
    return mpc


def controller(track: float, speed: float, radius: float, horizon: int, settings: Settings | None = None) -> MPC:
    """With these limits [m], [m/s], [m]."""
    widest = [math.inf, WIDEST, math.inf, math.inf]
    mpc = point_controller(horizon, [SpeedLimit(speed), Margin(radius)], settings, widest)
    assert mpc.state_fraction is not None
    with torch.no_grad():
        mpc.state_fraction.fill_(math.log(track / (WIDEST - track)))
    return mpc


def limits(mpc: MPC) -> Tensor:
    """(3,) track, speed, radius."""
    speed, margin = mpc.learned_rows
    assert isinstance(speed, SpeedLimit) and isinstance(margin, Margin)
    return torch.cat([mpc.state_bound(), speed.log_limit.exp(), margin.log_radius.exp()])


LIMITS = (
    LearnedLimit("track [m]", lambda mpc: mpc.state_fraction, lambda v: WIDEST / (1.0 + math.exp(-v)), reach=8.0),
    LearnedLimit("speed limit [m/s]", lambda mpc: mpc.learned_rows[0].log_limit, math.exp),
    LearnedLimit("distance from the obstacle [m]", lambda mpc: mpc.learned_rows[1].log_radius, math.exp, wider=-1.0),
)


class ConstraintLearning(ExpertTask):
    """A third of the starts are off the track, too fast or too close to the obstacle: there the expert violates its
    limits by the least amount, and the learner's violations have gradients too.

    Scores: besides the action error, the largest relative error of the limits, and the share of the plans that keep the
    expert's limits, among those that can.
    """

    name = "constraint_learning"
    options_type = ConstraintLearningOptions
    metrics = ("action error", "limit error", "kept limits")
    percent = ("kept limits",)
    state_scale = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64)

    def make_expert(self) -> MPC:
        return controller(TRACK, SPEED, RADIUS, self.options.horizon)

    def starts(self, count: int, seed: int) -> Tensor:
        """States (count, 4) on the far side of the obstacle, below it."""
        draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        low = torch.tensor([1.7, -0.7, -0.9, -0.4], dtype=torch.float64)
        high = torch.tensor([2.4, 0.0, 0.3, 0.4], dtype=torch.float64)
        return low + draw * (high - low)

    def module(self, settings: Settings | None = None) -> MPC:
        """Limits as observed: largest |y| and speed, smallest distance, of demonstrations that may violate them."""
        states = self.shown.states[:, 1:]
        track = float(states[..., 1].abs().max())
        speed = float(states[..., 2:].norm(dim=-1).max())
        radius = float((states[..., :2] - torch.tensor(OBSTACLE)).norm(dim=-1).min())
        return controller(track, speed, radius, self.options.horizon, settings)

    def phases(self) -> list[Phase]:
        o: ConstraintLearningOptions = self.options
        phases: list[Phase] = [CoordinateSearch("search", self.shown, 3, shift_weight=o.shift_weight)]
        for weight in [o.shift_weight, 0.0] if o.shift_weight else [0.0]:
            name = "satisfiable" if weight else "limits"
            batch = o.demonstrations
            phases.append(ExpertImitation(name, self.shown, o.iterations, batch=batch, shift_weight=weight))
        return [*phases, WidestLimits("widest", self.shown, LIMITS)]

    def estimates(self, module: MPC) -> list[Estimate]:
        return limit_estimates(module, self.shown, LIMITS)

    def further_values(self, module: MPC, states: Tensor, truth: Demonstrations) -> dict[str, float]:
        position, velocity = states[truth.feasible, 1:, :2], states[truth.feasible, 1:, 2:]
        broken = torch.stack(
            [
                position[..., 1].abs() - TRACK,
                velocity.norm(dim=-1) - SPEED,
                RADIUS - (position - torch.tensor(OBSTACLE)).norm(dim=-1),
            ]
        ).amax((0, 2))
        return {
            "limit error": float((limits(module) / limits(self.expert) - 1.0).abs().max()),
            "kept limits": float((broken < 1e-3).double().mean()),
        }
