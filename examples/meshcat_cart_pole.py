"""A learned swing-up next to the initial controller, with their plans, forces and limits, in meshcat.

A slider on the page chooses among the intermediate controllers of the training.

python examples/meshcat_cart_pole.py [--run runs/cart_pole_swing_up] [--movie gif] [--live]
Without a run it trains for half a minute first.
"""

import numpy as np
from meshcat_demo import BLUE, GREY, NOWHERE, ORANGE, RED, Demo

from qp_control.viewer import Arrow, Camera, Line, Overlay, Robot, Shape, Stage

APART = 1.2  # [m] from one track to the other
demo = Demo(__doc__, "cart_pole_swing_up", ["imitation_iterations", "closed_loop_iterations"], steps=120)
limit = demo.plant.force_limit


def drive(name, controller, y):
    """States from one start, and what moves in the scene with them."""
    bound, track = controller.input_bound()[0].item(), controller.state_bound()[0].item()
    parts = ("plan", "force", "force at its limit", "left", "right", "left end", "right end")
    states, moved = [], {f"{name} {part}": [] for part in parts}
    for x, plan in demo.closed_loop(controller, [0.3, np.pi - 0.2, 0.0, 0.0]):
        u, p, angle = plan.input.item(), *plan.states[0, :, :2].numpy().T
        arrow, pushed = np.array([[x[0], y, 0.0], [0.8 * u / limit, 0.0, 0.0]]), abs(u) > 0.999 * bound
        states.append(x)
        moved[f"{name} plan"].append(np.stack([p + np.sin(angle), np.full_like(p, y - 0.13), np.cos(angle)], -1))
        moved[f"{name} force"].append(arrow if not pushed else 0 * arrow)
        moved[f"{name} force at its limit"].append(arrow if pushed else 0 * arrow)
        for side, sign in (("left", -1.0), ("right", 1.0)):  # does the plan go to the end of the track?
            there, end = (sign * p[1:]).max() > 0.999 * track, [sign * track, y, 0.0]
            moved[f"{name} {side}"].append(end if there else [NOWHERE] * 3)
            moved[f"{name} {side} end"].append(end)
    return np.array(states), moved


def weights(controller):
    """To read on the page."""
    values = [*controller.state_cost().diagonal().tolist(), controller.input_cost().item()]
    names = ("position", "angle", "speed", "rate", "force")
    return {f"weight of the {name}": f"{value:.4f}" for name, value in zip(names, values, strict=True)}


states, moved = drive("untuned", demo.untuned, APART)
moved["untuned"] = states[:, :2]
stages = [Stage(name, *drive("learned", found, 0.0), weights(found)) for name, found in demo.stages.items()]
scenery = [Robot("untuned", demo.plant.urdf, position=(0.0, APART, 0.0), color=GREY)]
for name in ("untuned", "learned"):
    scenery += [
        Line(f"{name} plan", demo.learned.horizon + 1, radius=0.012, color=ORANGE),
        Arrow(f"{name} force", BLUE),
        Arrow(f"{name} force at its limit", RED),
    ]
    for side in ("left", "right"):
        scenery.append(Shape(f"{name} {side}", (0.04, 0.34, 0.5), (0.0, 0.0, 0.0), RED))
        scenery.append(Shape(f"{name} {side} end", (0.03, 0.3, 0.4), (0.0, 0.0, 0.0), GREY))
demo.show(
    stages,
    scenery=scenery,
    moved=moved,
    camera=Camera(position=(0.0, -2.6, 1.3), target=(0.0, 0.4, 0.15)),
    title="Cart-pole: learned and untuned",
    overlay=Overlay(
        heading="Cart-pole, swing-up",
        legend={"planned path of the pole's end": ORANGE, "force": BLUE, "at its limit": RED, "untuned": GREY},
        eyes={"front": (0.0, -2.6, 1.3), "corner": (2.4, -2.2, 1.6), "above": (0.0, -0.2, 3.6)},
    ),
)
