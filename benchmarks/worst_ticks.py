"""What is the worst tick of a controller by inverse dynamics, over states and numbers of every kind?

States: joints up to three times as far as their limits, velocities of 10 m/s and 30 rad/s, or at rest and stretched,
where Jacobians lose rank; quaternions of any length. Contacts: any mix of feet in the air, half loaded and loaded, each
foot twice in the rigid case, so that they depend on each other. Numbers: weights from none to a thousand times their
own, friction from 0.05, torque limits from a hundredth. Ticks follow each other without any likeness, from the warm
start of the one before.

Each must be solved or closest feasible, with finite torques within their limits; if not, the exit status is 1.
Microseconds of this process's own time, which others on the machine do not stretch. worst_ticks.csv.

    python benchmarks/worst_ticks.py
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import report
import torch
from control_models import FEET, arm, posture, quadruped

import qp_control as qc

COLUMNS = {
    "case": 28, "ticks": 6, "solved": 6, "closest": 7, "others": 6, "broken": 6, "p50_us": 7, "p99_us": 7,
    "p999_us": 8, "max_us": 8, "p50_steps": 9, "max_steps": 9,
}  # fmt: skip


def arm_controller(rigid: bool, levels: bool) -> qc.InverseDynamics:
    robot = qc.RobotModel(arm(), threads=1)
    tasks = [
        qc.FrameTask("tool", weight=np.inf if rigid else 1.0),
        qc.PositionTask("elbow", weight=0.3, level=2 if levels else 1),
        qc.PostureTask(weight=0.05, level=3 if levels else 1),
        qc.TorqueRegularization(weight=1e-4),
    ]
    limits = [
        qc.TorqueLimit(),
        qc.JointPositionLimit(0.002, acceleration=200.0),
        qc.JointVelocityLimit(0.002, acceleration=200.0),
        qc.PlaneBarrier("tool", [0.0, 0.0, 1.0], 0.1),
        qc.FrameBarrier("tool", "elbow", 0.2),
    ]
    return qc.InverseDynamics(robot, tasks, limits, settings=qc.Settings(threads=1))


def quadruped_controller(rigid: bool, levels: bool) -> qc.InverseDynamics:
    robot = qc.RobotModel(quadruped(), threads=1)
    q = torch.from_numpy(posture(robot.model))
    tasks = [
        qc.CenterOfMassTask(robot.centroid(q).position, weight=10.0),
        qc.OrientationTask("trunk", weight=5.0),
        qc.PostureTask(q, weight=0.5, level=2 if levels else 1),
        qc.AngularMomentumTask(weight=1e-2, level=2 if levels else 1),
        qc.TorqueRegularization(weight=1e-3),
        qc.ForceRegularization(weight=1e-3),
    ]
    weight = np.inf if rigid else 1e3
    contacts = [
        qc.PointContact(foot, friction=0.6, max_force=500.0, weight=weight, name=f"{foot} {k}")
        for foot in FEET
        for k in range(2 if rigid else 1)
    ]
    limits = [qc.TorqueLimit(), qc.JointPositionLimit(0.002, acceleration=200.0, lower=-1.5, upper=1.5)]
    return qc.InverseDynamics(robot, tasks, limits, contacts, settings=qc.Settings(threads=1))


def state(model: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """A configuration, whose quaternion has any length, and a velocity."""
    floating = model.nq != model.nv
    joints = model.nv - (6 if floating else 0)
    kind = rng.integers(4)
    if kind == 0:  # stretched, or all joints folded alike, and at rest
        angles, v = np.full(joints, rng.choice([0.0, np.pi / 2, -np.pi / 2, np.pi])), np.zeros(model.nv)
    elif kind == 1:  # at rest, far outside of the limits
        angles, v = rng.uniform(-9.0, 9.0, joints), np.zeros(model.nv)
    else:
        wide = 9.0 if kind == 2 else 1.0
        angles = rng.uniform(-wide, wide, joints)
        v = (30.0 if kind == 2 else 3.0) * rng.uniform(-1.0, 1.0, model.nv)
    if not floating:
        return angles, v
    quaternion = rng.normal(size=4) * 10.0 ** rng.uniform(-3.0, 3.0)
    return np.concatenate([rng.normal(size=3), quaternion, angles]), v


def changed(own: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Some of the controller's numbers, as other ones."""
    given: dict[str, Any] = {}
    for name, value in own.items():
        key = name.split(".")[1]
        if key == "activation":
            given[name] = rng.choice([0.0, 1.0, rng.uniform()])
        elif key == "weight" and rng.uniform() < 0.3:
            given[name] = rng.choice([0.0, 10.0 ** rng.uniform(-3.0, 3.0)]) * value
        elif key == "friction":
            given[name] = rng.uniform(0.05, 1.0)
        elif key == "stiffness" and rng.uniform() < 0.2:
            given[name] = 10.0 ** rng.uniform(0.0, 4.0)
    if rng.uniform() < 0.3:
        scale = 10.0 ** rng.uniform(-2.0, 0.0)
        given |= {f"torque_limit.{key}": scale * own[f"torque_limit.{key}"] for key in ("lower", "upper")}
    return given


