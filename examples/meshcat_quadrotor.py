"""A quadrotor with an unknown load flies to waypoints: the learned MPC next to the initial one, in meshcat.

A slider on the page chooses among the intermediate controllers of the training.

python examples/meshcat_quadrotor.py [--run runs/quadrotor_analytic] [--movie gif] [--live]
Without a run it trains for a minute first.
"""

import numpy as np
from meshcat_demo import BLUE, GREEN, GREY, ORANGE, RED, Demo

from qp_control.envs.task import rotation_by_rows
from qp_control.training.evaluation import starts
from qp_control.viewer import Arrow, Camera, Line, Overlay, Robot, Shape, Stage
from qp_control.viewer.scenery import tiles

LONGEST = 0.7  # [m] arrow of the largest thrust
WEIGHTS = {"position": 0, "tilt": 3, "velocity": 6, "turning": 9}
demo = Demo(__doc__, "quadrotor_analytic", ["closed_loop_iterations"], steps=200)
start = starts(demo.plant, 1, seed=20_003)[0]
most = demo.learned.input_limit[0].item()
waypoints = start[13:-1].reshape(-1, 3).numpy()


def fly(name, controller):
    """Configurations from one start, and what moves in the scene with them."""
    states, moved = [], {f"{name} {item}": [] for item in ("plan", "thrust", "thrust at its limit")}
    for x, plan in demo.closed_loop(controller, start):
        thrust, up = plan.input[0, 0].item(), rotation_by_rows(x[None, 3:7])[0].reshape(3, 3)[:, 2]
        arrow, limited = np.array([x[:3], LONGEST * thrust / most * up]), not 0.001 * most < thrust < 0.999 * most
        states.append(x)
        moved[f"{name} plan"].append(plan.states[0, :, :3].numpy())
        moved[f"{name} thrust"].append(arrow if not limited else 0 * arrow)
        moved[f"{name} thrust at its limit"].append(arrow if limited else 0 * arrow)
    return np.array(states), moved


scenery = [
    *tiles(8.0, 1.0),
    Robot("untuned", demo.plant.urdf, color=GREY, opacity=0.6, floating_base=True),
    Shape("now", 0.1, (0.0, 0.0, 1.5), GREEN),
]
scenery += [Shape(f"waypoint {k}", 0.06, tuple(point), 0x8FBF8F) for k, point in enumerate(waypoints.tolist())]
for name, color in (("untuned", GREY), ("learned", ORANGE)):
    scenery += [
        Line(f"{name} plan", demo.learned.mpc.horizon + 1, radius=0.01, color=color),
        Arrow(f"{name} thrust", BLUE),
        Arrow(f"{name} thrust at its limit", RED),
    ]


def stage(title, controller):
    states, moved = fly("learned", controller)
    weights = controller.mpc.state_cost().diagonal().tolist()
    values = {f"weight of {name}": f"{weights[k]:.3g}" for name, k in WEIGHTS.items()}
    values["mass [kg]"] = f"{controller.mpc.model()[0].item():.3f}"
    return Stage(title, states[:, :13], moved | {"now": demo.plant.waypoint(states)}, values)


untuned, moved = fly("untuned", demo.untuned)
demo.show(
    [stage(title, controller) for title, controller in demo.stages.items()],
    scenery=scenery,
    moved=moved | {"untuned": untuned[:, :7]},
    camera=Camera(position=(1.1, -1.8, 2.1), target=(0.0, 0.0, 1.4)),
    title="Quadrotor: learned and untuned",
    overlay=Overlay(
        heading="Quadrotor with a load",
        legend={"waypoint": GREEN, "planned path": ORANGE, "thrust": BLUE, "at its limit": RED, "untuned": GREY},
        eyes={"corner": (1.1, -1.8, 2.1), "front": (0.0, -3.2, 1.6), "above": (0.0, -0.3, 5.0)},
    ),
)
