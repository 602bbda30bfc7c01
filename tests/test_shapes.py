"""Collision shapes of robots: from URDF files, as contacts with the ground and as pairs."""

from __future__ import annotations

import pkgutil

import numpy as np
import pinocchio as pin
import pytest
import torch

import qp_control
from qp_control.robot.contact import ContactDynamics
from qp_control.robot.description import read_urdf
from qp_control.robot.shape_contacts import contacts_from_urdf
from qp_control.robot.shapes import Box, Capsule, Cylinder, Sphere, collision_pairs, shapes_from_urdf

INERTIAL = '<inertial><mass value="1"/><inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/></inertial>'
URDF = f"""
<robot name="walker" version="1.2">
  <link name="trunk">{INERTIAL}
    <collision><origin xyz="0.1 0 0.02" rpy="0.1 0.2 0.3"/><geometry><box size="0.4 0.2 0.1"/></geometry></collision>
  </link>
  <link name="thigh">{INERTIAL}
    <collision><origin xyz="0 0 -0.1" rpy="0 0.1 0"/>
      <geometry><cylinder radius="0.03" length="0.2"/></geometry></collision>
    <collision><geometry><mesh filename="package://nowhere/thigh.stl"/></geometry></collision>
  </link>
  <link name="shank">{INERTIAL}</link>
  <link name="foot">{INERTIAL.replace('"1"', '"0.1"')}
    <collision><origin xyz="0.01 0 -0.01"/><geometry><sphere radius="0.02"/></geometry></collision>
    <collision><origin xyz="0 0 0.05"/><geometry><capsule radius="0.02" length="0.06"/></geometry></collision>
  </link>
  <joint name="hip" type="revolute"><parent link="trunk"/><child link="thigh"/><origin xyz="0.1 0.1 -0.05"/>
    <axis xyz="0 1 0"/><limit lower="-2" upper="2" effort="10" velocity="10"/></joint>
  <joint name="knee" type="revolute"><parent link="thigh"/><child link="shank"/><origin xyz="0 0 -0.2"/>
    <axis xyz="0 1 0"/><limit lower="-3" upper="3" effort="10" velocity="10"/></joint>
  <joint name="ankle" type="fixed"><parent link="shank"/><child link="foot"/>
    <origin xyz="0 0 -0.2" rpy="0.4 0 0"/></joint>
</robot>
"""


@pytest.fixture
def urdf(tmp_path):
    path = tmp_path / "walker.urdf"
    path.write_text(URDF)
    return path


@pytest.fixture
def without_mesh(tmp_path):
    path = tmp_path / "plain.urdf"
    path.write_text("\n".join(line for line in URDF.splitlines() if "mesh" not in line))
    return path


def test_shapes_are_those_of_the_file(without_mesh):
    box, cylinder, sphere, capsule = shapes_from_urdf(without_mesh)
    assert isinstance(box, Box) and box.frame == "trunk" and box.size == (0.4, 0.2, 0.1)
    np.testing.assert_allclose(box.placement.translation, [0.1, 0.0, 0.02], atol=1e-12)
    np.testing.assert_allclose(box.placement.rotation, pin.rpy.rpyToMatrix(0.1, 0.2, 0.3), atol=1e-12)
    assert isinstance(cylinder, Cylinder) and cylinder.frame == "thigh" and cylinder.radius == 0.03
    lower = np.array([0.0, 0.0, -0.1]) - 0.1 * pin.rpy.rpyToMatrix(0.0, 0.1, 0.0)[:, 2]
    np.testing.assert_allclose(cylinder.start, lower, atol=1e-12)
    assert isinstance(sphere, Sphere) and sphere.frame == "foot" and sphere.radius == 0.02
    np.testing.assert_allclose(sphere.offset, [0.01, 0.0, -0.01], atol=1e-12)
    assert isinstance(capsule, Capsule) and capsule.frame == "foot" and capsule.radius == 0.02
    # Its length is without the round ends.
    np.testing.assert_allclose([capsule.start, capsule.end], [[0, 0, 0.02], [0, 0, 0.08]], atol=1e-12)


