"""Robots that touch the ground, and what the tests of contact do with them."""

from __future__ import annotations

import math

import numpy as np
import pinocchio as pin
import torch
from test_ground import waves

from qp_control.robot.contact import Contact, ContactDynamics
from qp_control.robot.ground import Plane
from qp_control.robot.shape_contacts import ground_contacts
from qp_control.robot.shapes import Box, Capsule, CollisionPair, Sphere

STEP = 0.002


def block(mu=0.5, size=(0.2, 0.2, 0.1), mass=2.0, **options):
    """A box that may slide, its corners touching the ground."""
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "block")
    model.appendBodyToJoint(joint, pin.Inertia.FromBox(mass, *size), pin.SE3.Identity())
    contacts = []
    for k, (a, b) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
        corner = 0.5 * np.array([a * size[0], b * size[1], -size[2]])
        model.addFrame(pin.Frame(f"corner {k}", joint, pin.SE3(np.eye(3), corner), pin.FrameType.OP_FRAME))
        contacts.append(Contact(f"corner {k}", friction=mu))
    options = {"dt": STEP, "contacts": contacts, "actuated": [0, 1, 2]} | options
    return ContactDynamics(model, **options)


def ball(mu=0.5, radius=0.1, offset=(0.0, 0.0, 0.0), **options):
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "ball")
    model.appendBodyToJoint(joint, pin.Inertia.FromSphere(1.0, radius), pin.SE3.Identity())
    model.addFrame(pin.Frame("ball", joint, pin.SE3.Identity(), pin.FrameType.BODY))
    contacts = [Contact("ball", radius, mu, offset)]
    return ContactDynamics(model, dt=STEP, contacts=contacts, actuated=[0, 1, 2], **options)


def leg(**options):
    """A body on a rail with a knee: a foot that may touch the ground, limits and dry friction in its joints."""
    model = pin.Model()
    rail = model.addJoint(
        0, pin.JointModelPZ(), pin.SE3.Identity(), "rail", *map(np.array, ([99.0], [9.0], [-1.0], [9.0]))
    )
    model.appendBodyToJoint(rail, pin.Inertia.FromBox(3.0, 0.1, 0.1, 0.1), pin.SE3.Identity())
    limits = [np.array([value]) for value in (50.0, 20.0, -1.2, 1.2)]
    hip = model.addJoint(rail, pin.JointModelRY(), pin.SE3.Identity(), "hip", *limits)
    thigh = pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.15]))
    model.appendBodyToJoint(hip, pin.Inertia.FromBox(0.5, 0.05, 0.05, 0.3), thigh)
    limits = [np.array([value]) for value in (50.0, 20.0, -2.0, -0.2)]
    knee = model.addJoint(hip, pin.JointModelRY(), pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.3])), "knee", *limits)
    model.appendBodyToJoint(knee, pin.Inertia.FromBox(0.3, 0.04, 0.04, 0.3), thigh)
    model.addFrame(pin.Frame("rail", rail, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    foot = pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.3]))
    model.addFrame(pin.Frame("foot", knee, foot, pin.FrameType.OP_FRAME))
    options = {"dt": STEP, "contacts": [Contact("foot", 0.02, 0.7)], "actuated": ["hip", "knee"]} | options
    return ContactDynamics(model, **options)


def tall(**options):
    """A box 0.2 m wide and 0.6 m high by its shape, its bottom at the origin of its frame."""
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "box")
    model.appendBodyToJoint(joint, pin.Inertia.FromBox(3.0, 0.2, 0.2, 0.6), pin.SE3(np.eye(3), np.array([0, 0, 0.3])))
    model.addFrame(pin.Frame("bottom", joint, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    box = Box("bottom", (0.2, 0.2, 0.6), pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.3])))
    options = {"dt": STEP, "contacts": ground_contacts([box], friction=1.0), "actuated": []} | options
    return ContactDynamics(model, **options)


def at_rest(robot, height, velocity=(0.0, 0.0, 0.0), angular=(0.0, 0.0, 0.0)):
    x = robot.neutral_state()[None].clone()
    x[0, 2], x[0, 7:10], x[0, 10:13] = height, torch.tensor(velocity), torch.tensor(angular)
    return x


def run(robot, x, steps, u=None):
    u = x.new_zeros(len(x), robot.nu) if u is None else u
    path, forces = [x], []
    for _ in range(steps):
        x, found = robot.step_with_forces(x, u)
        path.append(x)
        forces.append(found.force)
    return torch.stack(path), torch.stack(forces)


def on_slope(slope):
    """The plane that falls by this slope along x, and a state of what stands on it upright, a millimetre in it."""
    angle = math.atan(slope)
    plane = Plane((math.sin(angle), 0.0, math.cos(angle)))
    turn = pin.Quaternion(pin.exp3(np.array([0.0, angle, 0.0])))
    place = -1e-3 * np.array(plane.normal)
    return plane, torch.tensor([[*place, *turn.coeffs(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def contact_cases():
    slide = block(0.5), at_rest(block(), 0.0497, (1.0, 0.4, -0.01), (0.1, 0.2, 0.3)), [3.0, -2.0, 1.0]
    stick = block(0.9), at_rest(block(), 0.0497, (1e-3, 0.0, 0.0)), [0.5, 0.2, -1.0]
    tilted = block(0.5), at_rest(block(), 0.049, (0.3, 0.1, -0.5), (2.0, -1.5, 0.5)), [0.0, 0.0, 0.0]
    roll = ball(0.4), at_rest(ball(), 0.0995, (1.0, 0.3, -0.1), (1.0, 8.0, 2.0)), [0.1, 0.0, 0.0]
    hill = at_rest(ball(), 0.139, (1.0, 0.3, -0.1), (1.0, 8.0, 2.0))  # a millimetre in the ground
    hill[0, :2] = torch.tensor([0.23, -0.31])
    hill = ball(0.4, 0.1, (0.02, -0.01, 0.03), ground=waves()), hill, [0.1, 0.0, 0.0]
    standing = torch.tensor([[0.565, 0.4, -0.8, -0.3, 0.5, -0.2]], dtype=torch.float64)
    push = leg(dry_friction=[0.0, 0.5, 0.5]), standing, [4.0, -3.0]
    shelf = Box("universe", (0.6, 0.6, 0.1), pin.SE3(pin.exp3(np.array([0.0, 0.2, 0.0])), np.array([0.0, 0.0, -0.05])))
    own = CollisionPair(Capsule("foot", 0.03, (0.0, 0.0, 0.0), (0.0, 0.1, 0.05)), Sphere("rail", 0.488), 0.5)
    shelved = leg(contacts=[], pairs=[CollisionPair(shelf, Sphere("foot", 0.012)), own]), standing, [4.0, -3.0]
    limit = leg(dry_friction=[0.0, 0.5, 0.0]), torch.tensor([[1.5, 1.2005, -0.19, 0.0, 1.0, 1.0]]).double(), [9.0, 3.0]
    cases = {"slide": slide, "stick": stick, "tilted": tilted, "roll": roll, "hill": hill}
    return cases | {"push": push, "pairs": shelved, "limit": limit}
