"""The feedback gain of an optimal-control QP: how its first input follows the initial state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qp_control import _solver
from qp_control.ocp import POINT, SHIFTS, SLACKS
from qp_control.ocp_problem import OcpQP, ocp_from_arrays
from qp_control.problem import Array, as_array
from qp_control.settings import Settings


def ocp_gain(qp: OcpQP, solution: Any, *, settings: Settings | None = None) -> Array:
    """du_0/dx_0 at a solution, on its active constraints; one factorisation, at a cost linear in the horizon.

    Between two solves it is the feedback that keeps up with a measured state: u = u_0 + gain (x - x0).

    Args:
        qp: the problem, with x0.
        solution: what `solve_ocp` or `OcpLayer` returned for it.
        settings: `weakly_active`, `smoothing` and `threads`.

    Returns:
        (nu, nx), or (B, nu, nx) of a batch; NaN for elements that are neither SOLVED nor CLOSEST_FEASIBLE.

    Raises:
        ValueError: x0 is missing, or shapes do not fit.
    """
    if qp.x0 is None:
        raise ValueError("x0 is missing: without it there is no derivative by it")
    problem = ocp_from_arrays(qp.data(), qp.horizon)
    sizes = problem.sizes
    all_shapes = (*sizes.point_shapes.values(), *sizes.shift_shapes, *sizes.slack_shapes)
    shapes = dict(zip((*POINT, *SHIFTS, *SLACKS), all_shapes, strict=True))
    fields = []
    for name, shape in shapes.items():
        field = as_array(f"solution.{name}", getattr(solution, name))
        expected = (sizes.batch, *shape) if sizes.batched else shape
        if field.shape != expected:
            raise ValueError(f"solution.{name} has shape {field.shape}, expected {expected}")
        fields.append(field.reshape(sizes.batch, *shape))
    status = np.ascontiguousarray(solution.status, dtype=np.int64).reshape(-1)
    derivative = replace(settings or Settings(), on_failure="nan").native_derivative()
    gain: Array = _solver.ocp_gain(sizes.native, problem.arrays, fields, status, derivative)[0]
    return gain if sizes.batched else gain[0]
