"""The assembly of a controller's QP as a function that can be differentiated twice.

Its first derivatives are analytic. With f(x) = <by, problem(x)> and a direction u of x = (q, v, numbers, parameters),
second derivatives need two changes along u: that of the problem, the derivative of <u, gradient of f> with respect to
`by`, and that of the gradient of f, the one with respect to x, as the Hessian is symmetric. Both are fourth-order
finite differences of the analytic functions along that one direction, accurate to about ten digits unless the rule of a
joint limit switches within a few times 1e-4 of the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control._robot import WholeBody
from qp_control.robot.motions import array, call, tensor

_STEP = 3e-4  # relative to 1 + |x|; truncation and rounding errors are then both about 1e-12
Optional = Tensor | None


class Directions(NamedTuple):
    """Where quaternions and (cos, sin), which have length one, are in q and among the numbers."""

    q: list[slice]
    numbers: list[slice]


def assemble(
    native: WholeBody, directions: Directions, q: Tensor, v: Tensor, packed: Tensor, parameters: Optional
) -> tuple[Tensor, ...]:
    """The problem's eleven arrays."""
    found: tuple[Tensor, ...] = call(_Problem, native, directions, q, v, packed, parameters)
    return found


def _adjoint(
    native: WholeBody, at: Sequence[Optional], by: Sequence[Optional], wanted: Sequence[bool]
) -> list[Optional]:
    """Gradients with respect to q, v, numbers (of each element) and parameters."""
    q, v, packed, parameters = map(array, at)
    return [tensor(a) for a in native.adjoint(q, v, packed, parameters, [array(g) for g in by], list(wanted))]


class _Problem(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, native: WholeBody, directions: Directions, q: Tensor, v: Tensor, packed: Tensor, parameters: Optional
    ) -> tuple[Tensor, ...]:
        ctx.native, ctx.directions = native, directions
        ctx.save_for_backward(q, v, packed, parameters)
        ctx.set_materialize_grads(False)
        return tuple(map(torch.from_numpy, native.problem(array(q), array(v), array(packed), array(parameters))))

    @staticmethod
    def backward(ctx: Any, *by: Optional) -> Any:
        at, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():
            return None, None, *call(_Gradient, ctx.native, ctx.directions, wanted, *at, *by)
        found = _adjoint(ctx.native, at, by, wanted)
        return None, None, *_summed(found, at)


def _summed(gradients: Sequence[Optional], at: Sequence[Optional]) -> list[Optional]:
    """Gradients of each element, summed where all elements share one vector."""
    pairs = zip(gradients, at, strict=True)
    return [g if g is None or x is None or g.ndim == x.ndim else g.sum(0) for g, x in pairs]


class _Gradient(torch.autograd.Function):
    """(.., q, v, numbers, parameters, gradients w.r.t. the eleven arrays) -> gradients w.r.t. the first four."""

    @staticmethod
    def forward(
        ctx: Any, native: WholeBody, directions: Directions, wanted: list[bool], *tensors: Optional
    ) -> tuple[Optional, ...]:
        ctx.native, ctx.directions = native, directions
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        at, by = tensors[:4], tensors[4:]
        return tuple(_summed(_adjoint(native, at, by, wanted), at))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *u: Optional) -> Any:
        tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        at, by = tensors[:4], tensors[4:]
        batch = len(at[0])
        # Each element along its own direction, with its own step.
        point = [None if x is None else x.expand(batch, x.shape[-1]) for x in at]
        ways = [None if d is None else d.expand(batch, d.shape[-1]) for d in u]
        pairs = [(d, x) for d, x in zip(ways, point, strict=True) if d is not None and x is not None]
        length = torch.stack([(d.abs() / (1.0 + x.abs())).amax(1) for d, x in pairs if x.shape[1]]).amax(0)
        step = torch.where(length > 0.0, _STEP / length, 0.0).unsqueeze(1)
        inverse = torch.where(length > 0.0, length / _STEP, 0.0)

        def shifted(k: int) -> list[Optional]:
            return _along(ctx, point, [None if d is None else k * step * d for d in ways], by, wanted)

        changes = zip(shifted(1), shifted(-1), shifted(2), shifted(-2), strict=True)
        found: list[Optional] = []
        for ahead, behind, far_ahead, far_behind in changes:
            if ahead is None or behind is None or far_ahead is None or far_behind is None:
                found.append(None)
                continue
            change = (8.0 * (ahead - behind) - (far_ahead - far_behind)) / 12.0
            change = torch.where(ahead.isfinite(), change, 0.0)  # infinite bounds stay
            found.append(change * inverse.reshape(-1, *[1] * (change.ndim - 1)))
        return None, None, None, *_summed(found[:4], at), *found[4:]


def _along(
    ctx: Any, point: Sequence[Optional], way: Sequence[Optional], by: Sequence[Optional], wanted: Sequence[bool]
) -> list[Optional]:
    """The gradients and the problem at a displaced point."""
    moved = [x if d is None or x is None else x + d for x, d in zip(point, way, strict=True)]
    lengths: list[tuple[int, slice, Tensor]] = []
    for k, blocks in ((0, ctx.directions.q), (2, ctx.directions.numbers)):
        there = moved[k]
        if way[k] is None or there is None:
            continue
        for block in blocks:
            part = there[:, block]
            length = part.norm(dim=1, keepdim=True)
            there[:, block] = part / length
            lengths.append((k, block, length))
    gradients: list[Optional] = [None] * 4
    if any(wanted[:4]):
        gradients = _adjoint(ctx.native, moved, by, wanted[:4])
        for k, block, length in lengths:
            gradient = gradients[k]
            if gradient is not None:
                gradient[:, block] /= length
    problem: list[Optional] = [None] * len(by)
    if any(wanted[4:]):
        found = ctx.native.problem(*map(array, moved))
        problem = [torch.from_numpy(a) if w else None for a, w in zip(found, wanted[4:], strict=True)]
    return [*gradients, *problem]
