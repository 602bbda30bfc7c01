"""The optimal-control layer under torch.compile: custom operators, see qp/compiled.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qp_control.ocp.function import adjoint_arrays, solve_arrays
from qp_control.ocp.kkt_functions import FIELDS, OcpSetup
from qp_control.ocp.problem import OCP_NAMES, ocp_sizes, without_stage_axis
from qp_control.ocp.solve import POINT
from qp_control.qp.compiled import OPTIONS, SETTINGS_SCHEMA, refuse_forward_mode
from qp_control.qp.kkt_functions import to_array
from qp_control.settings import Settings

_COUNT, _START = len(OCP_NAMES), len(POINT)
# The operators' arguments: the data by their names, the starting point with a prefix, since names must differ.
_DATA_SCHEMA = ", ".join(f"Tensor? {name}" for name in OCP_NAMES)
_START_SCHEMA = ", ".join(f"Tensor? start_{name}" for name in POINT)
_OPTIONS_SCHEMA = f"int horizon, {SETTINGS_SCHEMA}"


def _setup(inputs: Sequence[Tensor | None], options: Sequence[Any]) -> OcpSetup:
    shapes = {
        name: without_stage_axis(name, tuple(t.shape))
        for name, t in zip(OCP_NAMES, inputs, strict=True)
        if t is not None
    }
    horizon, *settings, tolerance = options
    return OcpSetup(ocp_sizes(shapes, horizon), Settings(**dict(zip(OPTIONS, settings, strict=True))), tolerance)


@torch.library.custom_op(
    "qp_control::solve_ocp",
    mutates_args=(),
    schema=f"({_DATA_SCHEMA}, {_START_SCHEMA}, {_OPTIONS_SCHEMA}) -> ({', '.join(['Tensor'] * (FIELDS + 6))})",
)
def _solve(*arguments: Any) -> tuple[Tensor, ...]:
    refuse_forward_mode()
    inputs, options = arguments[: _COUNT + _START], arguments[_COUNT + _START :]
    return tuple(torch.from_numpy(array) for array in solve_arrays(_setup(inputs[:_COUNT], options), inputs))


@_solve.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    refuse_forward_mode()
    sizes = _setup(arguments[:_COUNT], arguments[_COUNT + _START :]).sizes
    like = arguments[OCP_NAMES.index("A")]
    lead = (sizes.batch,) if sizes.batched else ()
    outputs = [like.new_empty((*lead, *shape)) for shape in sizes.field_shapes]
    integers = [like.new_empty(lead, dtype=torch.int64) for _ in range(2)]
    return (*outputs, like.new_empty(lead), *integers, *(like.new_empty(lead) for _ in range(3)))


@torch.library.custom_op(
    "qp_control::ocp_adjoint",
    mutates_args=(),
    schema=(
        f"({_DATA_SCHEMA}, Tensor[] fields, Tensor status, Tensor?[] loss, bool[] needed, {_OPTIONS_SCHEMA})"
        " -> Tensor[]"
    ),
)
def _adjoint(*arguments: Any) -> list[Tensor]:
    inputs, (fields, status, loss, needed) = arguments[:_COUNT], arguments[_COUNT : _COUNT + 4]
    gradients = adjoint_arrays(
        _setup(inputs, arguments[_COUNT + 4 :]),
        [to_array(t) for t in inputs],
        [to_array(t) for t in fields],
        status.reshape(-1).numpy(),
        [to_array(t) for t in loss],
        needed,
    )
    return [torch.from_numpy(array) for array in gradients if array is not None]


@_adjoint.register_fake
def _(*arguments: Any) -> list[Tensor]:
    inputs, needed = arguments[:_COUNT], arguments[_COUNT + 3]
    return [torch.empty(t.shape, dtype=t.dtype) for t, want in zip(inputs, needed, strict=True) if want]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[_COUNT + _START :]
    ctx.mark_non_differentiable(*output[FIELDS + 1 :])
    ctx.save_for_backward(*inputs[:_COUNT], *output[:FIELDS], output[FIELDS + 1])


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    inputs, fields, status = saved[:_COUNT], saved[_COUNT:-1], saved[-1]
    needed = [bool(want) and t is not None for want, t in zip(ctx.needs_input_grad[:_COUNT], inputs, strict=True)]
    found = iter(
        torch.ops.qp_control.ocp_adjoint(*inputs, list(fields), status, list(grads[: FIELDS + 1]), needed, *ctx.options)
    )
    return (*(next(found) if want else None for want in needed), *[None] * (_START + len(ctx.options)))


_solve.register_autograd(_backward, setup_context=_setup_context)


def solve_compiled(setup: OcpSetup, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """`solve` of function.py for a function that is being compiled."""
    padded = [*inputs, *[None] * (_COUNT + _START - len(inputs))]
    options = [getattr(setup.settings, name) for name in OPTIONS]
    outputs: tuple[Tensor, ...] = torch.ops.qp_control.solve_ocp(
        *padded, setup.sizes.horizon, *options, setup.symmetry_tolerance
    )
    return outputs
