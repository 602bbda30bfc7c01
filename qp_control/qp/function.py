"""The solution of a QP as a differentiable function of its data.

`Solve` runs under autograd and every torch.func transform. Its first-order backward pass is one C++ call that sums over
the batch where data is shared; with create_graph, forward mode or vmap it is composed of `kkt_functions`.

Tensors are float64 on the CPU; inputs are the data, the shift weights and a starting point (x, y, z, w, active set).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from qp_control import _solver
from qp_control.exceptions import SolveError
from qp_control.qp.certificates import report_weakly_active
from qp_control.qp.kkt_functions import (
    DATA,
    INPUTS,
    Setup,
    SolutionPoint,
    fold_inputs,
    in_shape_of,
    inside_jvp,
    point_adjoint,
    point_tangent,
    refuse_old_vmap,
    to_array,
    where_differentiated,
)
from qp_control.qp.kkt_products import Optional, Pattern, Vectors, stacked_bounds
from qp_control.qp.layer_solution import LayerSolution
from qp_control.qp.problem import MATRICES, NAMES, Array, Problem, check_symmetric
from qp_control.qp.solve import OUTPUTS, START, warm_start_arrays
from qp_control.settings import Settings, Status
from qp_control.tracing import refuse_tracing

FIELDS = len(OUTPUTS)


def solve_arrays(
    setup: Setup, inputs: Sequence[Optional], keep: bool = False
) -> tuple[list[Array | None], list[Array], Array | None]:
    """Solve; returns the inputs, the outputs as arrays (9 fields, objective, status, iterations, primal and dual
    residual, duality gap, active set of rows and box), and the factors that `adjoint_arrays` may reuse.

    Raises:
        ValueError: H is not symmetric, or the starting point does not fit.
        SolveError: an element has no answer and `on_failure` is "raise".
    """
    refuse_tracing()
    arrays = [to_array(tensor) for tensor in inputs]
    data, start = arrays[: len(INPUTS)], arrays[len(INPUTS) :]
    warm = None
    if start[0] is not None:  # an element that failed last time starts cold
        warm = warm_start_arrays(SimpleNamespace(**dict(zip(START, start, strict=True))), setup.sizes, finite=False)
    result, symmetric, answered, kept = _solver.solve(setup.sizes.native, data, setup.native, warm, False, keep)
    # The solver has seen every H that it has solved with.
    if data[0] is not None and not (symmetric and setup.sizes.batch):
        check_symmetric(data[0], setup.symmetry_tolerance)
    fields, (objective, primal, dual, gap, status, iterations, *active) = list(result[:FIELDS]), result[-8:]
    fields.append(objective)
    outputs = [*fields, status, iterations, primal, dual, gap, *active]
    if not setup.sizes.batched:  # [0] would make a scalar of the objective
        outputs = [array.reshape(array.shape[1:]) for array in outputs]
    if not answered:
        erase_failures(fields, status)
        solution = LayerSolution(*map(torch.from_numpy, outputs))
        report_failures(setup.settings, status, Problem(setup.sizes, tuple(data)).as_dict(), solution)
    return data, outputs, kept


def erase_failures(fields: list[Array], status: Any) -> None:
    """Set elements without an answer to NaN, in place, so that leftovers are not mistaken for a solution."""
    for field in fields:
        field[status >= Status.DUAL_INFEASIBLE] = np.nan


def report_failures(settings: Settings, status: Any, problem: Mapping[str, Any], solution: Any) -> None:
    """Warn of elements without an answer, or raise."""
    failed = np.flatnonzero(status > Status.CLOSEST_FEASIBLE)
    counts = {Status(int(s)).name: int((status == s).sum()) for s in np.unique(status[failed])}
    what = ", ".join(f"{count} {name}" for name, count in counts.items())
    message = f"{failed.size} of {len(status)} QPs have no solution ({what}; first: element {failed[0]})"
    if settings.on_failure == "raise":
        raise SolveError(message, problem, solution)
    nan = settings.on_failure == "nan"
    consequence = "their gradients are NaN" if nan else "they contribute nothing to gradients"
    warnings.warn(f"{message}; {consequence}", RuntimeWarning, stacklevel=2)


def adjoint_arrays(
    setup: Setup,
    data: list[Array | None],
    fields: list[Array],
    status: Any,
    loss: list[Array | None],
    needed: list[bool],
    kept: Array | None = None,
) -> list[Array | None]:
    """Gradients of the data, the sum over the batch where it is shared; None where not needed."""
    refuse_tracing()
    gradients, residual, weakly_active, _, worst = _solver.adjoint(
        setup.sizes.native, data, fields, status, loss, needed, setup.derivative, kept
    )
    warn_of_residual(residual, worst)
    report_weakly_active(weakly_active)
    return list(gradients)


def warn_of_residual(residual: Array, worst: float) -> None:
    """Warn if the residual of an adjoint exceeds 1e-6; `worst`: the largest residual."""
    if worst > 1e-6:  # elements without a solution have NaN, which does not count: they have been reported
        inaccurate = residual > 1e-6
        warnings.warn(
            f"the adjoint of {int(inaccurate.sum())} QPs has a residual above 1e-6 "
            f"(largest {worst:.1e}); qp_adjoint shows which",
            RuntimeWarning,
            stacklevel=2,
        )


def _transformed() -> bool:
    """Whether derivatives must be composed of torch operations: they are differentiated further, or batched."""
    level: int = forward_ad._current_level
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or level >= 0


def _keep(ctx: Any, setup: Setup, *inputs: Optional, output: tuple[torch.Tensor, ...]) -> tuple[Optional, ...]:
    """Prepare the backward pass; returns what was saved for it."""
    ctx.setup = setup
    ctx.count = len(inputs) + 1
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[FIELDS + 1 :])
    saved = (*inputs[: len(INPUTS)], *output[:FIELDS], output[FIELDS + 1])
    ctx.save_for_backward(*saved)
    return saved


class Solve(torch.autograd.Function):
    """(setup, *inputs) -> the outputs of `solve_arrays`."""

    @staticmethod
    def forward(setup: Setup, *inputs: Optional) -> tuple[torch.Tensor, ...]:
        return tuple([torch.from_numpy(array) for array in solve_arrays(setup, inputs)[1]])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.arrays = None
        ctx.save_for_forward(*_keep(ctx, *inputs, output=output))

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Optional, ...]:
        saved = ctx.saved_tensors  # raises where one of them was changed in place
        if _transformed() or any(ctx.needs_input_grad[DATA + 1 : len(INPUTS) + 1]):
            gradients = differentiable_adjoint(ctx.setup, saved, grads[: FIELDS + 1])
        else:
            data, fields, status, kept = ctx.arrays or _as_arrays(saved)
            loss = [None if g is None else loss_array(g) for g in grads[: FIELDS + 1]]
            needed = list(ctx.needs_input_grad[1 : DATA + 1])
            found = adjoint_arrays(ctx.setup, data, fields, status, loss, needed, kept)
            gradients = [None if array is None else torch.from_numpy(array) for array in found]
        return (None, *gradients, *[None] * (ctx.count - 1 - len(gradients)))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Optional) -> tuple[Optional, ...]:
        with inside_jvp(ctx) as saved:
            return (*_tangent(ctx.setup, tuple(saved), tangents[: len(INPUTS)]), *[None] * 7)

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: Setup, *inputs: Optional) -> tuple[Any, Any]:
        axis, batch = info.batch_size, setup.sizes.batch
        outputs = Solve.apply(  # type: ignore[no-untyped-call]
            setup.with_batch(axis * batch), *fold_inputs(inputs, dims[1:], axis, batch)
        )
        if setup.sizes.batched:
            outputs = tuple(output.unflatten(0, (axis, batch)) for output in outputs)
        return outputs, (0,) * len(outputs)


class PlainSolve(torch.autograd.Function):
    """`Solve` outside transforms: less overhead; its arrays and factors are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, setup: Setup, *inputs: Optional) -> tuple[torch.Tensor, ...]:
        data, arrays, kept = solve_arrays(setup, inputs, keep=any(ctx.needs_input_grad))
        output = tuple([torch.from_numpy(array) for array in arrays])
        _keep(ctx, setup, *inputs, output=output)
        ctx.arrays = data, arrays[:FIELDS], arrays[FIELDS + 1].reshape(-1), kept
        return output

    backward = Solve.backward


