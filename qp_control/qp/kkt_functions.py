"""Derivatives of a QP's solution to any order, in torch operations.

With v = (x, eta, z, s) the conditions at a solution are F(v, data) = 0, and K = dF/dv is symmetric (both are written
out in kkt_system.hpp). Everything follows from two operations that are each other's derivatives:

    v(data)            dv = -K^-1 dF           gradient of data: -(dF/d data)' K^-1 v_bar
    K(data)^-1 rhs     ds = K^-1 (drhs - dK s)   K_bar = -q s', rhs_bar = q = K^-1 s_bar

`SolutionPoint` is the first as an implicit function (its value is taken from a solution), `KktSolve` the second. Both
differentiate by calling `KktSolve`, so they can be nested to any depth.

Tensors are float64 on the CPU. A vector has (B, count, 2 n + 2 rows) entries, rows = n_eq + n_in + n. Which rows take
part, `pattern` (B, 5, rows), is constant between two kinks of the solution and has no derivative, except for the
weights of shifted rows, which are inputs, and the compliance of smoothed rows, a function of v and the data.

Smoothing applies to the first derivative, taken at the exact solution. Further derivatives are those of the first one
as a function of the data, in which v moves like the solution without smoothing (`where_differentiated`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from qp_control import _solver
from qp_control.qp.kkt_products import (
    Optional,
    Pattern,
    Vectors,
    change_by_pattern,
    change_of_products,
    change_of_weights,
    matrix_gradients,
    pattern_gradient,
    stacked_bounds,
    weight_gradients,
    with_compliance,
    with_weights,
)
from qp_control.qp.problem import MATRICES, NAMES, WEIGHTS, Array, Sizes
from qp_control.settings import Settings
from qp_control.tracing import refuse_tracing

DATA = len(NAMES)
INPUTS = NAMES + WEIGHTS


@dataclass(frozen=True)
class Setup:
    """What a call needs besides tensors."""

    sizes: Sizes
    settings: Settings
    symmetry_tolerance: float = 1e-10

    def with_batch(self, batch: int) -> Setup:
        return Setup(self.sizes._replace(batch=batch, batched=True), self.settings, self.symmetry_tolerance)

    @cached_property
    def native(self) -> _solver.Settings:
        return self.settings.native("closest")

    @cached_property
    def derivative(self) -> _solver.DerivativeSettings:
        return self.settings.native_derivative()

    @property
    def smoothed(self) -> bool:
        return self.settings.weakly_active == "smoothed"

    @cached_property
    def exact(self) -> Setup:
        """The same without smoothing."""
        return replace(self, settings=replace(self.settings, weakly_active="least_squares"))


def to_array(tensor: Optional) -> Array | None:
    if tensor is None:
        return None
    array: Array = (tensor.detach() if tensor.requires_grad else tensor).resolve_neg().numpy()
    return array if tensor.is_contiguous() else np.ascontiguousarray(array)


def refuse_old_vmap(tensor: torch.Tensor) -> None:
    """That of torch.autograd.grad(is_grads_batched=True) and torch.autograd.functional, which bypasses the vmap
    rules."""
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        raise NotImplementedError(
            "is_grads_batched and vectorize=True of torch.autograd do not reach into the layer: "
            "take vmap, jacrev or jacfwd of torch.func"
        )


def fold(tensor: Optional, dim: int | None, rank: int, axis: int, batch: int) -> Optional:
    """Join a vmapped axis with the batch axis; `rank` is that of the tensor without both."""
    if tensor is None:
        return None
    batched = tensor.dim() - (dim is not None) > rank
    if dim is None:
        if not batched:
            return tensor  # stays shared
        tensor = tensor.unsqueeze(0)
    else:
        tensor = tensor.movedim(dim, 0)
        if not batched:
            tensor = tensor.unsqueeze(1)
    one = tensor.shape[2:]
    return tensor.expand(axis, batch, *one).reshape(axis * batch, *one)


def rank_of(name: str) -> int:
    return 2 if name in MATRICES else 1


def fold_inputs(inputs: tuple[Optional, ...], dims: tuple[int | None, ...], axis: int, batch: int) -> list[Optional]:
    """`fold` for data, weights and whatever follows them (one axis per element)."""
    ranks = [rank_of(name) for name in INPUTS] + [1] * (len(inputs) - len(INPUTS))
    return [fold(t, d, r, axis, batch) for t, d, r in zip(inputs, dims, ranks, strict=True)]


@contextmanager
def inside_jvp(ctx: Any) -> Iterator[list[Any]]:
    """The saved tensors in the form in which a jvp may use them.

    torch switches forward mode off inside a jvp, since the saved tensors carry the tangents of their own level. Without
    these it can be on again, so that derivatives at outer levels are not lost.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        unpack: Any = forward_ad.unpack_dual
        yield [t if t is None else unpack(t, level=0).primal for t in ctx.saved_tensors]


