"""Batched differentiable rigid-body dynamics.

    M(q) qdd + n(q, v) = S u - d o v        x = (q, v),   x_next = step(x, u)

q: configuration (nq), v: velocity (nv), u: generalized forces of the actuated joints (nu) [N or N m], d: viscous
damping (nv) [N s/m or N m s/rad]. Derivatives of the state live in its tangent space (2 nv): for joints whose
configurations do not form a vector space (free-flyer, quaternions, continuous joints given as cos and sin), gradients
with respect to q are the least-norm ones, tangent to the manifold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control._robot import Integrator, RigidBody
from qp_control.qp.problem import as_integer
from qp_control.robot import manifold
from qp_control.robot.model import RobotModel
from qp_control.robot.motions import array, call, tensor

INTEGRATORS = ("rk4", "semi_implicit", "euler")


def _charts(now: Tensor | None, after: Tensor | None) -> Any:
    return None if now is None else (array(now), array(after))


def _linearized(
    robot: RigidBody, x: Tensor, u: Tensor, par: Tensor | None, now: Tensor | None, after: Tensor | None
) -> tuple[Tensor, ...]:
    found = robot.linearize(array(x), array(u), array(par), False, charts=_charts(now, after))
    return tuple(map(torch.from_numpy, found[:3]))


class _Step(torch.autograd.Function):
    """(robot, x, u, parameters, now, after), the last two the references of errors, or None."""

    @staticmethod
    def forward(
        ctx: Any, robot: RigidBody, x: Tensor, u: Tensor, par: Tensor | None, now: Tensor | None, after: Tensor | None
    ) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(x, u, par, now, after)
        return torch.from_numpy(robot.step(array(x), array(u), array(par), charts=_charts(now, after)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return _gradients(ctx, g, None, None)


class _Linearize(torch.autograd.Function):
    """The same with A and B."""

    @staticmethod
    def forward(
        ctx: Any, robot: RigidBody, x: Tensor, u: Tensor, par: Tensor | None, now: Tensor | None, after: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.robot = robot
        ctx.save_for_backward(x, u, par, now, after)
        ctx.set_materialize_grads(False)
        return _linearized(robot, x, u, par, now, after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_next: Tensor | None, g_A: Tensor | None, g_B: Tensor | None) -> Any:
        return _gradients(ctx, g_next, g_A, g_B)


def _gradients(ctx: Any, g_next: Tensor | None, g_A: Tensor | None, g_B: Tensor | None) -> Any:
    x, u, par, now, after = ctx.saved_tensors
    found = ctx.robot.linearize_adjoint(
        array(x),
        array(u),
        array(par),
        array(g_next),
        array(g_A),
        array(g_B),
        *ctx.needs_input_grad[1:],
        charts=_charts(now, after),
    )
    return None, *map(tensor, found)


class RobotDynamics(RobotModel):
    """A robot model (see `RobotModel`) with a control period: time steps and their derivatives.

    dt: control period [s]; substeps: integrator steps within it.
    integrator: "rk4" (order 4, also on quaternions), "semi_implicit" or "euler".

    The methods are differentiable with respect to the state, the input and the parameters. Raises ValueError for bad
    arguments.
    """

    def __init__(
        self,
        model_or_urdf: Any,
        *,
        dt: float,
        substeps: int = 1,
        integrator: Literal["rk4", "semi_implicit", "euler"] = "rk4",
        actuated: Sequence[str | int] | None = None,
        threads: int = 0,
    ) -> None:
        if integrator not in INTEGRATORS:
            raise ValueError(f"integrator is {integrator!r}, expected one of {', '.join(INTEGRATORS)}")
        self.dt, self.substeps, self.integrator = float(dt), as_integer("substeps", substeps, 1), integrator
        scheme = getattr(Integrator, integrator)
        self._load(model_or_urdf, actuated, threads, dt=self.dt, substeps=self.substeps, integrator=scheme)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"dt": self.dt, "substeps": self.substeps, "integrator": self.integrator}

    @overload
    def step(self, x: NDArray[Any], u: NDArray[Any], parameters: Any = None) -> NDArray[Any]: ...
    @overload
    def step(
        self, x: Tensor, u: Tensor, parameters: Tensor | None = None, *, charts: tuple[Tensor, Tensor] | None = None
    ) -> Tensor: ...
    def step(self, x: Any, u: Any, parameters: Any = None, *, charts: tuple[Tensor, Tensor] | None = None) -> Any:
        """State x_next (B, nx) one control period after x under the constant input u.

        x (B, nx) = (q, v), u (B, nu), parameters (n_par,) or (B, n_par). If all of them are NumPy arrays of exactly
        these shapes, torch is not used, and the result is an array.
        charts: two states (nx,) or (B, nx), now and next: x and x_next are then errors (B, 2 nv) from them, x (-) now
        and x_next (-) next, see `difference`. Errors of less than half a turn form a vector space.
        """
        arrays = isinstance(x, np.ndarray) and isinstance(u, np.ndarray) and not isinstance(parameters, Tensor)
        if arrays and charts is None:
            return self._robot.step(x, u, parameters)
        (x_, u_), par, finish, around = self._inputs(
            {"x": (x, self._size(charts)), "u": (u, self.nu)}, parameters, charts
        )
        return finish(call(_Step, self._robot, x_, u_, par, *around))

    def linearize(
        self, x: Tensor, u: Tensor, parameters: Tensor | None = None, *, charts: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_next (B, nx) and its tangent derivatives A = dx_next/dx (B, 2 nv, 2 nv), B = dx_next/du (B, 2 nv, nu).

        charts: as in `step`; A and B are then the derivatives with respect to errors.
        All three are differentiable, A and B only with charts or for configurations in a vector space (otherwise
        ValueError in the backward pass).
        """
        (x_, u_), par, finish, around = self._inputs(
            {"x": (x, self._size(charts)), "u": (u, self.nu)}, parameters, charts
        )
        # In control loops the graph's book-keeping takes as long as several stages.
        arguments = (self._robot, x_, u_, par, *around)
        x_next, A, B = call(_Linearize, *arguments) if torch.is_grad_enabled() else _linearized(*arguments)
        return finish(x_next), finish(A), finish(B)

    def second_order(
        self,
        x: Tensor,
        u: Tensor,
        y: Tensor,
        parameters: Tensor | None = None,
        *,
        charts: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Hessian (B, 2 nv + nu, 2 nv + nu) of y'x_next in (x, u), y (B, 2 nv); the values carry no autograd graph.

        charts: as in `step`. Without charts, for configurations that do not form a vector space: that of y'(step(x + d,
        u) - step(x, u)) in the tangent d, with sum and difference on the manifold.
        """
        sizes = {"x": (x, self._size(charts)), "u": (u, self.nu), "y": (y, self.ndx)}
        (x_, u_, y_), par, finish, around = self._inputs(sizes, parameters, charts)
        hessian = self._robot.second_order(array(x_), array(u_), array(par), array(y_), charts=_charts(*around))
        return finish(torch.from_numpy(hessian))

    def around(self, reference: Tensor) -> manifold.ErrorDynamics:
        """The dynamics of errors from a reference (nx,), (B, nx) or (B, N + 1, nx)."""
        return manifold.ErrorDynamics(self, reference)

    def _size(self, charts: Any) -> int:
        return self.nx if charts is None else self.ndx

    def parameter_jacobian(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """P = dx_next/dparameters (B, 2 nv, n_par); the values carry no autograd graph."""
        (x_, u_), par, finish, _ = self._inputs({"x": (x, self.nx), "u": (u, self.nu)}, parameters)
        return finish(torch.from_numpy(self._robot.linearize(array(x_), array(u_), array(par), True)[3]))
