"""The solution of an optimal-control QP as a differentiable function of its data.

The solve and its first derivative backward are one C++ call each. Further derivatives (create_graph), forward mode and
torch.func transforms go through the dense form, see `ocp_dense_form`.

Tensors are float64 on the CPU; inputs are the data in the order of OCP_NAMES, those with an axis of elements with one
of stages, and a starting point (x, u, y, z, z_N, w_x, w_u).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd import forward_ad

from qp_control import _solver, qp_function
from qp_control.kkt_functions import Optional, Setup, to_array
from qp_control.ocp import POINT, SHIFTS, SLACKS, ocp_start_arrays
from qp_control.ocp_dense_form import DenseForm, dense_form
from qp_control.ocp_problem import OCP_NAMES, OcpSizes, base_rank, check_ocp_symmetric
from qp_control.problem import Array
from qp_control.qp import START
from qp_control.settings import Settings, Status

FIELDS = len(POINT) + len(SHIFTS) + len(SLACKS)
_DATA = len(OCP_NAMES)


@dataclass(frozen=True)
class OcpSetup:
    """What a call needs besides tensors."""

    sizes: OcpSizes
    settings: Settings
    symmetry_tolerance: float = 1e-10

    @cached_property
    def native(self) -> _solver.Settings:
        return self.settings.native("closest")

    @cached_property
    def derivative(self) -> _solver.DerivativeSettings:
        return self.settings.native_derivative()


class _Start:
    def __init__(self, values: Sequence[Any]) -> None:
        self.__dict__.update(zip(POINT, values, strict=True))


def solve_arrays(setup: OcpSetup, inputs: Sequence[Optional], *, report: bool = True) -> list[Array]:
    """Solve; 19 fields, objective, status, iterations, primal and dual residual, duality gap.

    report: elements without an answer warn or raise, as the settings say, and have NaN for a solution.

    Raises:
        ValueError: Q or R is not symmetric, or the starting point does not fit.
        SolveError: an element has no answer and `on_failure` is "raise".
    """
    arrays = [to_array(tensor) for tensor in inputs]
    data, start = arrays[:_DATA], arrays[_DATA:]
    warm = ocp_start_arrays(_Start(start), setup.sizes, finite=False) if start and start[0] is not None else None
    result, symmetric = _solver.solve_ocp(setup.sizes.native, data, setup.native, warm)
    if not (symmetric and setup.sizes.batch):
        check_ocp_symmetric(dict(zip(OCP_NAMES, data, strict=True)), setup.symmetry_tolerance)
    fields, (objective, primal, dual, gap, status, iterations) = list(result[:FIELDS]), result[FIELDS:]
    fields.append(objective)
    if report and (status > Status.CLOSEST_FEASIBLE).any():
        problem = {name: array for name, array in zip(OCP_NAMES, data, strict=True) if array is not None}
        qp_function.report_failures(setup.settings, problem, fields, status)
    outputs = [*fields, status, iterations, primal, dual, gap]
    return outputs if setup.sizes.batched else [array.reshape(array.shape[1:]) for array in outputs]


class OcpSolve(torch.autograd.Function):
    """(setup, *inputs) -> 19 fields, objective, status, iterations, primal and dual residual, duality gap."""

    @staticmethod
    def forward(ctx: Any, setup: OcpSetup, *inputs: Optional) -> tuple[torch.Tensor, ...]:
        output = tuple([torch.from_numpy(array) for array in solve_arrays(setup, inputs)])
        ctx.setup, ctx.count = setup, len(inputs) + 1
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[FIELDS + 1 :])
        ctx.save_for_backward(*inputs[:_DATA], *output[:FIELDS], output[FIELDS + 1])
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Optional, ...]:
        saved = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[1 : _DATA + 1])
        gradients = _gradients(ctx.setup, saved[:_DATA], saved[_DATA:-1], saved[-1], grads[: FIELDS + 1], needed)
        return (None, *gradients, *[None] * (ctx.count - 1 - _DATA))


class OcpPoint(torch.autograd.Function):
    """(setup, status, *data, *point) -> the point, as an implicit function of the data; 7 fields, or 19 with shifts and
    slacks."""

    @staticmethod
    def forward(ctx: Any, setup: OcpSetup, status: torch.Tensor, *tensors: Optional) -> tuple[torch.Tensor, ...]:
        ctx.setup = setup
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(status, *tensors)
        return tuple([field.clone() for field in tensors[_DATA:] if field is not None])

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Optional, ...]:
        status, *tensors = ctx.saved_tensors
        fields = _with_shifts(ctx.setup, tensors[_DATA:])
        needed = list(ctx.needs_input_grad[2 : _DATA + 2])
        loss = [*grads, *[None] * (FIELDS + 1 - len(grads))]
        gradients = _gradients(ctx.setup, tensors[:_DATA], fields, status, loss, needed)
        return (None, None, *gradients, *[None] * len(grads))


def _with_shifts(setup: OcpSetup, point: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The 19 fields of a point; where its shifts and slacks are not given they are zero."""
    lead = (setup.sizes.batch,) if setup.sizes.batched else ()
    shapes = (*setup.sizes.shift_shapes, *setup.sizes.slack_shapes)[len(point) - len(POINT) :]
    return [*point, *(point[0].new_zeros((*lead, *shape)) for shape in shapes)]


