"""Ground surfaces, a plane or heights over a grid: signed distances of points and their derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qp_control import _robot


class GroundPoints(NamedTuple):
    """The ground as seen from n points."""

    distance: np.ndarray
    """(n,) distances from the ground [m], negative below its surface."""
    normal: np.ndarray
    """(n, 3) normals where the ground is nearest: the gradients of the distances."""
    curvature: np.ndarray
    """(n, 3, 3) derivatives of the normals with respect to the points [1/m]."""


class Ground:
    """The surface of the solid below it."""

    @property
    def native(self) -> Any:
        raise NotImplementedError

    def at(self, points: Any) -> GroundPoints:
        """The ground as seen from points (n, 3) [m] in the world."""
        return GroundPoints(*self.native.at(np.asarray(points, dtype=np.float64)))


@dataclass(frozen=True)
class Plane(Ground):
    """normal'p = height [m]; the normal has length one."""

    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    height: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "normal", _numbers("normal", self.normal, 3))
        _ = self.native  # checks them

    @property
    def native(self) -> Any:
        return _robot.Ground.plane(self.normal, self.height)


@dataclass(frozen=True, eq=False)
class HeightField(Ground):
    """z = h(x, y), through heights over a regular grid.

    heights (rows, columns) [m]: heights[i, j] is at x = origin[0] + i spacing[0], y = origin[1] + j spacing[1].
    spacing [m]: of the grid along x and y, or one number for both. origin [m]: x and y of heights[0, 0].

    The heights are interpolated by bicubic polynomials with central-difference slopes (Catmull-Rom): the surface passes
    through all heights and reproduces planes exactly; its normal is continuous, its curvature jumps between cells.
    Beyond the grid it continues with the slope at the edge. Distances are those from the nearest point, found by
    Newton's method starting below; a ball touches at one such point only, so it must fit into the valleys.

    Raises ValueError for heights that are not a grid of at least 2 x 2 finite numbers, and for a spacing that is not
    positive.
    """

    heights: np.ndarray
    spacing: float | tuple[float, float]
    origin: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        heights = np.array(np.asarray(self.heights), dtype=np.float64)
        heights.setflags(write=False)
        object.__setattr__(self, "heights", heights)
        object.__setattr__(self, "spacing", _numbers("spacing", self._spacings, 2))
        object.__setattr__(self, "origin", _numbers("origin", self.origin, 2))
        _ = self.native  # checks them

    @property
    def _spacings(self) -> tuple[float, ...]:
        given = np.asarray(self.spacing, dtype=np.float64)
        return (float(given), float(given)) if given.ndim == 0 else _numbers("spacing", self.spacing, 2)

    @property
    def native(self) -> Any:
        return _robot.Ground.height_field(self.heights, self._spacings, self.origin)


def _numbers(name: str, values: Any, count: int) -> tuple[float, ...]:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (count,):
        raise ValueError(f"{name} is {values!r}, expected {count} numbers")
    return tuple(float(value) for value in found)
