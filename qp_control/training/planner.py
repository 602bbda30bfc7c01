"""Long-horizon trajectories by iterative LQR with bounded inputs, batched.

    minimise   sum_{k<T} 1/2 |x_k - r|_Q^2 + 1/2 |u_k|_R^2 + 1/2 |x_T - r|_P^2 + penalty on |x| beyond its limit
    subject to x_{k+1} = f(x_k, u_k),  |u_k| <= limit

P is the cost-to-go of the linear regulator at r, with whose feedback `experts` continues the plan after T. Not meant
for control: a call takes seconds and is not differentiable.

Source: Y. Tassa, N. Mansard, E. Todorov, "Control-limited differential dynamic programming", ICRA 2014; with more than
one input the bounded step is found by clipping and freezing, not by a QP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qp_control.robot.dynamics import RobotDynamics

LINE_SEARCH = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.01)


@dataclass(frozen=True)
class PlannerCost:
    """q (nx,), r (nu,): diagonals of Q and R. reference (nx,).

    state_limit (nx,): soft, infinite where there is none; penalty: its weight; margin: how far inside it starts.
    """

    q: Tensor
    r: Tensor
    reference: Tensor
    state_limit: Tensor
    penalty: float = 50.0
    margin: float = 0.2


@dataclass(frozen=True)
class Trajectories:
    """states (B, T + 1, nx), inputs (B, T, nu) [N or N m], cost (B,)."""

    states: Tensor
    inputs: Tensor
    cost: Tensor

    def __getitem__(self, elements: Tensor) -> Trajectories:
        return Trajectories(self.states[elements], self.inputs[elements], self.cost[elements])


@torch.no_grad()
def linear_regulator(dynamics: RobotDynamics, cost: PlannerCost) -> tuple[Tensor, Tensor]:
    """Cost-to-go P (nx, nx) and feedback K (nu, nx), u = K (x - r), at the equilibrium r with zero input.

    Raises ValueError if the Riccati iteration does not converge in 10 000 steps.
    """
    _, A, B = dynamics.linearize(cost.reference, cost.reference.new_zeros(dynamics.nu))
    Q, R = torch.diag(cost.q), torch.diag(cost.r)
    P = Q
    for _ in range(10_000):
        K = -torch.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        P_next = Q + A.T @ P @ (A + B @ K)
        P_next = 0.5 * (P_next + P_next.T)
        if bool((P_next - P).abs().max() <= 1e-10 * P_next.abs().max()):
            return P_next, K
        P = P_next
    raise ValueError("the Riccati iteration did not settle: the model cannot be stabilised at the reference")


@torch.no_grad()
def plan_trajectories(
    dynamics: RobotDynamics,
    x0: Tensor,
    inputs: Tensor,
    cost: PlannerCost,
    *,
    input_limit: Tensor | None = None,
    iterations: int = 150,
    tolerance: float = 1e-6,
) -> Trajectories:
    """Locally optimal trajectories from x0 (B, nx), initialised with `inputs` (B, T, nu).

    input_limit (nu,); None: the model's effort limits. Stops after `iterations`, or once no element improves by more
    than the relative `tolerance`.
    """
    limit = dynamics.effort_limit if input_limit is None else input_limit
    P, _ = linear_regulator(dynamics, cost)
    batch, _, nu = inputs.shape
    eye = torch.eye(nu, dtype=x0.dtype)
    steps = x0.new_tensor(LINE_SEARCH)
    n = len(steps)
    U = inputs.clamp(-limit, limit)
    X, U = _simulate(dynamics, x0, U, limit)
    J = _total_cost(X, U, cost, P)
    damping = x0.new_full((batch,), 1e-3)
    for iteration in range(iterations):
        K, k = _backward(dynamics, X, U, cost, P, limit, damping[:, None, None] * eye)

        def repeat(value: Tensor) -> Tensor:
            return value.repeat_interleave(n, 0)

        policy = (repeat(X), repeat(K), repeat(k) * steps.repeat(batch)[:, None, None])
        tried_X, tried_U = _simulate(dynamics, repeat(x0), repeat(U), limit, policy)
        tried_J = _total_cost(tried_X, tried_U, cost, P).nan_to_num(float("inf")).view(batch, n)
        best, which = tried_J.min(1)
        better = best < J
        index = torch.arange(batch) * n + which
        X = torch.where(better[:, None, None], tried_X[index], X)
        U = torch.where(better[:, None, None], tried_U[index], U)
        gain = torch.where(better, (J - best) / J, 0.0)
        J = torch.where(better, best, J)
        damping = torch.where(better, damping / 3.0, damping * 5.0).clamp(1e-6, 1e6)
        if iteration >= 20 and bool((gain < tolerance).all()):
            break
    return Trajectories(X, U, J)


@torch.no_grad()
def experts(
    dynamics: RobotDynamics,
    x0: Tensor,
    cost: PlannerCost,
    *,
    steps: int,
    total_steps: int,
    generator: torch.Generator,
    restarts: int = 4,
    rate: tuple[float, float] = (4.0, 6.0),
) -> Trajectories:
    """The best of `restarts` plans of `steps` control periods from each x0 (B, nx), continued by the regulator.

    Each plan is initialised with a sine of random amplitude, phase and angular frequency in `rate` [rad/s]. Returns
    trajectories of `total_steps` control periods.
    """
    batch, nu = len(x0), dynamics.nu
    limit = dynamics.effort_limit

    def draw() -> Tensor:
        return torch.rand(batch * restarts, 1, nu, generator=generator, dtype=torch.float64)

    amplitude, phase, share = 0.4 * draw() * limit, 6.283 * draw(), draw()
    frequency = rate[0] + (rate[1] - rate[0]) * share
    time = dynamics.dt * torch.arange(steps, dtype=torch.float64)[None, :, None]
    guess = amplitude * torch.sin(frequency * time + phase)
    found = plan_trajectories(dynamics, x0.repeat_interleave(restarts, 0), guess, cost)
    best = found.cost.view(batch, restarts).argmin(1)
    chosen = found[torch.arange(batch) * restarts + best]
    _, feedback = linear_regulator(dynamics, cost)
    states, inputs = [chosen.states], [chosen.inputs]
    x = chosen.states[:, -1]
    for _ in range(total_steps - steps):
        u = ((x - cost.reference) @ feedback.T).clamp(-limit, limit)
        x = dynamics.step(x, u)
        states.append(x[:, None])
        inputs.append(u[:, None])
    return Trajectories(torch.cat(states, 1), torch.cat(inputs, 1), chosen.cost)


def _simulate(
    dynamics: RobotDynamics,
    x0: Tensor,
    U: Tensor,
    limit: Tensor,
    policy: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Trajectories under U, or under U + k + K (x - X) clipped to the limits."""
    states, inputs = [x0], []
    for t in range(U.shape[1]):
        u = U[:, t]
        if policy is not None:
            X, K, k = policy
            u = u + k[:, t] + (K[:, t] @ (states[-1] - X[:, t])[..., None])[..., 0]
            u = u.clamp(-limit, limit)
        inputs.append(u)
        states.append(dynamics.step(states[-1], u))
    return torch.stack(states, 1), torch.stack(inputs, 1)


