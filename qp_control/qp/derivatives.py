"""Derivatives of a QP's solution as functions of NumPy arrays, each with its certificate.

Source: implicit differentiation of the KKT conditions (Amos and Kolter, "OptNet", ICML 2017); for infeasible problems:
Bambade et al., "Leveraging augmented-Lagrangian techniques for differentiating over infeasible quadratic programs in
machine learning", ICLR 2024. The formulas are in kkt_system.hpp and derivatives.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qp_control import _solver
from qp_control.qp.problem import NAMES, Array, Sizes, as_array, drop_unit_batch, problem_from_arrays
from qp_control.qp.solve import OUTPUTS, field_of, status_array
from qp_control.settings import Settings, settings_or


@dataclass(frozen=True)
class Certificate:
    """How far a derivative can be trusted; for a batch every field has the axis B."""

    residual: Any
    """Residual of the linear system of the derivative, relative to the size of its terms; if that system is singular,
    of its normal equations. NaN for elements without a solution, whose zeros are not a derivative."""
    weakly_active: Any
    """Number of rows at their bound with a multiplier of zero; if not zero, the solution has a kink, and
    `Settings.weakly_active` says which of its derivatives this is."""
    rank_deficiency: Any
    """Rank deficiency of the linear system; if not zero, the derivative is its minimum-norm least-squares solution."""


@dataclass(frozen=True)
class Gradients(Certificate):
    """Gradients of a loss, each in the shape of its argument (None: absent); for shared data, the sum over the
    batch."""

    H: Array | None
    """Symmetric."""
    g: Array | None
    A: Array | None
    b: Array | None
    C: Array | None
    l: Array | None
    u: Array | None
    lb: Array | None
    ub: Array | None


@dataclass(frozen=True)
class Tangent(Certificate):
    """Directional derivatives of the solution's fields, each in the shape of its field."""

    x: Array
    y: Array
    z: Array
    w: Array
    s_eq: Array
    s_lower: Array
    s_upper: Array
    s_lb: Array
    s_ub: Array
    objective: Any


def qp_adjoint(
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
    solution: Any,
    x: npt.ArrayLike | None = None,
    y: npt.ArrayLike | None = None,
    z: npt.ArrayLike | None = None,
    w: npt.ArrayLike | None = None,
    s_eq: npt.ArrayLike | None = None,
    s_lower: npt.ArrayLike | None = None,
    s_upper: npt.ArrayLike | None = None,
    s_lb: npt.ArrayLike | None = None,
    s_ub: npt.ArrayLike | None = None,
    objective: npt.ArrayLike | None = None,
    weight_eq: npt.ArrayLike | None = None,
    weight_in: npt.ArrayLike | None = None,
    weight_box: npt.ArrayLike | None = None,
    settings: Settings | None = None,
) -> Gradients:
    """Gradients of a loss with respect to the data of a QP, from its gradients with respect to the solution.

    Args:
        H, g, A, b, C, l, u, lb, ub: the data, as given to `solve_qp`.
        solution: what `solve_qp` returned.
        x, y, z, w, s_eq, s_lower, s_upper, s_lb, s_ub, objective: gradients of the loss with respect to these fields of
            the solution, with or without the axis B; None: zero.
        weight_eq, weight_in, weight_box: the shift weights, as given to `solve_qp`.
        settings: `weakly_active`, `smoothing`, `on_failure` ("nan": NaN for elements without a solution) and `threads`.

    Returns:
        The gradients and their certificate; zero for elements that are neither SOLVED nor CLOSEST_FEASIBLE.

    Raises:
        ValueError: shapes that do not fit, NaN or misplaced infinities in the data, a solution without its fields.
        TypeError: a tensor requires grad (use `QPLayer` for gradients), or `settings` is not a `Settings`.
    """
    problem = problem_from_arrays({
        "H": H, "g": g, "A": A, "b": b, "C": C, "l": l, "u": u, "lb": lb, "ub": ub,
        "weight_eq": weight_eq, "weight_in": weight_in, "weight_box": weight_box,
    })  # fmt: skip
    sizes = problem.sizes
    given = (x, y, z, w, s_eq, s_lower, s_upper, s_lb, s_ub, objective)
    shapes = (*((width,) for width in sizes.widths), ())
    loss = [
        None if value is None else _field(name, value, shape, sizes)
        for name, value, shape in zip((*OUTPUTS, "objective"), given, shapes, strict=True)
    ]
    gradients, *certificate, _ = _solver.adjoint(
        sizes.native,
        problem.arrays,
        *_solution(solution, sizes),
        loss,
        [True] * len(NAMES),
        settings_or(settings).native_derivative(),
    )
    named = dict(zip(NAMES, gradients, strict=True))
    for name, value in zip(NAMES, (H, g, A, b, C, l, u, lb, ub), strict=True):
        gradient = named[name]
        if gradient is not None:
            named[name] = gradient.reshape(as_array(name, value).shape)  # a batch axis of one was dropped
    return Gradients(*_certificate(certificate, sizes), **named)


