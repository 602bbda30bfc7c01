"""Fly a quadrotor around an obstacle, then identify a cart-pole's masses and length from another controller's plans."""

import torch

import qp_control as qc
from qp_control.systems import cart_pole, quadrotor

# A ball of radius 0.4 m stands on the way; the speed is limited, and inputs may change by 20 N per second.
centre, radius = torch.tensor([1.0, 0.1, 0.0]), 0.4
drone = quadrotor(dt=0.05)
mpc = qc.MPC(
    drone,
    horizon=25,
    rate_limit=[20.0] * 4,
    rows=[qc.keep_out(lambda x: x[..., :3], centre, radius), qc.speed_limit(lambda x: x[..., 6:9], 1.5)],
)
weights = [10.0] * 3 + [1.0] * 6 + [0.1] * 3
mpc.set_weights(q=weights, r=[1.0] * 4, terminal=weights)
x, plan, nearest = torch.zeros(1, 12, dtype=torch.float64), None, float("inf")
x[0, 0] = 2.0
for _ in range(100):  # one QP per control period
    with torch.no_grad():
        plan = mpc(x, None if plan is None else plan.shift())
        x = drone.step(x, plan.input)
    nearest = min(nearest, float((x[0, :3] - centre).norm()))
print(f"{float(x[0, :3].norm()):.3f} m from the goal after 5 s, never nearer than {nearest:.2f} m to the centre")

# Gradients of converged plans by the parameters of the model: what does an expert believe its plant to be?
starts = torch.tensor([[0.0, 0.4, 0.0, 0.0], [0.5, -0.3, 0.0, 0.5], [-0.5, 0.1, 0.5, 0.0]], dtype=torch.float64)


def controller():
    mpc = qc.MPC(cart_pole(), horizon=20, mode="converged")
    return mpc.set_weights(q=[1.0, 5.0, 0.1, 0.1], r=[0.05], terminal=[10.0, 50.0, 1.0, 1.0])


expert, pupil = controller(), controller()
truth = torch.tensor([1.4, 0.3, 0.7], dtype=torch.float64)  # cart [kg], pole [kg], length [m]
with torch.no_grad():
    expert.model.value.copy_(truth)
    shown = expert(starts).inputs
optimiser = torch.optim.LBFGS([pupil.model.value], max_iter=50, line_search_fn="strong_wolfe")


def loss():
    optimiser.zero_grad()
    value = (pupil(starts).inputs - shown).square().mean()
    value.backward()
    return value


optimiser.step(loss)
found = pupil.model.value.detach()
print("found", [round(v, 3) for v in found.tolist()], "the truth is", truth.tolist())