def solve(setup: Setup, inputs: Sequence[Optional]) -> tuple[torch.Tensor, ...]:
    """The outputs of `solve_arrays`."""
    level: int = forward_ad._current_level
    function = Solve if level >= 0 or torch._C._are_functorch_transforms_active() else PlainSolve
    return function.apply(setup, *inputs)  # type: ignore[no-untyped-call,no-any-return]


def loss_array(grad: torch.Tensor) -> Array:
    refuse_old_vmap(grad)
    return np.ascontiguousarray(grad.numpy())


def _as_arrays(saved: tuple[Any, ...]) -> tuple[list[Array | None], list[Array], Any, None]:
    *tensors, status = saved
    arrays = [to_array(tensor) for tensor in tensors]
    fields = [a for a in arrays[len(INPUTS) :] if a is not None]
    return arrays[: len(INPUTS)], fields, status.reshape(-1).numpy(), None


def _point(setup: Setup, saved: Sequence[Any]) -> tuple[tuple[Optional, ...], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs and outputs of `SolutionPoint`, v and the pattern, and the status, all with the batch axis."""
    batch = setup.sizes.batch
    fields = zip(saved[len(INPUTS) : -1], setup.sizes.widths, strict=True)
    status = saved[-1].reshape(batch)
    tensors = (*saved[: len(INPUTS)], *(field.detach().reshape(batch, width) for field, width in fields), status)
    return tensors, *SolutionPoint.apply(setup, *tensors), status  # type: ignore[no-untyped-call]


def _differentiated_point(setup: Setup, saved: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """v, the pattern and the status as they enter first derivatives."""
    tensors, v, pattern, status = _point(setup, saved)
    return *where_differentiated(setup, tensors, v, pattern), status


def at_solution(
    setup: Setup, inputs: Sequence[Optional], fields: Sequence[torch.Tensor], status: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """x, y, z, w of a solution that is given by its nine fields and status, as a function of the data and weights."""
    v = Vectors.split(_point(setup, (*inputs, *fields, status))[1], setup.sizes)
    found = (v.x, v.z_eq, v.z_in, v.z_box)
    return found if setup.sizes.batched else tuple(t.squeeze(0) for t in found)


def _objective_gradient(named: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    g: torch.Tensor = named["g"]
    H = named["H"]
    return g if H is None else g + (x.unsqueeze(-2) @ (0.5 * (H + H.mT))).squeeze(-2)


def differentiable_adjoint(setup: Setup, saved: tuple[Any, ...], grads: tuple[Optional, ...]) -> list[Optional]:
    """Gradients of data and weights from those of nine fields and the objective (None: zero), by torch operations."""
    sizes, data, inputs = setup.sizes, saved[:DATA], saved[: len(INPUTS)]
    named = dict(zip(NAMES, data, strict=True))
    v, pattern, status = _differentiated_point(setup, saved)
    x = Vectors.split(v, sizes).x
    roles = Pattern(*pattern.unbind(-2))
    blocks = [
        v.new_zeros(sizes.batch, width) if grad is None else grad.reshape(sizes.batch, width)
        for grad, width in zip(grads, (*sizes.widths, 1), strict=True)
    ]
    x_bar, y_bar, z_bar, w_bar, s_eq, s_lower, s_upper, s_lb, s_ub, objective = blocks
    objective = torch.where((status <= Status.CLOSEST_FEASIBLE).unsqueeze(-1), objective, 0.0)

    share = roles.lower_share[..., sizes.n_eq :]
    lower, upper = torch.cat([s_lower, s_lb], -1), torch.cat([s_upper, s_ub], -1)
    shift = torch.where(share < 1, upper, 0.0) - torch.where(share > 0, lower, 0.0)
    v_bar = torch.cat(
        [
            x_bar + objective * _objective_gradient(named, x),
            torch.zeros_like(x),
            y_bar,
            z_bar,
            w_bar,
            roles.shifted * torch.cat([s_eq, shift], -1),
        ],
        dim=-1,
    )
    gradients = dict(zip(INPUTS, point_adjoint(setup, inputs, status, v, pattern, v_bar), strict=True))

    # What depends on the data directly: the objective, and the shifts of rows that are shifted on both sides.
    direct: dict[str, torch.Tensor] = {"g": objective * x}
    H = named["H"]
    if H is not None:
        left, right = 0.5 * objective * x, x
        outer = left.mT @ right if H.dim() == 2 else left.unsqueeze(-1) * right.unsqueeze(-2)
        direct["H"] = outer
    both = (share == 0.5) & (roles.shifted[..., sizes.n_eq :] == 1)
    half = torch.where(both, 0.5 * (lower + upper), 0.0)
    direct["l"], direct["lb"] = torch.split(half, [sizes.n_in, sizes.n], dim=-1)
    direct["u"], direct["ub"] = -direct["l"], -direct["lb"]
    for name, term in direct.items():
        gradient = gradients[name]
        direct_gradient = term if name in MATRICES else in_shape_of(named[name], term)
        if gradient is not None and direct_gradient is not None:
            gradients[name] = gradient + direct_gradient
    return [gradients[name] for name in INPUTS]


def _tangent(setup: Setup, saved: tuple[Any, ...], tangents: tuple[Optional, ...]) -> list[torch.Tensor]:
    """Changes of nine fields and the objective from those of data and weights (None: no change)."""
    sizes, data = setup.sizes, saved[:DATA]
    named, change = dict(zip(NAMES, data, strict=True)), dict(zip(INPUTS, tangents, strict=True))
    v, pattern, status = _differentiated_point(setup, saved)
    x = Vectors.split(v, sizes).x
    roles = Pattern(*pattern.unbind(-2))
    moved = Vectors.split(point_tangent(setup, data, status, v, pattern, tangents), sizes)

    share = roles.lower_share[..., sizes.n_eq :]
    shifted = roles.shifted[..., sizes.n_eq :] == 1
    lower, upper = (stacked_bounds(change[a], change[b], sizes, v) for a, b in (("l", "lb"), ("u", "ub")))
    s_eq = roles.shifted[..., : sizes.n_eq] * moved.s_eq
    s = torch.cat([moved.s_in, moved.s_box], -1)
    s_upper = torch.where(shifted & (share < 1), s + share * (lower - upper), 0.0)
    s_lower = torch.where(shifted & (share > 0), (1.0 - share) * (lower - upper) - s, 0.0)

    objective = (_objective_gradient(named, x) * moved.x).sum(-1)
    if change["g"] is not None:
        objective = objective + (change["g"] * x).sum(-1)
    if change["H"] is not None:
        objective = objective + 0.5 * ((x.unsqueeze(-2) @ change["H"]).squeeze(-2) * x).sum(-1)
    without = float("nan") if setup.settings.on_failure == "nan" else 0.0
    objective = torch.where(status <= Status.CLOSEST_FEASIBLE, objective, without)

    (in_lower, lb), (in_upper, ub) = (torch.split(t, [sizes.n_in, sizes.n], dim=-1) for t in (s_lower, s_upper))
    fields = [
        moved.x, moved.z_eq, moved.z_in, moved.z_box, s_eq, in_lower, in_upper, lb, ub, objective
    ]  # fmt: skip
    return fields if sizes.batched else [field.squeeze(0) for field in fields]