def _gradients(
    setup: OcpSetup,
    inputs: Sequence[Optional],
    fields: Sequence[torch.Tensor],
    status: torch.Tensor,
    loss: Sequence[Optional],
    needed: list[bool],
) -> list[Optional]:
    if torch.is_grad_enabled():
        return _differentiable_adjoint(setup, inputs, fields, status, loss, needed)
    arrays = [to_array(t) for t in (*inputs, *fields)]
    found = adjoint_arrays(
        setup,
        arrays[:_DATA],
        arrays[_DATA:],
        status.reshape(-1).numpy(),
        [None if g is None else qp_function.loss_array(g) for g in loss],
        needed,
    )
    return [None if array is None else torch.from_numpy(array) for array in found]


def adjoint_arrays(
    setup: OcpSetup,
    data: Sequence[Array | None],
    fields: Sequence[Array | None],
    status: Any,
    loss: Sequence[Array | None],
    needed: Sequence[bool],
) -> list[Array | None]:
    """Gradients of the data, the sum over what stages and elements share; None where not needed."""
    gradients, residual, _, _, worst = _solver.ocp_adjoint(
        setup.sizes.native, data, fields, status, loss, needed, setup.derivative
    )
    qp_function.warn_of_residual(residual, worst)
    return list(gradients)


def solve(setup: OcpSetup, inputs: Sequence[Optional]) -> tuple[torch.Tensor, ...]:
    """19 fields, objective, status, iterations, primal and dual residual, duality gap."""
    if not _transformed():
        if not torch.is_grad_enabled():  # in control loops the graph's book-keeping is as long as a solve
            return tuple([torch.from_numpy(array) for array in solve_arrays(setup, inputs)])
        return OcpSolve.apply(setup, *inputs)  # type: ignore[no-untyped-call,no-any-return]
    form = _form(setup.sizes, inputs[:_DATA])
    start = inputs[_DATA:]
    if start and start[0] is not None:
        point = _with_shifts(setup, [value for value in start if value is not None])
        x, y, z, w = form.solution(inputs[:_DATA], point)[:4]
        dense_start: list[Optional] = [x, y, z, w, z, w]  # whose signs name the active set
    else:
        dense_start = [None] * len(START)
    dense = form.assemble(inputs[:_DATA])
    solved = qp_function.solve(_dense_setup(setup, form), [*dense, *dense_start])
    fields, numbers = solved[: qp_function.FIELDS], solved[qp_function.FIELDS : -2]
    return (*form.split(fields), *numbers)  # without the active set of the dense form


def at_solution(
    setup: OcpSetup, inputs: Sequence[Optional], point: Sequence[torch.Tensor], status: Optional = None
) -> tuple[torch.Tensor, ...]:
    """A point that solves the problem, as a function of its data: what the implicit function theorem makes of it.

    No stage has to be convex, only the Hessian on the null space of the dynamics and the active rows: with the exact
    Hessian of its Lagrangian, the quadratic program at a solution of a nonlinear one has the derivatives of that
    solution.

    Args:
        inputs: the data.
        point: x, u, y, z, z_N, w_x, w_u that satisfy the conditions of optimality, and the shifts and slacks where
            there are any; constants.
        status: (B,) or (), elements other than SOLVED and CLOSEST_FEASIBLE have no gradients; None: all are solved.

    Returns:
        The values of `point`.
    """
    if status is None:
        status = torch.zeros(setup.sizes.batch if setup.sizes.batched else (), dtype=torch.int64)
    if not _transformed():
        return OcpPoint.apply(setup, status, *inputs, *point)  # type: ignore[no-untyped-call,no-any-return]
    form = _form(setup.sizes, inputs)
    dense = form.assemble(inputs)
    fields = form.solution(inputs, _with_shifts(setup, point))
    v, y, z, w = qp_function.at_solution(_dense_setup(setup, form), dense, fields, status)
    none = [torch.zeros_like(t) for t in (y, z, z, w, w)]
    return tuple(form.split([v, y, z, w, *none])[: len(point)])


def _transformed() -> bool:
    level: int = forward_ad._current_level
    return level >= 0 or torch._C._are_functorch_transforms_active()


def _form(sizes: OcpSizes, inputs: Sequence[Optional]) -> DenseForm:
    stages = []
    for name, value in zip(OCP_NAMES, inputs, strict=True):
        rank = base_rank(name)
        stages.append(None if value is None else 1 if value.dim() == rank else value.shape[-rank - 1])
    return dense_form(sizes, tuple(stages))


def _dense_setup(setup: OcpSetup, form: DenseForm) -> Setup:
    return Setup(form.sizes, setup.settings, setup.symmetry_tolerance)


def _differentiable_adjoint(
    setup: OcpSetup,
    inputs: Sequence[Optional],
    fields: Sequence[torch.Tensor],
    status: torch.Tensor,
    loss: Sequence[Optional],
    needed: Sequence[bool],
) -> list[Optional]:
    """The adjoint by torch operations, through the dense form."""
    form = _form(setup.sizes, inputs)
    wanted = [t for t, want in zip(inputs, needed, strict=True) if want and t is not None]
    dense = form.assemble(inputs)
    blocks = [torch.zeros_like(f) if g is None else g for f, g in zip(fields, loss, strict=False)]
    dense_loss = (*form.fields(blocks), loss[FIELDS])
    saved = (*dense, *form.solution(inputs, fields), status)
    dense_gradients = qp_function.differentiable_adjoint(_dense_setup(setup, form), saved, dense_loss)
    pairs = [
        (value, gradient)
        for value, gradient in zip(dense, dense_gradients, strict=False)
        if value is not None and gradient is not None and value.requires_grad
    ]
    found = iter(
        torch.autograd.grad(
            [value for value, _ in pairs],
            wanted,
            [gradient.reshape(value.shape) for value, gradient in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if want and t is not None else None for t, want in zip(inputs, needed, strict=True)]
