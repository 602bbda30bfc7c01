"""What the QP layer returns."""

from __future__ import annotations

from typing import NamedTuple

import torch


class LayerSolution(NamedTuple):
    """Solutions of a batch of QPs, in the dtype and on the device of g; without the axis B if no data have one.

    H x + g + A'y + C'z + w = 0; z_i > 0: upper bound active, z_i < 0: lower bound active, the same for w.
    Gradients pass through all fields up to `objective`.
    """

    x: torch.Tensor
    """(B, n) minimisers."""
    y: torch.Tensor
    """(B, n_eq) multipliers of A x = b."""
    z: torch.Tensor
    """(B, n_in) multipliers of l <= C x <= u."""
    w: torch.Tensor
    """(B, n) multipliers of lb <= x <= ub."""
    s_eq: torch.Tensor
    """(B, n_eq) shift, so that A x = b + s_eq."""
    s_lower: torch.Tensor
    """(B, n_in) shift >= 0: l - s_lower <= C x."""
    s_upper: torch.Tensor
    """(B, n_in) shift >= 0: C x <= u + s_upper."""
    s_lb: torch.Tensor
    """(B, n) shift >= 0: lb - s_lb <= x."""
    s_ub: torch.Tensor
    """(B, n) shift >= 0: x <= ub + s_ub."""
    objective: torch.Tensor
    """(B,) 1/2 x'H x + g'x."""
    status: torch.Tensor
    """(B,) int64, see `Status`."""
    iterations: torch.Tensor
    """(B,) int64, Newton steps. If infeasibility is beyond doubt, those of the two levels only."""
    primal_residual: torch.Tensor
    """(B,) largest violation of a (shifted) constraint."""
    dual_residual: torch.Tensor
    """(B,) largest entry of |H x + g + A'y + C'z + w|."""
    duality_gap: torch.Tensor
    """(B,) |x'H x + g'x + b'y + u'z+ + l'z- + ub'w+ + lb'w-|."""
    active_in: torch.Tensor
    """(B, n_in) int8, 1: l <= C x <= u is held at its upper bound, -1: at its lower one, 0: its multiplier is zero. For
    warm starts: if z is zero up to rounding, its sign does not identify the bound."""
    active_box: torch.Tensor
    """(B, n) int8, the same for lb <= x <= ub."""
