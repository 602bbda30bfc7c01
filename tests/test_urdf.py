"""Malformed robots are refused by name before Pinocchio, which may crash, sees them."""

import re

import pytest

from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.robot.description import check_urdf, read_urdf, read_visuals
from qp_control.robot.dynamics import RobotDynamics

GOOD = CartPoleSwingUp.urdf.read_text(encoding="utf-8")

INERTIA = '<inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/>'
LINK = '<link name="{}"><inertial><mass value="1"/>' + INERTIA + "</inertial></link>"
JOINT = '<joint name="{}" type="continuous"><parent link="{}"/><child link="{}"/><axis xyz="0 0 1"/></joint>'


def robot(*parts):
    return '<robot name="r">' + "".join(parts) + "</robot>"


def test_the_shipped_robot_passes():
    check_urdf(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</robot>", "", "not well-formed XML"),
        (GOOD, "", "not well-formed XML"),
        ('<robot name="cart_pole">', '<car name="x"/><robot name="cart_pole">', "not well-formed"),
        ('mass value="0.1"', 'mass value="-0.1"', "link 'pole': mass is -0.1 kg, expected >= 0"),
        ('mass value="0.1"', 'mass value="nan"', "mass .* is 'nan', expected a finite number"),
        ('mass value="0.1"', 'mass value="heavy"', "mass .* is 'heavy', expected a number"),
        ('<mass value="0.1"/>', "", "link 'pole': <inertial> has no <mass>"),
        ('iyy="0.010"', 'iyy="-1"', "link 'cart': a principal moment of inertia is -1 "),
        ('ixz="0" iyy="0.010"', 'iyy="0.010"', "link 'cart': ixz .* is None, expected a finite"),
        ('<axis xyz="0 1 0"/>', '<axis xyz="0 0 0"/>', "joint 'pole_joint': axis is '0 0 0'"),
        ('<axis xyz="0 1 0"/>', '<axis xyz="0 1"/>', "axis is '0 1', expected 3 numbers"),
        (
            'lower="-2.4" upper="2.4"',
            'lower="2.4" upper="-2.4"',
            "lower limit 2.4 exceeds the upper limit -2.4",
        ),
        ('upper="2.4"', 'upper="inf"', "upper limit is 'inf'"),
        ('effort="10"', 'effort="-10"', "effort limit is '-10', expected >= 0"),
        ('damping="0.1"', 'damping="-0.1"', "damping is -0.1, expected >= 0"),
        ('type="prismatic"', 'type="sliding"', "type 'sliding', expected one of"),
        ('<child link="pole"/>', '<child link="rod"/>', "child link 'rod', expected one of the links"),
        ('<link name="pole">', '<link name="cart">', "several links named 'cart'"),
        ('joint name="pole_joint"', 'joint name="cart_joint"', "several joints named 'cart_joint'"),
        ('<link name="pole">', "<link>", "<link> has no attribute 'name'"),
        ('<origin xyz="0 -0.13 0"', '<origin xyz="0 nan 0"', "origin xyz is 'nan'"),
    ],
)
def test_malformed_file_is_refused(old, new, message, tmp_path):
    assert old in GOOD
    file = tmp_path / "broken robot ü.urdf"
    file.write_text(GOOD.replace(old, new, 1) if old != GOOD else "", encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        RobotDynamics(file, dt=0.1)
    assert file.name in str(caught.value)


def test_cycle_is_refused():
    with pytest.raises(ValueError, match="cycle"):
        check_urdf(robot(*map(LINK.format, "ab"), JOINT.format("1", "a", "b"), JOINT.format("2", "b", "a")))
    parts = [*map(LINK.format, "abc"), JOINT.format("1", "b", "c"), JOINT.format("2", "c", "b")]
    with pytest.raises(ValueError, match=re.escape("links ['b', 'c'] hang on a cycle")):
        check_urdf(robot(*parts))
    with pytest.raises(ValueError, match="cycle"):
        check_urdf(robot(LINK.format("a"), JOINT.format("1", "a", "a")))


def test_two_parents_and_two_roots_are_refused():
    parts = [*map(LINK.format, "abc"), JOINT.format("1", "a", "c"), JOINT.format("2", "b", "c")]
    with pytest.raises(ValueError, match="link 'c' has the parents 'a' and 'b'"):
        check_urdf(robot(*parts))
    with pytest.raises(ValueError, match=re.escape("roots ['a', 'b']")):
        check_urdf(robot(*map(LINK.format, "ab")))


def test_five_thousand_links_are_refused_and_a_long_chain_works(tmp_path):
    def chain(n):
        return robot(
            *(LINK.format(f"l{i}") for i in range(n)),
            *(JOINT.format(f"j{i}", f"l{i - 1}", f"l{i}") for i in range(1, n)),
        )

    with pytest.raises(ValueError, match="5000 links, expected 1 to 1000"):
        check_urdf(chain(5000))
    with pytest.raises(ValueError, match="0 links"):
        check_urdf(robot())
    file = tmp_path / "chain.urdf"
    file.write_text(chain(200))
    model = read_urdf(file)
    assert model.nv == 199 and model.inertias[100].mass == 1.0


def test_moving_body_without_inertia_is_refused(tmp_path):
    file = tmp_path / "light.urdf"
    file.write_text(robot(LINK.format("a"), '<link name="b"/>', JOINT.format("1", "a", "b")))
    with pytest.raises(ValueError, match="mass matrix is singular"):
        RobotDynamics(file, dt=0.1)


def test_missing_file_is_told():
    with pytest.raises(FileNotFoundError, match="no_such"):
        RobotDynamics("no_such.urdf", dt=0.1)


def test_binary_file_is_refused(tmp_path):
    file = tmp_path / "image.urdf"
    file.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_urdf(file)


@pytest.mark.parametrize("mesh", ["/etc/hostname", "../../secret.stl", "package://../../x.stl", "file:///etc/x.stl"])
def test_mesh_outside_the_robots_folder_is_refused(mesh, tmp_path):
    visual = f'<visual><geometry><mesh filename="{mesh}"/></geometry></visual>'
    file = tmp_path / "robot.urdf"
    file.write_text(robot(LINK.format("a").replace("</link>", visual + "</link>")))
    model = read_urdf(file)
    with pytest.raises(ValueError, match="lies outside"):
        read_visuals(file, model)


def test_mesh_in_the_robots_folder_is_read(tmp_path):
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "t.stl").write_text(
        "solid t\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
        "endloop\nendfacet\nendsolid t\n"
    )
    visual = '<visual><geometry><mesh filename="package://meshes/t.stl"/></geometry></visual>'
    file = tmp_path / "robot.urdf"
    file.write_text(robot(LINK.format("a").replace("</link>", visual + "</link>")))
    visuals = read_visuals(file, read_urdf(file))
    assert visuals.ngeoms == 1


def test_locked_joints_are_no_coordinates_and_must_be_there():
    model = read_urdf(CartPoleSwingUp.urdf, locked=["pole_joint"])
    assert (model.nq, list(model.names)[1:]) == (1, ["cart_joint"])
    assert model.inertias[1].mass == pytest.approx(1.1)  # the pole has become part of the cart
    assert read_visuals(CartPoleSwingUp.urdf, model, locked=["pole_joint"]).ngeoms == 4
    with pytest.raises(
        ValueError, match=r"locked has the joint 'knee', expected names from \['cart_joint', 'pole_joint'"
    ):
        read_urdf(CartPoleSwingUp.urdf, locked=["knee"])
