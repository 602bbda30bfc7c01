"""A learned swing-up beside the controller that it began as, with their plans, forces and limits, in meshcat.

python examples/meshcat_cart_pole.py [--run runs/cart_pole_swing_up] [--movie gif] [--live]
Without a run it learns for half a minute first.
"""

import numpy as np
from meshcat_demo import BLUE, GREY, NOWHERE, ORANGE, RED, Demo

from qp_control.viewer import Arrow, Camera, Line, Overlay, Robot, Shape

APART = 1.2  # [m] from one track to the other
demo = Demo(__doc__, "cart_pole_swing_up", ["imitation_iterations", "closed_loop_iterations"], steps=120)
limit = demo.plant.force_limit


def drive(name, controller, y):
    """States from one start, and what moves in the scene with them."""
    bound, track = controller.input_bound()[0].item(), controller.state_bound()[0].item()
    states, moved = [], {f"{name} {item}": [] for item in ("plan", "force", "force at its limit", "left", "right")}
    for x, plan in demo.closed_loop(controller, [0.3, np.pi - 0.2, 0.0, 0.0]):
        u, p, angle = plan.input.item(), *plan.states[0, :, :2].numpy().T
        arrow, pushed = np.array([[x[0], y, 0.0], [0.8 * u / limit, 0.0, 0.0]]), abs(u) > 0.999 * bound
        states.append(x)
        moved[f"{name} plan"].append(np.stack([p + np.sin(angle), np.full_like(p, y - 0.13), np.cos(angle)], -1))
        moved[f"{name} force"].append(arrow if not pushed else 0 * arrow)
        moved[f"{name} force at its limit"].append(arrow if pushed else 0 * arrow)
        for side, sign in (("left", -1.0), ("right", 1.0)):  # does the plan go to the end of the track?
            there = (sign * p[1:]).max() > 0.999 * track
            moved[f"{name} {side}"].append([sign * track, y, 0.0] if there else [NOWHERE] * 3)
    return np.array(states), moved


scenery, moved = [Robot("untuned", demo.plant.urdf, position=(0.0, APART, 0.0), color=GREY)], {}
for name, controller, y in (("untuned", demo.untuned, APART), ("learned", demo.learned, 0.0)):
    states, moving = drive(name, controller, y)
    moved |= moving
    scenery += [
        Line(f"{name} plan", controller.horizon + 1, radius=0.012, color=ORANGE),
        Arrow(f"{name} force", BLUE),
        Arrow(f"{name} force at its limit", RED),
    ]
    end = controller.state_bound()[0].item()
    for side, sign in (("left", -1.0), ("right", 1.0)):
        scenery.append(Shape(f"{name} {side}", (0.04, 0.34, 0.5), (sign * end, y, 0.0), RED))
        scenery.append(Shape(f"{name} {side} end", (0.03, 0.3, 0.4), (sign * end, y, 0.0), GREY))
    if name == "untuned":
        moved["untuned"] = states[:, :2]

table = [["weights", "untuned", "learned"]]
for index, title in enumerate(("position", "angle", "speed", "rate")):
    table.append([title, *(f"{c.state_cost().diagonal()[index].item():.3f}" for c in (demo.untuned, demo.learned))])
table.append(["force", *(f"{c.input_cost().diagonal()[0].item():.4f}" for c in (demo.untuned, demo.learned))])
demo.show(
    states,
    scenery=scenery,
    moved=moved,
    camera=Camera(position=(0.0, -2.6, 1.3), target=(0.0, 0.4, 0.15)),
    title="Cart-pole: learned and untuned",
    overlay=Overlay(
        heading="Cart-pole, swing-up",
        legend={"planned path of the pole's end": ORANGE, "force": BLUE, "at its limit": RED, "untuned": GREY},
        table=table,
        eyes={"front": (0.0, -2.6, 1.3), "corner": (2.4, -2.2, 1.6), "above": (0.0, -0.2, 3.6)},
    ),
)
