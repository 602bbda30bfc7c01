"""What the viewer draws besides the robot: fixed or moving shapes, lines, and arrows and cones for forces."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qp_control.qp.problem import as_integer

Floats = NDArray[np.float64]

HIDDEN = (1e-6, 1e-6, 1e-6)  # scale of hidden items: a matrix of zeros has no inverse
THICKEST = 0.4  # [m] an arrow's scale across, at most


@dataclasses.dataclass(frozen=True)
class Pose:
    """Pose of a node of the scene: a rigid transform (4, 4), and its scale along its own axes."""

    matrix: Floats
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)


HIDE = Pose(np.eye(4), HIDDEN)


class Item(abc.ABC):
    """Something in the scene, a node with others below it. A call can move it; otherwise it stays where it is."""

    name: str

    @property
    @abc.abstractmethod
    def moved_by(self) -> tuple[int, ...]:
        """The shape of the array that moves it."""

    @abc.abstractmethod
    def put_into(self, node: Any) -> None:
        """Create it under a node of meshcat's tree."""

    @abc.abstractmethod
    def poses(self, moved: Floats | None) -> dict[str, Pose]:
        """Poses of its nodes, by their paths below its own (its own: "")."""


@dataclasses.dataclass(frozen=True)
class Shape(Item):
    """A box, or with one number for its size a ball of that radius: size and centre [m], color 0xRRGGBB.

    It stays at its position unless `moved`, the position of its centre, is given; hidden where that is not finite.
    Raises ValueError for a size that is not positive, and for other bad numbers.
    """

    name: str
    size: tuple[float, float, float] | float
    position: tuple[float, float, float]
    color: int = 0x888888

    def __post_init__(self) -> None:
        size = as_numbers(f"the size of {self.name!r}", self.size, (), (3,))
        if not (size > 0.0).all():
            raise ValueError(f"the size of {self.name!r} is {self.size}, expected positive numbers [m]")
        as_numbers(f"the position of {self.name!r}", self.position, (3,))
        check_color(self.name, self.color)

    @property
    def moved_by(self) -> tuple[int, ...]:
        return (3,)

    def put_into(self, node: Any) -> None:
        import meshcat.geometry as geometry

        size = np.asarray(self.size, dtype=np.float64).tolist()
        body = geometry.Box(size) if isinstance(size, list) else geometry.Sphere(size)
        node.set_object(body, geometry.MeshLambertMaterial(color=self.color))

    def poses(self, moved: Floats | None) -> dict[str, Pose]:
        if moved is not None and not np.isfinite(moved).all():
            return {"": HIDE}
        return {"": Pose(_placed(np.array(self.position) if moved is None else moved))}


@dataclasses.dataclass(frozen=True)
class Arrow(Item):
    """An arrow for a force or velocity. `moved` is its start and its vector (2, 3), both in metres; hidden if that is
    missing or not finite."""

    name: str
    color: int = 0xD62728

    def __post_init__(self) -> None:
        check_color(self.name, self.color)

    @property
    def moved_by(self) -> tuple[int, ...]:
        return (2, 3)

    def put_into(self, node: Any) -> None:
        import meshcat.geometry as geometry

        material = geometry.MeshLambertMaterial(color=self.color)
        # Of length one and along y, like meshcat's cylinders.
        for name, height, bottom, top, middle in (("shaft", 0.75, 0.03, 0.03, 0.375), ("head", 0.25, 0.09, 0.0, 0.875)):
            part = geometry.Cylinder(height, radiusBottom=bottom, radiusTop=top)
            node[name].set_object(part, material)
            node[name].set_transform(_placed(np.array([0.0, middle, 0.0])))

    def poses(self, moved: Floats | None) -> dict[str, Pose]:
        if moved is None or not np.isfinite(moved).all():
            return {"": HIDE}
        start, vector = moved
        length = float(np.linalg.norm(vector))
        if length < HIDDEN[1]:
            return {"": HIDE}
        thick = min(length, THICKEST)
        return {"": Pose(_placed(start, _from_y(vector / length)), (thick, length, thick))}


