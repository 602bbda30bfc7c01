"""A cart-pole balanced by model predictive control at 1 kHz, exported for the C++ program mpc_loop.

    python examples/cpp/export_controller.py controller

The model is linearised where the pole stands upright. A horizon of 30 ms is enough, as the cost beyond is that of the
linear regulator.
"""

import sys

import torch

import qp_control as qc


def cart_pole(x, u):
    """Position [m], angle from upright [rad] and their rates; a force on the cart [N]."""
    cart, pole, length, gravity = 1.0, 0.2, 0.5, 9.81
    _, angle, _, rate = x.unbind(-1)
    sin, cos = angle.sin(), angle.cos()
    acceleration = (u[..., 0] + pole * sin * (length * rate**2 - gravity * cos)) / (cart + pole * sin**2)
    return torch.stack([x[..., 2], rate, acceleration, (gravity * sin - acceleration * cos) / length], -1)


def regulator(A, B, Q, R):
    """The cost-to-go P of x'Qx + u'Ru, by doubling: every pass counts twice as many periods."""
    G, P, eye = B @ torch.linalg.solve(R, B.mT), Q, torch.eye(len(A), dtype=A.dtype)
    for _ in range(40):
        W = torch.linalg.solve(eye + G @ P, torch.cat([A, G], 1))
        A, G, P = A @ W[:, : len(A)], G + A @ W[:, len(A) :] @ A.mT, P + A.mT @ P @ W[:, : len(A)]
    return 0.5 * (P + P.mT)


def controller():
    """The controller and the plan along which it is linearised: at rest, upright."""
    model = qc.TorchDynamics(cart_pole, nx=4, nu=1, dt=0.001, integrator="rk4")
    inf = float("inf")
    mpc = qc.MPC(model, horizon=30, input_limit=[10.0], state_limit=[inf, inf, 1.0, inf], rate_limit=[2000.0])
    upright = torch.zeros(1, 4, dtype=torch.float64)
    _, A, B = model.linearize(upright, upright[:, :1])
    Q, R = (torch.diag(torch.tensor(entries, dtype=torch.float64)) for entries in ([10.0, 10.0, 1.0, 1.0], [0.1]))
    mpc.set_weights(q=Q.diagonal(), r=R.diagonal(), terminal=regulator(A[0], B[0], Q, R))
    return mpc, mpc.cold_plan(upright)


if __name__ == "__main__":
    mpc, plan = controller()
    print("wrote", qc.export_mpc(mpc, sys.argv[1] if len(sys.argv) > 1 else "controller", plan))
