"""Stage costs of (x, u) for the mpc.pytorch adapter: quadratic ones, any function, and costs of changes of u."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.input_memory import InputMemory
from qp_control.mpc.nonlinear_ocp import NonlinearOcp, times
from qp_control.mpc.sqp import SqpSettings, implicit, solve_sqp
from qp_control.ocp.layer import OcpLayer, OcpLayerSolution
from qp_control.robot.torch_dynamics import value_and_jacobians
from qp_control.settings import Status

_HALVINGS = 12
_LEAST_CURVATURE = 1e-8  # of the cost in a step


@dataclass(frozen=True)
class Slew:
    """penalty/2 |u_t - u_{t-1}|^2, in states (x, u_{t-1})."""

    penalty: float
    nx: int
    nu: int

    def dynamics(self, inner: Any) -> InputMemory:
        return InputMemory(inner)

    def stages(self, A: Tensor, B: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Linear dynamics of these states."""
        nu, pad = self.nu, torch.nn.functional.pad
        eye = torch.eye(nu, dtype=B.dtype).expand(*B.shape[:-2], nu, nu)
        return pad(A, (0, nu, 0, nu)), torch.cat([B, eye], -2), None if c is None else pad(c, (0, nu))


def quadratic(C: Tensor, c: Tensor, nx: int, slew: Slew | None = None) -> dict[str, Tensor]:
    """1/2 tau'C tau + c'tau as data of an optimal-control QP, with no cost on the state after the last stage."""
    C = 0.5 * (C + C.mT)
    Q, R, S, q, r = C[..., :nx, :nx], C[..., nx:, nx:], C[..., nx:, :nx], c[..., :nx], c[..., nx:]
    if slew is not None:
        nu, pad = slew.nu, torch.nn.functional.pad
        eye = slew.penalty * torch.eye(nu, dtype=C.dtype)
        Q = pad(Q, (0, nu, 0, nu)) + pad(eye, (nx, 0, nx, 0))
        S, R, q = pad(S, (0, nu)) - pad(eye, (nx, 0)), R + eye, pad(q, (0, nu))
    none = torch.zeros(Q.shape[-1], Q.shape[-1], dtype=C.dtype)
    return {"Q": Q, "R": R, "S": S, "q": q, "r": r, "Q_N": none, "q_N": none[0]}


def quadratic_cost(data: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
    """(B,) of trajectories x (B, T, nx), u (B, T, nu)."""
    of_x = 0.5 * times(data["Q"], x) + data["q"] + times(data["S"].mT, u)
    of_u = 0.5 * times(data["R"], u) + data["r"]
    return (of_x * x).sum((1, 2)) + (of_u * u).sum((1, 2))


def native(value: Tensor) -> Tensor:
    """float64 on the CPU, as the layers compute."""
    return value.to("cpu", torch.float64)


class CostFunction:
    """cost(tau) (.,) of rows tau (., nx + nu), in the precision and on the device of `like`."""

    def __init__(self, cost: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self.cost, self.like = cost, like

    def __call__(self, tau: Tensor) -> Tensor:
        """(B, T) of tau (B, T, n).

        Raises:
            ValueError: the cost has another shape than (rows,).
        """
        rows = tau.reshape(-1, tau.shape[-1])
        cost = self.cost(rows.to(self.like))
        if cost.shape != rows.shape[:1]:
            raise ValueError(f"cost returned shape {tuple(cost.shape)}, expected ({len(rows)},) of as many rows tau")
        return native(cost).reshape(tau.shape[:-1])

    def expansion(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """H (B, T, n, n) and c (B, T, n) of the second-order expansion 1/2 tau'H tau + c'tau around x, u."""

        def slope(x: Tensor, u: Tensor) -> Tensor:
            tau = torch.cat([x, u], -1)
            (g,) = torch.autograd.grad(self(tau).sum(), tau, create_graph=True)
            return g

        g, H_x, H_u = value_and_jacobians(slope, x.detach(), u.detach())
        H = torch.cat([H_x, H_u], -1)
        return H, g - times(H, torch.cat([x, u], -1).detach())


def convex(H: Tensor) -> Tensor:
    """H with its eigenvalues raised to slightly above zero, for a step."""
    values, vectors = torch.linalg.eigh(0.5 * (H + H.mT))
    out: Tensor = vectors @ torch.diag_embed(values.clamp(min=_LEAST_CURVATURE)) @ vectors.mT
    return out


def iterate_cost(
    cost: CostFunction, ocp: NonlinearOcp, u: Tensor, layer: OcpLayer, settings: SqpSettings
) -> tuple[OcpLayerSolution, NonlinearOcp]:
    """Solve with any function as the cost: problems with its quadratic expansion, until the inputs stop changing.

    Each step is halved until the cost of the inputs' rollout falls. The last problem, with the expansion at the
    solution, gives the gradients, since its optimality conditions depend on the cost's parameters as those of the
    solution do. It is returned too.
    """
    T, nx = ocp.horizon, ocp.x0.shape[-1]

    def value(x: Tensor, u: Tensor) -> Tensor:
        return cost(torch.cat([x[:, :T], u], -1)).sum(1)

    with torch.no_grad():
        x = rollout(ocp, u)
        best = value(x, u)
        converged = torch.zeros(len(u), dtype=torch.bool)
        for _ in range(settings.max_iter):
            H, c = cost.expansion(x[:, :T], u)
            here = replace(ocp, data=ocp.data | quadratic(convex(H), c, nx))
            step = solve_sqp(here, x, u, layer, settings).point.u - u
            size = torch.ones(len(u), 1, 1, dtype=u.dtype)
            converged = step.abs().amax((1, 2)) <= settings.eps * (1.0 + u.abs().amax((1, 2)))
            if bool(converged.all()):
                break
            for _ in range(_HALVINGS):
                tried = u + size * step
                states = rollout(ocp, tried)
                now = value(states, tried)
                worse = ~(now <= best + 1e-12 * best.abs())
                if not bool(worse.any()):
                    break
                size = torch.where(worse[:, None, None], 0.5 * size, size)
            keep = worse[:, None, None]
            u, x = torch.where(keep, u, tried), torch.where(keep, x, states)
            best = torch.where(worse, best, now)
    last = replace(ocp, data=ocp.data | quadratic(*cost.expansion(x[:, :T], u), nx))
    with torch.no_grad():
        H, c = cost.expansion(x[:, :T], u)
        answers = solve_sqp(replace(ocp, data=ocp.data | quadratic(convex(H), c, nx)), x, u, layer, settings)
    status = torch.where(converged, answers.point.status, int(Status.MAX_ITER))
    answers = answers._replace(point=answers.point._replace(status=status))
    out = implicit(last, answers, layer) if torch.is_grad_enabled() else answers.point
    return out._replace(objective=value(out.x, out.u)), last


def rollout(ocp: NonlinearOcp, u: Tensor) -> Tensor:
    """The states (B, T + 1, nx) to which the inputs u (B, T, nu) lead."""
    x = [ocp.x0]
    for t in range(u.shape[1]):
        # Dynamics that differ between stages must be evaluated at all of them.
        stages = ocp.step(torch.stack([*x, *[x[-1]] * (u.shape[1] + 1 - len(x))], 1), u)
        x.append(stages[:, t])
    return torch.stack(x, 1)
