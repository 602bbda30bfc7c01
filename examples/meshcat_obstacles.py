"""A quadrotor flies past two balls by MPC: the effect of a longer horizon, in meshcat.

A slider on the page chooses the horizon in control periods; a ball is red while its constraint is active.

python examples/meshcat_obstacles.py [--movie gif]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import qp_control as qc
from qp_control import viewer
from qp_control.envs.quadrotor import Quadrotor

BALLS = {"first ball": ((1.2, 0.05, 1.5), 0.45), "second ball": ((0.1, -0.55, 1.4), 0.4)}  # centre, radius [m]
BODY = 0.15  # [m] that the quadrotor's middle keeps away from them
START, GOAL = (2.2, 0.0, 1.5), (-1.0, 0.0, 1.5)
GREEN, RED, GREY, ORANGE = 0x2CA02C, 0xD62728, 0xB4BAC4, 0xF07823

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--horizons", type=int, nargs="+", default=[5, 10, 30], help="control periods of 0.05 s")
parser.add_argument("--steps", type=int, default=100, help="control periods that are flown")
parser.add_argument("--out", type=Path, default=Path("runs/meshcat"), help="folder of the page and the movie")
parser.add_argument("--movie", choices=("gif", "mp4"), help="record the page; needs Chromium, mp4 also ffmpeg")
given = parser.parse_args()

plant = Quadrotor()
drone = plant.dynamics
rest = drone.neutral_state()
longest = max(given.horizons)


def controller(horizon):
    rows = [qc.keep_out(lambda x: x[..., :3], centre, radius + BODY) for centre, radius in BALLS.values()]
    rows.append(qc.speed_limit(lambda x: x[..., 7:10], 1.5))
    mpc = qc.MPC(drone, horizon, reference=[*GOAL, *rest[3:].tolist()], rows=rows)
    weights = [10.0] * 3 + [1.0] * 6 + [0.1] * 3
    return mpc.set_weights(q=weights, r=[0.1, 1.0, 1.0, 1.0], terminal=[10.0 * weight for weight in weights])


@torch.no_grad()
def fly(horizon):
    """States of a flight, what moves with them, and what it came to."""
    mpc, plan = controller(horizon), None
    x = rest.clone()[None]
    x[0, :3] = torch.tensor(START)
    balls = [f"{ball} {color}" for ball in BALLS for color in ("grey", "red")]
    states, moved = [], {name: [] for name in ("plan", *balls)}
    for _ in range(given.steps):
        plan = mpc(x, None if plan is None else plan.shift())
        states.append(x[0].numpy())
        ahead = plan.states[0, :, :3].numpy()
        moved["plan"].append(np.vstack([ahead, np.repeat(ahead[-1:], longest - horizon, 0)]))
        for ball, (centre, radius) in BALLS.items():
            active = np.linalg.norm(ahead - centre, axis=1).min() < radius + BODY + 1e-3
            for color, shown in (("grey", not active), ("red", active)):
                moved[f"{ball} {color}"].append(np.array(centre) if shown else np.full(3, np.nan))
        x = drone.step(x, plan.input)
    states = np.array(states)
    nearest = min(np.linalg.norm(states[:, :3] - centre, axis=1).min() - radius for centre, radius in BALLS.values())
    away = np.linalg.norm(states[:, :3] - GOAL, axis=1)
    there = np.flatnonzero(away > 0.1)[-1] + 1
    values = {"nearest to a ball [m]": f"{nearest:.3f}"}
    values["at the goal after [s]"] = f"{there * plant.control_period:.2f}" if there < given.steps else "never"
    print(f"{horizon} periods ahead:", ", ".join(f"{name} {value}" for name, value in values.items()))
    return viewer.Stage(f"{horizon} periods ahead", states, moved, values)


scenery = [*viewer.scenery.tiles(6.0, 1.0), viewer.Shape("goal", 0.06, GOAL, GREEN)]
scenery.append(viewer.Line("plan", longest + 1, radius=0.012, color=ORANGE))
for ball, (centre, radius) in BALLS.items():
    scenery += [viewer.Shape(f"{ball} grey", radius, centre, GREY), viewer.Shape(f"{ball} red", radius, centre, RED)]
page = viewer.write_replay(
    given.out / "obstacles.html",
    plant.urdf,
    plant.control_period * np.arange(given.steps),
    [fly(horizon) for horizon in given.horizons],
    floating_base=True,
    scenery=scenery,
    camera=viewer.Camera(position=(1.6, -3.0, 3.0), target=(0.5, 0.0, 1.4)),
    title="Quadrotor: obstacles",
    overlay=viewer.Overlay(
        heading="Quadrotor between balls",
        legend={"goal": GREEN, "planned path": ORANGE, "ball": GREY, "its constraint is active": RED},
        eyes={"corner": (1.6, -3.0, 3.0), "front": (0.5, -4.0, 1.5), "above": (0.5, -0.3, 6.0)},
    ),
)
print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
if given.movie:
    print(viewer.write_movie(page.with_suffix(f".{given.movie}"), page))
