"""NumPy front of the QP solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qp_control import _solver
from qp_control.qp.problem import Array, Sizes, as_array, check_data, problem_from_arrays
from qp_control.settings import Settings, Status, settings_or

OUTPUTS = ("x", "y", "z", "w", "s_eq", "s_lower", "s_upper", "s_lb", "s_ub")
START = ("x", "y", "z", "w", "active_in", "active_box")
_SIGNS = {"active_in": "z", "active_box": "w"}
_FIELDS = (
    *OUTPUTS,
    "certificate_x", "certificate_y", "certificate_z", "certificate_w",
    "objective", "primal_residual", "dual_residual", "duality_gap", "status", "iterations", "active_in", "active_box",
)  # fmt: skip


@dataclass(frozen=True)
class Solution:
    """Solution of a QP, or of a batch of B; then every field has a leading axis B.

    H x + g + A'y + C'z + w = 0; z_i > 0: upper bound active, z_i < 0: lower bound active, the same for w.
    """

    x: Array
    """(n,) minimiser."""
    y: Array
    """(n_eq,) multipliers of A x = b."""
    z: Array
    """(n_in,) multipliers of l <= C x <= u."""
    w: Array
    """(n,) multipliers of lb <= x <= ub."""
    s_eq: Array
    """(n_eq,) shift, so that A x = b + s_eq."""
    s_lower: Array
    """(n_in,) shift >= 0: l - s_lower <= C x."""
    s_upper: Array
    """(n_in,) shift >= 0: C x <= u + s_upper."""
    s_lb: Array
    """(n,) shift >= 0: lb - s_lb <= x."""
    s_ub: Array
    """(n,) shift >= 0: x <= ub + s_ub."""
    certificate_x: Array
    """(n,) ray of an unbounded problem (DUAL_INFEASIBLE), otherwise NaN."""
    certificate_y: Array
    """(n_eq,) with the next two, a proof that no x satisfies the constraints (PRIMAL_INFEASIBLE), otherwise NaN."""
    certificate_z: Array
    """(n_in,)"""
    certificate_w: Array
    """(n,)"""
    objective: Any
    """1/2 x'H x + g'x."""
    primal_residual: Any
    """Largest violation of a (shifted) constraint."""
    dual_residual: Any
    """Largest entry of |H x + g + A'y + C'z + w|."""
    duality_gap: Any
    """|x'H x + g'x + b'y + u'z+ + l'z- + ub'w+ + lb'w-|."""
    status: Any
    """`Status`, or an integer array (B,)."""
    iterations: Any
    """Newton steps. If infeasibility is beyond doubt, those of the two levels only."""
    active_in: Any
    """(n_in,) int8, 1: l <= C x <= u is held at its upper bound, -1: at its lower one, 0: its multiplier is zero. For
    warm starts: if z is zero up to rounding, its sign does not identify the bound."""
    active_box: Any
    """(n,) the same for lb <= x <= ub."""


def solve_qp(
    H: npt.ArrayLike | None = None,
    g: npt.ArrayLike | None = None,
    A: npt.ArrayLike | None = None,
    b: npt.ArrayLike | None = None,
    C: npt.ArrayLike | None = None,
    l: npt.ArrayLike | None = None,
    u: npt.ArrayLike | None = None,
    lb: npt.ArrayLike | None = None,
    ub: npt.ArrayLike | None = None,
    *,
    weight_eq: npt.ArrayLike | None = None,
    weight_in: npt.ArrayLike | None = None,
    weight_box: npt.ArrayLike | None = None,
    settings: Settings | None = None,
    warm_start: Any = None,
) -> Solution:
    """Solve a QP, or a batch of QPs of one size in one call.

        minimise    1/2 x'H x + g'x
        subject to  A x = b,  l <= C x <= u,  lb <= x <= ub

    Args:
        H: (n, n) symmetric positive semidefinite, or None for a linear program.
        g: (n,), required.
        A: (n_eq, n).
        b: (n_eq,).
        C: (n_in, n).
        l: (n_in,), entries may be -inf; a missing bound is infinite.
        u: (n_in,), entries may be +inf.
        lb: (n,), entries may be -inf.
        ub: (n,), entries may be +inf.
        weight_eq: (n_eq,) weights of the shifts of A x = b in the closest feasible problem; infinity: never shifted.
        weight_in: (n_in,) the same for l <= C x <= u.
        weight_box: (n,) the same for lb <= x <= ub.
        settings: options.
        warm_start: any object with x, y, z, w, for example an earlier solution; `active_in` and `active_box`, if
            present, give the active set to try first (by their signs), otherwise the signs of z and w do.

    Each array may have a leading axis B; those without it are shared by the batch. SciPy sparse matrices are densified.

    Returns:
        The solution; check its `status` before using it.

    Raises:
        ValueError: shapes that do not fit, NaN or misplaced infinities, H not symmetric.
        TypeError: a tensor requires grad (use `QPLayer` for gradients), or `settings` is not a `Settings`.
    """
    arguments = {
        "H": H, "g": g, "A": A, "b": b, "C": C, "l": l, "u": u, "lb": lb, "ub": ub,
        "weight_eq": weight_eq, "weight_in": weight_in, "weight_box": weight_box,
    }  # fmt: skip
    problem = problem_from_arrays(arguments, check=False)
    start = None if warm_start is None else warm_start_arrays(warm_start, problem.sizes)
    native = settings_or(settings).native("certify")
    fields, symmetric, answered, _ = _solver.solve(problem.sizes.native, problem.arrays, native, start)
    # The solver has checked every value on its way; finding out which one is wrong may take longer.
    if not (symmetric and answered) or problem.sizes.batch == 0:
        check_data(arguments)
    return Solution(**dict(zip(_FIELDS, fields, strict=True))) if problem.sizes.batched else element(fields, 0)


