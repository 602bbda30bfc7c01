"""The feedback gain of an optimal-control QP: how its first input depends on the initial state."""

from __future__ import annotations

from typing import Any

from qp_control import _solver
from qp_control.ocp.problem import OcpQP, ocp_from_arrays
from qp_control.ocp.solve import ocp_solution_arrays
from qp_control.qp.problem import Array
from qp_control.settings import Settings, settings_or


def ocp_gain(qp: OcpQP, solution: Any, *, settings: Settings | None = None) -> Array:
    """du_0/dx_0 at a solution, with its active constraints held; one factorisation, at a cost linear in the horizon.

    Between two solves it serves as the feedback gain for the measured state x: u = u_0 + gain (x - x0).

    Args:
        qp: the problem, with x0.
        solution: what `solve_ocp` or `OcpLayer` returned for it.
        settings: `weakly_active`, `smoothing` and `threads`.

    Returns:
        (nu, nx), or (B, nu, nx) for a batch; NaN for elements that are neither SOLVED nor CLOSEST_FEASIBLE.

    Raises:
        ValueError: x0 is missing, or shapes do not fit.
        TypeError: a tensor requires grad; `settings` is not a `Settings`.
    """
    if qp.x0 is None:
        raise ValueError("x0 is missing: without it there is no derivative by it")
    problem = ocp_from_arrays(qp.data(), qp.horizon)
    sizes = problem.sizes
    fields, status = ocp_solution_arrays(solution, sizes)
    derivative = settings_or(settings).native_derivative()
    derivative.nan_without_solution = True
    gain: Array = _solver.ocp_gain(sizes.native, problem.arrays, fields, status, derivative)[0]
    return gain if sizes.batched else gain[0]
