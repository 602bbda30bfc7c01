"""States as errors from references, for configurations that do not form a vector space (quaternions, cos and sin).

    error = x (-) r = (the tangent at r's configuration that leads to x's, v - v_r),   x = r (+) error

Errors (2 nv) of less than half a turn form a vector space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control._robot import RigidBody

if TYPE_CHECKING:
    from qp_control.robot.dynamics import RobotDynamics

# Central differences: truncation step^2 and rounding eps/step balance at about eps^(1/3).
_STEP = 6e-6


def _array(t: Tensor) -> Any:
    return t.detach().contiguous().numpy()


def _tensor(a: Any) -> Tensor | None:
    return None if a is None else torch.from_numpy(a)


class Difference(torch.autograd.Function):
    """x (-) reference, the reference (1, nx) or (B, nx)."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, reference: Tensor, x: Tensor) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(reference, x)
        return torch.from_numpy(robot.difference(_array(reference), _array(x)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        reference, x = ctx.saved_tensors
        _, want_reference, want_x = ctx.needs_input_grad
        by_x, by_reference = ctx.robot.difference_adjoint(
            _array(reference), _array(x), _array(g), want_x, want_reference
        )
        return None, _tensor(by_reference), _tensor(by_x)


class Integrate(torch.autograd.Function):
    """reference (+) error, twice differentiable along the error."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, reference: Tensor, error: Tensor) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(reference, error)
        return torch.from_numpy(robot.integrate(_array(reference), _array(error)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        reference, error = ctx.saved_tensors
        _, want_reference, want_error = ctx.needs_input_grad
        by_reference = None
        if want_reference:
            _, found = ctx.robot.integrate_adjoint(_array(reference), _array(error), _array(g), False, True)
            by_reference = _tensor(found)
        by_error = None
        if want_error:
            by_error = _IntegrateAdjoint.apply(ctx.robot, reference, error, g)  # type: ignore[no-untyped-call]
        return None, by_reference, by_error


class _IntegrateAdjoint(torch.autograd.Function):
    """The gradient of g'(reference (+) error) with respect to the error."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, reference: Tensor, error: Tensor, g: Tensor) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(reference, error, g)
        found, _ = robot.integrate_adjoint(_array(reference), _array(error), _array(g), True, False)
        assert found is not None
        return torch.from_numpy(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Any:
        reference, error, g = ctx.saved_tensors
        robot, r = ctx.robot, _array(reference)
        _, want_reference, want_error, want_g = ctx.needs_input_grad
        by_g = torch.from_numpy(robot.integrate_tangent(r, _array(error), _array(d))) if want_g else None
        by_error = by_reference = None
        if want_error or want_reference:
            # Second derivatives commute: the change of both gradients along d.
            h = _STEP / d.abs().amax(1, keepdim=True).clamp_min(1e-300)
            ahead, behind = (
                robot.integrate_adjoint(r, _array(error + side * h * d), _array(g), want_error, want_reference)
                for side in (1.0, -1.0)
            )
            by_error, by_reference = (
                None if a is None else (torch.from_numpy(a) - torch.from_numpy(b)) / (2.0 * h)
                for a, b in zip(ahead, behind, strict=True)
            )
        return None, by_reference, by_error, by_g


class ErrorDynamics:
    """Dynamics of the errors of a robot from a reference, with the methods of `RobotDynamics`.

    robot: its dynamics. reference: states (nx,), (B, nx) or, over the stages of a horizon, (B, N + 1, nx).

    Errors, inputs and parameters have leading axes (B, N): stage k of `step` leads from an error relative to reference
    k to one relative to reference k + 1. Raises ValueError for references of other shapes or off the manifold.
    """

    vector_space = True

    def __init__(self, robot: RobotDynamics, reference: Tensor) -> None:
        r = torch.as_tensor(reference)
        if r.ndim not in (1, 2, 3) or r.shape[-1] != robot.nx:
            got = tuple(r.shape)
            raise ValueError(f"reference has shape {got}, expected (nx,), (B, nx) or (B, N + 1, nx), nx {robot.nx}")
        r = r.to(device="cpu", dtype=torch.float64)
        good = robot.on_manifold(r)
        if not bool(good.all()):
            index = tuple(int(k) for k in (~good).nonzero()[0])
            where = f"reference[{', '.join(map(str, index))}]" if index else "reference"
            raise ValueError(f"{where} is not on the manifold, expected finite numbers and unit quaternions")
        self.robot, self.nx, self.nu, self.dt = robot, robot.ndx, robot.nu, robot.dt
        self.effort_limit = robot.effort_limit
        self.reference = r[:, None] if r.ndim == 2 else r
        """(nx,), (B, 1, nx) or (B, N + 1, nx)."""

    @property
    def parameters(self) -> Tensor:
        return self.robot.parameters

    def at(self, first: int, last: int | None) -> Tensor:
        """References of the stages first..last-1 of N + 1, or the one for all of them."""
        r = self.reference
        return r[:, first:last] if r.ndim == 3 and r.shape[1] > 1 else r

    def element(self, elements: Tensor) -> ErrorDynamics:
        """The dynamics of a part of the batch."""
        r = self.reference
        if r.ndim == 1 or len(r) == 1:
            return self
        part = object.__new__(ErrorDynamics)
        part.__dict__ = self.__dict__ | {"reference": r[elements]}
        return part

    def to_error(self, x: Tensor) -> Tensor:
        """Errors of trajectories x (B, N + 1, nx), or of states x (B, nx) of stage 0."""
        if x.ndim == 2:
            return self.robot.difference(self._first(), x)
        return self.robot.difference(self.reference, x)

    def from_error(self, error: Tensor) -> Tensor:
        """States for errors (B, N + 1, 2 nv), or for errors (B, 2 nv) of stage 0; the inverse of `to_error`."""
        if error.ndim == 2:
            return self.robot.integrate(self._first(), error)
        return self.robot.integrate(self.reference, error)

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Errors (B, N, 2 nv) one control period after the errors x (B, N, 2 nv) under the constant inputs u."""
        return self.robot.step(x, u, parameters, charts=self._charts())

    def linearize(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`step` and its derivatives (B, N, 2 nv, 2 nv), (B, N, 2 nv, nu), all differentiable."""
        return self.robot.linearize(x, u, parameters, charts=self._charts())

    def second_order(self, x: Tensor, u: Tensor, y: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Hessian (B, N, 2 nv + nu, 2 nv + nu) of y'step(x, u), y (B, N, 2 nv); without a graph."""
        return self.robot.second_order(x, u, y, parameters, charts=self._charts())

    def _charts(self) -> tuple[Tensor, Tensor]:
        return self.at(0, -1), self.at(1, None)

    def _first(self) -> Tensor:
        return self.reference[:, 0] if self.reference.ndim == 3 else self.reference
