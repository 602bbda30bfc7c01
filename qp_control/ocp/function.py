"""The solution of an optimal-control QP as a differentiable function of its data.

The solve, its first-order backward pass and its tangent are one C++ call each, at a cost linear in the horizon. What is
differentiated further (create_graph) or transformed by torch.func is composed of `kkt_functions`, at such a cost too.

Tensors are float64 on the CPU; inputs are the data in the order of OCP_NAMES, where those with a batch axis also have a
stage axis, and a starting point (x, u, y, z, z_N, w_x, w_u).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from qp_control import _solver
from qp_control.ocp.kkt_functions import (
    DATA,
    FIELDS,
    OcpSetup,
    SolvedPoint,
    fold_data,
    fold_fields,
    refuse_smoothed,
)
from qp_control.ocp.layer_solution import OcpLayerSolution
from qp_control.ocp.problem import OCP_NAMES, check_ocp_symmetric
from qp_control.ocp.solve import POINT, ocp_start_arrays
from qp_control.ocp.stages import named
from qp_control.qp import function as qp_function
from qp_control.qp.certificates import report_weakly_active
from qp_control.qp.kkt_functions import fold, inside_jvp, to_array
from qp_control.qp.kkt_products import Optional
from qp_control.qp.problem import Array
from qp_control.tracing import refuse_tracing


class _Start:
    def __init__(self, values: Sequence[Any]) -> None:
        self.__dict__.update(zip(POINT, values, strict=True))


def solve_arrays(setup: OcpSetup, inputs: Sequence[Optional], *, report: bool = True) -> list[Array]:
    """Solve; 19 fields, objective, status, iterations, primal and dual residual, duality gap.

    report: warn of elements without an answer or raise, as the settings say, and set their solutions to NaN.

    Raises:
        ValueError: Q or R is not symmetric, or the starting point does not fit.
        SolveError: an element has no answer and `on_failure` is "raise".
    """
    refuse_tracing()
    arrays = [to_array(tensor) for tensor in inputs]
    data, start = arrays[:DATA], arrays[DATA:]
    warm = ocp_start_arrays(_Start(start), setup.sizes, finite=False) if start and start[0] is not None else None
    result, symmetric, answered = _solver.solve_ocp(setup.sizes.native, data, setup.native, warm)
    if not (symmetric and setup.sizes.batch):
        check_ocp_symmetric(dict(zip(OCP_NAMES, data, strict=True)), setup.symmetry_tolerance)
    fields, (objective, primal, dual, gap, status, iterations) = list(result[:FIELDS]), result[FIELDS:]
    fields.append(objective)
    outputs = [*fields, status, iterations, primal, dual, gap]
    if not setup.sizes.batched:
        outputs = [array.reshape(array.shape[1:]) for array in outputs]
    if report and not answered:
        qp_function.erase_failures(fields, status)
        problem = {name: array for name, array in zip(OCP_NAMES, data, strict=True) if array is not None}
        solution = OcpLayerSolution(*map(torch.from_numpy, outputs))
        qp_function.report_failures(setup.settings, status, problem | {"horizon": setup.sizes.horizon}, solution)
    return outputs


def _keep(ctx: Any, setup: OcpSetup, *inputs: Optional, output: tuple[torch.Tensor, ...]) -> tuple[Optional, ...]:
    """Prepare the backward pass; returns what was saved for it."""
    ctx.setup, ctx.count = setup, len(inputs) + 1
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[FIELDS + 1 :])
    saved = (output[FIELDS + 1], *inputs[:DATA], *output[:FIELDS])
    ctx.save_for_backward(*saved)
    return saved


class OcpSolve(torch.autograd.Function):
    """(setup, *inputs) -> 19 fields, objective, status, iterations, primal and dual residual, duality gap."""

    @staticmethod
    def forward(setup: OcpSetup, *inputs: Optional) -> tuple[torch.Tensor, ...]:
        return tuple([torch.from_numpy(array) for array in solve_arrays(setup, inputs)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.save_for_forward(*_keep(ctx, *inputs, output=output))

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Optional, ...]:
        needed = list(ctx.needs_input_grad[1 : DATA + 1])
        gradients = _gradients(ctx.setup, ctx.saved_tensors, grads[: FIELDS + 1], needed)
        return (None, *gradients, *[None] * (ctx.count - 1 - DATA))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Optional) -> tuple[Optional, ...]:
        with inside_jvp(ctx) as saved:
            return (*_tangents(ctx.setup, saved, tangents[:DATA]), *[None] * 5)

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: OcpSetup, *inputs: Optional) -> tuple[Any, Any]:
        axis, sizes = info.batch_size, setup.sizes
        outputs = OcpSolve.apply(  # type: ignore[no-untyped-call]
            setup.with_batch(axis * sizes.batch),
            *fold_data(inputs[:DATA], dims[1 : DATA + 1], axis, sizes.batch),
            *fold_fields(sizes, inputs[DATA:], dims[DATA + 1 :], axis),
        )
        if sizes.batched:
            outputs = tuple(output.unflatten(0, (axis, sizes.batch)) for output in outputs)
        return outputs, (0,) * len(outputs)


class PlainOcpSolve(torch.autograd.Function):
    """`OcpSolve` outside transforms: less overhead."""

    @staticmethod
    def forward(ctx: Any, setup: OcpSetup, *inputs: Optional) -> tuple[torch.Tensor, ...]:
        output = OcpSolve.forward(setup, *inputs)
        _keep(ctx, setup, *inputs, output=output)
        return output

    backward = OcpSolve.backward


class OcpPoint(torch.autograd.Function):
    """(setup, status, *data, *point) -> the point, as an implicit function of the data; 7 fields, or 19 with shifts and
    slacks."""

    @staticmethod
    def forward(setup: OcpSetup, status: torch.Tensor, *tensors: Any) -> tuple[torch.Tensor, ...]:
        return tuple([field.clone() for field in tensors[DATA:]])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.setup, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Optional, ...]:
        saved = _with_shifts(ctx.setup, ctx.saved_tensors)
        needed = list(ctx.needs_input_grad[2 : DATA + 2])
        gradients = _gradients(ctx.setup, saved, [*grads, *[None] * (FIELDS + 1 - len(grads))], needed)
        return (None, None, *gradients, *[None] * len(grads))

    @staticmethod
    def jvp(ctx: Any, _: None, _status: None, *tangents: Optional) -> tuple[Optional, ...]:
        with inside_jvp(ctx) as saved:
            moved = _tangents(ctx.setup, _with_shifts(ctx.setup, saved), tangents[:DATA])
            return tuple(moved[: len(saved) - 1 - DATA])

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: OcpSetup, *tensors: Any) -> tuple[Any, Any]:
        axis, sizes = info.batch_size, setup.sizes
        outputs = OcpPoint.apply(  # type: ignore[no-untyped-call]
            setup.with_batch(axis * sizes.batch),
            fold(tensors[0], dims[1], 0, axis, sizes.batch),
            *fold_data(tensors[1 : DATA + 1], dims[2 : DATA + 2], axis, sizes.batch),
            *fold_fields(sizes, tensors[DATA + 1 :], dims[DATA + 2 :], axis),
        )
        if sizes.batched:
            outputs = tuple(output.unflatten(0, (axis, sizes.batch)) for output in outputs)
        return outputs, (0,) * len(outputs)


def _with_shifts(setup: OcpSetup, saved: Sequence[Any]) -> list[Any]:
    """(status, *data, *fields) with all 19 fields; shifts and slacks that are not given are zero."""
    lead, given = (setup.sizes.batch,) if setup.sizes.batched else (), len(saved) - 1 - DATA
    like = saved[1 + DATA]
    return [*saved, *(like.new_zeros((*lead, *shape)) for shape in setup.sizes.field_shapes[given:])]


def _gradients(
    setup: OcpSetup, saved: Sequence[Any], loss: Sequence[Optional], needed: Sequence[bool]
) -> list[Optional]:
    """Gradients of the data, from those of the fields and the objective (None: zero); saved: status, data and
    fields."""
    status, data, fields = saved[0], saved[1 : DATA + 1], saved[DATA + 1 :]
    if torch.is_grad_enabled() or _transformed():
        return SolvedPoint.of(setup, status, data, fields).adjoint_of_fields(loss)
    found = adjoint_arrays(
        setup,
        [to_array(t) for t in data],
        [to_array(t) for t in fields],
        status.reshape(-1).numpy(),
        [None if g is None else qp_function.loss_array(g) for g in loss],
        needed,
    )
    return [None if array is None else torch.from_numpy(array) for array in found]


class _Tangent(torch.autograd.Function):
    """(setup, status, *data, *fields, *changes of the data) -> changes of the 19 fields and the objective, which cannot
    be differentiated further."""

    @staticmethod
    def forward(setup: OcpSetup, status: torch.Tensor, *tensors: Optional) -> tuple[torch.Tensor, ...]:
        refuse_tracing()
        arrays = [to_array(t) for t in tensors]
        data, fields, change = arrays[:DATA], arrays[DATA:-DATA], arrays[-DATA:]
        moved, residual, _, _, worst = _solver.ocp_tangent(
            setup.sizes.native, data, fields, status.reshape(-1).numpy(), change, setup.derivative
        )
        qp_function.warn_of_residual(residual, worst)
        out = tuple([torch.from_numpy(array) for array in moved])
        return out if setup.sizes.batched else tuple(field.squeeze(0) for field in out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        pass


def _tangents(setup: OcpSetup, saved: Sequence[Any], tangents: Sequence[Optional]) -> Sequence[torch.Tensor]:
    """Tangents of the fields and the objective, from those of the data (None: no change)."""
    if all(_plain(t) for t in (*saved, *tangents)):
        refuse_smoothed(setup.settings)
        return _Tangent.apply(setup, *saved, *tangents)  # type: ignore[no-untyped-call,no-any-return]
    return SolvedPoint.of(setup, saved[0], saved[1 : DATA + 1], saved[DATA + 1 :]).tangents_of_fields(named(tangents))


def _plain(tensor: Optional) -> bool:
    """Whether no derivative of it is needed except the tangent at hand, and no transform batches it."""
    if tensor is None:
        return True
    functorch = torch._C._functorch
    top = functorch.peek_interpreter_stack()
    level = functorch.maybe_get_level(tensor) if functorch.is_gradtrackingtensor(tensor) else -1
    if top is not None and level == top.level():  # wrapped by the torch.func.jvp that asks
        tensor = functorch._unwrap_for_grad(tensor, level)
    tracked = torch.is_grad_enabled() and tensor.requires_grad
    return not tracked and not functorch.is_functorch_wrapped_tensor(tensor)


def adjoint_arrays(
    setup: OcpSetup,
    data: Sequence[Array | None],
    fields: Sequence[Array | None],
    status: Any,
    loss: Sequence[Array | None],
    needed: Sequence[bool],
) -> list[Array | None]:
    """Gradients of the data, summed over the stages and elements that share it; None where not needed."""
    refuse_tracing()
    gradients, residual, weakly_active, _, worst = _solver.ocp_adjoint(
        setup.sizes.native, data, fields, status, loss, needed, setup.derivative
    )
    qp_function.warn_of_residual(residual, worst)
    report_weakly_active(weakly_active)
    return list(gradients)


def solve(setup: OcpSetup, inputs: Sequence[Optional]) -> tuple[torch.Tensor, ...]:
    """19 fields, objective, status, iterations, primal and dual residual, duality gap."""
    if _transformed():
        return OcpSolve.apply(setup, *inputs)  # type: ignore[no-untyped-call,no-any-return]
    if not torch.is_grad_enabled():  # in control loops the graph's book-keeping takes as long as a solve
        return tuple([torch.from_numpy(array) for array in solve_arrays(setup, inputs)])
    return PlainOcpSolve.apply(setup, *inputs)  # type: ignore[no-untyped-call,no-any-return]


def at_solution(
    setup: OcpSetup, inputs: Sequence[Optional], point: Sequence[torch.Tensor], status: Optional = None
) -> tuple[torch.Tensor, ...]:
    """A given solution of the problem as a function of its data, by the implicit function theorem.

    No stage has to be convex, only the Hessian on the null space of the dynamics and the active rows: with the exact
    Hessian of the Lagrangian, the QP at a solution of a nonlinear program has the derivatives of that solution.

    Args:
        inputs: the data.
        point: x, u, y, z, z_N, w_x, w_u that satisfy the optimality conditions, and the shifts and slacks if there are
            any; constants.
        status: (B,) or (); elements other than SOLVED and CLOSEST_FEASIBLE have no gradients; None: all are solved.

    Returns:
        The values of `point`.
    """
    if status is None:
        status = torch.zeros(setup.sizes.batch if setup.sizes.batched else (), dtype=torch.int64)
    return OcpPoint.apply(setup, status, *inputs, *point)  # type: ignore[no-untyped-call,no-any-return]


def _transformed() -> bool:
    level: int = forward_ad._current_level
    return level >= 0 or torch._C._are_functorch_transforms_active()
