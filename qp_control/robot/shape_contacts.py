"""Shapes of a robot as contacts with the ground."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

import numpy as np

from qp_control.robot.contact import Contact
from qp_control.robot.shapes import Box, Capsule, Cylinder, Shape, Sphere, shapes_from_urdf

RIM_POINTS = 8  # of each end of a cylinder, whose radius is met to 8 % between them


def ground_contacts(shapes: Iterable[Shape], *, friction: float = 0.8) -> list[Contact]:
    """The points and balls with which shapes touch the ground.

    A sphere is one ball, a capsule the balls at its ends, a box its eight corners, a cylinder eight points around each
    of its ends. On a plane this is exact, except that a cylinder may sink in by 8 % of its radius; on a height field
    hills may reach between the points.
    """
    found = []
    for shape in shapes:
        if isinstance(shape, Capsule):
            parts = [Sphere(shape.frame, shape.radius, at) for at in dict.fromkeys((shape.start, shape.end))]
        elif isinstance(shape, Box):
            parts = shape.corners
        elif isinstance(shape, Cylinder):
            parts = _rims(shape)
        else:
            parts = [shape]
        found += [Contact(part.frame, part.radius, friction, part.offset) for part in parts]
    return found


def contacts_from_urdf(
    path: str | os.PathLike[str], *, links: Collection[str] | None = None, friction: float = 0.8
) -> list[Contact]:
    """The `ground_contacts` of the `<collision>` shapes of a URDF file.

    links: names of the links to use, such as the feet; None: all. Raises ValueError as `shapes_from_urdf` does.
    """
    return ground_contacts(shapes_from_urdf(path, links=links), friction=friction)


def _rims(cylinder: Cylinder) -> list[Sphere]:
    start, end = np.array(cylinder.start), np.array(cylinder.end)
    axis = (end - start) / np.linalg.norm(end - start)
    first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    points = []
    for centre in (start, end):
        for angle in 2.0 * np.pi * np.arange(RIM_POINTS) / RIM_POINTS:
            rim = centre + cylinder.radius * (np.cos(angle) * first + np.sin(angle) * second)
            points.append(Sphere(cylinder.frame, 0.0, rim))
    return points
