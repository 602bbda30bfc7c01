"""Steps with contact against MuJoCo: does the same happen, and how many steps per second are taken?

First what happens: the scenes of contact_scenes.py in both, with the same URDF, step and feedback. MuJoCo's contacts
are its defaults (springs whose time constant is 0.02 s, and which give way less where less weighs on them), ours are
ours (a millimetre under the robot's weight), so that penetrations differ.

Then steps per second of many robots near standing, each with the torques that hold it there, all steps in one call:
`ContactDynamics.rollout` against `mujoco.rollout` (the median of at least five), threads and time step being equal.
With gradient: forward and backward together. A batch of 1 is a single step from Python, `mujoco.mj_step` for the peer.

    pip install -e .[bench]
    python benchmarks/contact.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from contact_scenes import DT, ROBOTS, SCENES, Course, Robot, Scene, play

try:
    import mujoco
    import mujoco_models
    from mujoco import rollout as mujoco_rollout
except ImportError:
    mujoco = None

BATCHES = (1, 256, 1024)
STEPS = 20  # in a call
OURS, PEER = "qp-control", "mujoco"


def measures(scene: Scene, course: Course) -> dict[str, float]:
    """What to compare of a scene."""
    states, steps = course.states, len(course.forces)
    third = steps // 4
    nv = len(states[0]) // 2
    height = 2 if scene.robot.floating else 1
    found = {}
    if scene.name == "block slides":
        sliding = states[third : third + 50, 7]
        found["deceleration [m/s^2]"] = float(sliding[0] - sliding[-1]) / (49 * DT)
        found["way until it stops [m]"] = float(states[-1, 0])
    elif scene.robot.floating:
        found["way to the side, end [m]"] = float(states[-1, 1])
    found["height, middle [m]"] = float(states[steps // 2, height])
    found["height, end [m]"] = float(states[-1, height])
    found["deepest penetration [mm]"] = -1e3 * float(course.gaps.min())
    found["penetration, end [mm]"] = -1e3 * float(course.gaps[-1])
    found["force up, last tenth [N]"] = float(course.forces[-steps // 10 :, 2].mean())
    found["fastest velocity, end"] = float(np.abs(states[-1, -nv:]).max())
    return found


def compare(scene: Scene) -> tuple[list[dict[str, object]], dict[str, Course]]:
    courses = {OURS: play(scene)}
    if mujoco is not None:
        courses[PEER] = mujoco_models.play(scene)
    values = {name: measures(scene, course) for name, course in courses.items()}
    rows: list[dict[str, object]] = [
        {"case": scene.name, "quantity": quantity} | {name: found[quantity] for name, found in values.items()}
        for quantity in values[OURS]
    ]
    if mujoco is not None:
        far = np.linalg.norm(courses[OURS].states[:, :2] - courses[PEER].states[:, :2], axis=1)
        rows.append({"case": scene.name, "quantity": "path, largest difference [m]", OURS: float(far.max())})
    return rows, courses


def near_standing(robot: Robot, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (B, nx) on the ground and the torques (B, STEPS, nu) that hold them there; blocks slide."""
    ours = robot.ours()
    x = torch.from_numpy(robot.start())[None].repeat(batch, 1)
    generator = torch.Generator().manual_seed(0)
    x[:, -ours.nv :] += 0.3 * torch.randn(batch, ours.nv, generator=generator, dtype=torch.float64)
    inputs = []
    with torch.no_grad():
        for k in range(100 + STEPS):
            if k == 100:
                start = x
            inputs.append(robot.torques(x))
            x = ours.step(x, inputs[-1])
    return start, torch.stack(inputs[100:], 1)


def seconds(action: Callable[[], object], per: int) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        action()
        return (time.perf_counter() - start) / per

    return run


def our_actions(robot: Robot, x: torch.Tensor, u: torch.Tensor, threads: int) -> dict[str, Callable[[], float]]:
    ours, batch = robot.ours(threads=threads), len(x)
    if batch == 1:
        x, u = x[0], u[0, 0]
        per, call = 1, ours.step
    else:
        per, call = batch * STEPS, ours.rollout

    def forward() -> object:
        with torch.no_grad():
            return call(x, u)

    def both() -> None:
        x_, u_ = x.clone().requires_grad_(), u.clone().requires_grad_()
        call(x_, u_).sum().backward()  # type: ignore[no-untyped-call]

    return {OURS: seconds(forward, per), f"{OURS} with gradient": seconds(both, per)}


