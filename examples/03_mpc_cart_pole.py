"""Swing up a cart-pole in its Gymnasium environment with a model predictive controller tuned by hand."""

import math

import gymnasium as gym
import torch

import qp_control as qc
import qp_control.envs  # registers the environments
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp

model = qc.RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)
mpc = qc.MPC(model, horizon=25, state_limit=[2.4, math.inf, math.inf, math.inf])
mpc.set_weights(q=[0.1, 1.0, 0.01, 0.01], r=[0.01], terminal=[10.0, 100.0, 10.0, 10.0])

# The pole is 20 % heavier and the joints have 20 % more friction than the controller's model.
env = gym.make("QPControl/CartPoleSwingUp-v0", pole_mass_scale=1.2, friction_scale=1.2)
state, _ = env.reset(seed=0)
plan, done, total = None, False, 0.0
while not done:
    with torch.no_grad():
        plan = mpc(torch.from_numpy(state)[None], None if plan is None else plan.shift())
    state, reward, terminated, truncated, info = env.step(plan.input[0].numpy())
    total += reward
    done = terminated or truncated
position, angle = state[0], state[1]
print(
    f"return {total:.1f}, success {info['is_success']}, cart at {position:+.3f} m, pole {angle:+.3f} rad from upright"
)
