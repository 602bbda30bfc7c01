"""Dynamics given by a torch function, with exact derivatives by automatic differentiation.

    x_next = f(x, u, parameters)         or, with an integrator,       dx/dt = f(x, u, parameters)

The methods are those of `RobotDynamics`, so that `MPC` accepts either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from qp_control.qp.problem import as_integer

Function = Callable[..., Tensor]


class TorchDynamics:
    """Discrete-time dynamics given by any torch function.

    function: f(x, u) or, with parameters, f(x, u, parameters), of x (..., nx), u (..., nu) and parameters (n_par,) or
        (..., n_par); it must treat leading axes as a batch. Without an integrator it returns the next state, with one
        the time derivative of the state.
    nx, nu: sizes of state (at least 1) and input (at least 0).
    dt: control period [s], required by an integrator; substeps: steps of the integrator within it.
    integrator: None, "rk4" or "euler".
    parameters: (n_par,) nominal parameters; None: the function takes none.
    input_limit: (nu,) largest |u|, which `MPC` uses if it is given none; None: no limits.

    Raises ValueError for bad arguments, and for a function that fails at zeros of these sizes or returns another shape.
    """

    vector_space = True

    def __init__(
        self,
        function: Function,
        nx: int,
        nu: int,
        *,
        dt: float | None = None,
        substeps: int = 1,
        integrator: Literal["rk4", "euler"] | None = None,
        parameters: Tensor | None = None,
        input_limit: Tensor | None = None,
    ) -> None:
        if integrator not in (None, "rk4", "euler"):
            raise ValueError(f"integrator is {integrator!r}, expected None, 'rk4' or 'euler'")
        if integrator is not None and dt is None:
            raise ValueError(f"dt is None, expected a positive control period for the integrator {integrator!r}")
        if dt is not None and not 0.0 < dt < float("inf"):
            raise ValueError(f"dt is {dt}, expected a positive control period")
        self.function, self.nx, self.nu = function, as_integer("nx", nx, 1), as_integer("nu", nu, 0)
        self.dt, self.substeps, self.integrator = dt, as_integer("substeps", substeps, 1), integrator
        if self.substeps > 1 and integrator is None:
            raise ValueError(f"substeps is {substeps}, expected 1, or more with an integrator")
        self.parameters = None if parameters is None else _vector("parameters", parameters).detach()
        infinite = torch.full((self.nu,), float("inf"), dtype=torch.float64)
        self.effort_limit = infinite if input_limit is None else _vector("input_limit", input_limit)
        if self.effort_limit.shape != infinite.shape or not bool((self.effort_limit > 0.0).all()):
            raise ValueError(f"input_limit is {self.effort_limit.tolist()}, expected {self.nu} positive numbers")
        self._check_function()

    def _check_function(self) -> None:
        """Raise ValueError unless the function takes and returns what it should; integrators would broadcast it."""
        x, u = (torch.zeros(2, size, dtype=torch.float64) for size in (self.nx, self.nu))
        try:
            found = self.function(x, u) if self.parameters is None else self.function(x, u, self.parameters)
        except (RuntimeError, IndexError, ValueError) as error:
            shapes = f"x (B, nx) = (2, {self.nx}) and u (B, nu) = (2, {self.nu})"
            raise ValueError(f"the function fails at zeros of shapes {shapes}: {error}") from error
        if not isinstance(found, Tensor):
            raise ValueError(f"the function returned a {type(found).__name__}, expected a torch.Tensor")
        if found.shape != x.shape:
            raise ValueError(f"the function returned shape {tuple(found.shape)}, expected (B, nx) = (2, {self.nx})")

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """State x_next (..., nx) one control period after x (..., nx) under the constant input u (..., nu)."""
        par = self.parameters if parameters is None else parameters
        arguments = (u,) if par is None else (u, par)
        f = self.function
        if self.integrator is None:
            return f(x, *arguments)
        assert self.dt is not None
        h = self.dt / self.substeps
        for _ in range(self.substeps):
            k1 = f(x, *arguments)
            if self.integrator == "euler":
                x = x + h * k1
                continue
            k2 = f(x + 0.5 * h * k1, *arguments)
            k3 = f(x + 0.5 * h * k2, *arguments)
            k4 = f(x + h * k3, *arguments)
            x = x + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        return x

    def linearize(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x_next (..., nx), A = dx_next/dx (..., nx, nx) and B = dx_next/du (..., nx, nu), all differentiable."""
        x_next, A, B = value_and_jacobians(self._step(parameters), x, u)
        return x_next, A, B

    def second_order(self, x: Tensor, u: Tensor, y: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Hessian (..., nx + nu, nx + nu) of y'x_next in (x, u), y (..., nx); without a graph."""
        return weighted_hessian(self._step(parameters), x, u, y)

    def _step(self, parameters: Tensor | None) -> Function:
        return lambda x, u: self.step(x, u, parameters)


def _vector(name: str, value: Any) -> Tensor:
    """`value` as a tensor (n,) without NaN."""
    given = torch.as_tensor(value, dtype=torch.float64)
    if given.ndim != 1 or bool(given.isnan().any()):
        raise ValueError(f"{name} is {given.tolist()}, expected a vector of numbers")
    return given


def value_and_jacobians(function: Function, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(x, u) (..., m) and its Jacobians (..., m, nx), (..., m, nu), differentiable if grad mode is on."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = [_leaf(t, graph) for t in (x, u)]
        value = function(*at)
        m = value.shape[-1]
        weights = torch.eye(m, dtype=value.dtype).view(m, *[1] * (value.ndim - 1), m).expand(m, *value.shape)
        jacobians = [rows.movedim(0, -2) for rows in _sweeps(value, at, weights, graph)]
    if not graph:
        value, jacobians = value.detach(), [j.detach() for j in jacobians]
    return value, jacobians[0], jacobians[1]


def weighted_hessian(function: Function, x: Tensor, u: Tensor, y: Tensor) -> Tensor:
    """Hessian of y'f(x, u) in (x, u) side by side, symmetric, without a graph."""
    nx, n = x.shape[-1], x.shape[-1] + u.shape[-1]
    joint = torch.cat([x, u], -1).detach().requires_grad_()
    with torch.enable_grad():
        value = (y.detach() * function(joint[..., :nx], joint[..., nx:])).sum()
        (slope,) = torch.autograd.grad(value, joint, create_graph=True)
        if not slope.requires_grad:  # an affine function
            return torch.zeros(*joint.shape, n, dtype=joint.dtype)
        weights = torch.eye(n, dtype=slope.dtype).view(n, *[1] * (slope.ndim - 1), n).expand(n, *slope.shape)
        (rows,) = _sweeps(slope, [joint], weights, False)
    hessian = rows.movedim(0, -2)
    return 0.5 * (hessian + hessian.transpose(-1, -2))


def _sweeps(value: Tensor, at: list[Tensor], weights: Tensor, graph: bool) -> list[Tensor]:
    """Reverse sweeps from `value` with all `weights` (m, ...) at once or, if an operation refuses that, in turn."""
    if not value.requires_grad:
        return [t.new_zeros(len(weights), *t.shape) for t in at]
    options: dict[str, Any] = {"create_graph": graph, "retain_graph": True, "allow_unused": True}
    try:
        found: list[Tensor | None] = list(torch.autograd.grad(value, at, weights, is_grads_batched=True, **options))
    except RuntimeError:
        single = [torch.autograd.grad(value, at, weight, **options) for weight in weights]
        found = [None if rows[0] is None else torch.stack(rows) for rows in zip(*single, strict=True)]
    pairs = zip(found, at, strict=True)
    return [t.new_zeros(len(weights), *t.shape) if g is None else g for g, t in pairs]


def _leaf(value: Any, graph: bool) -> Any:
    # An alias: one argument may be a function of another, and partial derivatives are wanted.
    return value.view_as(value) if graph and value.requires_grad else value.detach().requires_grad_()
