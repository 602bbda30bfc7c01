"""What does whole-body control by inverse dynamics cost, and are its torques those of a QP made by hand?

A quadruped of 18 velocities stands on four contacts, near its posture and with random velocities: tasks for its centre
of mass, trunk and posture, regularisation, torque limits and cones of friction. One tick from Python (p50, p99, p99.9);
per robot in batches, forward and with the gradient by q, v and all weights and gains. Beside it the same problem
assembled with Pinocchio and NumPy and solved by quadprog, nothing of ours in it: its time, and by how much the torques
differ at most; `violation_N`: of friction, in ours.

Microseconds per robot. inverse_dynamics.csv.

    python benchmarks/inverse_dynamics.py
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pinocchio as pin
import report
import torch
from control_models import FEET, LIMIT, posture, quadruped

import qp_control as qc

COLUMNS = {
    "case": 30, "batch": 5, "p50_us": 9, "p99_us": 9, "p999_us": 9, "torque_difference_Nm": 20, "violation_N": 11,
}  # fmt: skip
FRICTION, FACETS = 0.6, 4
WEIGHTS = {
    "com": 10.0,
    "trunk": 5.0,
    "posture": 0.5,
    "contact": 1e3,
    "torque": 1e-3,
    "acceleration": 1e-3,
    "force": 1e-3,
}
KP = 100.0


def controller(model: Any, threads: int) -> qc.InverseDynamics:
    robot = qc.RobotModel(model, threads=threads)
    q = torch.from_numpy(posture(model))
    gains = {"stiffness": KP}
    tasks = [
        qc.CenterOfMassTask(robot.centroid(q).position, weight=WEIGHTS["com"], **gains),
        qc.OrientationTask("trunk", weight=WEIGHTS["trunk"], **gains),
        qc.PostureTask(q, weight=WEIGHTS["posture"], **gains),
        qc.TorqueRegularization(weight=WEIGHTS["torque"]),
        qc.AccelerationRegularization(weight=WEIGHTS["acceleration"]),
        qc.ForceRegularization(weight=WEIGHTS["force"]),
    ]
    contacts = [
        qc.PointContact(foot, friction=FRICTION, facets=FACETS, max_force=500.0, weight=WEIGHTS["contact"])
        for foot in FEET
    ]
    settings = qc.Settings(threads=threads)
    return qc.InverseDynamics(robot, tasks, [qc.TorqueLimit()], contacts, settings=settings)


def by_hand(model: Any, data: Any, q: Any, v: Any, com: Any) -> Any:
    """Torques by NumPy and quadprog."""
    import quadprog

    nv, n = model.nv, model.nv + 12
    kd = 2.0 * math.sqrt(KP)
    zero, axes = np.zeros(nv), pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
    M = np.triu(pin.crba(model, data, q))
    M = M + np.triu(M, 1).T
    h = pin.rnea(model, data, q, v, zero)
    pin.forwardKinematics(model, data, q, v, zero)
    pin.computeJointJacobians(model, data, q)
    pin.updateFramePlacements(model, data)
    H, g = np.zeros((n, n)), np.zeros(n)

    def add(weight: float, J: Any, c: Any) -> None:
        H[:, : J.shape[1]][: J.shape[1]] += weight * J.T @ J
        g[: J.shape[1]] += weight * J.T @ c

    pin.centerOfMass(model, data, q, v, zero)
    J_com = pin.jacobianCenterOfMass(model, data, q)
    add(WEIGHTS["com"], J_com, data.acom[0] - KP * (com - data.com[0]) + kd * data.vcom[0])
    frame = model.getFrameId("trunk")
    R = data.oMf[frame].rotation
    twist = pin.getFrameVelocity(model, data, frame, axes).angular
    drift = pin.getFrameClassicalAcceleration(model, data, frame, axes).angular
    error = R @ pin.log3(R.T)
    add(WEIGHTS["trunk"], pin.getFrameJacobian(model, data, frame, axes)[3:], drift - KP * error + kd * twist)
    stay = KP * (q[7:] - posture(model)[7:]) + kd * v[6:]
    add(WEIGHTS["posture"], np.eye(nv)[6:], stay)
    J_feet = []
    for foot in FEET:
        frame = model.getFrameId(foot)
        J = pin.getFrameJacobian(model, data, frame, axes)[:3]
        speed = pin.getFrameVelocity(model, data, frame, axes).linear
        drift = pin.getFrameClassicalAcceleration(model, data, frame, axes).linear
        add(WEIGHTS["contact"], J, drift + 20.0 * speed)
        J_feet.append(J)
    D = np.hstack([M, -np.vstack(J_feet).T])
    add(WEIGHTS["torque"], D[6:], h[6:])
    H += np.diag([WEIGHTS["acceleration"]] * nv + [WEIGHTS["force"]] * 12)
    mu = FRICTION * math.cos(math.pi / FACETS)
    cone = np.zeros((4 * 5, n))
    least = np.zeros(20)
    for k in range(4):
        columns = slice(nv + 3 * k, nv + 3 * k + 3)
        for j, (x, y) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
            cone[5 * k + j, columns] = [x, y, mu]
        cone[5 * k + 4, columns], least[5 * k + 4] = [0, 0, -1], -500.0
    rows = np.vstack([D[:6], D[6:], -D[6:], cone])
    bounds = np.concatenate([-h[:6], -LIMIT - h[6:], h[6:] - LIMIT, least])
    x = quadprog.solve_qp(H, -g, rows.T, bounds, 6)[0]
    return (D @ x + h)[6:]


def times(action: Callable[[int], Any], count: int) -> np.ndarray[Any, Any]:
    for k in range(min(count, 20)):
        action(k)
    found = []
    for k in range(count):
        start = time.perf_counter()
        action(k)
        found.append(time.perf_counter() - start)
    return 1e6 * np.array(found)


def quantiles(found: Any, batch: int = 1) -> dict[str, float]:
    p50, p99, p999 = np.percentile(found, [50.0, 99.0, 99.9]) / batch
    return {"batch": batch, "p50_us": p50, "p99_us": p99, "p999_us": p999}


def main() -> None:
    arguments = report.arguments(__doc__).parse_args()
    ticks, batches = (100, (16,)) if arguments.quick else (20000, (16, 256, 4096))
    torch.set_num_threads(1)
    print(report.machine("pin", "torch", "quadprog", threads=report.cores()))
    table = report.Report("inverse_dynamics", COLUMNS, arguments.out)
    model = quadruped()
    data, rng, base = model.createData(), np.random.default_rng(0), posture(model)
    most = max(batches)
    q = np.stack([pin.integrate(model, base, 0.03 * rng.normal(size=model.nv)) for _ in range(most)])
    v = 0.1 * rng.normal(size=(most, model.nv))
    alone = controller(model, 1)
    series: dict[str, dict[str, float]] = {"p50": {}, "p99": {}}

    def add(case: str, row: dict[str, Any]) -> None:
        table.add({"case": case} | row)
        for key, values in series.items():
            values[f"{case}, {row['batch']}"] = row[f"{key}_us"]

    com = alone.parts["com"].reference.detach().numpy()
    few = min(most, 16 if arguments.quick else 256)
    found = [alone.compute(q[i], v[i]) for i in range(few)]
    mu = FRICTION * math.cos(math.pi / FACETS)
    excess = max(float((np.abs(t.force[:, :2]).max(1) - mu * t.force[:, 2]).max()) for t in found)
    row = quantiles(times(lambda k: alone.compute(q[k % most], v[k % most]), ticks)) | {"violation_N": max(excess, 0.0)}
    if importlib.util.find_spec("quadprog") is not None:
        others = [by_hand(model, data, q[i], v[i], com) for i in range(few)]
        pairs = zip(found, others, strict=True)
        row["torque_difference_Nm"] = max(float(np.abs(a.torque - b).max()) for a, b in pairs)
    add("one tick", row)
    if "torque_difference_Nm" in row:
        peer = times(lambda k: by_hand(model, data, q[k % few], v[k % few], com), min(ticks, 500))
        add("NumPy and quadprog", quantiles(peer))

    many = controller(model, 0)
    for batch in batches:
        q_, v_ = torch.from_numpy(q[:batch]), torch.from_numpy(v[:batch])
        leaves = q_.clone().requires_grad_(), v_.clone().requires_grad_()

        def forward(_: int, q_: Any = q_, v_: Any = v_) -> None:
            with torch.no_grad():
                many(q_, v_)

        def gradient(_: int, leaves: Any = leaves) -> None:
            many(*leaves).torque.square().sum().backward()

        count = 5 if arguments.quick else max(20, 20000 // batch)
        add("forward", quantiles(times(forward, count), batch))
        add("forward and gradient", quantiles(times(gradient, count), batch))
    table.finish()
    title = "Whole-body control of a quadruped"
    report.bars(arguments.out / "inverse_dynamics.png", list(series["p50"]), series, title=title, ylabel="us per robot")


if __name__ == "__main__":
    main()