class KktSolve(torch.autograd.Function):
    """K^-1 rhs; rhs is (B, count, .), with one factorisation per element for any count."""

    @staticmethod
    def forward(
        setup: Setup, H: Optional, A: Optional, C: Optional, status: torch.Tensor, pattern: torch.Tensor, rhs: Any
    ) -> torch.Tensor:
        refuse_old_vmap(rhs)
        solved = _solver.kkt_solve(
            setup.sizes.native,
            [to_array(matrix) for matrix in (H, A, C)],
            status.numpy(),
            pattern.detach().contiguous().numpy(),
            rhs.detach().contiguous().numpy(),
            setup.derivative,
        )
        return torch.from_numpy(solved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.setup, *tensors = inputs
        ctx.save_for_backward(*tensors[:-1], output)
        ctx.save_for_forward(*tensors[:-1], output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Optional, ...]:
        H, A, C, status, pattern, solved = ctx.saved_tensors
        q = KktSolve.apply(ctx.setup, H, A, C, status, pattern, grad)  # type: ignore[no-untyped-call]
        matrices = matrix_gradients(solved, q, Pattern(*pattern.unbind(-2)), ctx.setup.sizes, (H, A, C))
        by_pattern = None
        if ctx.needs_input_grad[5]:
            by_pattern = pattern_gradient(solved, q, pattern, ctx.setup.sizes, A, C)
        return (None, *(None if m is None else -m for m in matrices), None, by_pattern, q)

    @staticmethod
    def jvp(
        ctx: Any, _: None, dH: Optional, dA: Optional, dC: Optional, _s: Any, dpattern: Optional, drhs: Optional
    ) -> torch.Tensor:
        with inside_jvp(ctx) as (H, A, C, status, pattern, solved):
            rhs = -change_of_products(dH, dA, dC, solved, Pattern(*pattern.unbind(-2)), ctx.setup.sizes)
            if dpattern is not None:
                rhs = rhs + change_by_pattern(dpattern, solved, ctx.setup.sizes, A, C)
            if drhs is not None:
                rhs = rhs + drhs
            return KktSolve.apply(ctx.setup, H, A, C, status, pattern, rhs)  # type: ignore[no-untyped-call,no-any-return]

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: Setup, *tensors: Any) -> tuple[torch.Tensor, int]:
        *system, rhs = tensors
        axis, batch = info.batch_size, setup.sizes.batch
        if all(dim is None for dim in dims[1:-1]):
            # Only right-hand sides: more of them for the same factorisation.
            moved = rhs.movedim(dims[-1], 1)
            out = KktSolve.apply(setup, *system, moved.flatten(1, 2))  # type: ignore[no-untyped-call]
            return out.unflatten(1, moved.shape[1:3]), 1
        folded = [fold(t, d, r, axis, batch) for t, d, r in zip(tensors, dims[1:], (2, 2, 2, 0, 2, 2), strict=True)]
        out = KktSolve.apply(setup.with_batch(axis * batch), *folded)  # type: ignore[no-untyped-call]
        return out.unflatten(0, (axis, batch)), 0


class SolutionPoint(torch.autograd.Function):
    """v and the pattern at a solution (9 fields and the status); v is an implicit function of the data."""

    @staticmethod
    def forward(setup: Setup, *tensors: Any) -> tuple[torch.Tensor, torch.Tensor]:
        refuse_tracing()
        data, fields, status = tensors[: len(INPUTS)], tensors[len(INPUTS) : -1], tensors[-1]
        v, pattern = _solver.solution_point(
            setup.sizes.native,
            [to_array(t) for t in data],
            [t.detach().contiguous().numpy() for t in fields],
            status.numpy(),
            setup.derivative,
        )
        return torch.from_numpy(v), torch.from_numpy(pattern)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.setup, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Optional, ...]:
        *tensors, v, pattern = ctx.saved_tensors
        inputs, status = tensors[: len(INPUTS)], tensors[-1]
        v, pattern = where_differentiated(ctx.setup, tensors, v, pattern)
        gradients = point_adjoint(ctx.setup, inputs, status, v, pattern, grad)
        return (None, *gradients, *[None] * (len(tensors) - len(INPUTS)))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple[torch.Tensor, None]:
        with inside_jvp(ctx) as (*tensors, v, pattern):
            data, status = tensors[:DATA], tensors[-1]
            v, pattern = where_differentiated(ctx.setup, tensors, v, pattern)
            return point_tangent(ctx.setup, data, status, v, pattern, tangents[: len(INPUTS)]), None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], setup: Setup, *tensors: Any) -> tuple[Any, tuple[int, int]]:
        axis, batch = info.batch_size, setup.sizes.batch
        *inputs, status = tensors
        folded = fold_inputs(tuple(inputs), dims[1:-1], axis, batch)
        out = SolutionPoint.apply(  # type: ignore[no-untyped-call]
            setup.with_batch(axis * batch), *folded, fold(status, dims[-1], 0, axis, batch)
        )
        return tuple(t.unflatten(0, (axis, batch)) for t in out), (0, 0)


