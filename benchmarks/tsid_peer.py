"""TSID on the tasks of inverse_dynamics_peers.py: a problem in as JSON, its answers out.

Run by it with the interpreter of an environment that has tsid; knows nothing of qp_control.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import control_models
import numpy as np
import pinocchio as pin
import tsid.tsid_pywrap as tsid  # its wheel has the module one folder too deep


def sample(reference: Any) -> Any:
    """Position, velocity and acceleration as it takes them; of a frame, its rotation stays."""
    position, velocity, acceleration = (np.array(part) for part in reference)
    if len(position) == 3:
        found = tsid.TrajectorySample(3)
        found.value(position)
        found.derivative(velocity)
        found.second_derivative(acceleration)
        return found
    found = tsid.TrajectorySample(12, 6)
    pose = pin.XYZQUATToSE3(position)
    found.value(np.concatenate([pose.translation, pose.rotation.flatten("F")]))
    found.derivative(velocity)
    found.second_derivative(acceleration)
    return found


class Controller:
    def __init__(self, p: Any, model: Any) -> None:
        floating = model.nq != model.nv
        kind = tsid.RootJointType.FLOATING_BASE_SYSTEM if floating else tsid.RootJointType.FIXED_BASE_SYSTEM
        self.robot = tsid.RobotWrapper(model, kind, False)
        self.formulation = tsid.InverseDynamicsFormulationAccForce("tsid", self.robot, False)
        q, v = np.array(p["q"][0]), np.array(p["v"][0])
        self.formulation.computeProblemData(0.0, q, v)
        kp, kd, w = p["stiffness"], 2.0 * np.sqrt(p["stiffness"]), p["weights"]
        # It keeps no reference of its own to the tasks.
        self.kept: list[Any] = []

        def add(task: Any, size: int, weight: float) -> Any:
            task.setKp(kp * np.ones(size))
            task.setKd(kd * np.ones(size))
            self.formulation.addMotionTask(task, weight, 1, 0.0)
            self.kept.append(task)
            return task

        if floating:
            self.moving = add(tsid.TaskComEquality("com", self.robot), 3, w["com"])
            trunk = tsid.TaskSE3Equality("trunk", self.robot, "trunk")
            trunk.setMask(np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
            add(trunk, 6, w["trunk"]).setReference(sample([[0.0] * 6 + [1.0], [0.0] * 6, [0.0] * 6]))
        else:
            self.moving = add(tsid.TaskSE3Equality("tool", self.robot, "tool"), 6, w["tool"])
        posture = add(tsid.TaskJointPosture("posture", self.robot), self.robot.na, w["posture"])
        still = tsid.TrajectorySample(self.robot.na)
        still.value(np.array(p["posture"]))
        posture.setReference(still)
        self.contacts = []
        for foot in control_models.FEET if floating else ():
            contact = tsid.ContactPoint(foot, self.robot, foot, np.array([0.0, 0.0, 1.0]), p["friction"], 0.0, 500.0)
            contact.useLocalFrame(False)
            contact.setRegularizationTaskWeightVector(np.ones(3))  # else normal forces cost less
            contact.setKp(np.zeros(3))
            contact.setKd(20.0 * np.ones(3))
            self.formulation.addRigidContact(contact, w["force"])
            self.contacts.append(contact)
        torques = tsid.TaskActuationBounds("torques", self.robot)
        torques.setBounds(-np.array(p["limit"]), np.array(p["limit"]))
        self.formulation.addActuationTask(torques, 1.0, 0, 0.0)
        self.kept.append(torques)
        self.solver = tsid.SolverHQuadProgFast("qp")
        self.solver.resize(self.formulation.nVar, self.formulation.nEq, self.formulation.nIn)

    def tick(self, q: Any, v: Any, reference: Any) -> tuple[Any, Any, Any]:
        """Torques, accelerations and forces (points, 3)."""
        self.moving.setReference(reference)
        data = self.formulation.computeProblemData(0.0, q, v)
        solution = self.solver.solve(data)
        if solution.status != 0:
            raise RuntimeError(f"TSID has no solution: status {solution.status}")
        torque = self.formulation.getActuatorForces(solution)
        forces = [self.formulation.getContactForce(c.name, solution) for c in self.contacts]
        return torque, self.formulation.getAccelerations(solution), np.array(forces).reshape(-1, 3)


def main() -> None:
    p = json.load(sys.stdin)
    model = getattr(control_models, p["robot"])()
    controller = Controller(p, model)
    states = [(np.array(q), np.array(v)) for q, v in zip(p["q"], p["v"], strict=True)]
    first = sample(p["references"][0])
    torques = [controller.tick(q, v, first)[0].tolist() for q, v in states]
    times = []
    for k in range(p["ticks"]):
        q, v = states[k % len(states)]
        start = time.process_time()
        controller.tick(q, v, first)
        times.append(1e6 * (time.process_time() - start))
    q, v = states[0][0], np.zeros(model.nv)
    path, loop_torques, loop_forces, loop_times = [], [], [], []
    for reference in p["references"]:
        start = time.process_time()
        torque, a, force = controller.tick(q, v, sample(reference))
        loop_times.append(1e6 * (time.process_time() - start))
        path.append([q.tolist(), v.tolist()])
        loop_torques.append(torque.tolist())
        loop_forces.append(force.tolist())
        q = pin.integrate(model, q, p["dt"] * (v + 0.5 * p["dt"] * a))
        v = v + p["dt"] * a
    print(json.dumps({
        "torques": torques, "times": times, "path": path, "loop_torques": loop_torques, "loop_forces": loop_forces,
        "loop_times": loop_times,        "pinocchio": pin.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
