"""What the optimal-control layer returns."""

from __future__ import annotations

from typing import NamedTuple

import torch


class OcpLayerSolution(NamedTuple):
    """Solutions of a batch of optimal-control QPs, in the dtype and on the device of A; without the axis B if no data
    have one. Signs as in `OcpSolution`; gradients pass through all fields up to `objective`."""

    x: torch.Tensor
    """(B, N + 1, nx) states."""
    u: torch.Tensor
    """(B, N, nu) inputs."""
    y: torch.Tensor
    """(B, N + 1, nx) multipliers of x_0 = x0 and of the dynamics: the costates."""
    z: torch.Tensor
    """(B, N, rows) multipliers of lower <= C x + D u <= upper."""
    z_N: torch.Tensor
    """(B, terminal_rows) multipliers of lower_N <= C_N x_N <= upper_N."""
    w_x: torch.Tensor
    """(B, N + 1, nx) multipliers of the boxes of the states."""
    w_u: torch.Tensor
    """(B, N, nu) multipliers of the boxes of the inputs."""
    s_lower: torch.Tensor
    """(B, N, rows) shift >= 0: lower - s_lower <= C x + D u."""
    s_upper: torch.Tensor
    """(B, N, rows)"""
    s_lower_N: torch.Tensor
    """(B, terminal_rows)"""
    s_upper_N: torch.Tensor
    """(B, terminal_rows)"""
    s_x_lower: torch.Tensor
    """(B, N + 1, nx)"""
    s_x_upper: torch.Tensor
    """(B, N + 1, nx)"""
    s_u_lower: torch.Tensor
    """(B, N, nu)"""
    s_u_upper: torch.Tensor
    """(B, N, nu)"""
    slack_lower: torch.Tensor
    """(B, N, rows) slack of soft rows, zero on hard ones: lower - slack_lower <= C x + D u."""
    slack_upper: torch.Tensor
    """(B, N, rows)"""
    slack_lower_N: torch.Tensor
    """(B, terminal_rows)"""
    slack_upper_N: torch.Tensor
    """(B, terminal_rows)"""
    objective: torch.Tensor
    """(B,) the cost of (x, u) and of the slacks."""
    status: torch.Tensor
    """(B,) int64, see `Status`."""
    iterations: torch.Tensor
    """(B,) int64, Newton steps."""
    primal_residual: torch.Tensor
    """(B,) largest violation of a (shifted) constraint or of the dynamics."""
    dual_residual: torch.Tensor
    """(B,) largest entry of the stationarity conditions."""
    duality_gap: torch.Tensor
    """(B,) difference of primal and dual cost."""
