"""Robots with legs and arms for controllers, made of boxes."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import torch
from manifold_robots import move

from qp_control.robot.model import RobotModel


def _add(model, parent, joint, name, place, mass, size, centre, effort=40.0, velocity=20.0, reach=(-2.0, 2.0)):
    nq, nv = joint.nq, joint.nv
    index = model.addJoint(
        parent, joint, pin.SE3(np.eye(3), np.array(place)), name, np.full(nv, effort), np.full(nv, velocity),
        np.full(nq, reach[0]), np.full(nq, reach[1]),
    )  # fmt: skip
    model.appendBodyToJoint(index, pin.Inertia.FromBox(mass, *size), pin.SE3(np.eye(3), np.array(centre)))
    return index


def _frame(model, joint, name, place, rpy=(0.0, 0.0, 0.0)):
    model.addFrame(pin.Frame(name, joint, pin.SE3(pin.rpy.rpyToMatrix(*rpy), np.array(place)), pin.FrameType.OP_FRAME))


def quadruped(legs=("lf", "rf", "lh", "rh"), **options):
    """A trunk of 8 kg with legs of three joints each, feet named after them."""
    model = pin.Model()
    base = _add(model, 0, pin.JointModelFreeFlyer(), "base", (0, 0, 0), 8.0, (0.4, 0.2, 0.1), (0, 0, 0), 0.0)
    _frame(model, base, "trunk", (0.05, 0.0, 0.02), (0.1, 0.2, -0.1))
    for leg in legs:
        x, y = (0.2 if leg[1] == "f" else -0.2), (0.1 if leg[0] == "l" else -0.1)
        hip = _add(model, base, pin.JointModelRX(), f"{leg} hip", (x, y, 0), 0.6, (0.08, 0.08, 0.08), (0, 0, 0))
        side = (0, 0.05 * np.sign(y), 0)
        thigh = _add(model, hip, pin.JointModelRY(), f"{leg} thigh", side, 0.9, (0.05, 0.05, 0.2), (0, 0, -0.1))
        knee = _add(model, thigh, pin.JointModelRY(), f"{leg} knee", (0, 0, -0.2), 0.2, (0.03, 0.03, 0.2), (0, 0, -0.1))
        _frame(model, knee, f"{leg} foot", (0, 0, -0.2))
    model.damping[6:] = 0.05
    return RobotModel(model, **options)


def arm(**options):
    """Six joints, fixed to the ground, with a tool."""
    model = pin.Model()
    joint = 0
    kinds = [pin.JointModelRZ, pin.JointModelRY, pin.JointModelRY, pin.JointModelRX, pin.JointModelRY, pin.JointModelRX]
    for k, kind in enumerate(kinds):
        place, mass = ((0, 0, 0.1) if k < 2 else (0, 0, 0.3)), 3.0 - 0.4 * k
        joint = _add(model, joint, kind(), f"joint {k}", place, mass, (0.08, 0.06, 0.3), (0.01, 0.0, 0.15), 60.0, 4.0)
        if k == 2:
            _frame(model, joint, "elbow", (0.0, 0.02, 0.1))
    _frame(model, joint, "tool", (0.05, 0.0, 0.2), (0.4, -0.2, 0.7))
    model.damping[:] = 0.3
    return RobotModel(model, **options)


def biped(**options):
    """A trunk on two legs of six joints with flat feet, and a neck with a ball joint."""
    model = pin.Model()
    base = _add(model, 0, pin.JointModelFreeFlyer(), "base", (0, 0, 0), 12.0, (0.2, 0.3, 0.4), (0, 0, 0.2), 0.0)
    _frame(model, base, "pelvis", (0, 0, 0))
    neck = _add(model, base, pin.JointModelSpherical(), "neck", (0, 0, 0.45), 1.5, (0.1, 0.1, 0.2), (0, 0, 0.1), 10.0)
    _frame(model, neck, "head", (0.05, 0, 0.15))
    for side, y in (("left", 0.1), ("right", -0.1)):
        joint, kinds = base, [pin.JointModelRZ, pin.JointModelRX, pin.JointModelRY, pin.JointModelRY]
        kinds += [pin.JointModelRY, pin.JointModelRX]
        places = [(0, y, 0), (0, 0, -0.02), (0, 0, -0.02), (0, 0, -0.3), (0, 0, -0.3), (0, 0, -0.02)]
        for k, (kind, place) in enumerate(zip(kinds, places, strict=True)):
            long = k in (2, 3)
            size, centre = ((0.08, 0.08, 0.3), (0, 0, -0.15)) if long else ((0.08, 0.08, 0.06), (0, 0, 0))
            mass = 1.5 if long else 0.5
            joint = _add(model, joint, kind(), f"{side} {k}", place, mass, size, centre, 150.0)
        _frame(model, joint, f"{side} sole", (0.02, 0, -0.05))
    return RobotModel(model, **options)


SOLE = [(0.1, 0.05, 0.0), (0.1, -0.05, 0.0), (-0.1, 0.05, 0.0), (-0.1, -0.05, 0.0)]
KNEES = {"thigh": 0.6, "knee": -1.2}


def standing(robot):
    """q (nq,) of a quadruped or biped with bent knees, feet on the ground."""
    model = robot.model
    q = robot.neutral_state()[: robot.nq].numpy().copy()
    for name in list(model.names)[2:]:
        index = model.joints[model.getJointId(name)].idx_q
        kind = name.split()[-1]
        q[index] = {"thigh": 0.6, "knee": -1.2, "2": -0.4, "3": 0.8, "4": -0.4}.get(kind, q[index])
    data = model.createData()
    pin.framesForwardKinematics(model, data, q)
    q[2] -= min(placement.translation[2] for placement in data.oMf)
    return torch.from_numpy(q)


def around(robot, q, batch, seed=0, size=0.1):
    """States q (B, nq), v (B, nv) near a configuration."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([q.numpy(), np.zeros(robot.nv)])
    x = np.stack([move(robot.model, x, size * rng.normal(size=2 * robot.nv)) for _ in range(batch)])
    return torch.from_numpy(x[:, : robot.nq].copy()), torch.from_numpy(x[:, robot.nq :].copy())
