"""Shapes of a robot's bodies, given directly or by its description, and pairs of them that may touch."""

from __future__ import annotations

import itertools
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin

from qp_control.robot.description import read_urdf

Point = tuple[float, float, float]


def point(name: str, values: Any) -> Point:
    """Three numbers, from any sequence of them. Raises ValueError for anything else."""
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (3,) or not np.isfinite(found).all():
        raise ValueError(f"{name} is {values}, expected 3 finite numbers [m]")
    x, y, z = (float(value) for value in found)
    return x, y, z


def size(name: str, value: Any) -> float:
    """A length. Raises ValueError unless it is finite and at least 0."""
    if not (np.ndim(value) == 0 and np.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} is {value}, expected a number of at least 0 [m]")
    return float(value)


@dataclass(frozen=True)
class Sphere:
    """A ball around a point of a frame. radius [m]: 0 for the point alone. offset [m]: along the frame's axes."""

    frame: str
    radius: float
    offset: Point = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", size(f"the radius of a sphere of {self.frame!r}", self.radius))
        object.__setattr__(self, "offset", point(f"the offset of a sphere of {self.frame!r}", self.offset))


@dataclass(frozen=True)
class _Axis:
    frame: str
    radius: float
    start: Point
    end: Point

    def __post_init__(self) -> None:
        what = f"of a {type(self).__name__.lower()} of {self.frame!r}"
        object.__setattr__(self, "radius", size(f"the radius {what}", self.radius))
        object.__setattr__(self, "start", point(f"the start {what}", self.start))
        object.__setattr__(self, "end", point(f"the end {what}", self.end))


class Capsule(_Axis):
    """All points within radius [m] of the segment from start to end [m], two points of a frame."""


class Cylinder(_Axis):
    """A cylinder of this radius [m] around the axis from start to end [m], two points of a frame."""

    @property
    def capsule(self) -> Capsule:
        """The inscribed capsule, or the ball of this radius around the middle if the cylinder is flat."""
        start, end = np.array(self.start), np.array(self.end)
        length = float(np.linalg.norm(end - start))
        inward = min(self.radius / length, 0.5) * (end - start) if length > 0.0 else np.zeros(3)
        return Capsule(self.frame, self.radius, point("start", start + inward), point("end", end - inward))


@dataclass(frozen=True)
class Box:
    """A box with edges of these lengths [m] along x, y and z of a placement (`pinocchio.SE3`) in a frame."""

    frame: str
    size: Point
    placement: Any = field(default_factory=pin.SE3.Identity)

    def __post_init__(self) -> None:
        what = f"the size of a box of {self.frame!r}"
        x, y, z = (size(what, length) for length in point(what, self.size))
        object.__setattr__(self, "size", (x, y, z))
        if not isinstance(self.placement, pin.SE3):
            raise ValueError(f"the placement of a box of {self.frame!r} is {self.placement}, expected a pinocchio.SE3")

    @property
    def corners(self) -> list[Sphere]:
        """Its eight corners, as points."""
        signs = itertools.product((-0.5, 0.5), repeat=3)
        return [Sphere(self.frame, 0.0, self.placement * (np.array(s) * np.array(self.size))) for s in signs]


Shape = Sphere | Capsule | Cylinder | Box


@dataclass(frozen=True)
class CollisionPair:
    """Two shapes of different bodies that may touch: spheres, capsules, and a box with one of these.

    They touch at one point, the nearest one. If a capsule's axis is within a few thousandths of a radian of parallel to
    what it touches, the point lies between that one and the one nearest to the axis's middle: it moves from end to end
    while the capsule tilts, instead of jumping, and capsules lie still. This makes distances larger by up to
    1e-3 l^2 / (4 d), l half the axis and d its distance, and by 1e-6 l^2 / (2 d sin^2 a) where axes cross at an angle
    a; those of ends and of spheres are exact. Boxes touch each other in several points: pair the corners of each with
    the other (`collision_pairs` does). Shapes in the frame "universe" are fixed in the world. friction: coefficient mu.

    Raises ValueError for other pairs.
    """

    first: Shape
    second: Shape
    friction: float = 0.8

    def __post_init__(self) -> None:
        for shape in (self.first, self.second):
            if not isinstance(shape, (Sphere, Capsule, Box)):
                hint = ": take its capsule" if isinstance(shape, Cylinder) else ""
                raise ValueError(f"a pair has a {type(shape).__name__}, expected Sphere, Capsule or Box{hint}")
        if isinstance(self.first, Box) and isinstance(self.second, Box):
            raise ValueError(
                f"the boxes of {self.first.frame!r} and {self.second.frame!r} are a pair, expected a Sphere or a "
                "Capsule in it: pair the corners of each with the other"
            )

    @property
    def swapped(self) -> bool:
        """Whether the second is the simpler of the two, which counts as the first in `rounded_box`."""
        order = (Sphere, Capsule, Box)
        return order.index(type(self.first)) > order.index(type(self.second))