def run(case: str, controller: qc.InverseDynamics, count: int, table: report.Report) -> dict[str, float]:
    rng = np.random.default_rng(0)
    times, steps, statuses = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    broken, own = 0, {name: value.detach().numpy() for name, value in controller.numbers().items()}
    for k in range(count):
        q, v = state(controller.model.model, rng)
        given = changed(own, rng)
        start = time.process_time()
        tick = controller.compute(q, v, given)
        times[k] = 1e6 * (time.process_time() - start)
        steps[k], statuses[k] = tick.iterations, tick.status
        upper = given.get("torque_limit.upper", own["torque_limit.upper"])
        fine = all(np.isfinite(a).all() for a in tick) and bool((np.abs(tick.torque) <= upper).all())
        broken += not fine
    p50, p99, p999 = np.percentile(times, [50.0, 99.0, 99.9])
    table.add({
        "case": case, "ticks": count, "solved": int((statuses == qc.Status.SOLVED).sum()),
        "closest": int((statuses == qc.Status.CLOSEST_FEASIBLE).sum()),
        "others": int((statuses > qc.Status.CLOSEST_FEASIBLE).sum()), "broken": broken,
        "p50_us": p50, "p99_us": p99, "p999_us": p999, "max_us": times.max(),
        "p50_steps": int(np.median(steps)), "max_steps": int(steps.max()),
    })  # fmt: skip
    for status in np.unique(statuses[statuses > qc.Status.CLOSEST_FEASIBLE]):
        print(f"  {qc.Status(status).name}: first at tick {int(np.argmax(statuses == status))}")
    return {"p50": p50, "p99": p99, "p99.9": p999, "max": float(times.max())}


def main() -> int:
    arguments = report.arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    print(report.machine("pin", "torch", threads=1))
    table = report.Report("worst_ticks", COLUMNS, arguments.out)
    total = 600 if arguments.quick else 100_000
    cases = {
        f"{robot}, {kind}": (make, kind)
        for robot, make in (("arm", arm_controller), ("quadruped", quadruped_controller))
        for kind in ("weighted", "rigid", "levels")
    }
    found = {
        case: run(case, make(kind == "rigid", kind == "levels"), -(-total // len(cases)), table)
        for case, (make, kind) in cases.items()
    }
    table.finish()
    series = {name: {case: times[name] for case, times in found.items()} for name in ("p50", "p99", "p99.9", "max")}
    title = "Ticks of controllers by inverse dynamics at awkward states"
    report.bars(arguments.out / "worst_ticks.png", list(cases), series, title=title, ylabel="us per tick")
    return int(any(row["others"] or row["broken"] for row in table.rows))


if __name__ == "__main__":
    sys.exit(main())
