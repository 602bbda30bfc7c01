"""An arm with a load unknown to its controller follows a point, before and after learning gains and load, in meshcat.

A slider on the page chooses among the intermediate controllers of the training.

python examples/meshcat_arm.py [--run runs/arm_inverse_dynamics] [--movie gif] [--live]
Without a run it trains for a minute first.
"""

import numpy as np
import pinocchio as pin
from meshcat_demo import GREEN, GREY, NOWHERE, ORANGE, RED, Demo

from qp_control.training.evaluation import starts
from qp_control.viewer import Camera, Line, Overlay, Robot, Shape, Stage

APART = np.array([0.0, 1.0, 0.0])  # [m]
TRAIL = 40  # control periods of the tool's way that are seen
demo = Demo(__doc__, "arm_inverse_dynamics", ["model_iterations", "iterations"], steps=200)
plant, start = demo.plant, starts(demo.plant, 1, seed=20_000)[0]
model = plant.dynamics.model
data, joints = model.createData(), list(model.names)[1:]


def track(name, controller, position):
    """Configurations from one start, and what moves in the scene with them."""
    q, moved, tools = [], {f"{name} {item}": [] for item in ("way", "target", *joints)}, []
    for x, decided in demo.closed_loop(controller, start):
        q.append(x[: model.nq])
        tools.append(plant.tool(x[None])[0] + position)
        moved[f"{name} way"].append(np.array([*[tools[0]] * (TRAIL - len(tools)), *tools[-TRAIL:]]))
        moved[f"{name} target"].append(plant.target(x[None])[0] + position)
        pin.forwardKinematics(model, data, q[-1])
        limited = np.abs(decided.input[0].numpy()) > 0.999 * controller.input_limit.numpy()
        for k, joint in enumerate(joints):
            place = data.oMi[k + 1].translation + position
            moved[f"{name} {joint}"].append(place if limited[k] else [NOWHERE] * 3)
    error = np.linalg.norm(np.array(tools) - np.array(moved[f"{name} target"]), axis=1)
    return np.array(q), moved, error[len(error) // 4 :]


def stage(title, controller):
    q, moved, error = track("learned", controller, 0 * APART)
    values = {
        "error [mm]": f"{1e3 * np.sqrt((error**2).mean()):.1f}",
        "load [kg]": f"{controller.model.mass.item():.2f}",
    }
    print(f"{title:<22}", ", ".join(f"{name} {value}" for name, value in values.items()))
    return Stage(title, q, moved, values)


print(f"the load is {demo.task.options.load} kg")
q, moved, _ = track("untuned", demo.untuned, APART)
scenery = [Robot("untuned", plant.urdf, position=tuple(APART), color=GREY)]
for name, color in (("untuned", GREY), ("learned", ORANGE)):
    scenery += [Line(f"{name} way", TRAIL, color=color), Shape(f"{name} target", 0.03, (0.0, 0.0, 0.0), GREEN)]
    scenery += [Shape(f"{name} {joint}", 0.085, (0.0, 0.0, 0.0), RED) for joint in joints]
demo.show(
    [stage(title, controller) for title, controller in demo.stages.items()],
    scenery=scenery,
    moved=moved | {"untuned": q},
    camera=Camera(position=(1.05, -0.45, 0.8), target=(0.2, 0.4, 0.4)),
    title="Arm: learned and untuned",
    overlay=Overlay(
        heading=f"Arm with a load of {demo.task.options.load:g} kg",
        legend={"target": GREEN, "way of the tool": ORANGE, "torque at its limit": RED, "untuned": GREY},
        eyes={"corner": (1.05, -0.45, 0.8), "front": (1.5, 0.4, 0.6), "above": (0.3, 0.3, 1.8)},
    ),
)
