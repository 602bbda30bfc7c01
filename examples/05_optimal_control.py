"""Solve an optimal-control QP, learn its cost from the plans of an expert, and solve one with unreachable limits."""

import torch

import qp_control as qc

# A cart on a track, x = (position [m], speed [m/s]), u = force over mass [m/s^2], 0.1 s per stage.
dt, N = 0.1, 30
A = torch.tensor([[1.0, dt], [0.0, 1.0]], dtype=torch.float64)
B = torch.tensor([[0.5 * dt**2], [dt]], dtype=torch.float64)
limit = torch.tensor([1.0], dtype=torch.float64)
fastest = torch.tensor([torch.inf, 0.8], dtype=torch.float64)  # no bound on the position
layer = qc.OcpLayer(horizon=N)


def plan(starts, weights):
    """Plans from a batch of starts (B, 2); weights: logarithms of the diagonals of Q and R."""
    Q, R = torch.diag(weights[:2].exp()), torch.diag(weights[2:].exp())
    return layer(A, B, starts, Q=Q, R=R, u_lower=-limit, u_upper=limit, x_lower=-fastest, x_upper=fastest)


starts = torch.tensor([[1.0, 0.0], [-0.5, 0.4], [0.2, -0.6], [2.0, 0.5]], dtype=torch.float64)
expert = plan(starts, torch.tensor([1.0, -1.0, -2.0], dtype=torch.float64)).u
learned = torch.zeros(3, dtype=torch.float64, requires_grad=True)
optimiser = torch.optim.Adam([learned], lr=0.1)
for _ in range(200):
    optimiser.zero_grad()
    loss = (plan(starts, learned).u - expert).square().mean()
    loss.backward()
    optimiser.step()
ratios = (learned - learned[2]).detach()  # only the weights' ratios show in the plans
print(f"imitation loss {loss.item():.1e}, weights beside that of u: {ratios[0]:.3f}, {ratios[1]:.3f} (expert: 3, 1)")

# Too fast for its limits: the speed limit gives way by the least amount, the dynamics do not.
fast = plan(torch.tensor([[0.0, 1.5]], dtype=torch.float64), learned.detach())
print(
    qc.Status(int(fast.status)).name,
    "speed limit shifted by",
    [round(s, 3) for s in fast.s_x_upper[0, 1:9, 1].tolist()],
)