def qp_tangent(
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
    solution: Any,
    dH: npt.ArrayLike | None = None,
    dg: npt.ArrayLike | None = None,
    dA: npt.ArrayLike | None = None,
    db: npt.ArrayLike | None = None,
    dC: npt.ArrayLike | None = None,
    dl: npt.ArrayLike | None = None,
    du: npt.ArrayLike | None = None,
    dlb: npt.ArrayLike | None = None,
    dub: npt.ArrayLike | None = None,
    weight_eq: npt.ArrayLike | None = None,
    weight_in: npt.ArrayLike | None = None,
    weight_box: npt.ArrayLike | None = None,
    settings: Settings | None = None,
) -> Tangent:
    """Directional derivatives of the solution of a QP for given changes of its data.

    Args:
        H, g, A, b, C, l, u, lb, ub: the data, as given to `solve_qp`.
        solution: what `solve_qp` returned.
        dH, dg, dA, db, dC, dl, du, dlb, dub: changes of the data, in the shape of the data or of one element; None:
            zero. dH counts as (dH + dH')/2.
        weight_eq, weight_in, weight_box: the shift weights, as given to `solve_qp`.
        settings: as in `qp_adjoint`.

    Returns:
        The derivatives and their certificate; zero for elements that are neither SOLVED nor CLOSEST_FEASIBLE.

    Raises:
        ValueError: shapes that do not fit, NaN or misplaced infinities in the data, a solution without its fields.
        TypeError: a tensor requires grad (use `QPLayer` for gradients), or `settings` is not a `Settings`.
    """
    problem = problem_from_arrays({
        "H": H, "g": g, "A": A, "b": b, "C": C, "l": l, "u": u, "lb": lb, "ub": ub,
        "weight_eq": weight_eq, "weight_in": weight_in, "weight_box": weight_box,
    })  # fmt: skip
    sizes = problem.sizes
    changes = dict(zip(NAMES, (dH, dg, dA, db, dC, dl, du, dlb, dub), strict=True))
    fields, *certificate, _ = _solver.tangent(
        sizes.native,
        problem.arrays,
        *_solution(solution, sizes),
        [None if value is None else _change(name, value, sizes) for name, value in changes.items()],
        settings_or(settings).native_derivative(),
    )
    moved = [field if sizes.batched or field is None else field[0] for field in fields]
    return Tangent(*_certificate(certificate, sizes), *moved)


def _field(name: str, value: Any, one: tuple[int, ...], sizes: Sizes) -> Array:
    """A field of a solution, or a loss's gradient with respect to it, for every element; one: its shape per element."""
    array = as_array(name, value)
    if array.shape not in (one, (sizes.batch, *one)):
        expected = (sizes.batch, *one) if sizes.batched else one
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    return np.ascontiguousarray(np.broadcast_to(array, (sizes.batch, *one)))


def _solution(solution: Any, sizes: Sizes) -> tuple[list[Array], npt.NDArray[np.int64]]:
    fields = [
        _field(f"solution.{name}", field_of("solution", solution, name, OUTPUTS), (width,), sizes)
        for name, width in zip(OUTPUTS, sizes.widths, strict=True)
    ]
    return fields, status_array(solution, sizes.batch)


def _change(name: str, value: Any, sizes: Sizes) -> Array:
    array = as_array(f"d{name}", value)
    one = sizes.shape(name)
    if array.shape not in (one, (1, *one), (sizes.batch, *one)):
        raise ValueError(f"d{name} has shape {array.shape}, expected {one} or a batch of {sizes.batch}")
    return array[0] if drop_unit_batch(name, array.shape, sizes) else array


def _certificate(arrays: list[Any], sizes: Sizes) -> list[Any]:
    return arrays if sizes.batched else [array[0].item() for array in arrays]