def test_contacts_are_where_pinocchio_has_the_shapes(without_mesh):
    contacts = contacts_from_urdf(without_mesh, friction=0.6)
    assert [c.frame for c in contacts] == ["trunk"] * 8 + ["thigh"] * 16 + ["foot"] * 3
    assert {c.friction for c in contacts} == {0.6}
    model = read_urdf(without_mesh, floating_base=True)
    geometry = pin.buildGeomFromUrdf(model, str(without_mesh), pin.COLLISION)
    q = pin.randomConfiguration(model, -np.ones(model.nq), np.ones(model.nq))
    data, placed = model.createData(), geometry.createData()
    pin.framesForwardKinematics(model, data, q)
    pin.updateGeometryPlacements(model, data, geometry, placed, q)
    centres = [data.oMf[model.getFrameId(c.frame)] * np.array(c.offset) for c in contacts]
    box, cylinder, sphere, capsule = placed.oMg
    np.testing.assert_allclose(np.abs([box.actInv(p) for p in centres[:8]]), [[0.2, 0.1, 0.05]] * 8, atol=1e-12)
    rims = np.array([cylinder.actInv(p) for p in centres[8:24]])
    np.testing.assert_allclose(np.hypot(rims[:, 0], rims[:, 1]), 0.03, atol=1e-12)
    np.testing.assert_allclose(np.abs(rims[:, 2]), 0.1, atol=1e-12)
    np.testing.assert_allclose(centres[24], sphere.translation, atol=1e-12)
    np.testing.assert_allclose(0.5 * (centres[25] + centres[26]), capsule.translation, atol=1e-12)


def test_gaps_are_those_of_coal(without_mesh):
    """Of a robot with its own shapes: foot and shank against the trunk."""
    model = read_urdf(without_mesh, floating_base=True)
    pairs = collision_pairs(model, shapes_from_urdf(without_mesh))
    assert [(p.first.frame, p.second.frame) for p in pairs] == [("trunk", "foot")] * 2
    robot = ContactDynamics(model, dt=0.002, pairs=pairs, contacts=contacts_from_urdf(without_mesh))
    geometry = pin.buildGeomFromUrdf(model, str(without_mesh), pin.COLLISION)
    for other in (2, 3):
        geometry.addCollisionPair(pin.CollisionPair(0, other))
    x = robot.neutral_state()
    x[7:9] = torch.tensor([1.9, -2.6])
    _, found = robot.step_with_forces(x[None], torch.zeros(1, 2))
    placed = geometry.createData()
    pin.updateGeometryPlacements(model, model.createData(), geometry, placed, x[: model.nq].numpy())
    pin.computeDistances(geometry, placed)
    distances = [result.min_distance for result in placed.distanceResults]
    assert found.gap[0, -2:].tolist() == pytest.approx(distances, abs=1e-5)


def test_links_are_chosen_and_meshes_told(urdf):
    with pytest.raises(ValueError, match="link 'thigh' has mesh in <collision>, expected a sphere"):
        shapes_from_urdf(urdf)
    assert [shape.frame for shape in shapes_from_urdf(urdf, links=["foot", "trunk"])] == ["trunk", "foot", "foot"]
    assert len(contacts_from_urdf(urdf, links=["foot"])) == 3
    assert contacts_from_urdf(urdf, links=["shank"]) == []
    with pytest.raises(ValueError, match="links has 'hoof', which the model has not"):
        shapes_from_urdf(urdf, links=["hoof"])
    with pytest.raises(FileNotFoundError):
        shapes_from_urdf(urdf.with_name("none.urdf"))


def test_what_the_parser_drops_is_told(without_mesh):
    """Capsules in files of version 1.0, and with them all that the link has."""
    without_mesh.write_text(without_mesh.read_text().replace(' version="1.2"', ""))
    with pytest.raises(ValueError, match="read 2 of the 4 <collision> elements"):
        shapes_from_urdf(without_mesh)
    assert len(shapes_from_urdf(without_mesh, links=["trunk", "thigh"])) == 2


def test_pairs_need_frames_of_the_model(without_mesh):
    shapes = [Sphere("foot", 0.1), Sphere("tail", 0.1)]
    with pytest.raises(ValueError, match="frame 'tail', which the model has not"):
        collision_pairs(read_urdf(without_mesh), shapes)


def test_names_that_are_imported_late_are_no_modules():
    """A module of the name of a function would take its place once it is imported."""
    modules = {module.name for module in pkgutil.iter_modules(qp_control.__path__)}
    assert not modules & set(qp_control._LAZY)
