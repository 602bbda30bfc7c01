"""Which foot is on the ground when."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qp_control.qp.problem import as_integer


@dataclasses.dataclass(frozen=True)
class Gait:
    """A periodic gait. The clock counts control periods, an integer, so it does not accumulate rounding errors.

    period: control periods per cycle. duty: share of the cycle that a foot is on the ground. offsets: for each foot,
    the share of the cycle after which it touches down. ramp: control periods over which a contact is loaded and
    unloaded.

    Raises ValueError for a duty that leaves no control period on the ground or in the air, and for other bad numbers.
    """

    period: int
    duty: float
    offsets: Sequence[float]
    ramp: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", as_integer("period", self.period, 2))
        object.__setattr__(self, "ramp", as_integer("ramp", self.ramp, 1))
        if not 0.0 < self.duty < 1.0 or not 0 < self.stance < self.period:
            raise ValueError(
                f"duty is {self.duty} of a period of {self.period}, expected a share between 0 and 1 that leaves feet "
                "on the ground and in the air"
            )
        if not all(math.isfinite(share) for share in self.offsets):
            raise ValueError(f"offsets are {self.offsets}, expected finite shares of the cycle")

    @property
    def stance(self) -> int:
        """Control periods on the ground."""
        return round(self.duty * self.period)

    def since_touchdown(self, clock: int | Tensor) -> Tensor:
        """(..., feet) control periods since the last touchdown, 0 to period - 1."""
        shift = torch.tensor([round(share * self.period) for share in self.offsets])
        return torch.remainder(torch.as_tensor(clock)[..., None] - shift, self.period)

    def on_ground(self, clock: int | Tensor) -> Tensor:
        """(..., feet) True for feet on the ground."""
        return self.since_touchdown(clock) < self.stance

    def activation(self, clock: int | Tensor) -> Tensor:
        """(..., feet) of contacts: 0 in the air, 1 on the ground, with a linear transition over `ramp`."""
        since = self.since_touchdown(clock)
        edge = torch.minimum(since + 1, self.stance - since).clamp(0, self.ramp)
        return edge.double() / self.ramp

    def swing(self, clock: int | Tensor) -> Tensor:
        """(..., feet) share of the swing completed at the end of this control period; 0 on the ground."""
        over = (self.since_touchdown(clock) - self.stance + 1).clamp_min(0)
        return over.double() / (self.period - self.stance)


def trot(period: int = 72) -> Gait:
    """Front left and rear right, then the others. Feet: front left, front right, rear left, rear right."""
    return Gait(period, 0.5, (0.0, 0.5, 0.5, 0.0))
