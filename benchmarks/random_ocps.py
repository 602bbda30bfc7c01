"""Bounded linear-quadratic regulators for the timing of optimal-control solvers, and what a point is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Cell(NamedTuple):
    """Sizes of a batch of regulators, and the kind of its plant."""

    nx: int
    nu: int
    horizon: int
    batch: int
    bound: float
    """|u| <= bound"""
    stable: bool
    """A scaled down to spectral radius one and b to a tenth; otherwise both as drawn."""
    seed: int = 0

    def __str__(self) -> str:
        plant = "stable" if self.stable else f"plant {self.seed}"
        return f"{self.nx},{self.nu},{self.horizon},{self.batch} |u|<={self.bound:g} {plant}"


@dataclass
class Regulators:
    """minimise sum_{k<=N} 1/2 x_k'Q x_k + sum_{k<N} 1/2 u_k'R u_k, x_{k+1} = A x_k + B u_k + c, |u_k| <= bound.

    A, B, c, Q, R are shared by stages and elements, x0 is (B, nx).
    """

    A: Array
    B: Array
    c: Array
    Q: Array
    R: Array
    x0: Array
    horizon: int
    bound: float

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """nx, nu, N, B"""
        return len(self.A), self.B.shape[1], self.horizon, len(self.x0)

    def costs(self, x: Array, u: Array) -> Array:
        cost: Array = 0.5 * (np.einsum("bki,ij,bkj->b", x, self.Q, x) + np.einsum("bki,ij,bkj->b", u, self.R, u))
        return cost

    def costates(self, x: Array) -> Array:
        """y (B, N + 1, nx) from y_k = Q x_k + A'y_{k+1}, for solvers that return none."""
        y = x @ self.Q
        for k in reversed(range(self.horizon)):
            y[:, k] += y[:, k + 1] @ self.A
        return y

    def residuals(self, x: Array, u: Array, y: Array) -> Array:
        """(B,) the largest error of an optimality condition, relative to the largest state or costate (at least one).

        Dynamics and bounds count relative to the states; y_k = Q x_k + A'y_{k+1} relative to the costates, and so does
        w = -(R u + B'y), the multiplier of the bounds, which is to be positive only where u = bound, negative
        only where
        u = -bound: the condition is u = clip(u + w), with w so scaled.
        """
        size_x, size_y = (np.maximum(1.0, np.abs(v).max(axis=(1, 2)))[:, None, None] for v in (x, y))
        start = np.abs(x[:, :1] - self.x0[:, None]) / size_x
        dynamics = np.abs(x[:, :-1] @ self.A.T + u @ self.B.T + self.c - x[:, 1:]) / size_x
        stationary = x @ self.Q - y
        stationary[:, :-1] += y[:, 1:] @ self.A
        w = -(u @ self.R + y[:, 1:] @ self.B) / size_y
        bounded = np.abs(u - np.clip(u + w, -self.bound, self.bound))
        parts = (start, dynamics, np.abs(stationary) / size_y, bounded)
        worst: Array = np.max([part.max(axis=(1, 2)) for part in parts], axis=0)
        # A point that is not finite fails.
        return np.where(np.isnan(worst), np.inf, worst)


def regulators(cell: Cell) -> Regulators:
    """A = I + 0.2 randn, B = randn, c = randn, Q = R = I, x0 ~ N(0, I): the plant of acados' published timings."""
    nx, nu, horizon, batch, bound, stable, seed = cell
    rng = np.random.default_rng(seed)
    A = np.eye(nx) + 0.2 * rng.normal(size=(nx, nx))
    B, c = rng.normal(size=(nx, nu)), rng.normal(size=nx)
    if stable:
        A /= max(1.0, float(np.abs(np.linalg.eigvals(A)).max()))
        c *= 0.1
    return Regulators(A, B, c, np.eye(nx), np.eye(nu), rng.normal(size=(batch, nx)), horizon, bound)
