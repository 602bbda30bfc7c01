"""Robots whose configurations form no vector space, and Pinocchio's sums and differences of their states."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import torch

from qp_control.robot.dynamics import RobotDynamics


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def space_arm(dt=0.05):
    """A body that floats, not driven, with an arm of a ball joint, an elbow and a continuous joint; no gravity."""
    model = pin.Model()
    model.gravity.linear[:] = 0.0
    far = np.inf

    def add(parent, joint, name, effort, mass, size, offset):
        placement = pin.SE3(np.eye(3), np.array(offset))
        nq, nv = joint.nq, joint.nv
        index = model.addJoint(
            parent, joint, placement, name, np.full(nv, effort), np.full(nv, far), np.full(nq, -far), np.full(nq, far)
        )
        body = pin.Inertia.FromBox(mass, *size)
        model.appendBodyToJoint(index, body, pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.5 * size[2]])))
        return index

    base = add(0, pin.JointModelFreeFlyer(), "base", 0.0, 4.0, (0.4, 0.5, 0.3), (0.0, 0.0, 0.0))
    shoulder = add(base, pin.JointModelSpherical(), "shoulder", 2.0, 1.0, (0.1, 0.1, 0.4), (0.0, 0.0, 0.3))
    elbow = add(shoulder, pin.JointModelRY(), "elbow", 1.0, 0.7, (0.1, 0.1, 0.3), (0.0, 0.0, 0.4))
    add(elbow, pin.JointModelRUBZ(), "wrist", 0.2, 0.3, (0.1, 0.15, 0.2), (0.0, 0.0, 0.3))
    model.damping[6:] = 0.05
    return RobotDynamics(model, dt=dt)


def move(model, x, d):
    """x (+) d."""
    return np.concatenate([pin.integrate(model, x[: model.nq], d[: model.nv]), x[model.nq :] + d[model.nv :]])


def change(model, r, x):
    """x (-) r."""
    return np.concatenate([pin.difference(model, r[: model.nq], x[: model.nq]), x[model.nq :] - r[model.nq :]])


def moved(model, x, d):
    """`move` of tensors (..., .), one by one."""
    flat = [move(model, a, b) for a, b in zip(_rows(x), _rows(d), strict=True)]
    return torch.from_numpy(np.stack(flat)).reshape(x.shape)


def changed(model, r, x):
    """`change` of tensors (..., .), one by one; r may be one state."""
    flat = [change(model, a, b) for a, b in zip(_rows(r.expand(x.shape)), _rows(x), strict=True)]
    return torch.from_numpy(np.stack(flat)).reshape(*x.shape[:-1], 2 * model.nv)


def random_states(robot, *shape, seed=0, size=1.0):
    """States (*shape, nx) around the neutral one."""
    generator = torch.Generator().manual_seed(seed)
    d = size * (2.0 * torch.rand(*shape, robot.ndx, generator=generator, dtype=torch.float64) - 1.0)
    return moved(robot.model, robot.neutral_state().expand(*shape, robot.nx), d)


def _rows(t):
    return t.detach().reshape(-1, t.shape[-1]).numpy()
