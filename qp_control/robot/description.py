"""Robot models from URDF, checked before Pinocchio sees them (it crashes on some malformed files)."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin

PINOCCHIO_SERIES = "4.1"
MAX_LINKS = 1000

if not pin.__version__.startswith(PINOCCHIO_SERIES + "."):
    raise ImportError(
        f"qp_control was built for pinocchio {PINOCCHIO_SERIES}, got {pin.__version__}: "
        f"the binary interface differs between minor versions; run `pip install 'pin=={PINOCCHIO_SERIES}.*'`"
    )

JOINT_TYPES = ("fixed", "revolute", "continuous", "prismatic", "floating", "planar")


def read_urdf(path: str | os.PathLike[str], *, floating_base: bool = False, locked: Sequence[str] = ()) -> Any:
    """Parse a URDF file into a `pinocchio.Model` after checking it.

    path: the file. Meshes are not read, since the dynamics do not need them.
    floating_base: put a free-flyer joint between the world and the root link.
    locked: names of joints that are fixed at zero, such as those of a gripper.

    Raises FileNotFoundError if there is no file, and ValueError, naming the link or joint, for malformed XML, a
    structure that is not a tree, negative or NaN masses, zero axes, crossed limits and more than 1000 links.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no URDF file at {str(file)!r}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} is not UTF-8 text: {error}") from error
    check_urdf(text, name=str(file))
    text = _locked(text, locked, str(file))
    root = pin.JointModelFreeFlyer() if floating_base else None
    try:
        return pin.buildModelFromXML(text, root) if root is not None else pin.buildModelFromXML(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"Pinocchio could not read {str(file)!r}: {error}") from error


def _locked(text: str, joints: Sequence[str], name: str) -> str:
    """The URDF with these joints fixed."""
    if not joints:
        return text
    robot = ElementTree.fromstring(text)
    known = {joint.get("name"): joint for joint in robot.findall("joint")}
    for which in joints:
        if which not in known:
            raise ValueError(f"{name}: locked has the joint {which!r}, expected names from {sorted(map(str, known))}")
        known[which].set("type", "fixed")
    return ElementTree.tostring(robot, encoding="unicode")


def read_visuals(
    path: str | os.PathLike[str],
    model: Any,
    *,
    package_dirs: Sequence[str | os.PathLike[str]] = (),
    locked: Sequence[str] = (),
) -> Any:
    """The visual `pinocchio.GeometryModel` of a URDF file that was read by `read_urdf`.

    Meshes are searched for in the folder of the file and in `package_dirs` (roots of "package://" paths). Raises
    ValueError for a mesh outside of them: a URDF file from elsewhere must not open other files.
    """
    file = Path(path)
    if isinstance(package_dirs, str | os.PathLike):  # each letter would be a folder, and "/" all of them
        raise ValueError(f"package_dirs is {str(package_dirs)!r}, expected a list of folders")
    text = _locked(file.read_text(encoding="utf-8"), locked, str(file))
    roots = [Path(d).resolve() for d in (file.parent, *package_dirs)]
    for mesh in ElementTree.fromstring(text).iter("mesh"):
        _check_mesh(_attribute(mesh, "filename", str(file)), roots, str(file))
    try:
        return pin.buildGeomFromUrdfString(model, text, pin.VISUAL, package_dirs=[str(r) for r in roots])
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"Pinocchio could not read the shapes of {str(file)!r}: {error}") from error


def _check_mesh(filename: str, roots: list[Path], name: str) -> None:
    relative = filename
    for scheme in ("package://", "model://", "file://"):
        relative = relative.removeprefix(scheme)
    candidates = [(root / relative).resolve() for root in roots]
    if not any(c.is_relative_to(root) for c in candidates for root in roots):
        raise ValueError(f"{name}: mesh {filename!r} lies outside the robot's folder and the package folders")


def check_urdf(text: str, *, name: str = "URDF") -> None:
    """Raise ValueError, naming the link or joint, unless `text` describes a tree of valid bodies."""
    try:
        robot = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{name} is not well-formed XML: {error}") from error
    if robot.tag != "robot":
        raise ValueError(f"{name} has the root element <{robot.tag}>, expected <robot>")
    links = robot.findall("link")
    joints = robot.findall("joint")
    if not 1 <= len(links) <= MAX_LINKS:
        raise ValueError(f"{name} has {len(links)} links, expected 1 to {MAX_LINKS}")
    names = [_attribute(link, "name", name) for link in links]
    _check_unique(names, "links", name)
    _check_unique([_attribute(joint, "name", name) for joint in joints], "joints", name)
    for link in links:
        _check_link(link, name)
    for joint in joints:
        _check_joint(joint, set(names), name)
    _check_tree(names, joints, name)


def _attribute(element: ElementTree.Element, key: str, name: str) -> str:
    value = element.get(key)
    if value is None:
        raise ValueError(f"{name}: <{element.tag}> has no attribute {key!r}")
    return value


