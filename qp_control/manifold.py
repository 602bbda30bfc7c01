"""States as errors from references, where configurations form no vector space (quaternions, cos and sin).

    error = x (-) r = (the tangent at r's configuration that leads to x's, v - v_r),   x = r (+) error

Errors (2 nv) form a vector space, less than half a turn away from the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control._robot import RigidBody

if TYPE_CHECKING:
    from qp_control.dynamics import RobotDynamics

# Central differences: truncation step^2 and rounding eps/step balance at about eps^(1/3).
_STEP = 6e-6


def _array(t: Tensor) -> Any:
    return t.detach().contiguous().numpy()


class Difference(torch.autograd.Function):
    """x (-) reference, differentiable by x."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, reference: Any, x: Tensor) -> Tensor:
        ctx.robot, ctx.reference = robot, reference
        ctx.save_for_backward(x)
        return torch.from_numpy(robot.difference(reference, _array(x)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return None, None, torch.from_numpy(ctx.robot.difference_adjoint(ctx.reference, _array(x), _array(g)))


class Integrate(torch.autograd.Function):
    """reference (+) error, twice differentiable by the error."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, reference: Any, error: Tensor) -> Tensor:
        ctx.robot, ctx.reference = robot, reference
        ctx.save_for_backward(error)
        return torch.from_numpy(robot.integrate(reference, _array(error)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (error,) = ctx.saved_tensors
        return None, None, _IntegrateAdjoint.apply(ctx.robot, ctx.reference, error, g)  # type: ignore[no-untyped-call]


class _IntegrateAdjoint(torch.autograd.Function):
    """The gradient of g'(reference (+) error) by the error."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, reference: Any, error: Tensor, g: Tensor) -> Tensor:
        ctx.robot, ctx.reference = robot, reference
        ctx.save_for_backward(error, g)
        return torch.from_numpy(robot.integrate_adjoint(reference, _array(error), _array(g)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Any:
        error, g = ctx.saved_tensors
        robot, reference = ctx.robot, ctx.reference
        by_g = torch.from_numpy(robot.integrate_tangent(reference, _array(error), _array(d)))
        # Symmetric second derivatives: the change of the gradient along d.
        h = _STEP / d.abs().amax(1, keepdim=True).clamp_min(1e-300)
        sides = [
            torch.from_numpy(robot.integrate_adjoint(reference, _array(error + side * h * d), _array(g)))
            for side in (1.0, -1.0)
        ]
        return None, None, (sides[0] - sides[1]) / (2.0 * h), by_g


class ErrorDynamics:
    """Dynamics of the errors of a robot from a reference, with the methods of `RobotDynamics`.

    robot: its dynamics. reference: states (nx,), (B, nx) or, over the stages of a horizon, (B, N + 1, nx).

    Errors, inputs and parameters have the axes (B, N) in front: stage k of `step` leads from an error from reference k
    to one from reference k + 1. Raises ValueError for references of other shapes, off the manifold, or that require
    grad: derivatives by them are not computed.
    """

    vector_space = True

    def __init__(self, robot: RobotDynamics, reference: Tensor) -> None:
        r = torch.as_tensor(reference)
        if r.ndim not in (1, 2, 3) or r.shape[-1] != robot.nx:
            got = tuple(r.shape)
            raise ValueError(f"reference has shape {got}, expected (nx,), (B, nx) or (B, N + 1, nx), nx {robot.nx}")
        if r.requires_grad:
            raise ValueError(
                "the reference requires grad, and for configurations that form no vector space no gradient is computed "
                "by it: detach it"
            )
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
        """References of the stages first..last-1 of N + 1, or what stands for all of them."""
        r = self.reference
        return r[:, first:last] if r.ndim == 3 and r.shape[1] > 1 else r

    def element(self, elements: Tensor) -> ErrorDynamics:
        """Those of a part of the batch."""
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
        """States of errors (B, N + 1, 2 nv), or of errors (B, 2 nv) of stage 0; their inverse."""
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
        """Hessian (B, N, 2 nv + nu, 2 nv + nu) of y'step(x, u), y (B, N, 2 nv); without graph."""
        return self.robot.second_order(x, u, y, parameters, charts=self._charts())

    def _charts(self) -> tuple[Tensor, Tensor]:
        return self.at(0, -1), self.at(1, None)

    def _first(self) -> Tensor:
        return self.reference[:, 0] if self.reference.ndim == 3 else self.reference
