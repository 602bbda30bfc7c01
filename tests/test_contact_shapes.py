"""Boxes and capsules on the ground do what solid bodies do."""

from __future__ import annotations

import math

import numpy as np
import pinocchio as pin
import pytest
import torch
from contact_robots import STEP, block, on_slope, run, tall

from qp_control.robot.contact import GRAVITY, Contact, ContactDynamics
from qp_control.robot.ground import HeightField
from qp_control.robot.shape_contacts import ground_contacts
from qp_control.robot.shapes import Box, Capsule, Cylinder


def test_a_box_has_eight_corners():
    robot = tall()
    assert len(robot.contacts) == 8 and {c.radius for c in robot.contacts} == {0.0}
    offsets = np.array([c.offset for c in robot.contacts])
    np.testing.assert_allclose(np.abs(offsets[:, :2]), 0.1, atol=1e-15)
    assert sorted(set(offsets[:, 2].round(12).tolist())) == [0.0, 0.6]


@pytest.mark.parametrize("as_heights", [False, True])
def test_a_box_slides_down_a_slope(as_heights):
    """Low enough not to tip: a = g (sin - mu cos)."""
    mu, slope = 0.3, 0.5
    plane, x = on_slope(slope)
    ground = plane
    if as_heights:
        at = np.array([-1.0, 0.0, 1.0, 2.0])
        ground = HeightField(np.repeat(-slope * at[:, None], 4, 1), 1.0, (-1.0, -1.5))
    model = block().model
    contacts = ground_contacts([Box("corner 0", (0.2, 0.2, 0.1), pin.SE3(np.eye(3), np.array([-0.1, -0.1, 0.05])))])
    robot = ContactDynamics(model, dt=STEP, contacts=contacts, ground=ground, actuated=[])
    x[0, :3] += torch.from_numpy(0.05 * np.array(plane.normal))
    steps = 500
    for _ in range(steps):
        x = robot.step(x, torch.zeros(1, 0), friction=torch.full((8,), mu))
    angle = math.atan(slope)
    expected = GRAVITY * (math.sin(angle) - mu * math.cos(angle)) * steps * STEP
    assert float(x[0, 7]) == pytest.approx(expected, rel=5e-3)  # along its own x axis, which is the slope's
    assert x[0, 8:].abs().max() < 1e-2


def test_a_box_on_a_slope_rests_and_does_not_sink():
    plane, x = on_slope(0.25)
    robot = tall(ground=plane)
    path, forces = run(robot, x, 2000)
    gaps = []
    for k in (500, 1000, 2000):
        _, found = robot.step_with_forces(path[k], torch.zeros(1, 0))
        gaps.append(found.gap.min())
    # A millimetre under its weight on one contact; here four share it, the lower two the most.
    assert min(gaps) > -1e-3 and max(gaps) < 0.0 and abs(gaps[2] - gaps[1]) < 1e-5
    assert path[-1, 0, 7:].abs().max() < 1e-3
    np.testing.assert_allclose(forces[-1, 0].sum(0).numpy(), [0.0, 0.0, 3.0 * GRAVITY], atol=0.05)


@pytest.mark.parametrize(("slope", "tips"), [(0.30, False), (0.37, True)])
def test_a_tall_box_tips_where_its_centre_leaves_its_foot(slope, tips):
    """Width over height is a third."""
    plane, x = on_slope(slope)
    path, _ = run(tall(ground=plane), x, 1000)
    upright = torch.stack([pin_z(p) for p in path[:, 0, 3:7]]) @ torch.tensor(plane.normal, dtype=torch.float64)
    if tips:
        assert upright[-1] < 0.1  # it lies on its side
        assert path[-1, 0, 7:].abs().max() < 1e-2 and path[-1, 0, :3] @ torch.tensor(plane.normal).double() > 0.09
    else:
        assert upright.min() > 0.999


def pin_z(quaternion):
    """The z axis of a body."""
    return torch.from_numpy(pin.Quaternion(quaternion.numpy()).matrix()[:, 2].copy())


def test_a_capsule_lies_on_the_ground_by_its_ends():
    (start, end) = ground_contacts([Capsule("a", 0.05, (0.0, 0.0, -0.1), (0.0, 0.0, 0.2))], friction=0.4)
    assert start == Contact("a", 0.05, 0.4, (0.0, 0.0, -0.1)) and end == Contact("a", 0.05, 0.4, (0.0, 0.0, 0.2))
    rims = ground_contacts([Cylinder("a", 0.05, (0.0, 0.1, 0.0), (0.0, 0.4, 0.0))])
    assert len(rims) == 16
    offsets = np.array([c.offset for c in rims])
    np.testing.assert_allclose(np.hypot(offsets[:, 0], offsets[:, 2]), 0.05, atol=1e-15)
    assert sorted(set(offsets[:, 1].round(12).tolist())) == [0.1, 0.4]