def rounded_box(shape: Shape) -> tuple[Any, ...]:
    """The shape of a pair as position, rotation by rows, half lengths and radius: a box with round edges."""
    if isinstance(shape, Sphere):
        return shape.offset, np.eye(3).reshape(-1), (0.0, 0.0, 0.0), shape.radius
    if isinstance(shape, Box):
        half = tuple(0.5 * float(length) for length in shape.size)
        return shape.placement.translation, shape.placement.rotation.reshape(-1), half, 0.0
    start, end = np.array(shape.start, dtype=float), np.array(shape.end, dtype=float)
    along, length = end - start, float(np.linalg.norm(end - start))
    rotation = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), along).matrix() if length > 0.0 else np.eye(3)
    return 0.5 * (start + end), rotation.reshape(-1), (0.0, 0.0, 0.5 * length), shape.radius


def shapes_of(model: Any, geometry: Any, *, links: Collection[str] | None = None) -> list[Shape]:
    """The shapes of a `pinocchio.GeometryModel`, such as a robot's collision model, in the frames of its links.

    links: names of the links to use; None: all. Raises ValueError for links that do not exist and, with the link's
    name, for shapes other than spheres, capsules, cylinders and boxes.
    """
    found: list[Shape] = []
    objects = [(model.frames[thing.parentFrame].name, thing) for thing in geometry.geometryObjects]
    if links is not None:
        known = {frame.name for frame in model.frames}
        for name in links:
            if name not in known:
                raise ValueError(f"links has {name!r}, which the model has not")
        objects = [(name, thing) for name, thing in objects if name in links]
    for name, thing in objects:
        kind, shape = type(thing.geometry).__name__, thing.geometry
        at = model.frames[thing.parentFrame].placement.inverse() * thing.placement
        if kind == "Sphere":
            found.append(Sphere(name, shape.radius, at.translation))
        elif kind == "Box":
            found.append(Box(name, 2.0 * shape.halfSide, at))
        elif kind in ("Capsule", "Cylinder"):
            ends = (at * np.array([0.0, 0.0, side * shape.halfLength]) for side in (-1.0, 1.0))
            found.append((Capsule if kind == "Capsule" else Cylinder)(name, shape.radius, *ends))
        else:
            raise ValueError(f"link {name!r} has the shape {kind}, expected spheres, capsules, cylinders and boxes")
    return found


def shapes_from_urdf(path: str | os.PathLike[str], *, links: Collection[str] | None = None) -> list[Shape]:
    """The `<collision>` shapes of a URDF file: spheres, capsules, cylinders and boxes.

    links: names of the links to use; None: all. Raises ValueError as `read_urdf` does, for links that do not exist, for
    meshes, naming the link, and for shapes that the parser drops.
    """
    model = read_urdf(path)
    robot = ElementTree.fromstring(Path(path).read_text(encoding="utf-8"))
    expected = 0
    for link in robot.findall("link"):
        for collision in link.findall("collision"):
            if links is not None and link.get("name") not in links:
                link.remove(collision)
                continue
            kinds = [kind.tag for kind in collision.findall("geometry/*")]
            if len(kinds) != 1 or kinds[0] not in ("sphere", "cylinder", "capsule", "box"):
                raise ValueError(
                    f"{str(path)!r}: link {link.get('name')!r} has {' and '.join(kinds) or 'nothing'} in <collision>, "
                    "expected a sphere, cylinder, capsule or box; choose links, or write shapes by hand"
                )
            expected += 1
    geometry = pin.buildGeomFromUrdfString(model, ElementTree.tostring(robot, encoding="unicode"), pin.COLLISION)
    if len(geometry.geometryObjects) != expected:  # the parser drops unknown shapes, and all others of that link
        raise ValueError(
            f"Pinocchio read {len(geometry.geometryObjects)} of the {expected} <collision> elements of {str(path)!r}: "
            "numbers are missing or wrong, or it has capsules and the file is not of version 1.2"
        )
    return shapes_of(model, geometry, links=links)


def collision_pairs(
    model: Any, shapes: Sequence[Shape], *, friction: float = 0.8, ignore: Iterable[tuple[str, str]] = ()
) -> list[CollisionPair]:
    """All pairs of shapes, except those on the same body or on bodies connected by a joint.

    Cylinders are replaced by their inscribed capsules, and of two boxes the corners of each are paired with the other:
    crossing edges are missed. ignore: pairs of frames that never touch.
    """
    apart = {frozenset(names) for names in ignore}

    def body(shape: Shape) -> int:
        if not model.existFrame(shape.frame):
            raise ValueError(f"a shape is in the frame {shape.frame!r}, which the model has not")
        return int(model.frames[model.getFrameId(shape.frame)].parentJoint)

    pairs = []
    rounded = [shape.capsule if isinstance(shape, Cylinder) else shape for shape in shapes]
    for first, second in itertools.combinations(rounded, 2):
        a, b = body(first), body(second)
        joined = a == b or model.parents[a] == b or model.parents[b] == a
        if joined or frozenset((first.frame, second.frame)) in apart:
            continue
        if isinstance(first, Box) and isinstance(second, Box):
            pairs += [CollisionPair(corner, second, friction) for corner in first.corners]
            pairs += [CollisionPair(first, corner, friction) for corner in second.corners]
        else:
            pairs.append(CollisionPair(first, second, friction))
    return pairs
