"""NumPy front of the optimal-control QP solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qp_control import _solver
from qp_control.ocp.problem import OcpSizes, check_ocp_data, ocp_from_arrays
from qp_control.qp.problem import Array, as_array
from qp_control.qp.solve import field_of, status_array
from qp_control.settings import Settings, Status, settings_or

POINT = ("x", "u", "y", "z", "z_N", "w_x", "w_u")
SHIFTS = (
    "s_lower", "s_upper", "s_lower_N", "s_upper_N", "s_x_lower", "s_x_upper", "s_u_lower", "s_u_upper"
)  # fmt: skip
SLACKS = ("slack_lower", "slack_upper", "slack_lower_N", "slack_upper_N")
OUTPUTS = (*POINT, *SHIFTS, *SLACKS)
_NUMBERS = ("objective", "primal_residual", "dual_residual", "duality_gap", "status", "iterations")
_CERTIFICATES = tuple(f"certificate_{name}" for name in POINT)
_FIELDS = (*OUTPUTS, *_CERTIFICATES, *_NUMBERS)


@dataclass(frozen=True)
class OcpSolution:
    """Solution of an optimal-control QP, or of a batch of B; then every field has a leading axis B.

    Q_k x_k + S_k'u_k + q_k - y_k + A_k'y_{k+1} + C_k'z_k + w_x,k = 0 and
    S_k x_k + R_k u_k + r_k + B_k'y_{k+1} + D_k'z_k + w_u,k = 0; z_i > 0: upper bound active, z_i < 0: lower bound
    active, the same for w. y_0 is the gradient of the optimal cost with respect to x0, y_{k+1} that with respect to
    c_k.
    """

    x: Array
    """(N + 1, nx) states."""
    u: Array
    """(N, nu) inputs."""
    y: Array
    """(N + 1, nx) multipliers of x_0 = x0 (zero without x0) and of the dynamics: the costates."""
    z: Array
    """(N, rows) multipliers of lower <= C x + D u <= upper."""
    z_N: Array
    """(terminal_rows,) multipliers of lower_N <= C_N x_N <= upper_N."""
    w_x: Array
    """(N + 1, nx) multipliers of the boxes of the states."""
    w_u: Array
    """(N, nu) multipliers of the boxes of the inputs."""
    s_lower: Array
    """(N, rows) shift >= 0: lower - s_lower <= C x + D u."""
    s_upper: Array
    """(N, rows) shift >= 0: C x + D u <= upper + s_upper."""
    s_lower_N: Array
    """(terminal_rows,)"""
    s_upper_N: Array
    """(terminal_rows,)"""
    s_x_lower: Array
    """(N + 1, nx)"""
    s_x_upper: Array
    """(N + 1, nx)"""
    s_u_lower: Array
    """(N, nu)"""
    s_u_upper: Array
    """(N, nu)"""
    slack_lower: Array
    """(N, rows) slack of soft rows, zero on hard ones: lower - slack_lower <= C x + D u."""
    slack_upper: Array
    """(N, rows) C x + D u <= upper + slack_upper."""
    slack_lower_N: Array
    """(terminal_rows,)"""
    slack_upper_N: Array
    """(terminal_rows,)"""
    certificate_x: Array
    """(N + 1, nx) states, with the inputs below, of a ray of an unbounded problem (DUAL_INFEASIBLE), otherwise NaN."""
    certificate_u: Array
    """(N, nu)"""
    certificate_y: Array
    """(N + 1, nx) with the next four, a proof that nothing satisfies the constraints (PRIMAL_INFEASIBLE), otherwise
    NaN; all zero if a pair of bounds crosses, which is a proof by itself."""
    certificate_z: Array
    """(N, rows)"""
    certificate_z_N: Array
    """(terminal_rows,)"""
    certificate_w_x: Array
    """(N + 1, nx)"""
    certificate_w_u: Array
    """(N, nu)"""
    objective: Any
    """The cost of (x, u) and of the slacks."""
    primal_residual: Any
    """Largest violation of a (shifted) constraint or of the dynamics."""
    dual_residual: Any
    """Largest entry of the stationarity conditions above."""
    duality_gap: Any
    """Difference of primal and dual cost."""
    status: Any
    """`Status`, or an integer array (B,)."""
    iterations: Any
    """Newton steps."""


class OcpStart(NamedTuple):
    """A starting point for `warm_start`."""

    x: Any
    u: Any
    y: Any
    z: Any
    z_N: Any
    w_x: Any
    w_u: Any


def shifted(solution: Any) -> OcpStart:
    """A solution (`OcpSolution`, `OcpLayerSolution`, `OcpStart`) shifted by one stage, its last stage repeated.

    Use it to start the next control period's problem: `solve_ocp(..., warm_start=shifted(solution))`.

    Raises:
        ValueError: one of its fields is missing.
    """

    def later(value: Any) -> Any:
        last = value.shape[-2] - 1
        return value[..., [*range(1, last + 1), last], :]

    fields = {name: field_of("solution", solution, name, POINT) for name in POINT}
    return OcpStart(**{name: value if name == "z_N" else later(value) for name, value in fields.items()})


def solve_ocp(
    A: npt.ArrayLike,
    B: npt.ArrayLike,
    x0: npt.ArrayLike | None = None,
    *,
    horizon: int | None = None,
    Q: npt.ArrayLike | None = None,
    R: npt.ArrayLike | None = None,
    S: npt.ArrayLike | None = None,
    q: npt.ArrayLike | None = None,
    r: npt.ArrayLike | None = None,
    Q_N: npt.ArrayLike | None = None,
    q_N: npt.ArrayLike | None = None,
    c: npt.ArrayLike | None = None,
    C: npt.ArrayLike | None = None,
    D: npt.ArrayLike | None = None,
    lower: npt.ArrayLike | None = None,
    upper: npt.ArrayLike | None = None,
    C_N: npt.ArrayLike | None = None,
    lower_N: npt.ArrayLike | None = None,
    upper_N: npt.ArrayLike | None = None,
    x_lower: npt.ArrayLike | None = None,
    x_upper: npt.ArrayLike | None = None,
    u_lower: npt.ArrayLike | None = None,
    u_upper: npt.ArrayLike | None = None,
    slack_linear: npt.ArrayLike | None = None,
    slack_quadratic: npt.ArrayLike | None = None,
    slack_linear_N: npt.ArrayLike | None = None,
    slack_quadratic_N: npt.ArrayLike | None = None,
    settings: Settings | None = None,
    warm_start: Any = None,
) -> OcpSolution:
    """Solve an optimal-control QP, or a batch of them of one size in one call, at a cost linear in the horizon.

        minimise    sum_{k<N} 1/2 [x; u]'[Q S'; S R][x; u] + q'x + r'u, + 1/2 x_N'Q_N x_N + q_N'x_N
        subject to  x_0 = x0, x_{k+1} = A x_k + B u_k + c
                    lower <= C x_k + D u_k <= upper, k < N, lower_N <= C_N x_N <= upper_N
                    u_lower <= u_k <= u_upper, k < N, x_lower <= x_k <= x_upper, k >= 1

    Args:
        A, B, c: (nx, nx), (nx, nu), (nx,) dynamics.
        x0: (nx,) initial state; None: x_0 is free, and its box applies.
        horizon: N, if no argument has a stage axis.
        Q, R, S, q, r: (nx, nx), (nu, nu), (nu, nx), (nx,), (nu,) cost, zero if absent; [Q S'; S R] symmetric positive
            semidefinite. Without Q_N and q_N, Q and q apply to the last stage too.
        Q_N, q_N: (nx, nx), (nx,) terminal cost.
        C, D, lower, upper: (rows, nx), (rows, nu), (rows,) constraints on states and inputs.
        C_N, lower_N, upper_N: (terminal_rows, nx), (terminal_rows,) constraints on the last state.
        x_lower, x_upper, u_lower, u_upper: (nx,), (nu,) boxes; a missing bound is infinite.
        slack_linear, slack_quadratic: (rows,) weights w1, w2 >= 0 that make rows soft: lower - s_l <= C x + D u <=
            upper + s_u at the cost w1 (s_l + s_u) + w2/2 (s_l^2 + s_u^2). A weight that is not given is zero; a row
            with a weight of +inf is hard, and so are all rows without weights.
        slack_linear_N, slack_quadratic_N: (terminal_rows,) the same for the terminal rows.
        settings: options.
        warm_start: any object with x, u, y, z, z_N, w_x, w_u, for example an earlier solution.

    These are the shapes of data that all stages and elements share; a leading axis N is one of stages, a further axis B
    one of elements, see `qp_control.ocp.problem`.

    Returns:
        The solution; check its `status` before using it. In closest-feasible mode the dynamics hold exactly, and all
        other constraints except soft rows, which have slacks, are shifted by the least amount.

    Raises:
        ValueError: shapes that do not fit, NaN or misplaced infinities, negative weights, Q or R not symmetric.
        TypeError: a tensor requires grad (use `OcpLayer` for gradients), or `settings` is not a `Settings`.

    Source: the square-root Riccati recursion of G. Frison and J. B. Jorgensen (IEEE CCA 2013) inside the augmented
    Lagrangian of A. Bambade et al. (RSS 2022).
    """
    arguments = {
        "Q": Q, "R": R, "S": S, "q": q, "r": r, "Q_N": Q_N, "q_N": q_N, "A": A, "B": B, "c": c, "x0": x0,
        "C": C, "D": D, "lower": lower, "upper": upper, "C_N": C_N, "lower_N": lower_N, "upper_N": upper_N,
        "x_lower": x_lower, "x_upper": x_upper, "u_lower": u_lower, "u_upper": u_upper,
        "slack_linear": slack_linear, "slack_quadratic": slack_quadratic,
        "slack_linear_N": slack_linear_N, "slack_quadratic_N": slack_quadratic_N,
    }  # fmt: skip
    problem = ocp_from_arrays(arguments, horizon)
    sizes = problem.sizes
    start = None if warm_start is None else ocp_start_arrays(warm_start, sizes)
    native = settings_or(settings).native("certify")
    fields, symmetric, answered = _solver.solve_ocp(sizes.native, problem.arrays, native, start, certify=True)
    named = dict(zip(_FIELDS, fields, strict=True))
    # The solver has checked every value on its way; finding out which one is wrong may take longer.
    if not symmetric or sizes.batch == 0 or not answered:
        check_ocp_data(arguments)
    if sizes.batched:
        return OcpSolution(**named)
    one: dict[str, Any] = {name: value[0] for name, value in named.items()}
    for name in _NUMBERS:
        one[name] = one[name].item()
    return OcpSolution(**one | {"status": Status(one["status"])})


def ocp_solution_arrays(solution: Any, sizes: OcpSizes) -> tuple[list[Array], npt.NDArray[np.int64]]:
    """The 19 fields of a solution, and its status, with the axis B.

    Raises:
        ValueError: a field is missing or has the wrong shape.
    """
    fields = []
    for name, shape in zip(OUTPUTS, sizes.field_shapes, strict=True):
        field = as_array(f"solution.{name}", field_of("solution", solution, name, OUTPUTS))
        expected = (sizes.batch, *shape) if sizes.batched else shape
        if field.shape != expected:
            raise ValueError(f"solution.{name} has shape {field.shape}, expected {expected}")
        fields.append(field.reshape(sizes.batch, *shape))
    return fields, status_array(solution, sizes.batch)


def ocp_start_arrays(warm_start: Any, sizes: OcpSizes, *, finite: bool = True) -> list[Array]:
    """x, u, y, z, z_N, w_x, w_u of a starting point as contiguous (B, .) arrays.

    Args:
        finite: refuse entries that are not finite; otherwise elements that have any start cold.

    Raises:
        ValueError: a field is missing, has the wrong shape or an entry that is not finite.
    """
    out = []
    for name, shape in sizes.point_shapes.items():
        value = as_array(f"warm_start.{name}", field_of("warm_start", warm_start, name, POINT))
        full = (sizes.batch, *shape)
        if value.shape not in (shape, (1, *shape), full):
            raise ValueError(f"warm_start.{name} has shape {value.shape}, expected {full if sizes.batched else shape}")
        if finite and not np.isfinite(value).all():
            raise ValueError(f"warm_start.{name} has an entry that is not finite")
        out.append(np.ascontiguousarray(value if value.shape == full else np.broadcast_to(value, full)))
    return out
