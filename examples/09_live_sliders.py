"""Change a running controller in a live view: sliders for the weights of an MPC, its force limit and a push.

python examples/09_live_sliders.py [--seconds 600] [--no-browser]
The page is served on 127.0.0.1 only.
"""

import argparse
import math

import torch

import qp_control as qc
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.viewer import Camera, LiveViewer, Slider

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seconds", type=float, default=600.0, help="how long it runs")
parser.add_argument("--no-browser", action="store_true", help="open no page")
given = parser.parse_args()

period = 0.05
model = qc.RobotDynamics(CartPoleSwingUp.urdf, dt=period)
mpc = qc.MPC(model, horizon=25, state_limit=[2.4, math.inf, math.inf, math.inf], input_limit=[20.0])
sliders = {
    "weight of the position": Slider(0.1, 0.01, 10.0),
    "weight of the angle": Slider(1.0, 0.01, 10.0),
    "largest force [N]": Slider(20.0, 1.0, 40.0),
    "push [N]": Slider(0.0, -40.0, 40.0),
}
camera = Camera((0.0, -3.5, 0.8), (0.0, 0.0, 0.2))
view = LiveViewer(CartPoleSwingUp.urdf, camera=camera, open_browser=not given.no_browser, sliders=sliders)
print("sliders at", view.url)
x, plan = torch.tensor([[0.0, math.pi, 0.0, 0.0]], dtype=torch.float64), None
try:
    with torch.no_grad():
        for _ in range(int(given.seconds / period)):
            now = view.values
            weights = [now["weight of the position"], now["weight of the angle"]]
            mpc.set_weights([*weights, 0.01, 0.01], [0.01], [100 * weights[0], 100 * weights[1], 10.0, 10.0])
            mpc.input_limit.fill_(now["largest force [N]"])
            plan = mpc(x, None if plan is None else plan.shift())
            x = model.step(x, plan.input + now["push [N]"])
            view.display(x[0].numpy(), pause=period)
except KeyboardInterrupt:
    pass
finally:
    view.close()
print(f"the pole ends {abs(float(x[0, 1])):.2f} rad from upright")
