"""A pushed quadruped: with learned parameters of its inverse dynamics it stays up, with the initial ones it falls.

A slider on the page chooses among the intermediate controllers of the training.

python examples/meshcat_quadruped.py [--run runs/quadruped_stand] [--movie gif] [--live]
Without a run it trains first. Shown in slow motion, with the ground forces and their friction cones.
"""

import numpy as np
import torch
from meshcat_demo import BLUE, GREY, NOWHERE, ORANGE, RED, Demo

from qp_control.envs.contact_task import WEIGHT
from qp_control.training import closed_loop
from qp_control.viewer import Arrow, Camera, FrictionCone, Overlay, Robot, Stage
from qp_control.viewer.scenery import tiles

SLOWER, EVERY = 4, 2  # times slower; control periods from one picture to the next
APART = np.array([0.0, 0.9, 0.0])  # [m]
demo = Demo(__doc__, "quadruped_stand", ["iterations"], steps=300)
plant = demo.plant
weight = 9.81 * plant.dynamics.parameters[: 10 * plant.dynamics.bodies : 10].sum().item()


@torch.no_grad()
def stand(controller, starts):
    """States (steps + 1, B, nx) from starts (B, nx), torques, and whether each robot stayed up."""
    loops = closed_loop(controller, plant.step, starts, demo.given.steps, failed=plant.failed)
    return loops.states.transpose(0, 1), loops.inputs.transpose(0, 1), ~plant.failed(loops.states[:, -1])


def forces(name, states, inputs, position):
    """Arrows of the ground's forces, red where they are all that friction bears, and the tips of the cones."""
    friction = states[0, -plant.goal_size].item()
    force = plant.forces(states[:-1], inputs).force.numpy()
    tip = plant.dynamics.ground_points(states[1:, : plant.dynamics.nx]).numpy() + position
    tip[force[..., 2] < 1e-3 * weight] = NOWHERE
    slides = np.hypot(force[..., 0], force[..., 1]) > 0.93 * friction * force[..., 2]  # the cone has some facets
    arrows = np.stack([tip, WEIGHT / weight * force], 2)
    moved = {}
    for k, foot in enumerate(plant.feet):
        moved[f"{name} {foot} force"] = np.where(slides[:, k, None, None], NOWHERE, arrows[:, k])
        moved[f"{name} {foot} slides"] = np.where(slides[:, k, None, None], arrows[:, k], NOWHERE)
        moved[f"{name} {foot} cone"] = tip[:, k]
    return moved


starts = plant.sample_starts(40, 20_000)
untuned, with_untuned, up_untuned = stand(demo.untuned, starts)
found = {title: stand(controller, starts) for title, controller in demo.stages.items()}
up_learned = found["learned"][2]
telling = (up_learned & ~up_untuned).nonzero().flatten().tolist()
print(f"of {len(starts)} pushes {int(up_untuned.sum())} are survived untuned, {int(up_learned.sum())} learned")
which = telling[0] if telling else 0
scenery = [*tiles(8.0), Arrow("push", ORANGE)]
scenery.append(Robot("untuned", plant.urdf, position=tuple(APART), color=GREY, floating_base=True))
for name in ("untuned", "learned"):
    for foot in plant.feet:
        scenery += [Arrow(f"{name} {foot} force", BLUE), Arrow(f"{name} {foot} slides", RED)]
        scenery.append(FrictionCone(f"{name} {foot} cone", starts[which, -plant.goal_size].item(), height=0.1))
friction_and_push = starts[which, -plant.goal_size :].tolist()
push = np.array([*friction_and_push[1:3], 0.0])


def thinned(moved):
    return {name: path[::EVERY] for name, path in moved.items()}


def stage(title, states, inputs, up):
    moved = forces("learned", states[:, which], inputs[:, which], 0 * APART)
    trunk = states[1:, which, :3].numpy()
    moved["push"] = np.stack([trunk - 0.2 * push, np.broadcast_to(0.2 * push, trunk.shape)], 1)
    moved["push"][20:] = NOWHERE
    values = {"survived": f"{int(up.sum())} of {len(up)} pushes"}
    values["assumed friction"] = f"{demo.stages[title].whole_body.numbers['friction'].item():.2f}"
    return Stage(title, states[1::EVERY, which, : plant.dynamics.nx].numpy(), thinned(moved), values)


moved = forces("untuned", untuned[:, which], with_untuned[:, which], APART)
demo.show(
    [stage(title, *results) for title, results in found.items()],
    seconds=SLOWER * EVERY * plant.control_period,
    scenery=scenery,
    moved=thinned(moved | {"untuned": untuned[1:, which, :19].numpy()}),
    camera=Camera(position=(0.9, -1.3, 0.7), target=(0.0, 0.35, 0.15)),
    title="Quadruped: learned and untuned",
    overlay=Overlay(
        heading=f"Pushed quadruped, {SLOWER} times slower",
        legend={"force of the ground": BLUE, "all that friction bears": RED, "push": ORANGE, "untuned": GREY},
        eyes={"corner": (0.9, -1.3, 0.7), "front": (1.7, 0.35, 0.4), "above": (0.0, 0.2, 2.2)},
    ),
)
