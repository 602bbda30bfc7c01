"""QP as a differentiable torch layer."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from qp_control import _solver
from qp_control.exceptions import SolveError
from qp_control.problem import (
    NAMES,
    WEIGHTS,
    Array,
    Problem,
    check_symmetric,
    drop_unit_batch,
    sizes_of,
    symmetry_tolerance,
)
from qp_control.qp import OUTPUTS, warm_start_arrays
from qp_control.settings import Settings, Status


class LayerSolution(NamedTuple):
    """Solutions of a batch of QPs, in the dtype and on the device of g; without batched data, without the axis B.

    H x + g + A'y + C'z + w = 0; z_i > 0: upper bound active, z_i < 0: lower bound active, the same for w.
    Gradients pass through all fields up to `objective`.
    """

    x: torch.Tensor
    """(B, n) minimisers."""
    y: torch.Tensor
    """(B, n_eq) multipliers of A x = b."""
    z: torch.Tensor
    """(B, n_in) multipliers of l <= C x <= u."""
    w: torch.Tensor
    """(B, n) multipliers of lb <= x <= ub."""
    s_eq: torch.Tensor
    """(B, n_eq) shift: A x = b + s_eq."""
    s_lower: torch.Tensor
    """(B, n_in) shift >= 0: l - s_lower <= C x."""
    s_upper: torch.Tensor
    """(B, n_in) shift >= 0: C x <= u + s_upper."""
    s_lb: torch.Tensor
    """(B, n) shift >= 0: lb - s_lb <= x."""
    s_ub: torch.Tensor
    """(B, n) shift >= 0: x <= ub + s_ub."""
    objective: torch.Tensor
    """(B,) 1/2 x'H x + g'x."""
    status: torch.Tensor
    """(B,) int64, see `Status`."""
    iterations: torch.Tensor
    """(B,) int64, Newton steps."""
    primal_residual: torch.Tensor
    """(B,) largest violation of a (shifted) constraint."""
    dual_residual: torch.Tensor
    """(B,) largest entry of |H x + g + A'y + C'z + w|."""
    duality_gap: torch.Tensor
    """(B,) |x'H x + g'x + b'y + u'z+ + l'z- + ub'w+ + lb'w-|."""


class _Call:
    """What one call of the layer carries to its backward pass, besides tensors."""

    def __init__(self, problem: Problem, settings: Settings, start: list[Array] | None) -> None:
        self.problem = problem
        self.settings = settings
        self.start = start
        self.solution: list[Array] = []
        self.status: Any = None
        self.rest: tuple[Any, ...] = ()