def peer_action(robot: Robot, x: torch.Tensor, u: torch.Tensor, threads: int) -> Callable[[], float]:
    peer: Any = mujoco_models.build(robot)
    if len(x) == 1:
        peer.start(x[0].numpy())
        peer.data.ctrl[:] = u[0, 0].numpy()
        return seconds(lambda: mujoco.mj_step(peer.model, peer.data), 1)
    pool = mujoco_rollout.Rollout(nthread=threads if threads > 1 else 0)
    data = [mujoco.MjData(peer.model) for _ in range(threads)]
    states, inputs = peer.full_state(x.numpy()), u.numpy()
    return seconds(lambda: pool.rollout(peer.model, data, states, inputs), len(x) * STEPS)


def measure(robot: Robot, batch: int, threads: int, repeats: int) -> list[dict[str, object]]:
    x, u = near_standing(robot, batch)
    actions = our_actions(robot, x, u, threads)
    if mujoco is not None:
        actions[PEER] = peer_action(robot, x, u, threads)
    times = {name: statistics.median(values) for name, values in report.in_turns(actions, repeats).items()}
    rows: list[dict[str, object]] = []
    for name, value in times.items():
        row: dict[str, object] = {"problem": robot.name, "batch": batch, "threads": threads, "solver": name}
        row |= {"us_per_step": 1e6 * value, "steps_per_s": 1.0 / value}
        if name == OURS and PEER in times:
            row[report.BETTER] = times[PEER] / value
        if name != OURS and name != PEER:
            row["backward/forward"] = value / times[OURS] - 1.0
        rows.append(row)
    return rows


def draw(path: Path, played: dict[str, dict[str, Course]]) -> None:
    """What happens, over time: of each scene the way ahead or aside, and the height."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(played), figsize=(3.2 * len(played), 5), squeeze=False, sharex="col")
    for column, scene in enumerate(scene for scene in SCENES if scene.name in played):
        height = 2 if scene.robot.floating else 1
        along = 1 if scene.push_at < scene.seconds else 0
        for name, course in played[scene.name].items():
            at = DT * np.arange(len(course.states))
            axes[0, column].plot(at, course.states[:, along], label=name)
            axes[1, column].plot(at, course.states[:, height], label=name)
        axes[0, column].set_title(scene.name, fontsize=10)
        axes[0, column].set_ylabel("to the side [m]" if along else "ahead [m]")
        axes[1, column].set_ylabel("height [m]")
        axes[1, column].set_xlabel("time [s]")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="least number of timings")
    arguments = parser.parse_args()
    quick = arguments.quick
    print(report.machine("mujoco", "pin", "torch", threads=report.cores()))

    happened = report.Report("contact_scenes", {"case": 17, "quantity": 28, OURS: 10, PEER: 10}, arguments.out)
    played = {}
    for scene in SCENES[:1] if quick else SCENES:
        rows, played[scene.name] = compare(scene)
        for row in rows:
            happened.add(row)
    draw(happened.finish().with_suffix(".png"), played)

    widths = {"problem": 10, "batch": 5, "threads": 7, "solver": 24, "us_per_step": 11, "steps_per_s": 11}
    table = report.Report("contact", widths | {"backward/forward": 16, report.BETTER: 24}, arguments.out)
    for robot in ROBOTS[:1] if quick else ROBOTS:
        for batch in (16,) if quick else BATCHES:
            for threads in (1,) if batch == 1 else sorted({1, report.cores()}):
                for row in measure(robot, batch, threads, arguments.repeats):
                    table.add(row)
    path = table.finish()
    bars: dict[str, dict[str, float]] = {}
    for row in table.rows:
        group = f"{row['problem']} {row['batch']}, {row['threads']} threads"
        bars.setdefault(str(row["solver"]), {})[group] = float(str(row["steps_per_s"]))
    groups = list(dict.fromkeys(group for values in bars.values() for group in values))
    report.bars(path.with_suffix(".png"), groups, bars, title="Steps with contact", ylabel="steps per second")


if __name__ == "__main__":
    main()
