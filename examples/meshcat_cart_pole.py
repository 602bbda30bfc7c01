"""A learned swing-up beside the controller that it began as, with their plans, forces and limits, in meshcat.

python examples/meshcat_cart_pole.py [--run runs/cart_pole_swing_up] [--movie gif] [--live]
Without a run it learns for half a minute first.
"""

from pathlib import Path

import numpy as np
import torch
from meshcat_demo import arguments, show

from qp_control.training import RunFolder, Trainer, create
from qp_control.training.trainer import load_module
from qp_control.viewer import Arrow, Camera, Line, Overlay, Robot, Shape

BLUE, RED, GREY, ORANGE = 0x1F77B4, 0xD62728, 0x9AA0A6, 0xF07823
APART = 1.2  # [m] from one track to the other

parser = arguments(__doc__)
parser.add_argument("--run", type=Path, help="folder of `qp-control train cart_pole_swing_up`")
parser.add_argument("--iterations", type=int, default=None, help="of each phase, where there is no run")
parser.add_argument("--steps", type=int, default=140, help="control periods of 50 ms")
given = parser.parse_args()

few = given.iterations
changed = {} if few is None else {"imitation_iterations": few, "closed_loop_iterations": few}
task = create("cart_pole_swing_up", **changed)
learned = Trainer(task).train() if given.run is None else load_module(RunFolder.open(given.run), task)


def drive(controller, name, y):
    """States of the plant from one start, and what moves in the scene with them."""
    x, plan = torch.tensor([[0.3, np.pi - 0.2, 0.0, 0.0]], dtype=torch.float64), None
    limit, track = task.plant.force_limit, controller.state_bound()[0].item()
    states, moved = [], {f"{name} {item}": [] for item in ("plan", "force", "force at its limit", "left", "right")}
    for _ in range(given.steps):
        with torch.no_grad():
            plan = controller(x, None if plan is None else plan.shift())
        u, p, angle = float(plan.input), plan.states[0, :, 0].numpy(), plan.states[0, :, 1].numpy()
        arrow = np.array([[float(x[0, 0]), y, 0.0], [0.8 * u / limit, 0.0, 0.0]])
        pushed = abs(u) > 0.999 * controller.input_bound()[0].item()
        states.append(x[0].numpy())
        moved[f"{name} plan"].append(np.stack([p + np.sin(angle), np.full_like(p, y - 0.13), np.cos(angle)], -1))
        moved[f"{name} force"].append(arrow if not pushed else np.full((2, 3), np.nan))
        moved[f"{name} force at its limit"].append(arrow if pushed else np.full((2, 3), np.nan))
        for side, sign in (("left", -1.0), ("right", 1.0)):  # is the plan at the end of the track?
            there = (sign * p[1:]).max() > 0.999 * track
            moved[f"{name} {side}"].append([sign * track, y, 0.0] if there else [np.nan] * 3)
        x = task.plant.step(x, plan.input)
    return np.array(states), {item: np.array(path) for item, path in moved.items()}


states, moved = drive(learned, "learned", 0.0)
untuned, with_untuned = drive(task.module(), "untuned", APART)
names = [("learned", learned, 0.0), ("untuned", task.module(), APART)]
scenery = [Robot("untuned", task.plant.urdf, position=(0.0, APART, 0.0), color=GREY)]
for name, controller, y in names:
    scenery += [
        Line(f"{name} plan", learned.horizon + 1, radius=0.012, color=ORANGE),
        Arrow(f"{name} force", BLUE),
        Arrow(f"{name} force at its limit", RED),
    ]
    end = controller.state_bound()[0].item()
    for side, sign in (("left", -1.0), ("right", 1.0)):
        scenery.append(Shape(f"{name} {side}", (0.04, 0.34, 0.5), (sign * end, y, 0.0), RED))
        scenery.append(Shape(f"{name} {side} end", (0.03, 0.3, 0.4), (sign * end, y, 0.0), GREY))
table = [["weights", "untuned", "learned"]]
for title, cost in (("position", 0), ("angle", 1), ("speed", 2), ("rate", 3)):
    table.append([title, *(f"{c.state_cost().diagonal()[cost].item():.3f}" for c in (task.module(), learned))])
table.append(["force", *(f"{c.input_cost().diagonal()[0].item():.4f}" for c in (task.module(), learned))])
show(
    "cart_pole",
    given,
    task.plant.urdf,
    task.plant.control_period * np.arange(len(states)),
    states,
    scenery=scenery,
    moved=moved | with_untuned | {"untuned": untuned[:, :2]},
    camera=Camera(position=(0.0, -2.6, 1.3), target=(0.0, 0.4, 0.15)),
    title="Cart-pole: learned and untuned",
    overlay=Overlay(
        heading="Cart-pole, swing-up",
        legend={"planned path of the pole's end": ORANGE, "force": BLUE, "at its limit": RED, "untuned": GREY},
        table=table,
        eyes={"front": (0.0, -2.6, 1.3), "corner": (2.4, -2.2, 1.6), "above": (0.0, -0.2, 3.6)},
    ),
)