class _Solve(torch.autograd.Function):
    """Float64 arrays on the CPU in, float64 tensors on the CPU out."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        native = call.settings.native("closest")
        fields = _solver.solve(call.problem.sizes.native, call.problem.arrays, native, call.start)
        *arrays, objective, primal, dual, gap, status, iterations = fields
        call.solution = arrays[: len(OUTPUTS)]
        call.status = status
        call.rest = (status, iterations, primal, dual, gap)
        _mask_failures(call, objective)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return tuple(torch.from_numpy(array) for array in (*call.solution, objective))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            # create_graph: what this returns would silently count as a constant.
            raise NotImplementedError("QPLayer has first derivatives only: create_graph=True is not supported")
        call: _Call = ctx.call
        needed = list(ctx.needs_input_grad[1:])
        loss = [None if grad is None else np.ascontiguousarray(grad.numpy()) for grad in grads]
        gradients, residual, _, _ = _solver.adjoint(
            call.problem.sizes.native,
            call.problem.arrays,
            call.solution,
            call.status,
            loss[:-1],
            loss[-1],
            needed,
            call.settings.threads,
        )
        if call.settings.on_failure == "nan":
            _spread_nan(call, gradients)
        if (residual > 1e-6).any():
            warnings.warn(
                f"the adjoint of {int((residual > 1e-6).sum())} QPs has a residual above 1e-6 "
                f"(largest {residual.max():.1e}); qp_adjoint shows which",
                RuntimeWarning,
                stacklevel=2,
            )
        return (None, *(None if array is None else torch.from_numpy(array) for array in gradients))


def _mask_failures(call: _Call, objective: Array) -> None:
    """Elements without an answer: NaN outputs, so that nobody takes a leftover for a solution."""
    without = call.status >= Status.DUAL_INFEASIBLE
    if not without.any():
        return
    for array in (*call.solution, objective):
        array[without] = np.nan


def _spread_nan(call: _Call, gradients: tuple[Array | None, ...]) -> None:
    failed = call.status > Status.CLOSEST_FEASIBLE
    if not failed.any():
        return
    for name, gradient in zip(NAMES, gradients, strict=True):
        if gradient is not None:
            per_element = gradient.ndim > len(call.problem.sizes.shape(name))
            gradient[failed if per_element else ...] = np.nan


def _report(call: _Call) -> None:
    """Warn or raise about elements that were not solved, as the settings ask for."""
    failed = np.flatnonzero(call.status > Status.CLOSEST_FEASIBLE)
    if failed.size == 0:
        return
    counts = {Status(int(s)).name: int((call.status == s).sum()) for s in np.unique(call.status[failed])}
    what = ", ".join(f"{count} {name}" for name, count in counts.items())
    message = f"{failed.size} of {len(call.status)} QPs have no solution ({what}; first: element {failed[0]})"
    if call.settings.on_failure == "raise":
        raise SolveError(message, call.problem.as_dict(), tuple(call.solution))
    warnings.warn(message + "; they contribute nothing to gradients", RuntimeWarning, stacklevel=5)


def _to_arrays(arguments: dict[str, torch.Tensor]) -> dict[str, Array]:
    arrays = {}
    for name, tensor in arguments.items():
        arrays[name] = np.ascontiguousarray(tensor.detach().to("cpu", torch.float64).numpy())
    return arrays


class QPLayer(torch.nn.Module):
    """Solves batches of QPs and differentiates through the solutions, also of infeasible problems.

        minimise    1/2 x'H x + g'x
        subject to  A x = b,  l <= C x <= u,  lb <= x <= ub

    Where the constraints of an element contradict each other, its solution is that of the QP whose constraints are
    shifted by the least amount, with status CLOSEST_FEASIBLE (Bambade et al., ICLR 2024);
    `Settings(infeasible="certify")` turns that off. Elements are independent: one without a solution changes nothing
    for its neighbours, and contributes nothing to gradients.

    Args:
        settings: options; `on_failure` says what happens to elements without an answer.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.settings = settings or Settings()

    def extra_repr(self) -> str:
        return repr(self.settings)

    def forward(
        self,
        H: torch.Tensor | None = None,
        g: torch.Tensor | None = None,
        A: torch.Tensor | None = None,
        b: torch.Tensor | None = None,
        C: torch.Tensor | None = None,
        l: torch.Tensor | None = None,
        u: torch.Tensor | None = None,
        lb: torch.Tensor | None = None,
        ub: torch.Tensor | None = None,
        *,
        weight_eq: torch.Tensor | None = None,
        weight_in: torch.Tensor | None = None,
        weight_box: torch.Tensor | None = None,
        warm_start: Any = None,
    ) -> LayerSolution:
        """Solve.

        Args:
            H: (n, n) or (B, n, n), symmetric positive semidefinite; None: zero.
            g: (n,) or (B, n), always needed.
            A, b: (n_eq, n), (n_eq,), or batches of them.
            C, l, u: (n_in, n), (n_in,), (n_in,), or batches; a missing bound is infinite.
            lb, ub: (n,) or (B, n).
            weight_eq, weight_in, weight_box: weights of the shifts in the closest feasible problem; not
                differentiated.
            warm_start: anything with x, y, z, w, for example what an earlier call returned.

        Data without the batch axis is shared; its gradient is the sum over the batch.

        Returns:
            The solutions; `status` is per element.

        Raises:
            ValueError: shapes that do not fit, H not symmetric.
            TypeError: an argument is not a floating-point tensor.
            SolveError: an element has no answer and `on_failure` is "raise".
        """
        given = dict(zip(NAMES, (H, g, A, b, C, l, u, lb, ub), strict=True))
        given |= dict(zip(WEIGHTS, (weight_eq, weight_in, weight_box), strict=True))
        tensors = {name: value for name, value in given.items() if value is not None}
        for name, value in tensors.items():
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                raise TypeError(f"{name} is {_describe(value)}, expected a floating-point tensor")
        sizes = sizes_of({name: tuple(value.shape) for name, value in tensors.items()})
        for name, value in tensors.items():
            if drop_unit_batch(name, tuple(value.shape), sizes):
                tensors[name] = value[0]
        arrays = _to_arrays(tensors)
        if "H" in tensors:
            check_symmetric(arrays["H"], symmetry_tolerance(tensors["H"].dtype))
        problem = Problem(sizes, tuple(arrays.get(name) for name in NAMES + WEIGHTS))
        call = _Call(problem, self.settings, _start(warm_start, problem))

        # Casting inside the graph: gradients come back in the dtype and on the device of each input.
        inputs = [None if name not in tensors else tensors[name].to("cpu", torch.float64) for name in NAMES]
        outputs = _Solve.apply(call, *inputs)  # type: ignore[no-untyped-call]
        _report(call)
        like = tensors["g"]
        fields = [output.to(like.device, like.dtype) for output in outputs]
        status, iterations, *residuals = (torch.from_numpy(array).to(like.device) for array in call.rest)
        fields += [status, iterations, *(value.to(like.dtype) for value in residuals)]
        return LayerSolution(*(fields if sizes.batched else [field[0] for field in fields]))


def _describe(value: Any) -> str:
    return f"a tensor of dtype {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__


class _Point(NamedTuple):
    x: Array
    y: Array
    z: Array
    w: Array


def _start(warm_start: Any, problem: Problem) -> list[Array] | None:
    if warm_start is None:
        return None
    fields = []
    for name in "xyzw":
        value = getattr(warm_start, name)
        if isinstance(value, torch.Tensor):
            value = value.detach().to("cpu", torch.float64).numpy()
        fields.append(np.asarray(value, dtype=np.float64))
    point = _Point(*fields)
    # An element that failed last time starts cold.
    return warm_start_arrays(_Point(*(np.nan_to_num(f, nan=0.0) for f in point)), problem)