def element(fields: tuple[Array, ...], k: int) -> Solution:
    """Solution of one problem of the solver's batch, with Python scalars in place of arrays (B,)."""
    values: dict[str, Any] = {name: value[k] for name, value in zip(_FIELDS, fields, strict=True)}
    values["status"] = Status(int(values["status"]))
    for name in ("objective", "primal_residual", "dual_residual", "duality_gap"):
        values[name] = float(values[name])
    values["iterations"] = int(values["iterations"])
    return Solution(**values)


def field_of(role: str, given: Any, name: str, names: Sequence[str]) -> Any:
    """A field of what is given as a starting point or a solution, its `role`, and has to have `names`.

    Raises:
        ValueError: it is missing.
    """
    field = getattr(given, name, None)
    if field is None:
        raise ValueError(f"{role} is a {type(given).__name__}, expected something with {', '.join(names)}")
    return field


def start_field(warm_start: Any, name: str) -> Any:
    """A field of a starting point; in place of an absent active set, z or w, whose signs give it.

    Raises:
        ValueError: it is missing.
    """
    if name in _SIGNS and getattr(warm_start, name, None) is None:
        name = _SIGNS[name]
    return field_of("warm_start", warm_start, name, START[:4])


def status_array(solution: Any, batch: int) -> npt.NDArray[np.int64]:
    """The statuses (batch,) of a solution.

    Raises:
        ValueError: they are missing, or no integers, or their number is wrong.
    """
    status = np.asarray(field_of("solution", solution, "status", ("status",)))
    if status.dtype.kind not in "iu":
        raise ValueError(f"solution.status has dtype {status.dtype}, expected integers")
    if status.shape not in ((), (batch,)):
        raise ValueError(f"solution.status has shape {status.shape}, expected ({batch},)")
    return np.full(batch, status, dtype=np.int64) if status.ndim == 0 else np.ascontiguousarray(status, dtype=np.int64)


def warm_start_arrays(warm_start: Any, sizes: Sizes, *, finite: bool = True) -> list[Array]:
    """x, y, z, w and the active set of a starting point, if need be from z and w, as (B, .) arrays.

    Args:
        finite: refuse entries that are not finite; otherwise elements that have any start cold.

    Raises:
        ValueError: a field is missing, has the wrong size or an entry that is not finite.
    """
    out = []
    lengths = (sizes.n, sizes.n_eq, sizes.n_in, sizes.n, sizes.n_in, sizes.n)
    for name, length in zip(START, lengths, strict=True):
        value = as_array(f"warm_start.{name}", start_field(warm_start, name))
        if value.shape not in ((length,), (1, length), (sizes.batch, length)):
            expected = f"({sizes.batch}, {length})" if sizes.batched else f"({length},)"
            raise ValueError(f"warm_start.{name} has shape {value.shape}, expected {expected}")
        if finite and not np.isfinite(value).all():
            raise ValueError(f"warm_start.{name} has an entry that is not finite")
        if sizes.batch == 1:
            value = value.reshape(1, length)
        elif value.shape != (sizes.batch, length):
            value = np.ascontiguousarray(np.broadcast_to(value, (sizes.batch, length)))
        out.append(value)
    return out
