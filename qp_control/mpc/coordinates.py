"""Coordinates of the states of a controller's problem: the model's states, or their errors from the reference.

States in a vector space are used as they are, and the reference gives linear terms of the cost:

    1/2 |x - r|_Q^2 = 1/2 |x|_Q^2 - r'Q x + constant

States with quaternions are replaced by errors (`ErrorDynamics`), whose cost 1/2 |error|_Q^2 has no linear terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.arguments import ends
from qp_control.mpc.nonlinear_ocp import Rows, StateRows, times
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.manifold import ErrorDynamics


class States:
    """The model's states as they are; reference (nx,), (B, nx) or (B, N + 1, nx)."""

    def __init__(self, dynamics: Any, reference: Tensor) -> None:
        self.dynamics, self.reference = dynamics, reference

    @property
    def target(self) -> Tensor:
        """The coordinates that the cost leads to."""
        return self.reference

    def of(self, x: Tensor) -> Tensor:
        """Coordinates of trajectories x (B, N + 1, nx) or states x (B, nx) of stage 0."""
        return x

    def states(self, coordinates: Tensor) -> Tensor:
        """The trajectories (B, N + 1, nx) that have the coordinates."""
        return coordinates

    def valid(self, x: Tensor) -> Tensor:
        """(B,): all states (B, ..., nx) of an element are valid."""
        return x.detach().flatten(1).isfinite().all(1)

    def check_batch(self, batch: int) -> None:
        """Raise ValueError unless the reference is one for all, or of this batch."""
        r = self.reference
        if r.ndim > 1 and len(r) not in (1, batch):
            raise ValueError(f"reference has a batch of {len(r)}, expected 1 or {batch}")

    def add_reference(self, data: dict[str, Tensor], horizon: int) -> None:
        """Linear terms of the cost, of the stages where `data` has no q and of the last one where it has no q_N."""
        r = self.target
        if "q" not in data and not bool(r.any()):
            return
        stages = r if r.ndim == 3 else r[..., None, :]
        Q, own_end = data["Q"], ends("Q", data, horizon)
        if "q_N" not in data and not ends("q", data, horizon):
            Q_N = Q[..., -1, :, :] if own_end else data["Q_N"]
            data["q_N"] = _slope(Q_N, stages[..., -1, :])
        if "q" not in data:
            Q = Q[..., :horizon, :, :] if own_end else Q
            data["q"] = _slope(Q, stages[..., :horizon, :])

    def rows(self, rows: Rows) -> Rows:
        """Rows that are functions of states, as functions of the coordinates."""
        return rows

    def box(self, chosen: Sequence[int], bound: Tensor) -> tuple[list[int], Tensor, Tensor]:
        """The coordinates that |x[chosen]| <= bound limits at the stages 1..N, and their lower and upper bounds."""
        return list(chosen), -bound, bound


def _slope(Q: Tensor, r: Tensor) -> Tensor:
    """-Q r; where one of the two is not finite NaN, that passes no NaN on to the other one's gradient."""
    if torch.is_grad_enabled():
        good = Q.isfinite().all(-1).all(-1) & r.isfinite().all(-1)
        if not bool(good.all()):
            Q, r = torch.where(good[..., None, None], Q, 0.0), torch.where(good[..., None], r, 0.0)
            return torch.where(good[..., None], -times(Q, r), torch.nan)
    return -times(Q, r)


class Errors(States):
    """Errors of a robot's states from the reference."""

    dynamics: ErrorDynamics

    def __init__(self, robot: RobotDynamics, reference: Tensor) -> None:
        super().__init__(robot.around(reference), reference)
        self.robot = robot

    @property
    def target(self) -> Tensor:
        return self.reference.new_zeros(self.robot.ndx)

    def of(self, x: Tensor) -> Tensor:
        return self.dynamics.to_error(x)

    def states(self, coordinates: Tensor) -> Tensor:
        return self.dynamics.from_error(coordinates)

    def valid(self, x: Tensor) -> Tensor:
        good = self.robot.on_manifold(x)
        return good if good.ndim == 1 else good.flatten(1).all(1)

    def add_reference(self, data: dict[str, Tensor], horizon: int) -> None:
        if "q" in data:  # otherwise the cost of errors has no linear terms
            super().add_reference(data, horizon)

    def rows(self, rows: Rows) -> Rows:
        inner, integrate = rows.function, self.robot.integrate
        r = self.dynamics.at(1, None) if isinstance(rows, StateRows) else self.dynamics.at(0, -1)
        r = r.view(1, 1, -1) if r.ndim == 1 else r

        def of_error(error: Tensor, *more: Tensor) -> Tensor:
            *arguments, r = more
            return inner(integrate(r, error), *arguments)

        # The reference is data, so that a part of the batch takes its own.
        return dataclasses.replace(rows, function=of_error, data=(*rows.data, r))

    def box(self, chosen: Sequence[int], bound: Tensor) -> tuple[list[int], Tensor, Tensor]:
        place = plain_coordinates(self.robot)
        r = self.dynamics.at(1, None)[..., list(chosen)]
        r = r[0] if r.ndim == 3 and len(r) == 1 else r
        return [place[i] for i in chosen], -bound - r, bound - r


def plain_coordinates(robot: RobotDynamics) -> dict[int, int]:
    """The coordinates of a robot's states whose error is a plain difference: their index among the errors."""
    place = {robot.nq + i: robot.nv + i for i in range(robot.nv)}
    for joint in list(robot.model.joints)[1:]:
        if joint.nq == joint.nv:
            place |= {joint.idx_q + i: joint.idx_v + i for i in range(joint.nq)}
    return place


def check_limited(robot: RobotDynamics, chosen: Sequence[int]) -> None:
    """Raise ValueError unless the chosen coordinates of a robot's states are plain."""
    place = plain_coordinates(robot)
    for i in chosen:
        if i not in place:
            raise ValueError(
                f"state_limit limits coordinate {i}, which belongs to a joint whose configurations form no vector "
                "space: limit functions of it by rows=[StateRows(..)]"
            )