@dataclasses.dataclass(frozen=True)
class FrictionCone(Item):
    """The forces possible at a contact with the coefficient `friction`: a cone on its apex, `height` [m] high.

    `moved` is the position of the apex (3,) [m]; hidden if that is missing or not finite.
    """

    name: str
    friction: float
    height: float = 0.06
    color: int = 0xE8A33D

    def __post_init__(self) -> None:
        numbers = as_numbers(f"friction and height of {self.name!r}", (self.friction, self.height), (2,))
        if numbers[0] < 0.0 or numbers[1] <= 0.0:
            raise ValueError(
                f"friction of {self.name!r} is {self.friction} and height {self.height}, expected positive"
            )
        check_color(self.name, self.color)

    @property
    def moved_by(self) -> tuple[int, ...]:
        return (3,)

    def put_into(self, node: Any) -> None:
        import meshcat.geometry as geometry

        material = geometry.MeshLambertMaterial(color=self.color, transparent=True, opacity=0.35)
        cone = geometry.Cylinder(self.height, radiusBottom=0.0, radiusTop=self.friction * self.height)
        node["cone"].set_object(cone, material)
        node["cone"].set_transform(_placed(np.array([0.0, 0.0, 0.5 * self.height]), _from_y(np.array([0.0, 0.0, 1.0]))))

    def poses(self, moved: Floats | None) -> dict[str, Pose]:
        if moved is None or not np.isfinite(moved).all():
            return {"": HIDE}
        return {"": Pose(_placed(moved))}


@dataclasses.dataclass(frozen=True)
class Line(Item):
    """A line through `points` points, such as a plan. `moved` is their positions (points, 3) [m]; hidden if that is
    missing, as are its segments to points that are not finite."""

    name: str
    points: int
    radius: float = 0.006
    color: int = 0x1F77B4

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", as_integer(f"the number of points of {self.name!r}", self.points, 2))
        if not 0.0 < self.radius < math.inf:
            raise ValueError(f"the radius of {self.name!r} is {self.radius}, expected a positive number [m]")
        check_color(self.name, self.color)

    @property
    def moved_by(self) -> tuple[int, ...]:
        return (self.points, 3)

    def put_into(self, node: Any) -> None:
        import meshcat.geometry as geometry

        part = geometry.Cylinder(1.0, self.radius)
        for k in range(self.points - 1):
            node[str(k)].set_object(part, geometry.MeshLambertMaterial(color=self.color))

    def poses(self, moved: Floats | None) -> dict[str, Pose]:
        if moved is None:
            return {str(k): HIDE for k in range(self.points - 1)}
        return {str(k): _between(moved[k], moved[k + 1]) for k in range(self.points - 1)}


def as_numbers(name: str, value: Any, *shapes: tuple[int, ...]) -> Floats:
    """`value` as an array of one of the shapes; ValueError where it is none, or not finite."""
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.shape not in shapes or not np.isfinite(numbers).all():
        expected = " or ".join("a number" if shape == () else f"{shape[0]} numbers" for shape in shapes)
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return numbers


def check_color(name: str, color: Any) -> None:
    """Raise ValueError unless a color is one of 24 bits."""
    if not isinstance(color, int) or not 0 <= color <= 0xFFFFFF:
        raise ValueError(f"the color of {name!r} is {color!r}, expected 0xRRGGBB")


def _placed(position: Floats, rotation: Floats | None = None) -> Floats:
    matrix = np.eye(4)
    matrix[:3, 3] = position
    if rotation is not None:
        matrix[:3, :3] = rotation
    return matrix


def _between(start: Floats, end: Floats) -> Pose:
    """Pose of a cylinder of length one that is to reach from start to end."""
    length = float(np.linalg.norm(end - start))
    if not length >= HIDDEN[1]:
        return HIDE
    return Pose(_placed(0.5 * (start + end), _from_y((end - start) / length)), (1.0, length, 1.0))


def _from_y(direction: Floats) -> Floats:
    """A rotation (3, 3) that turns the y axis to the given unit vector."""
    y = np.array([0.0, 1.0, 0.0])
    cosine = float(direction @ y)
    if cosine < -1.0 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    axis = np.cross(y, direction)
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    turned: Floats = np.eye(3) + cross + cross @ cross / (1.0 + cosine)
    return turned


def tiles(width: float, every: float = 0.5, *, length: float | None = None) -> list[Item]:
    """Ground at z = 0 with lines on it, around the origin: `length` [m] along x (None: as wide), `width` along y."""
    along = width if length is None else length
    items: list[Item] = [Shape("ground", (along, width, 0.02), (0.0, 0.0, -0.012), 0xD8DCE2)]
    for axis, (end, across) in enumerate(((along, width), (width, along))):
        count = math.floor(0.5 * end / every)
        for k in range(-count, count + 1):
            size, position = [0.008, across, 0.002], [k * every, 0.0, -0.0012]
            if axis == 1:
                size[:2], position[:2] = size[1::-1], position[1::-1]
            items.append(Shape(f"line {'xy'[axis]} {k}", (*size,), (*position,), 0xB4BAC4))  # type: ignore[arg-type]
    return items