def _check_unique(names: list[str], what: str, name: str) -> None:
    twice = {n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise ValueError(f"{name} has several {what} named {sorted(twice)[0]!r}, expected unique names")


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        raise ValueError(f"{where} is {text!r}, expected a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{where} is {text!r}, expected a finite number")
    return value


def _numbers(text: str, count: int, where: str) -> list[float]:
    values = [_number(t, where) for t in text.split()]
    if len(values) != count:
        raise ValueError(f"{where} is {text!r}, expected {count} numbers")
    return values


def _check_origin(element: ElementTree.Element, where: str) -> None:
    for origin in element.findall("origin"):
        for key in ("xyz", "rpy"):
            if origin.get(key) is not None:
                _numbers(str(origin.get(key)), 3, f"{where}: origin {key}")


def _check_link(link: ElementTree.Element, name: str) -> None:
    where = f"{name}: link {link.get('name')!r}"
    inertial = link.find("inertial")
    if inertial is None:
        return
    mass_element, inertia = inertial.find("mass"), inertial.find("inertia")
    if mass_element is None or inertia is None:
        raise ValueError(f"{where}: <inertial> has no <mass> or no <inertia>")
    mass = _number(mass_element.get("value"), f"{where}: mass [kg]")
    if mass < 0.0:
        raise ValueError(f"{where}: mass is {mass} kg, expected >= 0")
    # The parser drops the whole <inertial>, with no more than a message, when one of the six is missing.
    xx, xy, xz, yy, yz, zz = (
        _number(inertia.get(k), f"{where}: {k} [kg m^2]") for k in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
    )
    smallest = float(np.linalg.eigvalsh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))[0])
    if smallest < -1e-9 * max(1e-300, abs(xx) + abs(yy) + abs(zz)):
        raise ValueError(f"{where}: a principal moment of inertia is {smallest:g} kg m^2, expected >= 0")
    _check_origin(inertial, where)


def _check_joint(joint: ElementTree.Element, links: set[str], name: str) -> None:
    where = f"{name}: joint {joint.get('name')!r}"
    kind = _attribute(joint, "type", name)
    if kind not in JOINT_TYPES:
        raise ValueError(f"{where} has type {kind!r}, expected one of {', '.join(JOINT_TYPES)}")
    for role in ("parent", "child"):
        element = joint.find(role)
        link = None if element is None else element.get("link")
        if link not in links:
            raise ValueError(f"{where} has the {role} link {link!r}, expected one of the links of the file")
    _check_origin(joint, where)
    axis = joint.find("axis")
    if axis is not None and kind in ("revolute", "continuous", "prismatic", "planar"):
        xyz = _numbers(_attribute(axis, "xyz", name), 3, f"{where}: axis")
        if math.hypot(*xyz) < 1e-9:
            raise ValueError(f"{where}: axis is {axis.get('xyz')!r}, expected a vector of positive length")
    limit = joint.find("limit")
    if limit is None:
        if kind in ("revolute", "prismatic"):
            raise ValueError(f"{where} is {kind} and has no <limit>, expected lower, upper, effort, velocity")
    else:
        lower = _number(limit.get("lower", "0"), f"{where}: lower limit")
        upper = _number(limit.get("upper", "0"), f"{where}: upper limit")
        if lower > upper:
            raise ValueError(f"{where}: lower limit {lower} exceeds the upper limit {upper}")
        for key in ("effort", "velocity"):
            if _number(limit.get(key, "0"), f"{where}: {key} limit") < 0.0:
                raise ValueError(f"{where}: {key} limit is {limit.get(key)!r}, expected >= 0")
    dynamics = joint.find("dynamics")
    for key in ("damping", "friction"):
        value = dynamics.get(key) if dynamics is not None else None
        if value is not None and _number(value, f"{where}: {key}") < 0.0:
            raise ValueError(f"{where}: {key} is {value}, expected >= 0")


def _check_tree(links: list[str], joints: list[ElementTree.Element], name: str) -> None:
    children: dict[str, list[str]] = {link: [] for link in links}
    parent: dict[str, str] = {}
    for joint in joints:
        up, down = (str(joint.find(role).get("link")) for role in ("parent", "child"))  # type: ignore[union-attr]
        if down in parent:
            raise ValueError(f"{name}: link {down!r} has the parents {parent[down]!r} and {up!r}, expected one")
        parent[down] = up
        children[up].append(down)
    roots = [link for link in links if link not in parent]
    if len(roots) != 1:
        problem = "every link has a parent: the joints form a cycle" if not roots else f"roots {roots}"
        raise ValueError(f"{name}: expected one root link, got {problem}")
    reached, open_links = set(roots), list(roots)
    while open_links:
        for child in children[open_links.pop()]:
            reached.add(child)
            open_links.append(child)
    if len(reached) < len(links):
        lost = sorted(set(links) - reached)
        raise ValueError(f"{name}: links {lost} hang on a cycle of joints, expected a tree with root {roots[0]!r}")
