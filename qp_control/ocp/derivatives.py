"""Derivatives of an optimal-control QP's solution as functions of NumPy arrays, each with its certificate, at a cost
linear in the horizon.

Source: implicit differentiation of the KKT conditions (Amos and Kolter, "OptNet", ICML 2017), the linear systems solved
by Riccati recursions; for infeasible problems: Bambade et al., "Leveraging augmented-Lagrangian techniques for
differentiating over infeasible quadratic programs in machine learning", ICLR 2024. The formulas are in kkt_system.hpp
and derivatives.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qp_control import _solver
from qp_control.ocp.problem import OCP_NAMES, OcpProblem, OcpQP, OcpSizes, ocp_from_arrays, ocp_sizes, with_stage_axis
from qp_control.ocp.solve import OUTPUTS, ocp_solution_arrays
from qp_control.qp.derivatives import Certificate
from qp_control.qp.problem import Array, as_array
from qp_control.settings import Settings, settings_or


@dataclass(frozen=True)
class OcpGradients(Certificate):
    """Gradients of a loss, each in the shape of its argument (None: absent); for data that stages or elements share,
    the sum over them."""

    Q: Array | None
    """Symmetric, as are those of R and Q_N."""
    R: Array | None
    S: Array | None
    q: Array | None
    r: Array | None
    Q_N: Array | None
    q_N: Array | None
    A: Array | None
    B: Array | None
    c: Array | None
    x0: Array | None
    C: Array | None
    D: Array | None
    lower: Array | None
    upper: Array | None
    C_N: Array | None
    lower_N: Array | None
    upper_N: Array | None
    x_lower: Array | None
    x_upper: Array | None
    u_lower: Array | None
    u_upper: Array | None
    slack_linear: Array | None
    slack_quadratic: Array | None
    slack_linear_N: Array | None
    slack_quadratic_N: Array | None


@dataclass(frozen=True)
class OcpTangent(Certificate):
    """Directional derivatives of the solution's fields, each in the shape of its field."""

    x: Array
    u: Array
    y: Array
    z: Array
    z_N: Array
    w_x: Array
    w_u: Array
    s_lower: Array
    s_upper: Array
    s_lower_N: Array
    s_upper_N: Array
    s_x_lower: Array
    s_x_upper: Array
    s_u_lower: Array
    s_u_upper: Array
    slack_lower: Array
    slack_upper: Array
    slack_lower_N: Array
    slack_upper_N: Array
    objective: Any


def ocp_adjoint(
    qp: OcpQP, solution: Any, *, settings: Settings | None = None, **loss: npt.ArrayLike | None
) -> OcpGradients:
    """Gradients of a loss with respect to the data of an optimal-control QP, from those with respect to its solution.

    Args:
        qp: the problem.
        solution: what `solve_ocp` or `OcpLayer` returned for it.
        settings: `weakly_active`, `smoothing`, `on_failure` ("nan": NaN for elements without a solution) and `threads`.
        loss: gradients of the loss with respect to fields of the solution, x .. slack_upper_N and objective, by name,
            with or without the axis B; zero if not given.

    Returns:
        The gradients and their certificate; zero for elements that are neither SOLVED nor CLOSEST_FEASIBLE.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: the loss names something that is not a field of the solution; a tensor requires grad; `settings` is
            not a `Settings`.
    """
    problem = ocp_from_arrays(qp.data(), qp.horizon)
    sizes, names = problem.sizes, (*OUTPUTS, "objective")
    _check_names("ocp_adjoint", loss, names)
    shapes = (*sizes.field_shapes, ())
    blocks = [
        None if (value := loss.get(name)) is None else _block(name, value, shape, sizes)
        for name, shape in zip(names, shapes, strict=True)
    ]
    fields, status = ocp_solution_arrays(solution, sizes)
    gradients, *certificate, _ = _solver.ocp_adjoint(
        sizes.native, problem.arrays, fields, status, blocks, [True] * len(OCP_NAMES), _native(settings)
    )
    shaped = {
        name: None if gradient is None else gradient.reshape(np.shape(getattr(qp, name)))
        for name, gradient in zip(OCP_NAMES, gradients, strict=True)
    }
    return OcpGradients(*_certificate(certificate, sizes), **shaped)


def ocp_tangent(
    qp: OcpQP, solution: Any, *, settings: Settings | None = None, **change: npt.ArrayLike | None
) -> OcpTangent:
    """Directional derivatives of the solution of an optimal-control QP for given changes of its data.

    Args:
        qp: the problem.
        solution: what `solve_ocp` or `OcpLayer` returned for it.
        settings: as in `ocp_adjoint`.
        change: changes of arguments, by name with the prefix d (dA, dx0, dslack_linear), in any shape that the argument
            may have; zero if not given. dQ counts as (dQ + dQ')/2, as do dR and dQ_N.

    Returns:
        The derivatives and their certificate; zero for elements that are neither SOLVED nor CLOSEST_FEASIBLE.

    Raises:
        ValueError: shapes that do not fit, or a change of an argument that the problem lacks.
        TypeError: a change of something that is not an argument of the problem; a tensor requires grad; `settings` is
            not a `Settings`.
    """
    problem = ocp_from_arrays(qp.data(), qp.horizon)
    sizes = problem.sizes
    _check_names("ocp_tangent", change, [f"d{name}" for name in OCP_NAMES])
    changes = [
        None if (value := change.get(f"d{name}")) is None else _change(name, value, qp, problem) for name in OCP_NAMES
    ]
    fields, status = ocp_solution_arrays(solution, sizes)
    moved, *certificate, _ = _solver.ocp_tangent(
        sizes.native, problem.arrays, fields, status, changes, _native(settings)
    )
    named: dict[str, Any] = dict(zip((*OUTPUTS, "objective"), moved, strict=True))
    if not sizes.batched:
        named = {name: field[0] for name, field in named.items()}
    return OcpTangent(*_certificate(certificate, sizes), **named)


def _check_names(function: str, given: dict[str, Any], names: Any) -> None:
    for name in given:
        if name not in names:
            raise TypeError(f"{function}() got {name}, expected some of {', '.join(names)}")


def _native(settings: Settings | None) -> _solver.DerivativeSettings:
    return settings_or(settings).native_derivative()


def _block(name: str, value: Any, shape: tuple[int, ...], sizes: OcpSizes) -> Array:
    array = as_array(name, value)
    if array.shape not in (shape, (sizes.batch, *shape)):
        expected = (sizes.batch, *shape) if sizes.batched else shape
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    return np.ascontiguousarray(np.broadcast_to(array, (sizes.batch, *shape)))


def _change(name: str, value: Any, qp: OcpQP, problem: OcpProblem) -> Array:
    if problem.arrays[OCP_NAMES.index(name)] is None:
        raise ValueError(f"d{name} is given, but the problem has no {name}")
    array, sizes = as_array(f"d{name}", value), problem.sizes
    shapes = {other: np.shape(given) for other, given in qp.data().items()} | {name: array.shape}
    try:
        batch = ocp_sizes(shapes, sizes.horizon).batch
    except ValueError as error:
        raise ValueError(f"d{name}, in the place of {name}: {error}") from None
    if batch not in (1, sizes.batch):
        raise ValueError(f"d{name} has a batch of {batch}, the problem one of {sizes.batch}")
    changed: Array = with_stage_axis(name, array)
    return changed


def _certificate(arrays: list[Any], sizes: OcpSizes) -> list[Any]:
    return arrays if sizes.batched else [array[0].item() for array in arrays]