def where_differentiated(
    setup: Setup, tensors: Sequence[Optional], v: torch.Tensor, pattern: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """v and the pattern of `SolutionPoint` of these inputs as functions of the data, as they enter first
    derivatives."""
    weights = tensors[DATA : len(INPUTS)]
    if any(weight is not None for weight in weights):
        pattern = with_weights(setup.sizes, weights, pattern)
    if not setup.smoothed:
        return v, pattern
    v, _ = SolutionPoint.apply(setup.exact, *tensors)  # type: ignore[no-untyped-call]
    named = dict(zip(NAMES, tensors[:DATA], strict=True))
    return v, with_compliance(setup.sizes, setup.settings.smoothing, named, v, pattern)


def solve_system(
    setup: Setup, data: Any, status: torch.Tensor, pattern: torch.Tensor, rhs: torch.Tensor
) -> torch.Tensor:
    """`KktSolve` of one (B, .) right-hand side."""
    H, A, C = (data[NAMES.index(name)] for name in ("H", "A", "C"))
    solved = KktSolve.apply(setup, H, A, C, status, pattern, rhs.unsqueeze(-2))  # type: ignore[no-untyped-call]
    return solved.squeeze(-2)  # type: ignore[no-any-return]


def point_adjoint(
    setup: Setup, inputs: Any, status: torch.Tensor, v: torch.Tensor, pattern: torch.Tensor, grad: torch.Tensor
) -> list[Optional]:
    """Gradients of data and weights from that of v, each in the shape of its input."""
    sizes, named = setup.sizes, dict(zip(INPUTS, inputs, strict=True))
    roles = Pattern(*pattern.unbind(-2))
    q = solve_system(setup, inputs[:DATA], status, pattern, grad)
    matrices = matrix_gradients(
        v.unsqueeze(-2), q.unsqueeze(-2), roles, sizes, tuple(named[name] for name in ("H", "A", "C"))
    )
    parts = Vectors.split(q, sizes)
    _, share_in, share_box = (part.squeeze(-2) for part in roles.rows("lower_share", sizes))
    gradients = dict(zip(("H", "A", "C"), (None if m is None else -m for m in matrices), strict=True))
    gradients |= {
        "g": -parts.x,
        "b": parts.z_eq,
        "l": share_in * parts.z_in,
        "u": (1.0 - share_in) * parts.z_in,
        "lb": share_box * parts.z_box,
        "ub": (1.0 - share_box) * parts.z_box,
    }
    if any(named[name] is not None for name in WEIGHTS):
        found = weight_gradients(v.unsqueeze(-2), q.unsqueeze(-2), pattern, sizes, named["A"], named["C"])
        gradients |= dict(zip(WEIGHTS, found, strict=True))
    return [in_shape_of(named[name], gradients.get(name)) for name in INPUTS]


def in_shape_of(given: Optional, gradient: Optional) -> Optional:
    """Nothing for an absent input; the sum over the batch for shared data (matrices have it already)."""
    if given is None or gradient is None:
        return None
    return gradient.sum(0) if gradient.dim() > given.dim() else gradient


def point_tangent(
    setup: Setup, data: Any, status: torch.Tensor, v: torch.Tensor, pattern: torch.Tensor, tangents: Any
) -> torch.Tensor:
    """Change of v from those of data and weights (None: no change)."""
    sizes, change = setup.sizes, dict(zip(INPUTS, tangents, strict=True))
    roles = Pattern(*pattern.unbind(-2))
    moved = change_of_products(change["H"], change["A"], change["C"], v.unsqueeze(-2), roles, sizes).squeeze(-2)
    share = roles.lower_share[..., sizes.n_eq :]
    lower, upper = (stacked_bounds(change[a], change[b], sizes, v) for a, b in (("l", "lb"), ("u", "ub")))
    b = v.new_zeros(sizes.batch, sizes.n_eq) if change["b"] is None else change["b"].expand(sizes.batch, -1)
    bounds = roles.active * torch.cat([b, share * lower + (1.0 - share) * upper], dim=-1)
    n, rows = sizes.n, roles.active.shape[-1]
    x, eta, z, s = torch.split(moved, [n, n, rows, rows], dim=-1)
    if change["g"] is not None:
        x = x + change["g"]
    right = -torch.cat([x, eta, z - bounds, s], dim=-1)
    weights = [change[name] for name in WEIGHTS]
    if any(weight is not None for weight in weights):
        A, C = (data[NAMES.index(name)] for name in ("A", "C"))
        moved_pattern = change_of_weights(weights, pattern, sizes)
        right = right + change_by_pattern(moved_pattern, v.unsqueeze(-2), sizes, A, C).squeeze(-2)
    return solve_system(setup, data, status, pattern, right)
