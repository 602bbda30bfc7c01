"""Height fields and planes: distances, normals and their derivatives."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import minimize

from qp_control.robot.ground import HeightField, Plane

TILTED = np.array([0.2, -0.1, 1.0]) / math.sqrt(1.05)


def waves(rows=24, columns=30, spacing=(0.1, 0.08), origin=(-1.0, -1.2)):
    x = origin[0] + spacing[0] * np.arange(rows)[:, None]
    y = origin[1] + spacing[1] * np.arange(columns)[None, :]
    return HeightField(0.1 * np.sin(3.0 * x) * np.cos(2.0 * y) + 0.05 * x, spacing, origin)


def tilted_field(rows=6, columns=5, spacing=0.3, origin=(-0.7, -0.5)):
    """The plane TILTED'p = 0.03 as heights."""
    x = origin[0] + spacing * np.arange(rows)[:, None]
    y = origin[1] + spacing * np.arange(columns)[None, :]
    return HeightField((0.03 - TILTED[0] * x - TILTED[1] * y) / TILTED[2], spacing, origin)


def points(count=200, height=(-0.03, 0.15), span=1.0, seed=1):
    random = np.random.default_rng(seed)
    flat = random.uniform(-span, span, (count, 2))
    ground = waves().at(np.column_stack([flat, np.zeros(count)]))
    base = -ground.distance / ground.normal[:, 2]
    return np.column_stack([flat, base + random.uniform(*height, count)])


def test_heights_of_a_plane_are_that_plane_beyond_the_grid_too():
    p = np.random.default_rng(1).uniform(-3.0, 3.0, (100, 3))
    field, plane = tilted_field().at(p), Plane(tuple(TILTED), 0.03).at(p)
    for got, expected in zip(field, plane, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(plane.distance, p @ TILTED - 0.03, atol=1e-14)


def test_the_surface_passes_through_the_heights_and_quadratics():
    field = waves()
    rows, columns = field.heights.shape
    i, j = (grid.reshape(-1) for grid in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    on = np.column_stack([-1.0 + 0.1 * i, -1.2 + 0.08 * j, field.heights.reshape(-1)])
    np.testing.assert_allclose(field.at(on).distance, 0.0, atol=1e-15)
    x = 0.25 * np.arange(9)
    bowl = HeightField(0.1 * x[:, None] ** 2 - 0.2 * x[None, :] * x[:, None], 0.25)
    p = np.random.default_rng(2).uniform(0.25, 1.75, (50, 2))  # the cells with neighbours on all sides
    on = np.column_stack([p, 0.1 * p[:, 0] ** 2 - 0.2 * p[:, 0] * p[:, 1]])
    np.testing.assert_allclose(bowl.at(on).distance, 0.0, atol=1e-15)


def height_of_splines(field, xy):
    """The surface once more, by SciPy: along x through each column, and along y through what these give."""
    x, y = (o + d * np.arange(n) for o, d, n in zip(field.origin, field.spacing, field.heights.shape, strict=True))
    column = CubicHermiteSpline(x, field.heights, np.gradient(field.heights, field.spacing[0], axis=0))(xy[0])
    return float(CubicHermiteSpline(y, column, np.gradient(column, field.spacing[1]))(xy[1]))


def test_distances_are_those_of_the_nearest_point():
    field, at = waves(), points(30)
    found = field.at(at)
    for p, distance, normal in zip(at, found.distance, found.normal, strict=True):

        def squared(s, p=p):
            return np.sum((s - p[:2]) ** 2) + (height_of_splines(field, s) - p[2]) ** 2

        nearest = minimize(squared, p[:2], tol=1e-14, method="Nelder-Mead")
        above = p[2] > height_of_splines(field, p[:2])
        assert distance == pytest.approx(math.sqrt(nearest.fun) * (1.0 if above else -1.0), abs=1e-7)
        foot = p - distance * normal
        assert height_of_splines(field, foot[:2]) == pytest.approx(foot[2], abs=1e-12)


def test_normals_and_curvatures_are_derivatives():
    """Central differences of steps so short that hardly one of them crosses the edge of a cell."""
    field, p, h = waves(), points(), 1e-6
    found = field.at(p)
    np.testing.assert_allclose(np.linalg.norm(found.normal, axis=1), 1.0, atol=1e-15)
    for k in range(3):
        ahead, behind = (field.at(p + side * h * np.eye(3)[k]) for side in (1.0, -1.0))
        np.testing.assert_allclose((ahead.distance - behind.distance) / (2 * h), found.normal[:, k], atol=1e-8)
        np.testing.assert_allclose((ahead.normal - behind.normal) / (2 * h), found.curvature[:, :, k], atol=1e-6)
    np.testing.assert_allclose(found.curvature, found.curvature.transpose(0, 2, 1), atol=1e-12)


def test_normals_are_continuous_across_the_edges_of_cells_and_of_the_grid():
    field, h = waves(), 1e-9
    for x in (-0.5, -1.0, 1.3):  # inside, and the first and last rows
        p = np.column_stack([np.full(40, x), np.linspace(-1.5, 1.5, 40), np.full(40, 0.2)])
        sides = [field.at(p + side * np.array([h, 0.0, 0.0])).normal for side in (1.0, -1.0)]
        np.testing.assert_allclose(*sides, atol=1e-7)


def test_far_away_nothing_breaks():
    p = np.random.default_rng(3).uniform(-1.0, 1.0, (200, 3)) * np.array([50.0, 50.0, 20.0]) + [0.0, 0.0, 20.0]
    for value in waves().at(p):
        assert np.isfinite(value).all()


def test_copies_are_the_same():
    p = points(10)
    for ground in (waves(), Plane(tuple(TILTED), 0.1)):
        again = pickle.loads(pickle.dumps(ground))
        np.testing.assert_array_equal(again.at(p).distance, ground.at(p).distance)


def test_bad_grids_are_told():
    good = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"heights has shape \(3,\), expected rank 2"):
        HeightField(np.zeros(3), 0.1)
    with pytest.raises(ValueError, match="heights are 1 x 3, expected at least 2 x 2"):
        HeightField(np.zeros((1, 3)), 0.1)
    with pytest.raises(ValueError, match=r"heights has the entry nan at \(1, 2\)"):
        HeightField(np.where(np.arange(9).reshape(3, 3) == 5, np.nan, good), 0.1)
    with pytest.raises(ValueError, match=r"spacing is 0\.0.*positive"):
        HeightField(good, 0.0)
    with pytest.raises(ValueError, match=r"spacing is \(0.1, 0.1, 0.1\), expected 2 numbers"):
        HeightField(good, (0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="origin"):
        HeightField(good, 0.1, (0.0, math.inf))
    with pytest.raises(ValueError, match=r"normal has length 2\.0"):
        Plane((0.0, 0.0, 2.0))
    with pytest.raises(ValueError, match="points has shape"):
        Plane().at(np.zeros((4, 2)))
