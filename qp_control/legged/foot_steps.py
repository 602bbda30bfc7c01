"""Where feet land, and how they get there.

A swinging foot lands where the hip will be in the middle of the next stance, plus an offset proportional to the error
of the velocity (Raibert); with the gain sqrt(height / g) this is the point where the robot could stop (capture point).

Sources: M. H. Raibert, "Legged robots that balance", 1986; J. Pratt et al., "Capture point: a step toward humanoid push
recovery", Humanoids 2006.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Swing(NamedTuple):
    """Motion of the feet (B, feet, 3) [m, m/s, m/s^2]."""

    position: Tensor
    velocity: Tensor
    acceleration: Tensor


def landing(
    trunk: Tensor,
    under: Tensor,
    turn: Tensor,
    velocity: Tensor,
    wanted: Tensor,
    left: Tensor,
    stance: float,
    gain: Tensor,
) -> Tensor:
    """Where feet are to land (B, feet, 2) [m].

    trunk (B, 2) [m]; under (B, feet, 2): feet relative to the trunk when standing, in the world's axes [m]; turn (B,):
    commanded turning rate [rad/s]; velocity (B, 2) and wanted (B, 2), the commanded one [m/s]; left (B, feet): time
    until they land [s]; stance: time on the ground [s]; gain (1,) [s].
    """
    until = left + 0.5 * stance
    angle = turn[:, None] * until
    x, y = under.unbind(-1)
    turned = torch.stack([x * torch.cos(angle) - y * torch.sin(angle), x * torch.sin(angle) + y * torch.cos(angle)], -1)
    ahead = left[..., None] * velocity[:, None] + 0.5 * stance * wanted[:, None]
    return trunk[:, None] + turned + ahead + (gain * (velocity - wanted))[:, None]


def swing(start: Tensor, end: Tensor, share: Tensor, seconds: float, ground: float, height: float) -> Swing:
    """Feet swinging from start (B, feet, 3) to end (B, feet, 2) within `seconds`, at the share (B, feet) of that time.

    Horizontally a quintic with rest at both ends; vertically a sine of amplitude `height` on top of a quintic from the
    start's height to `ground`.
    """
    s = share[..., None]
    along, rate, change = quintic(s)
    a, b = math.pi * s, math.pi / seconds
    base = start[..., 2:] + along * (ground - start[..., 2:])
    step, drop = end - start[..., :2], ground - start[..., 2:]
    return Swing(
        torch.cat([start[..., :2] + along * step, base + height * torch.sin(a)], -1),
        torch.cat([rate * step / seconds, rate * drop / seconds + height * b * torch.cos(a)], -1),
        torch.cat([change * step / seconds**2, change * drop / seconds**2 - height * b**2 * torch.sin(a)], -1),
    )


def quintic(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From 0 to 1 with rest at both ends, and its first two derivatives with respect to s."""
    return (
        s**3 * (10.0 - 15.0 * s + 6.0 * s**2),
        30.0 * s**2 * (1.0 - s) ** 2,
        60.0 * s * (1.0 - s) * (1.0 - 2.0 * s),
    )