def _excess(X: Tensor, cost: PlannerCost) -> Tensor:
    """How far the states are beyond the margin of their limits, with sign; zero for free coordinates."""
    return torch.relu(X.abs() - (cost.state_limit - cost.margin)) * X.sign()


def _total_cost(X: Tensor, U: Tensor, cost: PlannerCost, P: Tensor) -> Tensor:
    error = X - cost.reference
    running = (error[:, :-1] ** 2 @ cost.q).sum(1) + (U**2 @ cost.r).sum(1)
    final = ((error[:, -1] @ P) * error[:, -1]).sum(1)
    return 0.5 * (running + final + cost.penalty * (_excess(X, cost) ** 2).sum((1, 2)))


def _backward(
    dynamics: RobotDynamics,
    X: Tensor,
    U: Tensor,
    cost: PlannerCost,
    P: Tensor,
    limit: Tensor,
    damping: Tensor,
) -> tuple[Tensor, Tensor]:
    """Feedback K (B, T, nu, nx) and step k (B, T, nu) from the Riccati recursion, inputs at their limits frozen."""
    _, A, B = dynamics.linearize(X[:, :-1], U)
    excess = _excess(X, cost)
    error = X - cost.reference
    weight = torch.cat([torch.diag(cost.q).expand(U.shape[1], -1, -1), P[None]])
    l_x = (weight @ error[..., None])[..., 0] + cost.penalty * excess
    l_xx = weight + torch.diag_embed(cost.penalty * (excess != 0.0))
    R = torch.diag(cost.r)
    V, v = l_xx[:, -1], l_x[:, -1]
    K_all, k_all = [], []
    for t in range(U.shape[1] - 1, -1, -1):
        A_t, B_t, u = A[:, t], B[:, t], U[:, t]
        VA = V @ A_t
        Q_uu = R + B_t.mT @ V @ B_t
        Q_ux = B_t.mT @ VA
        Q_u = u * cost.r + (B_t.mT @ v[..., None])[..., 0]
        gain = torch.linalg.solve(Q_uu + damping, torch.cat([Q_ux, Q_u[..., None]], 2))
        k = torch.clamp(u - gain[..., -1], -limit, limit) - u
        frozen = k != -gain[..., -1]
        # rounding of u + k - u alone can make them differ: frozen inputs are at their limits, too
        frozen &= (u + k).abs() >= limit
        K = torch.where(frozen[..., None], 0.0, -gain[..., :-1])
        v = (
            l_x[:, t]
            + (A_t.mT @ v[..., None])[..., 0]
            + (K.mT @ ((Q_uu @ k[..., None])[..., 0] + Q_u)[..., None])[..., 0]
            + (Q_ux.mT @ k[..., None])[..., 0]
        )
        V = l_xx[:, t] + A_t.mT @ VA + K.mT @ Q_uu @ K + K.mT @ Q_ux + Q_ux.mT @ K
        V = 0.5 * (V + V.mT)
        K_all.append(K)
        k_all.append(k)
    return torch.stack(K_all[::-1], 1), torch.stack(k_all[::-1], 1)
