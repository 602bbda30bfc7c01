"""The layer under torch.compile: custom operators, which are not traced.

An operator has tensors and scalars as arguments, so the settings are flattened. It has a first-order backward pass, all
that torch.compile asks for; forward mode and torch.func transforms inside a compiled function are refused, since an
operator would silently give zero derivatives there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields as fields_of
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qp_control.qp.function import FIELDS, adjoint_arrays, solve_arrays
from qp_control.qp.kkt_functions import DATA, INPUTS, Setup, fold_inputs, to_array
from qp_control.qp.problem import NAMES, sizes_of
from qp_control.qp.solve import START
from qp_control.settings import Settings

OPTIONS = tuple(field.name for field in fields_of(Settings))
_TYPES = {
    "eps_abs": "float", "eps_rel": "float", "reduced_eps_rel": "float", "eps_gap": "float?", "max_iter": "int",
    "time_limit": "float?", "infeasible": "str?", "on_failure": "str", "weakly_active": "str", "smoothing": "float",
    "threads": "int",
}  # fmt: skip
_INPUTS = ", ".join(f"Tensor? {name}" for name in INPUTS)
SETTINGS_SCHEMA = ", ".join(f"{_TYPES[name]} {name}" for name in OPTIONS) + ", float symmetry_tolerance"
_START = ", ".join(f"Tensor? {name}" for name in START)
_COUNT = len(INPUTS)
_TENSORS = _COUNT + len(START)
_SOLVE_OUTPUTS = FIELDS + 8


def _setup(inputs: Sequence[Tensor | None], options: Sequence[Any]) -> Setup:
    shapes = {name: tuple(t.shape) for name, t in zip(INPUTS, inputs, strict=True) if t is not None}
    return Setup(sizes_of(shapes), Settings(**dict(zip(OPTIONS, options[:-1], strict=True))), options[-1])


def refuse_forward_mode() -> None:
    """Raise NotImplementedError inside forward-mode differentiation, where an operator would give zeros."""
    # While tracing, and while running: a function compiled earlier may be called with dual numbers.
    if forward_ad._current_level >= 0:
        raise NotImplementedError(
            "the layer has no forward mode under torch.compile: take torch.func.jvp of the eager layer"
        )


@torch.library.custom_op(
    "qp_control::solve",
    mutates_args=(),
    schema=f"({_INPUTS}, {_START}, {SETTINGS_SCHEMA}) -> ({', '.join(['Tensor'] * _SOLVE_OUTPUTS)})",
)
def _solve(*arguments: Any) -> tuple[Tensor, ...]:
    refuse_forward_mode()
    inputs, options = arguments[:_TENSORS], arguments[_TENSORS:]
    arrays = solve_arrays(_setup(inputs[:_COUNT], options), inputs)[1]
    return tuple(torch.from_numpy(array) for array in arrays)


@_solve.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    refuse_forward_mode()
    sizes = _setup(arguments[:_COUNT], arguments[_TENSORS:]).sizes
    g = arguments[NAMES.index("g")]
    lead = (sizes.batch,) if sizes.batched else ()
    outputs = [g.new_empty((*lead, width)) for width in sizes.widths]
    integers = [g.new_empty(lead, dtype=torch.int64) for _ in range(2)]
    sides = [g.new_empty((*lead, width), dtype=torch.int8) for width in (sizes.n_in, sizes.n)]
    return (*outputs, g.new_empty(lead), *integers, *(g.new_empty(lead) for _ in range(3)), *sides)


@torch.library.custom_op(
    "qp_control::adjoint",
    mutates_args=(),
    schema=(
        f"({_INPUTS}, Tensor[] fields, Tensor status, Tensor?[] loss, bool[] needed, {SETTINGS_SCHEMA}) -> Tensor[]"
    ),
)
def _adjoint(*arguments: Any) -> list[Tensor]:
    inputs, (fields, status, loss, needed), options = (
        arguments[:_COUNT],
        arguments[_COUNT : _COUNT + 4],
        arguments[_COUNT + 4 :],
    )
    gradients = adjoint_arrays(
        _setup(inputs, options),
        [to_array(t) for t in inputs],
        [a for a in map(to_array, fields) if a is not None],
        status.reshape(-1).numpy(),
        [to_array(t) for t in loss],
        needed,
    )
    return [torch.from_numpy(array) for array in gradients if array is not None]


@_adjoint.register_fake
def _(*arguments: Any) -> list[Tensor]:
    inputs, needed = arguments[:DATA], arguments[_COUNT + 3]
    return [torch.empty(t.shape, dtype=t.dtype) for t, want in zip(inputs, needed, strict=True) if want]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[_TENSORS:]
    ctx.mark_non_differentiable(*output[FIELDS + 1 :])
    ctx.save_for_backward(*inputs[:_COUNT], *output[:FIELDS], output[FIELDS + 1])


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, fields, status = (
        ctx.saved_tensors[:_COUNT],
        ctx.saved_tensors[_COUNT:-1],
        ctx.saved_tensors[-1],
    )
    if any(ctx.needs_input_grad[DATA:_COUNT]):
        raise NotImplementedError("gradients by shift weights are not compiled: leave the layer out of torch.compile")
    needed = [bool(want) and t is not None for want, t in zip(ctx.needs_input_grad[:DATA], inputs[:DATA], strict=True)]
    found = iter(
        torch.ops.qp_control.adjoint(*inputs, list(fields), status, list(grads[: FIELDS + 1]), needed, *ctx.options)
    )
    gradients = [next(found) if want else None for want in needed]
    return (*gradients, *[None] * (_TENSORS - DATA + len(ctx.options)))


def _vmap(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    tensors, options = arguments[:_TENSORS], arguments[_TENSORS:]
    one = [t if dim is None else t.select(dim, 0) for t, dim in zip(tensors, dims[: len(tensors)], strict=True)]
    sizes = _setup(one[:_COUNT], options).sizes
    folded = fold_inputs(tensors, dims[: len(tensors)], info.batch_size, sizes.batch)
    outputs = torch.ops.qp_control.solve(*folded, *options)
    if sizes.batched:
        outputs = tuple(output.unflatten(0, (info.batch_size, sizes.batch)) for output in outputs)
    return outputs, (0,) * len(outputs)


_solve.register_vmap(_vmap)
_solve.register_autograd(_backward, setup_context=_setup_context)


def solve_compiled(setup: Setup, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """`solve` of function.py for a function that is being compiled."""
    s = setup.settings
    options = [getattr(s, name) for name in OPTIONS]
    outputs: tuple[Tensor, ...] = torch.ops.qp_control.solve(*inputs, *options, setup.symmetry_tolerance)
    return outputs
