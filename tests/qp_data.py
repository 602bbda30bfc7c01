"""A QP and its answer as plain data, shared by the oracles and the tests.

    minimise    1/2 x'H x + g'x
    subject to  A x = b              (y)
                l <= C x <= u        (z)
                lb <= x <= ub        (w)

    H x + g + A'y + C'z + w = 0;   z_i > 0: upper bound active, z_i < 0: lower bound active (same for w).

The oracles treat every constraint as a row lower <= R x <= upper with one multiplier: equalities first,
then the rows of C, then the box.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np

DATA = ("H", "g", "A", "b", "C", "l", "u", "lb", "ub")


@dataclass
class QP:
    """One QP as plain data; None means absent."""

    H: np.ndarray | None
    g: np.ndarray
    A: np.ndarray | None = None
    b: np.ndarray | None = None
    C: np.ndarray | None = None
    l: np.ndarray | None = None
    u: np.ndarray | None = None
    lb: np.ndarray | None = None
    ub: np.ndarray | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                setattr(self, f.name, np.array(value, dtype=float))

    @property
    def n(self) -> int:
        return self.g.shape[0]

    @property
    def n_eq(self) -> int:
        return 0 if self.A is None else self.A.shape[0]

    @property
    def n_in(self) -> int:
        return 0 if self.C is None else self.C.shape[0]

    @property
    def hessian(self) -> np.ndarray:
        return np.zeros((self.n, self.n)) if self.H is None else self.H

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """R (n_eq + n_in + n, n), lower, upper; bounds of 1e20 and more count as infinite."""
        n, n_in = self.n, self.n_in
        R = np.vstack([m for m in (self.A, self.C, np.eye(n)) if m is not None])

        def bound(value: np.ndarray | None, size: int, default: float) -> np.ndarray:
            return np.full(size, default) if value is None else value

        b = np.zeros(0) if self.A is None else self.b
        lower = np.concatenate([b, bound(self.l, n_in, -np.inf), bound(self.lb, n, -np.inf)])
        upper = np.concatenate([b, bound(self.u, n_in, np.inf), bound(self.ub, n, np.inf)])
        lower, upper = lower.copy(), upper.copy()
        lower[lower <= -1e20] = -np.inf
        upper[upper >= 1e20] = np.inf
        return R, lower, upper

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A quantity per row as (equalities, rows of C, box)."""
        return rows[: self.n_eq], rows[self.n_eq : self.n_eq + self.n_in], rows[self.n_eq + self.n_in :]

    def arguments(self) -> dict[str, np.ndarray]:
        """What is present, by name."""
        return {name: getattr(self, name) for name in DATA if getattr(self, name) is not None}

    def keywords(self) -> dict[str, np.ndarray | None]:
        """The keyword arguments of solve_qp: H must be named even when it is absent."""
        return {"H": None} | self.arguments()

    def with_(self, **changes: np.ndarray) -> QP:
        return replace(self, **changes)


@dataclass
class Answer:
    """status is "solved", "closest" or "unbounded"; shifts are >= 0, s_eq is of any sign."""

    status: str
    x: np.ndarray = field(default_factory=lambda: np.zeros(0))
    y: np.ndarray = field(default_factory=lambda: np.zeros(0))
    z: np.ndarray = field(default_factory=lambda: np.zeros(0))
    w: np.ndarray = field(default_factory=lambda: np.zeros(0))
    s_eq: np.ndarray = field(default_factory=lambda: np.zeros(0))
    s_lower: np.ndarray = field(default_factory=lambda: np.zeros(0))
    s_upper: np.ndarray = field(default_factory=lambda: np.zeros(0))
    s_lb: np.ndarray = field(default_factory=lambda: np.zeros(0))
    s_ub: np.ndarray = field(default_factory=lambda: np.zeros(0))
    objective: float = np.nan
    feasible: bool = True
    unique: bool = True  # x is the only solution
    multipliers_unique: bool = True
