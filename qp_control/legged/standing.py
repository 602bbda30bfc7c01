"""Standing on all feet: the centre of mass over the middle between them, or beside it, and the trunk upright."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qp_control.legged.decision import LeggedDecision
from qp_control.legged.whole_body import Target, WholeBody


@dataclass(frozen=True)
class StandingDecision(LeggedDecision):
    """offset (B, 3): of the centre of mass from where it is without [m]. orientation (B, 4): of the trunk, level, in
    the direction of the start. The rest as of `LeggedDecision`."""

    offset: Tensor
    orientation: Tensor


class Standing(nn.Module):
    """Keeps a robot on its feet, wherever they slide to. A `Controller` of `qp_control.training.closed_loop`.

    stand (nx,): the state of standing, with feet on the ground at height zero.
    """

    def __init__(self, whole_body: WholeBody, stand: Tensor) -> None:
        super().__init__()
        self.whole_body, model = whole_body, whole_body.model
        self.stand = stand[: model.nq]
        feet = model.frame_positions(whole_body.feet, self.stand)
        self.height = float(model.centroid(self.stand).position[2] - feet[:, 2].mean())
        """Of the centre of mass over the feet [m]."""

    @property
    def input_limit(self) -> Tensor:
        """(nu,) [N m] the effort limits of the robot."""
        return self.whole_body.model.effort_limit

    def start(self, x: Tensor, offset: Tensor | None = None) -> StandingDecision:
        """What the first call takes in states x (B, nx), where not all is as usual.

        offset (B, 3) or (3,) [m]: of the centre of mass, in the world.
        """
        x = self.whole_body.checked(x)
        by = x.new_zeros(len(x), 3) if offset is None else offset.expand(len(x), 3)
        nothing = LeggedDecision.nothing(self.whole_body, len(x))
        return StandingDecision(**nothing, offset=by, orientation=level(self.whole_body.finite(x)[:, 3:7]))

    def forward(self, x: Tensor, before: StandingDecision | None = None) -> StandingDecision:
        """Torques for states x (B, nx), which may have more of the plant behind them.

        before: the decision of the control period before.
        """
        before = self.start(x) if before is None else before
        found = self.whole_body(*self.whole_body.parts(x), self.target(x, before), before.warm_start)
        return before.decided(found)

    def build(self, x: Tensor, before: StandingDecision | None = None) -> dict[str, Tensor]:
        """The QPs of a call, as arguments of `qc.solve_qp`."""
        before = self.start(x) if before is None else before
        return self.whole_body.build(*self.whole_body.parts(x), self.target(x, before))

    def target(self, x: Tensor, before: StandingDecision) -> Target:
        """What the feet at states x (B, nx) ask for."""
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
    """(B, 4) of the rotation about the vertical that is nearest to the given one, x y z w."""
    z, w = quaternion[:, 2], quaternion[:, 3]
    length = torch.hypot(z, w).clamp_min(1e-9)
    zero = torch.zeros_like(z)
    return torch.stack([zero, zero, z / length, w / length], 1)
