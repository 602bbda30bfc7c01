"""Optimal-control QP as a differentiable torch layer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from qp_control.ocp.compiled import solve_compiled
from qp_control.ocp.function import at_solution, solve_arrays
from qp_control.ocp.function import solve as solve_eager
from qp_control.ocp.kkt_functions import FIELDS, OcpSetup
from qp_control.ocp.layer_solution import OcpLayerSolution
from qp_control.ocp.problem import OCP_NAMES, OcpQP, ocp_sizes, with_stage_axis
from qp_control.ocp.solve import POINT
from qp_control.qp.kkt_products import Optional
from qp_control.qp.layer import as_start, check_tensor, is_native, to_native
from qp_control.qp.problem import symmetry_tolerance
from qp_control.qp.solve import field_of
from qp_control.settings import Settings, settings_or

__all__ = ["OcpLayer", "OcpLayerSolution"]


def _make_setup(
    shapes: tuple[torch.Size | None, ...], horizon: int | None, settings: Settings, tolerance: float
) -> OcpSetup:
    present = {name: tuple(shape) for name, shape in zip(OCP_NAMES, shapes, strict=True) if shape is not None}
    return OcpSetup(ocp_sizes(present, horizon), settings, tolerance)


_cached_setup = lru_cache(maxsize=256)(_make_setup)


def _start(warm_start: Any) -> list[torch.Tensor]:
    return [as_start(name, field_of("warm_start", warm_start, name, POINT)) for name in POINT]


class OcpLayer(torch.nn.Module):
    """Solves batches of optimal-control QPs at a cost linear in the horizon, and differentiates through the solutions.

        minimise    sum_{k<N} 1/2 [x; u]'[Q S'; S R][x; u] + q'x + r'u, + 1/2 x_N'Q_N x_N + q_N'x_N
        subject to  x_0 = x0, x_{k+1} = A x_k + B u_k + c
                    lower <= C x_k + D u_k <= upper, k < N, lower_N <= C_N x_N <= upper_N
                    u_lower <= u_k <= u_upper, k < N, x_lower <= x_k <= x_upper, k >= 1

    Rows of C, D and C_N may be soft, with weights of the linear and quadratic cost of their slacks, see `solve_ocp`.

    If the constraints of an element contradict each other, all except the dynamics and soft rows are shifted by the
    least amount, with status CLOSEST_FEASIBLE; `Settings(infeasible="certify")` turns this off. Elements are
    independent.

    Forward mode, higher derivatives (create_graph) and torch.func transforms are linear in the horizon too.

    Args:
        settings: options; `on_failure` says what happens to elements without an answer.
        horizon: N, if no argument has a stage axis.

    Raises:
        TypeError: `settings` is not a `Settings`.
    """

    def __init__(self, settings: Settings | None = None, *, horizon: int | None = None) -> None:
        super().__init__()
        self.settings = settings_or(settings)
        self.horizon = horizon

    def extra_repr(self) -> str:
        return f"{self.settings}, horizon={self.horizon}"

    def forward(
        self,
        A: torch.Tensor,
        B: torch.Tensor,
        x0: torch.Tensor | None = None,
        *,
        Q: torch.Tensor | None = None,
        R: torch.Tensor | None = None,
        S: torch.Tensor | None = None,
        q: torch.Tensor | None = None,
        r: torch.Tensor | None = None,
        Q_N: torch.Tensor | None = None,
        q_N: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        C: torch.Tensor | None = None,
        D: torch.Tensor | None = None,
        lower: torch.Tensor | None = None,
        upper: torch.Tensor | None = None,
        C_N: torch.Tensor | None = None,
        lower_N: torch.Tensor | None = None,
        upper_N: torch.Tensor | None = None,
        x_lower: torch.Tensor | None = None,
        x_upper: torch.Tensor | None = None,
        u_lower: torch.Tensor | None = None,
        u_upper: torch.Tensor | None = None,
        slack_linear: torch.Tensor | None = None,
        slack_quadratic: torch.Tensor | None = None,
        slack_linear_N: torch.Tensor | None = None,
        slack_quadratic_N: torch.Tensor | None = None,
        warm_start: Any = None,
    ) -> OcpLayerSolution:
        """Solve.

        Args:
            A .. slack_quadratic_N: as in `solve_ocp`; a leading axis N is one of stages, a further axis B one of
                elements. The gradient of data that stages or elements share is the sum over them.
            warm_start: any object with x, u, y, z, z_N, w_x, w_u, for example the result of an earlier call.

        Returns:
            The solutions; `status` is per element.

        Raises:
            ValueError: shapes that do not fit, Q or R not symmetric.
            TypeError: an argument is not a floating-point tensor.
            SolveError: an element has no answer and `on_failure` is "raise".
        """
        inputs = [
            Q, R, S, q, r, Q_N, q_N, A, B, c, x0, C, D, lower, upper, C_N, lower_N, upper_N,
            x_lower, x_upper, u_lower, u_upper, slack_linear, slack_quadratic, slack_linear_N, slack_quadratic_N,
        ]  # fmt: skip
        for name, value in zip(OCP_NAMES, inputs, strict=True):
            if value is not None:
                check_tensor(name, value)
        shapes = tuple([None if value is None else value.shape for value in inputs])
        tolerance = max([symmetry_tolerance(t.dtype) for t in (Q, R, Q_N, A) if t is not None])
        compiling = torch.compiler.is_compiling()
        setup = (_make_setup if compiling else _cached_setup)(shapes, self.horizon, self.settings, tolerance)
        named = zip(OCP_NAMES, inputs, strict=True)
        native = [None if value is None else to_native(with_stage_axis(name, value)) for name, value in named]
        start = [] if warm_start is None else [to_native(t) for t in _start(warm_start)]
        solve = solve_compiled if compiling else solve_eager
        outputs = solve(setup, [*native, *start])
        if not is_native(A):
            outputs = tuple(t.to(A.device, A.dtype if t.is_floating_point() else None) for t in outputs)
        return OcpLayerSolution(*outputs)

    def solve(self, qp: OcpQP, warm_start: Any = None) -> OcpLayerSolution:
        """Solve `qp`, float64 on the CPU, without gradients; failures only show in the status, never raise."""
        setup, inputs = self._native(qp)
        start = [] if warm_start is None else _start(warm_start)
        arrays = solve_arrays(setup, [*inputs, *start], report=False)
        return OcpLayerSolution(*map(torch.from_numpy, arrays))

    def at_solution(self, qp: OcpQP, solution: OcpLayerSolution) -> OcpLayerSolution:
        """A known solution of `qp` with its derivatives with respect to the data, without solving.

        The Hessians of the stages may be indefinite, as in the QP at the converged solution of a nonlinear problem; the
        Hessian need only be positive definite on the null space of the dynamics and the active constraints. Elements
        whose status says that they have no solution contribute nothing to gradients. All tensors are float64 on the
        CPU.
        """
        setup, inputs = self._native(qp)
        fields = at_solution(setup, inputs, solution[:FIELDS], solution.status)
        return OcpLayerSolution(*fields, *solution[FIELDS:])

    def _native(self, qp: OcpQP) -> tuple[OcpSetup, list[Optional]]:
        data = qp.data()
        inputs = [data.get(name) for name in OCP_NAMES]
        shapes = tuple(None if value is None else value.shape for value in inputs)
        setup = _cached_setup(shapes, qp.horizon or self.horizon, self.settings, symmetry_tolerance(torch.float64))
        named = zip(OCP_NAMES, inputs, strict=True)
        return setup, [None if value is None else to_native(with_stage_axis(name, value)) for name, value in named]
