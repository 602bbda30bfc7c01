"""Autograd functions that evaluate a robot's model at given configurations, velocities and accelerations.

All are evaluated for whole batches by one call of C++. Inputs: q (B, nq), v, a, tau (B, nv), float64 on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control._robot import RigidBody


def array(t: Tensor | None) -> Any:
    return None if t is None else t.detach().contiguous().numpy()


def tensor(a: Any) -> Tensor | None:
    return None if a is None else torch.from_numpy(a)


def check_tensor(name: str, value: Any) -> None:
    """Raise ValueError unless it is a tensor, TypeError for one of integers: results have the arguments' dtype."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}, expected a torch.Tensor")
    if not value.is_floating_point():
        raise TypeError(f"{name} is a tensor of dtype {value.dtype}, expected a floating-point tensor")


def call(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


class ForwardDynamics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, robot: RigidBody, q: Tensor, v: Tensor, tau: Tensor, par: Tensor | None) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(q, v, tau, par)
        return torch.from_numpy(robot.forward_dynamics(array(q), array(v), array(tau), array(par), False, False)[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        q, v, tau, par = ctx.saved_tensors
        _, need_q, need_v, need_tau, need_par = ctx.needs_input_grad
        g_x, g_tau, g_par = ctx.robot.forward_dynamics_adjoint(
            array(q), array(v), array(tau), array(par), array(g), need_q or need_v, need_tau, need_par
        )
        nq = q.shape[1]
        both = tensor(g_x)
        g_q, g_v = (None, None) if both is None else (both[:, :nq], both[:, nq:])
        return None, g_q, g_v, tensor(g_tau), tensor(g_par)


class InverseDynamics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, robot: RigidBody, q: Tensor, v: Tensor, a: Tensor, par: Tensor | None) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(q, v, a, par)
        return torch.from_numpy(robot.inverse_dynamics(array(q), array(v), array(a), array(par)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        q, v, a, par = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[1:])
        found = ctx.robot.inverse_dynamics_adjoint(array(q), array(v), array(a), array(par), array(g), wanted)
        return None, *map(tensor, found)


class MassMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, robot: RigidBody, q: Tensor, par: Tensor | None) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(q, par)
        return torch.from_numpy(robot.mass_matrix(array(q), array(par)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        q, par = ctx.saved_tensors
        found = ctx.robot.mass_matrix_adjoint(array(q), array(par), array(g), *ctx.needs_input_grad[1:])
        return None, *map(tensor, found)


class FrameMotions(torch.autograd.Function):
    """(robot, frames, aligned, q, v, a) -> position, rotation, velocity, acceleration."""

    @staticmethod
    def forward(
        ctx: Any, robot: RigidBody, frames: list[int], aligned: bool, q: Tensor, v: Tensor, a: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.arguments = robot, frames, aligned
        ctx.save_for_backward(q, v, a)
        ctx.set_materialize_grads(False)
        return tuple(map(torch.from_numpy, robot.frames(array(q), array(v), array(a), frames, aligned)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        robot, frames, aligned = ctx.arguments
        motion = map(array, ctx.saved_tensors)
        found = robot.frames_adjoint(*motion, frames, aligned, *map(array, grads), list(ctx.needs_input_grad[3:]))
        return None, None, None, *map(tensor, found)


class FrameJacobians(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, robot: RigidBody, frames: list[int], aligned: bool, q: Tensor) -> Tensor:
        ctx.arguments = robot, frames, aligned
        ctx.save_for_backward(q)
        return torch.from_numpy(robot.frame_jacobians(array(q), frames, aligned))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        robot, frames, aligned = ctx.arguments
        (q,) = ctx.saved_tensors
        return None, None, None, tensor(robot.frame_jacobians_adjoint(array(q), frames, aligned, array(g)))


class Centroid(torch.autograd.Function):
    """(robot, q, v, a, parameters) -> position, momentum, its rate."""

    @staticmethod
    def forward(ctx: Any, robot: RigidBody, q: Tensor, v: Tensor, a: Tensor, par: Tensor | None) -> tuple[Tensor, ...]:
        ctx.robot = robot
        ctx.save_for_backward(q, v, a, par)
        ctx.set_materialize_grads(False)
        return tuple(map(torch.from_numpy, robot.centroid(array(q), array(v), array(a), array(par))))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        motion = map(array, ctx.saved_tensors)
        found = ctx.robot.centroid_adjoint(*motion, *map(array, grads), list(ctx.needs_input_grad[1:]))
        return None, *map(tensor, found)
