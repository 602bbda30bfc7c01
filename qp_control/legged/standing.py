"""Standing on all feet: the centre of mass over the middle between them, or beside it, and the trunk upright."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.controller import Control, ControlProblem
from qp_control.legged.whole_body import Target, WholeBody
from qp_control.qp.layer import LayerSolution


class StandingMemory(NamedTuple):
    """What a tick hands to the next one."""

    shift: Tensor
    """(B, 3) of the centre of mass from where it is without [m]"""
    orientation: Tensor
    """(B, 4) of the trunk, level, in the direction of the start"""
    warm_start: LayerSolution | None

    def detach(self) -> StandingMemory:
        """Without graph."""
        return self


class Standing(nn.Module):
    """Keeps a robot on its feet, wherever they slide to.

    stand (nx,): the state of standing, with feet on the ground at height zero.
    """

    def __init__(self, whole_body: WholeBody, stand: Tensor) -> None:
        super().__init__()
        self.whole_body, model = whole_body, whole_body.model
        self.stand = stand[: model.nq]
        feet = model.frame_positions(whole_body.feet, self.stand)
        self.height = float(model.centroid(self.stand).position[2] - feet[:, 2].mean())
        """Of the centre of mass over the feet [m]."""

    def start(self, x: Tensor, shift: Tensor | None = None) -> StandingMemory:
        """From states (B, nx); shift (B, 3) or (3,) [m]: of the centre of mass, in the world."""
        by = x.new_zeros(len(x), 3) if shift is None else shift.expand(len(x), 3)
        return StandingMemory(by, level(x[:, 3:7]), None)

    def forward(self, x: Tensor, memory: StandingMemory) -> tuple[Control, StandingMemory]:
        """Torques for states x (B, nx), and what the next tick is to be given."""
        found = self.whole_body(*self._parts(x), self.target(x, memory), memory.warm_start)
        return found, memory._replace(warm_start=found.solution)

    def problem(self, x: Tensor, memory: StandingMemory) -> ControlProblem:
        """The QPs of a tick, as data."""
        return self.whole_body.build(*self._parts(x), self.target(x, memory))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        nq = self.whole_body.model.nq
        return x[:, :nq], x[:, nq:]

    def target(self, x: Tensor, memory: StandingMemory) -> Target:
        """What the feet at states x (B, nx) ask for."""
        q, _ = self._parts(x)
        feet = self.whole_body.model.frame_positions(self.whole_body.feet, q)
        up = torch.tensor([0.0, 0.0, self.height], dtype=torch.float64)
        rest, still = torch.zeros_like(memory.shift), torch.zeros_like(feet)
        return Target(
            com=feet.mean(1) + up + memory.shift,
            com_velocity=rest,
            com_acceleration=rest,
            orientation=memory.orientation,
            angular_velocity=rest,
            angular_acceleration=rest,
            posture=self.stand.expand_as(q),
            activation=torch.ones_like(feet[..., 0]),
            foot=still,
            foot_velocity=still,
            foot_acceleration=still,
            force=still,
        )


def level(quaternion: Tensor) -> Tensor:
    """(B, 4) of the rotation about the vertical that is nearest to the given one, x y z w."""
    z, w = quaternion[:, 2], quaternion[:, 3]
    length = torch.hypot(z, w).clamp_min(1e-9)
    zero = torch.zeros_like(z)
    return torch.stack([zero, zero, z / length, w / length], 1)
