"""Which elements of a batch are made of numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qp_control.ocp.problem import OcpQP


def finite_elements(*values: Tensor) -> Tensor:
    """(B,) bool: no number of this element is NaN or infinite."""
    # A sum is finite where its terms are, but for terms so large that they are of no use either.
    total = torch.stack([v.detach().flatten(1).sum(1) for v in values])
    return total.isfinite().all(0)


def finite_rows(qp: OcpQP) -> Tensor:
    """(B,) bool: functions of rows, and their Jacobians, are finite where the QP has them linearised."""
    data = qp.data()
    finite = finite_elements(*(data[name] for name in ("C", "D", "C_N") if name in data))
    for name, value in data.items():
        # Bounds less values that are not finite.
        if name in ("lower", "lower_N"):
            finite = finite & (value < torch.inf).flatten(1).all(1)
        elif name in ("upper", "upper_N"):
            finite = finite & (value > -torch.inf).flatten(1).all(1)
    return finite


def all_finite(*values: Tensor) -> bool:
    """Whether all numbers are finite."""
    return math.isfinite(sum(float(v.sum()) for v in values))


def like(mask: Tensor, value: Tensor) -> Tensor:
    """mask (B,) with as many axes as value."""
    return mask.view(-1, *[1] * (value.ndim - 1))
