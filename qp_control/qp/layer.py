"""QP as a differentiable torch layer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from qp_control.qp.compiled import solve_compiled
from qp_control.qp.function import solve as solve_eager
from qp_control.qp.kkt_functions import INPUTS, Setup
from qp_control.qp.layer_solution import LayerSolution
from qp_control.qp.problem import as_array, drop_unit_batch, sizes_of, symmetry_tolerance
from qp_control.qp.solve import START, start_field
from qp_control.settings import Settings, settings_or

__all__ = ["LayerSolution", "QPLayer"]


def _make_setup(
    shapes: tuple[torch.Size | None, ...], settings: Settings, tolerance: float
) -> tuple[Setup, tuple[int, ...]]:
    """Sizes and options of a call, and which inputs have a batch axis of one that stands for the whole batch."""
    present = {name: tuple(shape) for name, shape in zip(INPUTS, shapes, strict=True) if shape is not None}
    sizes = sizes_of(present)
    unit = tuple(k for k, name in enumerate(INPUTS) if name in present and drop_unit_batch(name, present[name], sizes))
    return Setup(sizes, settings, tolerance), unit


_cached_setup = lru_cache(maxsize=256)(_make_setup)


class QPLayer(torch.nn.Module):
    """Solves batches of QPs and differentiates through the solutions, including those of infeasible problems.

        minimise    1/2 x'H x + g'x
        subject to  A x = b,  l <= C x <= u,  lb <= x <= ub

    If the constraints of an element contradict each other, its solution is that of the QP whose constraints are shifted
    by the least amount, with status CLOSEST_FEASIBLE (Bambade et al., ICLR 2024); `Settings(infeasible="certify")`
    turns this off. Elements are independent: one without a solution does not affect the others and contributes nothing
    to gradients.

    Args:
        settings: options; `on_failure` says what happens to elements without an answer.

    Raises:
        TypeError: `settings` is not a `Settings`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.settings = settings_or(settings)

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
            g: (n,) or (B, n), required.
            A, b: (n_eq, n), (n_eq,), or batches of them.
            C, l, u: (n_in, n), (n_in,), (n_in,), or batches; a missing bound is infinite.
            lb, ub: (n,) or (B, n).
            weight_eq, weight_in, weight_box: weights of the shifts in the closest feasible problem.
            warm_start: any object with x, y, z, w, for example the result of an earlier call; `active_in` and
                `active_box`, if present, give the active set to try first (by their signs), otherwise the signs of z
                and w do.

        Data without a batch axis is shared; its gradient is the sum over the batch.

        Returns:
            The solutions; `status` is per element.

        Raises:
            ValueError: shapes that do not fit, H not symmetric.
            TypeError: an argument is not a floating-point tensor.
            SolveError: an element has no answer and `on_failure` is "raise".
        """
        inputs = [H, g, A, b, C, l, u, lb, ub, weight_eq, weight_in, weight_box]
        for name, value in zip(INPUTS, inputs, strict=True):
            check_tensor(name, value)
        shapes = tuple(None if value is None else value.shape for value in inputs)
        tolerance = symmetry_tolerance(torch.float64 if H is None else H.dtype)
        compiling = torch.compiler.is_compiling()
        setup, unit_batch = (_make_setup if compiling else _cached_setup)(shapes, self.settings, tolerance)
        for k in unit_batch:
            inputs[k] = inputs[k][0]  # type: ignore[index]
        assert g is not None  # otherwise sizes_of has raised
        start = [None] * len(START) if warm_start is None else [as_start(n, start_field(warm_start, n)) for n in START]

        # Casting inside the graph: gradients come back in the dtype and on the device of each input.
        solve = solve_compiled if compiling else solve_eager
        outputs = solve(setup, [value if is_native(value) else to_native(value) for value in (*inputs, *start)])
        if not is_native(g):
            outputs = tuple(t.to(g.device, g.dtype if t.is_floating_point() else None) for t in outputs)
        return LayerSolution(*outputs)


def check_tensor(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is None or a dense floating-point tensor."""
    if value is None:
        return
    if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
        what = f"a tensor of dtype {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"{name} is {what}, expected a floating-point tensor")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} is a tensor of layout {value.layout}, expected a dense one")


def is_native(value: torch.Tensor | None) -> bool:
    """Whether the solver can use it without conversion."""
    return value is None or (value.dtype is torch.float64 and value.is_cpu)


def to_native(value: torch.Tensor | None) -> torch.Tensor | None:
    """Converted for the solver."""
    return value if value is None or is_native(value) else value.to("cpu", torch.float64)


def as_start(name: str, value: Any) -> torch.Tensor:
    """A field of a starting point, detached from its graph."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if torch.compiler.is_compiling():  # which does not look into NumPy's dtypes
        return torch.as_tensor(value, dtype=torch.float64)
    return torch.as_tensor(as_array(f"warm_start.{name}", value))
