"""Options and outcomes of the QP solver."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from qp_control import _solver


class Status(IntEnum):
    """Outcome of one problem."""

    SOLVED = 0
    """The residuals, recomputed from the caller's data, are below the tolerance."""
    CLOSEST_FEASIBLE = 1
    """The constraints contradict each other: the solution of the least shifted problem."""
    MAX_ITER = 2
    """The iteration limit was reached, or rounding keeps the tolerance out of reach: the best point found."""
    TIME_LIMIT = 3
    """The time limit was reached: the best point found."""
    PRIMAL_INFEASIBLE = 4
    """No point satisfies the constraints; `certificate_y`, `certificate_z`, `certificate_w` prove it."""
    DUAL_INFEASIBLE = 5
    """The objective is unbounded below along the ray `certificate_x`."""
    NON_CONVEX = 6
    """H has a negative eigenvalue."""
    INVALID_INPUT = 7
    """NaN, an infinity where none is allowed, or a weight that is not positive."""
    NUMERICAL_ERROR = 8
    """Overflow or a failed factorisation."""

    @property
    def has_solution(self) -> bool:
        """Whether x solves the problem or its closest feasible neighbour."""
        return self <= Status.CLOSEST_FEASIBLE


def _is_number(value: Any) -> bool:
    try:
        return not math.isnan(value)
    except (TypeError, ValueError, OverflowError):
        return False


