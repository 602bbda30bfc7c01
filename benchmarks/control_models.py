"""Robots that the benchmarks of controllers share, made of boxes by Pinocchio alone: peers build them as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pinocchio as pin

LEGS = ("lf", "rf", "lh", "rh")
FEET = [f"{leg} foot" for leg in LEGS]
LIMIT = 30.0  # of the quadruped's torques [N m]


def quadruped() -> Any:
    """A trunk with legs of three joints."""
    model = pin.Model()

    def add(parent: int, joint: Any, name: str, place: Any, mass: float, size: Any, centre: Any, effort: float) -> int:
        far, nv = np.inf, joint.nv
        limits = (np.full(nv, effort), np.full(nv, far), np.full(joint.nq, -far), np.full(joint.nq, far))
        index: int = model.addJoint(parent, joint, pin.SE3(np.eye(3), np.array(place)), name, *limits)
        model.appendBodyToJoint(index, pin.Inertia.FromBox(mass, *size), pin.SE3(np.eye(3), np.array(centre)))
        return index

    base = add(0, pin.JointModelFreeFlyer(), "base", (0, 0, 0), 8.0, (0.4, 0.2, 0.1), (0, 0, 0), 0.0)
    model.addFrame(pin.Frame("trunk", base, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    for leg in LEGS:
        side, x = (1.0 if leg[0] == "l" else -1.0), (0.2 if leg[1] == "f" else -0.2)
        place, size = (x, 0.1 * side, 0.0), (0.08, 0.08, 0.08)
        hip = add(base, pin.JointModelRX(), f"{leg} hip", place, 0.6, size, (0, 0, 0), LIMIT)
        place, size = (0, 0.05 * side, 0), (0.05, 0.05, 0.2)
        thigh = add(hip, pin.JointModelRY(), f"{leg} thigh", place, 0.9, size, (0, 0, -0.1), LIMIT)
        place, size = (0, 0, -0.2), (0.03, 0.03, 0.2)
        knee = add(thigh, pin.JointModelRY(), f"{leg} knee", place, 0.2, size, (0, 0, -0.1), LIMIT)
        foot = pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.2]))
        model.addFrame(pin.Frame(f"{leg} foot", knee, foot, pin.FrameType.OP_FRAME))
    return model


def posture(model: Any) -> Any:
    q = pin.neutral(model)
    for leg in LEGS:
        q[model.joints[model.getJointId(f"{leg} thigh")].idx_q] = 0.6
        q[model.joints[model.getJointId(f"{leg} knee")].idx_q] = -1.2
    return q


def arm() -> Any:
    """Seven joints on the ground, and a tool."""
    model, joint = pin.Model(), 0
    kinds = (pin.JointModelRZ, pin.JointModelRY, pin.JointModelRX, pin.JointModelRY)
    for k in range(7):
        limits = [np.full(1, value) for value in (60.0 if k < 4 else 20.0, 3.0, -2.8, 2.8)]
        place = pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.2 if k else 0.1]))
        joint = model.addJoint(joint, kinds[k % 4](), place, f"joint {k}", *limits)
        model.appendBodyToJoint(
            joint, pin.Inertia.FromBox(3.0 - 0.3 * k, 0.08, 0.06, 0.2), pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.1]))
        )
        if k == 3:
            model.addFrame(pin.Frame("elbow", joint, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    model.addFrame(pin.Frame("tool", joint, pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.2])), pin.FrameType.OP_FRAME))
    return model
