"""States that include the previous input, so that limits on the rate of inputs are rows of the problem."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.nonlinear_ocp import NonlinearOcp, StageRows, part_of_dynamics


class InputMemory:
    """Dynamics of (x, u_before): the next one is (f(x, u), u)."""

    vector_space = True

    def __init__(self, dynamics: Any) -> None:
        self.dynamics = dynamics
        self.nx, self.nu = dynamics.nx + dynamics.nu, dynamics.nu

    def element(self, elements: Tensor) -> InputMemory:
        return InputMemory(part_of_dynamics(self.dynamics, elements))

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        return torch.cat([self.dynamics.step(x[..., : -self.nu], u, parameters), u], -1)

    def linearize(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        nx, nu = self.dynamics.nx, self.nu
        x_next, A, B = self.dynamics.linearize(x[..., :nx], u, parameters)
        wide = torch.nn.functional.pad(A, (0, nu, 0, nu))
        eye = torch.eye(nu, dtype=B.dtype).expand(*B.shape[:-2], nu, nu)
        return torch.cat([x_next, u], -1), wide, torch.cat([B, eye], -2)

    def second_order(self, x: Tensor, u: Tensor, y: Tensor, parameters: Tensor | None = None) -> Tensor:
        nx, nu = self.dynamics.nx, self.nu
        inner = self.dynamics.second_order(x[..., :nx], u, y[..., :nx], parameters)
        out: Tensor = inner.new_zeros(*inner.shape[:-2], nx + 2 * nu, nx + 2 * nu)
        out[..., :nx, :nx], out[..., :nx, nx + nu :] = inner[..., :nx, :nx], inner[..., :nx, nx:]
        out[..., nx + nu :, :nx], out[..., nx + nu :, nx + nu :] = inner[..., nx:, :nx], inner[..., nx:, nx:]
        return out


def with_rate_limit(ocp: NonlinearOcp, previous: Tensor, limit: Tensor) -> NonlinearOcp:
    """The problem with |u_k - u_{k-1}| <= limit (nu,); its states are (x_k, u_{k-1}), u_{-1} = previous (B, nu)."""
    nx, nu = ocp.x0.shape[-1], previous.shape[-1]
    pad = torch.nn.functional.pad
    data = dict(ocp.data)
    for name in ("Q", "Q_N"):
        if name in data:
            data[name] = pad(data[name], (0, nu, 0, nu))
    for name in ("q", "q_N", "S", "C", "C_N"):
        if name in data:
            data[name] = pad(data[name], (0, nu))
    for name, infinite in (("x_lower", -float("inf")), ("x_upper", float("inf"))):
        if name in data:
            data[name] = pad(data[name], (0, nu), value=infinite)
    rows = [_of_first_states(group, nx) for group in ocp.rows]
    rows.append(StageRows(lambda x, u: u - x[..., nx:], -limit, limit))
    x0 = torch.cat([ocp.x0, previous], -1)
    return NonlinearOcp(InputMemory(ocp.dynamics), ocp.horizon, x0, data, ocp.parameters, rows)


def _of_first_states(rows: Any, nx: int) -> Any:
    """The rows, with functions that take only the robot's part of the state."""
    inner = rows.function
    return dataclasses.replace(rows, function=lambda x, *more: inner(x[..., :nx], *more))
