"""Whole-body control beside TSID and pink on the same tasks: torques or velocities, tracking, violation and time.

TSID: a quadruped (centre of mass, trunk, posture, rigid contacts with cones of friction, torque limits) and an arm
(pose of its tool, posture, torque limits). Torques at the same states, near the posture and without any likeness to
each other, and then a loop of each (loop_p50_us, loop_p99_us; its reference is set anew in every tick): the centre of
mass, or the tool, follows a circle in two seconds, and the robot moves by the accelerations that its controller has
decided on. tracking_m: largest error after the first quarter of a second; torque_excess_Nm,
friction_excess_N: beyond the limits. difference: of torques [N m] or velocities [rad/s], the largest.

pink: velocities of the arm from rest with its centre of mass, posture and velocity limits. Its frames' errors are
logarithms of SE(3), ours position and rotation, so that frames have different answers by design.

Microseconds per tick of this process's own time on one thread, both from Python. inverse_dynamics_peers.csv.

    python benchmarks/inverse_dynamics_peers.py                        # pink, where it is installed
    python benchmarks/inverse_dynamics_peers.py --tsid PEER/bin/python # README.md says how to make PEER
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control_models
import numpy as np
import pinocchio as pin
import report
import torch
from control_models import FEET, LIMIT

import qp_control as qc

COLUMNS = {
    "case": 24, "solver": 12, "p50_us": 7, "p99_us": 7, "loop_p50_us": 11, "loop_p99_us": 11, "difference": 10,
    "tracking_m": 10, "torque_excess_Nm": 16, "friction_excess_N": 17,
}  # fmt: skip
KP, DT, FRICTION = 100.0, 1e-3, 0.6
TSID_REGULARIZATION = 1e-8  # its solver adds it to the Hessian
WEIGHTS = {"com": 100.0, "trunk": 5.0, "posture": 0.01, "force": 1e-3, "tool": 10.0}


def quadruped(model: Any) -> tuple[qc.InverseDynamics, str, Any, Any]:
    robot = qc.RobotModel(model, threads=1)
    q = torch.from_numpy(control_models.posture(model))
    tasks = [
        qc.CenterOfMassTask(robot.centroid(q).position, weight=WEIGHTS["com"], stiffness=KP),
        qc.OrientationTask("trunk", weight=WEIGHTS["trunk"], stiffness=KP),
        qc.PostureTask(q, weight=WEIGHTS["posture"], stiffness=KP),
        qc.ForceRegularization(weight=WEIGHTS["force"] + TSID_REGULARIZATION),
        qc.AccelerationRegularization(weight=TSID_REGULARIZATION),
    ]
    contacts = [qc.PointContact(foot, friction=FRICTION, max_force=500.0, weight=math.inf) for foot in FEET]
    controller = qc.InverseDynamics(robot, tasks, [qc.TorqueLimit()], contacts, settings=qc.Settings(threads=1))
    return controller, "com", q.numpy(), np.full(12, LIMIT)


def arm(model: Any) -> tuple[qc.InverseDynamics, str, Any, Any]:
    robot = qc.RobotModel(model, threads=1)
    q = np.array([0.2, 0.6, 0.1, 0.9, -0.2, 0.5, 0.1])
    data = model.createData()
    pin.framesForwardKinematics(model, data, q)
    pose = pin.SE3ToXYZQUAT(data.oMf[model.getFrameId("tool")])
    tasks = [
        qc.FrameTask("tool", pose, axes="frame", weight=WEIGHTS["tool"], stiffness=KP),
        qc.PostureTask(torch.from_numpy(q), weight=WEIGHTS["posture"], stiffness=KP),
        qc.AccelerationRegularization(weight=TSID_REGULARIZATION),
    ]
    controller = qc.InverseDynamics(robot, tasks, [qc.TorqueLimit()], settings=qc.Settings(threads=1))
    return controller, "tool", q, np.array(model.upperEffortLimit)


def circle(centre: Any, radius: float, count: int) -> list[list[list[float]]]:
    """Position (of a pose, its first three numbers), velocity and acceleration, once around in two seconds."""
    found = []
    size = 3 if len(centre) == 3 else 6
    for k in range(count):
        w, t = math.pi, k * DT
        p, v, a = np.array(centre, dtype=float), np.zeros(size), np.zeros(size)
        # From rest and back, not at once around: the angle is a smooth function of time.
        s, ds, dds = t - math.sin(w * t) / w, 1.0 - math.cos(w * t), w * math.sin(w * t)
        c, d = math.cos(w * s), math.sin(w * s)
        p[:2] += radius * np.array([c - 1.0, d])
        v[:2] = radius * w * ds * np.array([-d, c])
        a[:2] = radius * (w * dds * np.array([-d, c]) - (w * ds) ** 2 * np.array([c, d]))
        found.append([p.tolist(), v.tolist(), a.tolist()])
    return found


def own_times(action: Callable[[int], Any], count: int) -> Any:
    found = []
    for k in range(count + 20):
        start = time.process_time()
        action(k)
        found.append(1e6 * (time.process_time() - start))
    return np.array(found[20:])


def quantiles(times: Any, of: str = "") -> dict[str, float]:
    p50, p99 = np.percentile(times, [50.0, 99.0])
    return {f"{of}p50_us": p50, f"{of}p99_us": p99}


def judged(model: Any, task: str, limit: Any, loop: Any, references: Any) -> dict[str, float]:
    """Tracking and violation of a loop: its path, torques and forces."""
    path, torques, forces = loop
    data, most = model.createData(), 0.0
    for k, ((q, _), reference) in enumerate(zip(path, references, strict=True)):
        if task == "com":
            at = pin.centerOfMass(model, data, np.array(q))
        else:
            pin.framesForwardKinematics(model, data, np.array(q))
            at = data.oMf[model.getFrameId(task)].translation
        if k * DT > 0.25:
            most = max(most, float(np.linalg.norm(at - reference[0][:3])))
    force = np.array(forces).reshape(-1, 3)
    mu = FRICTION * math.cos(math.pi / 4)
    friction = float((np.abs(force[:, :2]).max(1) - mu * force[:, 2]).max()) if len(force) else math.nan
    excess = float((np.abs(np.array(torques)) - limit).max())
    return {
        "tracking_m": most, "torque_excess_Nm": max(excess, 0.0),
        "friction_excess_N": friction if math.isnan(friction) else max(friction, 0.0),
    }  # fmt: skip


def beside_tsid(arguments: Any, table: report.Report, robot: str) -> None:
    model = getattr(control_models, robot)()
    controller, task, still, limit = {"quadruped": quadruped, "arm": arm}[robot](model)
    rng = np.random.default_rng(0)
    count, ticks, steps = (8, 50, 100) if arguments.quick else (200, 5000, 2000)
    q = np.stack([pin.integrate(model, still, 0.05 * rng.normal(size=model.nv)) for _ in range(count)])
    q[0] = still
    v = 0.2 * rng.normal(size=(count, model.nv))
    references = circle(controller.parts[task].reference.detach().numpy(), 0.03 if task == "com" else 0.08, steps)
    found = np.stack([controller.compute(q[k], v[k]).torque for k in range(count)])
    row = quantiles(own_times(lambda k: controller.compute(q[k % count], v[k % count]), ticks))
    at, speed = q[0], np.zeros(model.nv)
    path, torques, forces, times = [], [], [], []
    for position, velocity, acceleration in references:
        given = {f"{task}.reference": position, f"{task}.velocity": velocity, f"{task}.acceleration": acceleration}
        start = time.process_time()
        tick = controller.compute(at, speed, given)
        times.append(1e6 * (time.process_time() - start))
        path.append([at, speed])
        torques.append(tick.torque)
        forces.append(tick.force)
        at = pin.integrate(model, at, DT * (speed + 0.5 * DT * tick.acceleration))
        speed = speed + DT * tick.acceleration
    row |= quantiles(times, "loop_") | judged(model, task, limit, (path, torques, forces), references)
    table.add({"case": f"{robot}, tasks of TSID", "solver": "qp-control", **row})
    if arguments.tsid is None:
        return
    problem = {
        "robot": robot, "q": q.tolist(), "v": v.tolist(), "stiffness": KP, "weights": WEIGHTS, "limit": limit.tolist(),
        "posture": still[7 if task == "com" else 0 :].tolist(), "friction": FRICTION * math.cos(math.pi / 4),
        "references": references, "dt": DT, "ticks": ticks,
    }  # fmt: skip
    command = [arguments.tsid, str(Path(__file__).with_name("tsid_peer.py"))]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # its packages are others
    done = subprocess.run(command, input=json.dumps(problem), capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        raise RuntimeError(f"TSID has failed:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    other = quantiles(np.array(answer["times"]))
    other |= quantiles(answer["loop_times"], "loop_")
    other |= {"difference": float(np.abs(found - np.array(answer["torques"])).max())}
    loop = answer["path"], answer["loop_torques"], answer["loop_forces"]
    other |= judged(model, task, limit, loop, references)
    table.add({"case": f"{robot}, tasks of TSID", "solver": "TSID", **other})


def beside_pink(arguments: Any, table: report.Report) -> None:
    model = control_models.arm()
    robot = qc.RobotModel(model, threads=1)
    dt, gain, costs = 0.01, 0.4, {"com": 1.0, "posture": 0.1}
    goal, still = np.array([0.1, 0.15, 0.6]), np.full(7, 0.2)
    # From rest a tick gives the velocity gain error / dt, as theirs does.
    gains = {"stiffness": gain / dt**2, "damping": 1.0 / dt}
    tasks = [
        qc.CenterOfMassTask(goal, weight=costs["com"] ** 2, **gains),
        qc.PostureTask(torch.from_numpy(still), weight=costs["posture"] ** 2, **gains),
    ]
    controller = qc.InverseDynamics(robot, tasks, [qc.JointVelocityLimit(dt)], settings=qc.Settings(threads=1))
    rng = np.random.default_rng(1)
    count, ticks = (8, 50) if arguments.quick else (200, 5000)
    q, zero = rng.uniform(-1.5, 1.5, (count, 7)), np.zeros(7)
    found = np.stack([dt * controller.compute(at, zero).acceleration for at in q])
    row: dict[str, Any] = quantiles(own_times(lambda k: controller.compute(q[k % count], zero), ticks))
    table.add({"case": "arm, velocities", "solver": "qp-control", **row})
    if importlib.util.find_spec("pink") is None:
        return
    import pink

    data = model.createData()
    configuration = pink.Configuration(model, data, q[0])
    com, posture = pink.tasks.ComTask(cost=costs["com"], gain=gain), pink.tasks.PostureTask(costs["posture"], gain=gain)
    com.set_target(goal)
    posture.set_target(still)
    limits = [pink.limits.VelocityLimit(model)]

    def tick(at: Any) -> Any:
        configuration.update(at)
        return pink.solve_ik(configuration, [com, posture], dt, solver="quadprog", limits=limits)

    theirs = np.stack([tick(at) for at in q])
    other = quantiles(own_times(lambda k: tick(q[k % count]), ticks))
    limited = float((np.abs(theirs) > 0.999 * model.upperVelocityLimit).any(1).mean())
    difference = float(np.abs(found - theirs).max())
    table.add({"case": "arm, velocities", "solver": "pink", **other, "difference": difference, "limited": limited})


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--tsid", metavar="PYTHON", help="the interpreter of an environment that has it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(report.machine("pin", "pin-pink", "quadprog", threads=1))
    table = report.Report("inverse_dynamics_peers", COLUMNS, arguments.out)
    for robot in ("quadruped", "arm"):
        beside_tsid(arguments, table, robot)
    beside_pink(arguments, table)
    table.finish()
    series: dict[str, dict[str, float]] = {}
    for row in table.rows:
        series.setdefault(str(row["solver"]), {})[str(row["case"])] = float(str(row["p50_us"]))
    cases = list(dict.fromkeys(str(row["case"]) for row in table.rows))
    title = "Whole-body control beside its peers"
    report.bars(arguments.out / "inverse_dynamics_peers.png", cases, series, title=title, ylabel="us per tick")


if __name__ == "__main__":
    main()
