"""The strict rule of success, judged on the problem's own data and nothing else.

    minimise 1/2 x'H x + g'x  subject to  A x = b (y),  l <= C x <= u (z),  lb <= x <= ub (w)
    H x + g + A'y + C'z + w = 0;   z_i > 0: upper bound active, z_i < 0: lower bound active (same for w)

A solution counts when everything is finite, no row is violated by more than the tolerance, no entry of the dual
residual exceeds it, no multiplier pushes against a bound that is not there by more than it, and the duality gap

    |x'H x + g'x + b'y + u'z+ + l'z- + ub'w+ + lb'w-|

is below it too; all absolute and in the units of the data, computed with more digits than a double has: the gap is a
difference of sums whose terms reach 1e9 in some collections. A proof of infeasibility counts when the multipliers
exclude every point with a 1-norm up to a million.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Array = npt.NDArray[np.float64]
Extended = npt.NDArray[np.floating]
INFINITE = 1e20
REACH = 1e6


@dataclass
class SparseQP:
    """One problem as it was read; matrices in CSC form, bounds of 1e20 and more are infinite."""

    name: str
    H: sp.csc_matrix
    g: Array
    A: sp.csc_matrix
    b: Array
    C: sp.csc_matrix
    l: Array
    u: Array
    lb: Array
    ub: Array

    def __post_init__(self) -> None:
        for name in ("l", "lb"):
            bound = getattr(self, name)
            setattr(self, name, np.where(bound <= -INFINITE, -np.inf, bound))
        for name in ("u", "ub"):
            bound = getattr(self, name)
            setattr(self, name, np.where(bound >= INFINITE, np.inf, bound))

    @property
    def n(self) -> int:
        return len(self.g)

    @property
    def largest_side(self) -> int:
        return max(self.n, len(self.b) + len(self.l))


@dataclass
class Point:
    x: Array
    y: Array
    z: Array
    w: Array

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(v).all()) for v in (self.x, self.y, self.z, self.w))


@dataclass
class Residuals:
    primal: float
    dual: float
    sign: float
    gap: float
    objective: float

    @property
    def worst(self) -> float:
        return float(np.max([self.primal, self.dual, self.sign, self.gap]))

    def within(self, tolerance: float) -> bool:
        return bool(self.worst <= tolerance)


def _largest(*parts: Extended) -> float:
    return float(max(np.max(part, initial=0.0) for part in parts))


def _support(bounds: tuple[Array, Array], z: Extended) -> tuple[np.floating, float]:
    """sum of bound times multiplier, and the largest multiplier of a bound that is infinite."""
    lower, upper = bounds
    bound = np.where(z > 0, upper, lower)
    finite = np.isfinite(bound)
    return np.sum(np.where(finite, bound, 0.0) * z), _largest(np.abs(z[~finite]))


def residuals(qp: SparseQP, point: Point) -> Residuals:
    """Of a point of the right sizes; NaN where it has any."""
    if not point.finite:
        return Residuals(*(5 * [np.nan]))
    x, y, z, w = (v.astype(np.longdouble) for v in (point.x, point.y, point.z, point.w))
    H, A, C = (M.astype(np.longdouble) for M in (qp.H, qp.A, qp.C))
    Hx, Cx = H @ x, C @ x
    primal = _largest(np.abs(A @ x - qp.b), qp.l - Cx, Cx - qp.u, qp.lb - x, x - qp.ub)
    dual = _largest(np.abs(Hx + qp.g + A.T @ y + C.T @ z + w))
    rows, wrong_rows = _support((qp.l, qp.u), z)
    box, wrong_box = _support((qp.lb, qp.ub), w)
    curvature, linear = x @ Hx, qp.g @ x
    gap = float(abs(curvature + linear + qp.b @ y + rows + box))
    return Residuals(primal, dual, max(wrong_rows, wrong_box), gap, float(curvature / 2 + linear))


def proves_infeasible(qp: SparseQP, y: Array, z: Array, w: Array) -> bool:
    """Do the multipliers exclude every x with |x|_1 <= 1e6?

    For a feasible x: b'y + u'z+ + l'z- + ub'w+ + lb'w- >= (A'y + C'z + w)'x. What A'y + C'z + w leaves is first given
    to the box where that is finite (any w is allowed); the rest, r, must be so small that -|r| |x|_1 exceeds the left
    side.
    """
    if any(np.any(qp_l > qp_u) for qp_l, qp_u in ((qp.l, qp.u), (qp.lb, qp.ub))):
        return True
    if not all(np.isfinite(v).all() for v in (y, z, w)):
        return False
    size = _largest(*(np.abs(v) for v in (y, z, w)))
    if size == 0.0:
        return False
    y, z, w = y / size, z / size, w / size
    # Multipliers of bounds that are not there prove nothing.
    z = np.where(np.isfinite(np.where(z > 0, qp.u, qp.l)), z, 0.0)
    wanted = -(qp.A.T @ y + qp.C.T @ z)
    w = np.where(np.isfinite(np.where(wanted > 0, qp.ub, qp.lb)), wanted, 0.0)
    r = _largest(np.abs(wanted - w))
    rows, _ = _support((qp.l, qp.u), z)
    box, _ = _support((qp.lb, qp.ub), w)
    value = qp.b @ y + rows + box
    return bool(value < 0.0 and r * REACH < -value)
