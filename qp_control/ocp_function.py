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
from qp_control.ocp import POINT, SHIFTS, ocp_start_arrays
from qp_control.ocp_dense_form import DenseForm, dense_form
from qp_control.ocp_problem import OCP_NAMES, OcpSizes, base_rank, check_ocp_symmetric
from qp_control.problem import Array
from qp_control.settings import Settings, Status

FIELDS = len(POINT) + len(SHIFTS)
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
    """Solve; 15 fields, objective, status, iterations, primal and dual residual, duality gap.

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
    """(setup, *inputs) -> 15 fields, objective, status, iterations, primal and dual residual, duality gap."""

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
        needed = list(ctx.needs_input_grad[1 : _DATA + 1])
        gradients = _backward(ctx.setup, ctx.saved_tensors, grads[: FIELDS + 1], needed)
        return (None, *gradients, *[None] * (ctx.count - 1 - _DATA))


def _backward(
    setup: OcpSetup, saved: Sequence[Any], loss: Sequence[Optional], needed: Sequence[bool]
) -> list[Optional]:
    """Gradients of the data; saved: the data, the 15 fields, the status."""
    inputs, fields, status = saved[:_DATA], saved[_DATA:-1], saved[-1]
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


class OcpPoint(torch.autograd.Function):
    """(setup, status, 15 fields, objective, *inputs) -> the fields and the objective, differentiable."""

    @staticmethod
    def forward(ctx: Any, setup: OcpSetup, status: torch.Tensor, *values: Optional) -> tuple[Optional, ...]:
        point, inputs = values[: FIELDS + 1], values[FIELDS + 1 :]
        ctx.setup, ctx.count = setup, 0
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *point[:FIELDS], status)
        return tuple(value.view_as(value) for value in point if value is not None)

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Optional, ...]:
        needed = list(ctx.needs_input_grad[3 + FIELDS :])
        gradients = _backward(ctx.setup, ctx.saved_tensors, grads, needed)
        return (None, None, *[None] * (FIELDS + 1), *gradients)


def at_solution(
    setup: OcpSetup, inputs: Sequence[Optional], point: Sequence[torch.Tensor], status: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The 15 fields and the objective of a solution that is known, as a differentiable function of the data.

    The Hessians of the stages may be indefinite; what must be positive definite is the Hessian on the directions that
    the dynamics and the active constraints leave.
    """
    return OcpPoint.apply(setup, status, *point, *inputs)  # type: ignore[no-untyped-call,no-any-return]


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
    """15 fields, objective, status, iterations, primal and dual residual, duality gap."""
    level: int = forward_ad._current_level
    if level < 0 and not torch._C._are_functorch_transforms_active():
        return OcpSolve.apply(setup, *inputs)  # type: ignore[no-untyped-call,no-any-return]
    form = _form(setup.sizes, inputs[:_DATA])
    start = inputs[_DATA:]
    if start and start[0] is not None:
        x, u, y, z, z_N, w_x, w_u = start
        shape = (setup.sizes.batch,) if setup.sizes.batched else ()
        shifts = [x.new_zeros((*shape, *s)) for s in setup.sizes.shift_shapes]  # type: ignore[union-attr]
        dense_start: list[Optional] = list(form.fields([x, u, y, z, z_N, w_x, w_u, *shifts])[:4])  # type: ignore[list-item]
    else:
        dense_start = [None] * 4
    dense = form.assemble(inputs[:_DATA])
    solved = qp_function.solve(_dense_setup(setup, form), [*dense, *dense_start])
    return (*form.split(solved[: qp_function.FIELDS]), *solved[qp_function.FIELDS :])


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
    saved = (*dense, *form.fields(fields), status)
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
