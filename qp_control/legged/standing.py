"""Standing on all feet: the centre of mass over their middle, or at an offset from it, and the trunk upright."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qp_control.legged.decision import LeggedDecision
from qp_control.legged.whole_body import Target, WholeBody


@dataclass(frozen=True)
class StandingDecision(LeggedDecision):
    """offset (B, 3): of the centre of mass from its default position [m]. orientation (B, 4): of the trunk, level, with
    the heading of the start. For the rest see `LeggedDecision`."""

    offset: Tensor
    orientation: Tensor


class Standing(nn.Module):
    """Keeps a robot on its feet, wherever they slide to. A `Controller` of `qp_control.training.closed_loop`.

    stand (nx,): the standing state, with the feet on the ground at height zero.
    """

    def __init__(self, whole_body: WholeBody, stand: Tensor) -> None:
        super().__init__()
        self.whole_body, model = whole_body, whole_body.model
        self.stand = stand[: model.nq]
        feet = model.frame_positions(whole_body.feet, self.stand)
        self.height = float(model.centroid(self.stand).position[2] - feet[:, 2].mean())
        """Height of the centre of mass above the feet [m]."""

    @property
    def input_limit(self) -> Tensor:
        """(nu,) [N m] the effort limits of the robot."""
        return self.whole_body.model.effort_limit

    def start(self, x: Tensor, offset: Tensor | None = None) -> StandingDecision:
        """The previous decision to pass to the first call in states x (B, nx) if the defaults do not apply.

        offset (B, 3) or (3,) [m]: of the centre of mass, in the world.
        """
        x = self.whole_body.checked(x)
        by = x.new_zeros(len(x), 3) if offset is None else offset.expand(len(x), 3)
        nothing = LeggedDecision.nothing(self.whole_body, len(x))
        return StandingDecision(**nothing, offset=by, orientation=level(self.whole_body.finite(x)[:, 3:7]))

    def forward(self, x: Tensor, before: StandingDecision | None = None) -> StandingDecision:
        """Torques for states x (B, nx), which may be followed by more of the plant's state.

        before: the decision of the previous control period.
        """
        before = self.start(x) if before is None else before
        found = self.whole_body(*self.whole_body.parts(x), self.target(x, before), before.warm_start)
        return before.decided(found)

    def build(self, x: Tensor, before: StandingDecision | None = None) -> dict[str, Tensor]:
        """The QPs of a call, as arguments of `qc.solve_qp`."""
        before = self.start(x) if before is None else before
        return self.whole_body.build(*self.whole_body.parts(x), self.target(x, before))

    def target(self, x: Tensor, before: StandingDecision) -> Target:
        """The target that follows from the feet in states x (B, nx)."""
        q, _ = self.whole_body.parts(self.whole_body.finite(x))
        feet = self.whole_body.model.frame_positions(self.whole_body.feet, q)
        up = torch.tensor([0.0, 0.0, self.height], dtype=torch.float64)
        rest, still = torch.zeros_like(before.offset), torch.zeros_like(feet)
        return Target(
            com=feet.mean(1) + up + before.offset,
            com_velocity=rest,
            com_acceleration=rest,
            orientation=before.orientation,
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
    """Quaternion (B, 4), x y z w, of the rotation about the vertical that is closest to the given one."""
    z, w = quaternion[:, 2], quaternion[:, 3]
    length = torch.hypot(z, w).clamp_min(1e-9)
    zero = torch.zeros_like(z)
    return torch.stack([zero, zero, z / length, w / length], 1)
