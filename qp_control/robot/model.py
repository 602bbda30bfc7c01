"""A robot as a rigid-body model, evaluated at given configurations, velocities, accelerations and forces.

    tau = M(q) qdd + n(q, v) + d o v

q: configuration (nq), v: velocity (nv), tau: generalized forces (nv) [N or N m], d: viscous damping (nv) [N s/m or
N m s/rad]. For joints whose configurations do not form a vector space (free-flyer, ball, planar, continuous joints
given as cos and sin), gradients with respect to them are the least-norm ones, tangent to the manifold.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pinocchio as pin
import torch
from torch import Tensor

from qp_control._robot import Integrator, RigidBody
from qp_control.robot import description as robot_description
from qp_control.robot import manifold, motions
from qp_control.robot.motions import array, call, check_tensor
from qp_control.tracing import refuse_tracing


class FrameMotion(NamedTuple):
    """Poses of frames in the world, and their motion."""

    position: Tensor
    """(B, frames, 3) their origins [m]."""
    rotation: Tensor
    """(B, frames, 3, 3): the columns are their axes."""
    velocity: Tensor
    """(B, frames, 6) linear [m/s] and angular [rad/s]."""
    acceleration: Tensor
    """(B, frames, 6) linear, of their origins [m/s^2], and angular [rad/s^2], without gravity."""


class Centroid(NamedTuple):
    """Centre of mass and momentum of the whole robot, in the world's axes."""

    position: Tensor
    """(B, 3) centre of mass [m]."""
    momentum: Tensor
    """(B, 6) about the centre of mass, linear [kg m/s] and angular [kg m^2/s]."""
    rate: Tensor
    """(B, 6) its time derivative, linear [N] and angular [N m]: the resultant of the external forces."""


