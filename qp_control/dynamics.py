"""Batched differentiable rigid-body dynamics.

    M(q) qdd + n(q, v) = S u - d o v        x = (q, v),   x_next = step(x, u)

q: configuration (nq), v: velocity (nv), u: generalized forces of the actuated joints (nu) [N or N m], d:
viscous damping (nv) [N s/m or N m s/rad]. Derivatives of the state live in its tangent space (2 nv): for
joints that are not vector spaces (free-flyer, quaternions, continuous joints given as cos and sin) gradients
with respect to q are the least-norm ones, tangent to the manifold.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import pinocchio as pin
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control import manifold, robot_description
from qp_control._robot import Integrator, RigidBody

INTEGRATORS = ("rk4", "semi_implicit", "euler")


def _array(t: Tensor | None) -> Any:
    return None if t is None else t.detach().contiguous().numpy()


def _tensor(a: Any) -> Tensor | None:
    return None if a is None else torch.from_numpy(a)


def _call(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def _charts(now: Tensor | None, after: Tensor | None) -> Any:
    return None if now is None else (_array(now), _array(after))


def _linearized(
    robot: RigidBody, x: Tensor, u: Tensor, par: Tensor | None, now: Tensor | None, after: Tensor | None
) -> tuple[Tensor, ...]:
    found = robot.linearize(_array(x), _array(u), _array(par), False, charts=_charts(now, after))
    return tuple(map(torch.from_numpy, found[:3]))


class _ForwardDynamics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, robot: RigidBody, q: Tensor, v: Tensor, tau: Tensor, par: Tensor | None) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(q, v, tau, par)
        return torch.from_numpy(robot.forward_dynamics(_array(q), _array(v), _array(tau), _array(par), False)[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        q, v, tau, par = ctx.saved_tensors
        _, need_q, need_v, need_tau, need_par = ctx.needs_input_grad
        g_x, g_tau, g_par = ctx.robot.forward_dynamics_adjoint(
            _array(q), _array(v), _array(tau), _array(par), _array(g), need_q or need_v, need_tau, need_par
        )
        nq = q.shape[1]
        both = _tensor(g_x)
        g_q, g_v = (None, None) if both is None else (both[:, :nq], both[:, nq:])
        return None, g_q, g_v, _tensor(g_tau), _tensor(g_par)


class _Step(torch.autograd.Function):
    """(robot, x, u, parameters, now, after), the last two the references of errors, or None."""

    @staticmethod
    def forward(
        ctx: Any, robot: RigidBody, x: Tensor, u: Tensor, par: Tensor | None, now: Tensor | None, after: Tensor | None
    ) -> Tensor:
        ctx.robot = robot
        ctx.save_for_backward(x, u, par, now, after)
        return torch.from_numpy(robot.step(_array(x), _array(u), _array(par), charts=_charts(now, after)))

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
        _array(x),
        _array(u),
        _array(par),
        _array(g_next),
        _array(g_A),
        _array(g_B),
        *ctx.needs_input_grad[1:],
        charts=_charts(now, after),
    )
    return None, *map(_tensor, found)


class RobotDynamics:
    """Dynamics of one robot model, evaluated for whole batches by one call of C++.

    model_or_urdf: a `pinocchio.Model` (copied) or the path of a URDF file.
    dt: control period [s]; substeps: integrator steps within it.
    integrator: "rk4" (order 4, also on quaternions), "semi_implicit" or "euler".
    actuated: names of the joints that u drives, in the order of u, or indices of single velocities (0..nv - 1), as
        of the thrust and the torques of a body that flies. None: the joints with a positive effort limit, without a
        free-flyer root.
    threads: 0 uses all the processors the process may run on. The results do not depend on it.

    The methods take float tensors of shape (B, .) or (.,) (also further leading axes; they are broadcast) and
    compute in float64 on the CPU; results have the dtype and device of the first argument. They differentiate
    with respect to the state, the input AND the parameters; a shared parameter vector gets the sum over the
    batch.

    Dry joint friction, joint limits and effort limits are not part of the dynamics. Raises ValueError for bad
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
        if isinstance(model_or_urdf, (str, os.PathLike)):
            model = robot_description.read_urdf(model_or_urdf)
        elif hasattr(model_or_urdf, "joints") and hasattr(model_or_urdf, "inertias"):
            model = model_or_urdf.copy()
        else:
            raise ValueError(f"model_or_urdf is a {type(model_or_urdf).__name__}, expected a path or a pinocchio.Model")
        if integrator not in INTEGRATORS:
            raise ValueError(f"integrator is {integrator!r}, expected one of {', '.join(INTEGRATORS)}")
        self.model = model
        self.actuated = self._actuated(model, actuated)
        indices: list[int] = []
        for which in self.actuated:
            if isinstance(which, int):
                indices.append(which)
            else:
                joint = model.joints[model.getJointId(which)]
                indices += range(joint.idx_v, joint.idx_v + joint.nv)
        self.dt, self.substeps, self.integrator, self.threads = float(dt), int(substeps), integrator, threads
        self._robot = RigidBody(
            model,
            dt=self.dt,
            substeps=self.substeps,
            integrator=cast(Integrator, getattr(Integrator, integrator)),
            actuated=indices,
            threads=threads,
        )
        self.nq, self.nv, self.nu = self._robot.nq, self._robot.nv, self._robot.nu
        self.nx, self.ndx, self.n_par = self.nq + self.nv, 2 * self.nv, self._robot.n_par
        self.bodies = self._robot.bodies
        self.vector_space = self._robot.vector_space
        self.effort_limit = torch.from_numpy(np.array(model.upperEffortLimit, dtype=np.float64)[indices])

        zero = torch.zeros(self.nv, dtype=torch.float64)
        neutral = torch.from_numpy(np.array(pin.neutral(model)))
        if not torch.isfinite(self.forward_dynamics(neutral, zero, zero)).all():
            raise ValueError("the mass matrix is singular: a moving body has neither mass nor inertia")

    def __reduce__(self) -> Any:
        options = {
            "dt": self.dt,
            "substeps": self.substeps,
            "integrator": self.integrator,
            "actuated": self.actuated,
            "threads": self.threads,
        }
        return _rebuild, (self.model, options)

    @staticmethod
    def _actuated(model: Any, given: Sequence[str | int] | None) -> list[str | int]:
        known = list(model.names)[1:]
        if given is not None:
            chosen: list[str | int] = [which if isinstance(which, str) else operator.index(which) for which in given]
            for which in chosen:
                if isinstance(which, str) and which not in known:
                    raise ValueError(f"actuated has the joint {which!r}, expected names from {known}")
            return chosen
        effort = np.asarray(model.upperEffortLimit)
        driven: list[str | int] = []
        for name in known:
            joint = model.joints[model.getJointId(name)]
            free_flyer = joint.shortname() == "JointModelFreeFlyer"
            if not free_flyer and np.any(effort[joint.idx_v : joint.idx_v + joint.nv] > 0.0):
                driven.append(name)
        return driven

    @property
    def parameters(self) -> Tensor:
        """Nominal parameters (n_par,): for each body m [kg], m c [kg m] and I about the joint origin [kg m^2]
        in the order xx xy yy xz yz zz (Pinocchio's `toDynamicParameters`), then the viscous damping of each
        velocity coordinate."""
        return torch.from_numpy(self._robot.nominal_parameters)

    @property
    def parameter_names(self) -> list[str]:
        """A name for each parameter, such as "pole_joint.m", "pole_joint.damping" (body = its joint)."""
        kinds = ("m", "mcx", "mcy", "mcz", "Ixx", "Ixy", "Iyy", "Ixz", "Iyz", "Izz")
        joints = list(self.model.names)[1:]
        names = [f"{joint}.{kind}" for joint in joints for kind in kinds]
        for name in joints:
            nv = self.model.joints[self.model.getJointId(name)].nv
            names += [f"{name}.damping" if nv == 1 else f"{name}.damping{k}" for k in range(nv)]
        return names

    def forward_dynamics(self, q: Tensor, v: Tensor, tau: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Accelerations qdd (B, nv) [m/s^2, rad/s^2] by the articulated-body algorithm.

        q (B, nq), v (B, nv), tau (B, nv): generalized forces of all joints; parameters (n_par,)
        or (B, n_par).
        """
        (q_, v_, tau_), par, finish, _ = self._inputs(
            {"q": (q, self.nq), "v": (v, self.nv), "tau": (tau, self.nv)}, parameters
        )
        return finish(_call(_ForwardDynamics, self._robot, q_, v_, tau_, par))

    def forward_dynamics_derivatives(
        self, q: Tensor, v: Tensor, tau: Tensor, parameters: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """qdd (B, nv) and its derivatives w.r.t. q, v, tau (B, nv, nv) and parameters (B, nv, n_par).

        The one w.r.t. q is taken in the tangent space. The values carry no autograd graph.
        """
        (q_, v_, tau_), par, finish, _ = self._inputs(
            {"q": (q, self.nq), "v": (v, self.nv), "tau": (tau, self.nv)}, parameters
        )
        values = self._robot.forward_dynamics(_array(q_), _array(v_), _array(tau_), _array(par), True)
        a, dq, dv, dtau, dp = (finish(torch.from_numpy(value)) for value in values)
        return a, dq, dv, dtau, dp

    def step(
        self, x: Tensor, u: Tensor, parameters: Tensor | None = None, *, charts: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """State x_next (B, nx) one control period after x under the constant input u.

        x (B, nx) = (q, v), u (B, nu), parameters (n_par,) or (B, n_par).
        charts: two states (nx,) or (B, nx), now and next: x and x_next are then errors (B, 2 nv) from them, x (-) now
        and x_next (-) next, see `difference`. Errors form a vector space, less than half a turn away from zero.
        """
        (x_, u_), par, finish, around = self._inputs(
            {"x": (x, self._size(charts)), "u": (u, self.nu)}, parameters, charts
        )
        return finish(_call(_Step, self._robot, x_, u_, par, *around))

    def linearize(
        self, x: Tensor, u: Tensor, parameters: Tensor | None = None, *, charts: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_next (B, nx), A = dx_next/dx (B, 2 nv, 2 nv) and B = dx_next/du (B, 2 nv, nu), tangent.

        charts: as in `step`; A and B are then the derivatives by errors.
        All three are differentiable; the second derivatives behind A and B are central differences of the
        exact first ones (errors of about 1e-9) and exist for configurations in a vector space and with charts
        (ValueError in backward otherwise).
        """
        (x_, u_), par, finish, around = self._inputs(
            {"x": (x, self._size(charts)), "u": (u, self.nu)}, parameters, charts
        )
        # In control loops the graph's book-keeping takes as long as several stages.
        arguments = (self._robot, x_, u_, par, *around)
        x_next, A, B = _call(_Linearize, *arguments) if torch.is_grad_enabled() else _linearized(*arguments)
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
        """Hessian (B, 2 nv + nu, 2 nv + nu) of y'x_next by (x, u), y (B, 2 nv); the values carry no autograd graph.

        charts: as in `step`. Where configurations are no vectors and there are no charts: of y'(step(x + d, u) -
        step(x, u)) by the tangent d, with sum and difference on the manifold.
        """
        sizes = {"x": (x, self._size(charts)), "u": (u, self.nu), "y": (y, self.ndx)}
        (x_, u_, y_), par, finish, around = self._inputs(sizes, parameters, charts)
        hessian = self._robot.second_order(_array(x_), _array(u_), _array(par), _array(y_), charts=_charts(*around))
        return finish(torch.from_numpy(hessian))

    def difference(self, reference: Tensor, x: Tensor) -> Tensor:
        """Error x (-) reference (B, 2 nv) of the states x (B, nx) from reference (nx,) or (B, nx).

        Its first nv numbers are the velocity that leads from the reference's configuration to that of x within one
        second (for a free-flyer linear and angular velocity in the body's axes [m, rad]), the others the difference of
        the velocities. Gradients reach x and the reference, along their tangents.
        """
        (x_,), _, finish, around = self._inputs({"x": (x, self.nx)}, None, (reference, reference))
        return finish(_call(manifold.Difference, self._robot, around[0], x_))

    def integrate(self, reference: Tensor, error: Tensor) -> Tensor:
        """State reference (+) error (B, nx) whose `difference` from the reference (nx,) or (B, nx) is error (B, 2 nv).

        Gradients reach the error and, along its tangent, the reference; second ones (central differences) what is
        differentiated by the error first.
        """
        (error_,), _, finish, around = self._inputs({"error": (error, self.ndx)}, None, (reference, reference))
        return finish(_call(manifold.Integrate, self._robot, around[0], error_))

    def on_manifold(self, x: Tensor) -> Tensor:
        """bool (B,): all numbers of the states x (B, nx) are finite, and quaternions and (cos, sin) have length one."""
        flat = x.detach().to(device="cpu", dtype=torch.float64).reshape(-1, self.nx)
        return torch.from_numpy(self._robot.on_manifold(_array(flat))).reshape(x.shape[:-1])

    def neutral_state(self) -> Tensor:
        """(nx,) at rest in the model's neutral configuration: zeros and the rotations that turn nothing."""
        return torch.from_numpy(np.concatenate([pin.neutral(self.model), np.zeros(self.nv)]))

    def around(self, reference: Tensor) -> manifold.ErrorDynamics:
        """The dynamics of errors from a reference (nx,), (B, nx) or (B, N + 1, nx)."""
        return manifold.ErrorDynamics(self, reference)

    def _size(self, charts: Any) -> int:
        return self.nx if charts is None else self.ndx

    def parameter_jacobian(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """P = dx_next/dparameters (B, 2 nv, n_par); the values carry no autograd graph."""
        (x_, u_), par, finish, _ = self._inputs({"x": (x, self.nx), "u": (u, self.nu)}, parameters)
        return finish(torch.from_numpy(self._robot.linearize(_array(x_), _array(u_), _array(par), True)[3]))

    def _inputs(
        self,
        arguments: dict[str, tuple[Tensor, int]],
        parameters: Tensor | None,
        references: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[list[Tensor], Tensor | None, Callable[[Tensor], Tensor], tuple[Tensor | None, Tensor | None]]:
        """Arguments as float64 (n, .) tensors, parameters, a function restoring the leading axes, references."""
        named = arguments
        if references is not None:
            names = ("reference", "next reference")
            named = arguments | {n: (r, self.nx) for n, r in zip(names, references, strict=True)}
        batches = []
        for name, (value, size) in named.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} is a {type(value).__name__}, expected a torch.Tensor")
            if value.ndim == 0 or value.shape[-1] != size:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected (..., {size})")
            batches.append(value.shape[:-1])
        if parameters is not None:
            if parameters.ndim == 0 or parameters.shape[-1] != self.n_par:
                raise ValueError(
                    f"parameters has shape {tuple(parameters.shape)}, expected ({self.n_par},) or (B, {self.n_par})"
                )
            if parameters.ndim > 1:
                batches.append(parameters.shape[:-1])
        batch = batches[0]
        if any(shape != batch for shape in batches):
            try:
                batch = torch.broadcast_shapes(*batches)  # type: ignore[no-untyped-call]
            except RuntimeError:
                shapes = {name: tuple(value.shape) for name, (value, _) in named.items()}
                raise ValueError(f"the batch axes do not fit together, got {shapes}") from None

        n = math.prod(batch)

        def prepare(value: Tensor, size: int) -> Tensor:
            value = value.to(device="cpu", dtype=torch.float64)
            if value.shape[:-1] != batch:
                value = value.expand(*batch, size)
            return value.reshape(n, size)

        first = next(iter(arguments.values()))[0]

        def finish(result: Tensor) -> Tensor:
            return result.reshape(*batch, *result.shape[1:]).to(device=first.device, dtype=first.dtype)

        par = parameters
        if par is not None and par.ndim > 1:
            par = prepare(par, self.n_par)
        elif par is not None:
            par = par.to(device="cpu", dtype=torch.float64)
        around: tuple[Tensor | None, Tensor | None] = (None, None)
        if references is not None:
            # One for all stays one, unless its gradient is to be the sum of those of all.
            one = [r.ndim == 1 and not (r.requires_grad and torch.is_grad_enabled()) for r in references]
            now, after = (
                r.to("cpu", torch.float64)[None] if alone else prepare(r, self.nx)
                for r, alone in zip(references, one, strict=True)
            )
            around = now, after
        return [prepare(value, size) for value, size in arguments.values()], par, finish, around


def _rebuild(model: Any, options: dict[str, Any]) -> RobotDynamics:
    return RobotDynamics(model, **options)