@dataclass(frozen=True)
class Settings:
    """Options of the solver.

    Raises:
        ValueError: a value is out of its range.
    """

    eps_abs: float = 1e-8
    """Absolute tolerance on the largest entry of the primal and of the dual residual, in the units of the data."""
    eps_rel: float = 0.0
    """Relative tolerance, on top of `eps_abs`."""
    reduced_eps_rel: float = 0.0
    """Relative tolerance that applies if numbers are so large that rounding keeps the other two out of reach: the best
    point found is then SOLVED (or CLOSEST_FEASIBLE) instead of MAX_ITER. If it is positive, a dual residual of a dense
    QP is also accepted that rounding of the products H_ij x_j and C_ij z_i accounts for, up to 1e-3 of the sums H x, g
    and C'z. Not used with `eps_gap`."""
    eps_gap: float | None = None
    """Absolute tolerance on the duality gap; None: the gap is reported but not tested."""
    max_iter: int = 2000
    """Largest number of Newton steps per problem."""
    time_limit: float | None = None
    """Seconds per problem; None: no limit."""
    infeasible: Literal["certify", "closest"] | None = None
    """If the constraints contradict each other, "certify" proves it (PRIMAL_INFEASIBLE) and "closest" solves the QP
    whose constraints are shifted by the least amount (CLOSEST_FEASIBLE). None: "certify" in `solve_qp`, "closest" in
    the layers."""
    on_failure: Literal["zero", "raise", "nan"] = "zero"
    """Elements without an answer, in the layers: "zero" lets them contribute nothing to gradients and warns once; "nan"
    gives them NaN gradients and warns once; "raise" raises `SolveError`. Their outputs are NaN, except that MAX_ITER
    and TIME_LIMIT have the best point found, and PRIMAL_INFEASIBLE a point without meaning."""
    weakly_active: Literal["least_squares", "one_sided", "smoothed"] = "least_squares"
    """Derivatives at a kink, where a row is at its bound with a multiplier of zero: "least_squares" keeps the row in
    the KKT system (if that makes it singular, the minimum-norm least-squares solution is used); "one_sided" leaves it
    out: the derivative on the side where the row leaves its bound; "smoothed" replaces the complementarity of slack t
    >= 0 and multiplier z >= 0 by the smoothed Fischer-Burmeister equation t + z = sqrt(t^2 + z^2 + 2 smoothing), that
    is t z = smoothing, linearised at the exact solution."""
    smoothing: float = 1e-6
    """Parameter of "smoothed", in units of t z: rows with t^2 or z^2 far above it are hardly affected."""
    threads: int = 0
    """Threads for a batch; 0: as many as the process may use."""

    def __post_init__(self) -> None:
        if not (_is_number(self.eps_abs) and 0 < self.eps_abs < math.inf):
            raise ValueError(f"eps_abs is {self.eps_abs!r}, expected a positive number")
        if not (_is_number(self.eps_rel) and 0 <= self.eps_rel < math.inf):
            raise ValueError(f"eps_rel is {self.eps_rel!r}, expected a number >= 0")
        if not (_is_number(self.reduced_eps_rel) and 0 <= self.reduced_eps_rel < math.inf):
            raise ValueError(f"reduced_eps_rel is {self.reduced_eps_rel!r}, expected a number >= 0")
        if self.eps_gap is not None and not (_is_number(self.eps_gap) and 0 < self.eps_gap < math.inf):
            raise ValueError(f"eps_gap is {self.eps_gap!r}, expected None or a positive number")
        if not (_is_number(self.max_iter) and 1 <= self.max_iter < 2**31 and int(self.max_iter) == self.max_iter):
            raise ValueError(f"max_iter is {self.max_iter!r}, expected a positive integer")
        if self.time_limit is not None and not (_is_number(self.time_limit) and self.time_limit > 0):
            raise ValueError(f"time_limit is {self.time_limit!r}, expected None or a positive number of seconds")
        if self.infeasible not in (None, "certify", "closest"):
            raise ValueError(f'infeasible is {self.infeasible!r}, expected None, "certify" or "closest"')
        if self.on_failure not in ("zero", "raise", "nan"):
            raise ValueError(f'on_failure is {self.on_failure!r}, expected "zero", "raise" or "nan"')
        if self.weakly_active not in ("least_squares", "one_sided", "smoothed"):
            raise ValueError(
                f'weakly_active is {self.weakly_active!r}, expected "least_squares", "one_sided" or "smoothed"'
            )
        if not (_is_number(self.smoothing) and 0 < self.smoothing < math.inf):
            raise ValueError(f"smoothing is {self.smoothing!r}, expected a positive number")
        if not (_is_number(self.threads) and 0 <= self.threads <= 4096 and int(self.threads) == self.threads):
            raise ValueError(f"threads is {self.threads!r}, expected an integer >= 0")
        # As plain numbers, whatever kind they were: settings are keys of caches and arguments of compiled operators.
        for name in ("eps_abs", "eps_rel", "reduced_eps_rel", "eps_gap", "time_limit", "smoothing"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("max_iter", "threads"):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in ("infeasible", "on_failure", "weakly_active"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))

    def native(self, default_infeasible: Literal["certify", "closest"]) -> _solver.Settings:
        """The solver's own struct."""
        out = _solver.Settings()
        out.eps_abs = self.eps_abs
        out.eps_rel = self.eps_rel
        out.reduced_eps_rel = self.reduced_eps_rel
        out.eps_gap = self.eps_gap or 0.0
        out.max_iter = self.max_iter
        out.time_limit = self.time_limit or 0.0
        out.closest = (self.infeasible or default_infeasible) == "closest"
        out.threads = self.threads
        return out

    def native_derivative(self) -> _solver.DerivativeSettings:
        """The derivatives' own struct."""
        out = _solver.DerivativeSettings()
        out.weakly_active = getattr(_solver.WeaklyActive, self.weakly_active)
        out.smoothing = self.smoothing
        out.nan_without_solution = self.on_failure == "nan"
        out.threads = self.threads
        return out


_DEFAULT = Settings()


def settings_or(given: Settings | None, default: Settings = _DEFAULT) -> Settings:
    """The given settings, or the default if there are none.

    Raises:
        TypeError: `given` is not a `Settings`.
    """
    if given is None:
        return default
    if not isinstance(given, Settings):
        raise TypeError(f"settings is {given!r}, expected a qp_control.Settings")
    return given