class RobotModel:
    """A robot model, evaluated for whole batches in one call of C++.

    model_or_urdf: a `pinocchio.Model` (copied) or the path of a URDF file.
    actuated: names of the joints that are driven, or indices of single velocities (0..nv - 1), for example for the
        thrust and the torques of a flying body. None: the joints with a positive effort limit, except a free-flyer
        root.
    threads: 0 uses all processors available to the process. The results do not depend on it.

    The methods take floating-point tensors of shape (B, .) or (.,) (further leading axes are allowed; they are
    broadcast) and compute in float64 on the CPU; results have the dtype and device of the first argument. They are
    differentiable with respect to all arguments and the parameters; the gradient of a shared parameter vector is the
    sum over the batch.

    Dry joint friction, joint limits and effort limits are not part of the model. Raises ValueError for bad
    arguments, TypeError for tensors of integers or booleans.
    """

    def __init__(self, model_or_urdf: Any, *, actuated: Sequence[str | int] | None = None, threads: int = 0) -> None:
        self._load(model_or_urdf, actuated, threads, dt=1.0, substeps=1, integrator=Integrator.euler)

    def _load(self, model_or_urdf: Any, actuated: Sequence[str | int] | None, threads: int, **options: Any) -> None:
        if isinstance(model_or_urdf, (str, os.PathLike)):
            model = robot_description.read_urdf(model_or_urdf)
        elif hasattr(model_or_urdf, "joints") and hasattr(model_or_urdf, "inertias"):
            model = model_or_urdf.copy()
        else:
            raise ValueError(f"model_or_urdf is a {type(model_or_urdf).__name__}, expected a path or a pinocchio.Model")
        self.model = model
        self.actuated = self._actuated(model, actuated)
        indices: list[int] = []
        for which in self.actuated:
            if isinstance(which, int):
                indices.append(which)
            else:
                joint = model.joints[model.getJointId(which)]
                indices += range(joint.idx_v, joint.idx_v + joint.nv)
        if not (math.isfinite(threads) and int(threads) == threads and 0 <= threads <= 4096):
            raise ValueError(f"threads is {threads}, expected an integer >= 0")
        self.threads, self._indices = threads, indices
        self._robot = RigidBody(model, actuated=indices, threads=threads, **options)
        self.nq, self.nv, self.nu = self._robot.nq, self._robot.nv, self._robot.nu
        self.nx, self.ndx, self.n_par = self.nq + self.nv, 2 * self.nv, self._robot.n_par
        self.bodies = self._robot.bodies
        self.vector_space = self._robot.vector_space
        self._frame_index: dict[str, int] = {}
        for i, frame in enumerate(model.frames):
            self._frame_index.setdefault(frame.name, i)  # names may repeat: the first, as Pinocchio does
        self.effort_limit = torch.from_numpy(np.array(model.upperEffortLimit, dtype=np.float64)[indices])

        zero = torch.zeros(self.nv, dtype=torch.float64)
        neutral = torch.from_numpy(np.array(pin.neutral(model)))
        if not torch.isfinite(self.forward_dynamics(neutral, zero, zero)).all():
            raise ValueError("the mass matrix is singular: a moving body has neither mass nor inertia")

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.model, self._options())

    def _options(self) -> dict[str, Any]:
        return {"actuated": self.actuated, "threads": self.threads}

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
        return finish(call(motions.ForwardDynamics, self._robot, q_, v_, tau_, par))

    def forward_dynamics_derivatives(
        self, q: Tensor, v: Tensor, tau: Tensor, parameters: Tensor | None = None, *, by_parameters: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """qdd (B, nv) and its derivatives w.r.t. q, v, tau (B, nv, nv) and parameters (B, nv, n_par; None: not wanted).

        The one w.r.t. q is taken in the tangent space. The values carry no autograd graph.
        """
        (q_, v_, tau_), par, finish, _ = self._inputs(
            {"q": (q, self.nq), "v": (v, self.nv), "tau": (tau, self.nv)}, parameters
        )
        values = self._robot.forward_dynamics(array(q_), array(v_), array(tau_), array(par), True, by_parameters)
        a, dq, dv, dtau = (finish(torch.from_numpy(value)) for value in values[:4])
        return a, dq, dv, dtau, finish(torch.from_numpy(values[4])) if by_parameters else None

    def inverse_dynamics(self, q: Tensor, v: Tensor, a: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Generalized forces tau (B, nv) that give the accelerations a (B, nv): the recursive Newton-Euler algorithm.

        q (B, nq), v (B, nv); parameters (n_par,) or (B, n_par).
        """
        (q_, v_, a_), par, finish, _ = self._inputs(self._motion(q, v, a), parameters)
        return finish(call(motions.InverseDynamics, self._robot, q_, v_, a_, par))

    def mass_matrix(self, q: Tensor, parameters: Tensor | None = None) -> Tensor:
        """M (B, nv, nv) at the configurations q (B, nq), by the composite-rigid-body algorithm."""
        (q_,), par, finish, _ = self._inputs({"q": (q, self.nq)}, parameters)
        return finish(call(motions.MassMatrix, self._robot, q_, par))

    def frame_motions(
        self,
        frames: Sequence[str],
        q: Tensor,
        v: Tensor | None = None,
        a: Tensor | None = None,
        *,
        aligned: bool = True,
    ) -> FrameMotion:
        """Poses of frames at q (B, nq), and their motion with v and a (B, nv), which are zero if not given.

        frames: names of the model's frames (links, joints and any others in its description). aligned: velocities and
        accelerations are in the world's axes, otherwise in the frames' own.
        """
        motion = self._motion(q, *self._still(q, v, a))
        (q_, v_, a_), _, finish, _ = self._inputs(motion, None)
        found = call(motions.FrameMotions, self._robot, self._frame_indices(frames), aligned, q_, v_, a_)
        return FrameMotion(*map(finish, found))

    def frame_positions(self, frames: Sequence[str], q: Any) -> Any:
        """Origins of frames (B, frames, 3) [m] at q (B, nq): differentiable for a tensor, without torch for a NumPy
        array."""
        if not isinstance(q, np.ndarray):
            return self.frame_motions(frames, q).position
        rest = np.zeros((len(q), self.nv))
        return self._robot.frames(q, rest, rest, self._frame_indices(frames), True)[0]

    def frame_jacobians(self, frames: Sequence[str], q: Tensor, *, aligned: bool = True) -> Tensor:
        """J (B, frames, 6, nv) with velocity = J v, as in `frame_motions`."""
        (q_,), _, finish, _ = self._inputs({"q": (q, self.nq)}, None)
        return finish(call(motions.FrameJacobians, self._robot, self._frame_indices(frames), aligned, q_))

    def centroid(
        self, q: Tensor, v: Tensor | None = None, a: Tensor | None = None, parameters: Tensor | None = None
    ) -> Centroid:
        """Centre of mass at q (B, nq), momentum and its rate with v and a (B, nv), zero where they are not given."""
        motion = self._motion(q, *self._still(q, v, a))
        (q_, v_, a_), par, finish, _ = self._inputs(motion, parameters)
        return Centroid(*map(finish, call(motions.Centroid, self._robot, q_, v_, a_, par)))

    def _still(self, q: Tensor, *motion: Tensor | None) -> tuple[Tensor, ...]:
        """Zeros where there is no motion."""
        check_tensor("q", q)
        still = q.new_zeros(*q.shape[:-1], self.nv)
        return tuple(still if value is None else value for value in motion)

    def _motion(self, q: Tensor, v: Tensor, a: Tensor) -> dict[str, tuple[Tensor, int]]:
        return {"q": (q, self.nq), "v": (v, self.nv), "a": (a, self.nv)}

    def _frame_indices(self, names: Sequence[str]) -> list[int]:
        if isinstance(names, str):
            raise ValueError(f"frames is the string {names!r}, expected a list of names")
        for name in names:
            if name not in self._frame_index:
                raise ValueError(f"the model has no frame {name!r}, only {', '.join(self._frame_index)}")
        return [self._frame_index[name] for name in names]

    def difference(self, reference: Tensor, x: Tensor) -> Tensor:
        """Error x (-) reference (B, 2 nv) of the states x (B, nx) from reference (nx,) or (B, nx).

        Its first nv entries are the velocity that leads from the reference's configuration to that of x in one second
        (for a free-flyer linear and angular velocity in the body's axes [m, rad]), the others the difference of the
        velocities. Gradients reach x and the reference, along their tangents.
        """
        (x_,), _, finish, around = self._inputs({"x": (x, self.nx)}, None, (reference, reference))
        return finish(call(manifold.Difference, self._robot, around[0], x_))

    def integrate(self, reference: Tensor, error: Tensor) -> Tensor:
        """State reference (+) error (B, nx) whose `difference` from the reference (nx,) or (B, nx) is error (B, 2 nv).

        Gradients reach the error and, along its tangent, the reference; second derivatives (central differences) are
        available if the first one is with respect to the error.
        """
        (error_,), _, finish, around = self._inputs({"error": (error, self.ndx)}, None, (reference, reference))
        return finish(call(manifold.Integrate, self._robot, around[0], error_))

    def on_manifold(self, x: Tensor) -> Tensor:
        """bool (B,): all entries of the states x (B, nx) are finite, and quaternions and (cos, sin) have length one."""
        refuse_tracing()
        flat = x.detach().to(device="cpu", dtype=torch.float64).reshape(-1, self.nx)
        return torch.from_numpy(self._robot.on_manifold(array(flat))).reshape(x.shape[:-1])

    def neutral_state(self) -> Tensor:
        """(nx,) at rest in the model's neutral configuration: zeros and identity rotations."""
        return torch.from_numpy(np.concatenate([pin.neutral(self.model), np.zeros(self.nv)]))

    def _inputs(
        self,
        arguments: dict[str, tuple[Tensor, int]],
        parameters: Tensor | None,
        references: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[list[Tensor], Tensor | None, Callable[[Tensor], Tensor], tuple[Tensor | None, Tensor | None]]:
        """Arguments as float64 (n, .) tensors, parameters, a function restoring the leading axes, references."""
        refuse_tracing()
        named = arguments
        if references is not None:
            names = ("reference", "next reference")
            named = arguments | {n: (r, self.nx) for n, r in zip(names, references, strict=True)}
        batches = []
        for name, (value, size) in named.items():
            check_tensor(name, value)
            if value.ndim == 0 or value.shape[-1] != size:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected (..., {size})")
            batches.append(value.shape[:-1])
        if parameters is not None:
            check_tensor("parameters", parameters)
            if parameters.ndim == 0 or parameters.shape[-1] != self.n_par:
                raise ValueError(
                    f"parameters has shape {tuple(parameters.shape)}, expected ({self.n_par},) or (B, {self.n_par})"
                )
            if parameters.ndim > 1:
                batches.append(parameters.shape[:-1])
        batch = batches[0]
        if any(shape != batch for shape in batches):
            try:
                batch = torch.Size(np.broadcast_shapes(*batches))  # torch's own takes a tenth of a millisecond
            except ValueError:
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
            # One for all stays one, unless its gradient must be the sum over all.
            one = [r.ndim == 1 and not (r.requires_grad and torch.is_grad_enabled()) for r in references]
            now, after = (
                r.to("cpu", torch.float64)[None] if alone else prepare(r, self.nx)
                for r, alone in zip(references, one, strict=True)
            )
            around = now, after
        return [prepare(value, size) for value, size in arguments.values()], par, finish, around


def _rebuild(kind: type[RobotModel], model: Any, options: dict[str, Any]) -> RobotModel:
    return kind(model, **options)
