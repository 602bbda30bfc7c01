"""Steps in time with contact, friction, joint limits and dry joint friction, as a QP per step.

The velocity at the end of a step of h seconds is the one nearest to the velocity without contact, in the metric of the
mass matrix, under

    (n + mu d_k)' J v+ + b >= 0     for each contact, its normal n, coefficient of friction mu and directions d_k
    +-v+_i + b >= 0                 for each joint near one of its limits

where b holds gaps open and lets them close; dry joint friction pushes against v+_i with at most eta_i. The dual of that
QP, in the impulses, is solved by the QP solver and differentiated by its adjoint:

    minimise    1/2 lambda'(G M^-1 G' + R) lambda + (G v_free + b)'lambda
    subject to  lambda >= 0 (contacts, limits), |lambda| <= h eta (dry friction)

Traits of this model: contacts give way like a spring and a damper; contacts that stick creep, by a part `slip` of that.
The cone of velocities by itself lifts a body that slides with the velocity v_t by h mu |v_t|, and throws one up that
lands sliding; so mu |v_t|, of the velocity at the start of the step, is added to b, which leaves of this what v_t
changes by in a step. A step is a function of state and input alone.

Source: M. Anitescu, "Optimization-based simulation of nonsmooth rigid multibody dynamics", Math. Program. 105 (2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control import _robot, qp_function
from qp_control.kkt_functions import INPUTS, Setup
from qp_control.motions import array, call, tensor
from qp_control.problem import Sizes
from qp_control.qp import START
from qp_control.robot_model import RobotModel
from qp_control.settings import Settings

GRAVITY = 9.81  # [m/s^2]
_NO_LIMIT = 1e20  # a joint without limits has the largest numbers there are


@dataclass(frozen=True)
class Contact:
    """A ball that may touch the ground.

    frame: name of the frame in whose origin its centre is. radius [m]: 0 for a point. friction: coefficient mu.
    """

    frame: str
    radius: float = 0.0
    friction: float = 0.8


class ContactForces(NamedTuple):
    """What the ground did in a step."""

    gap: Tensor
    """(B, contacts) distances from the ground at its beginning [m], negative where they were in it."""
    force: Tensor
    """(B, contacts, 3) mean forces on the robot, in the world's axes [N]."""


class _Problem:
    """The QPs of one step length: the compiled model, and how its QPs are solved."""

    def __init__(self, native: Any, h: float, dry: int, settings: Settings) -> None:
        self.native, self.h, self.dry, self.settings = native, h, dry, settings
        self._setups: dict[int, Setup] = {}

    def setup(self, batch: int) -> Setup:
        if batch not in self._setups:
            sizes = Sizes(batch, self.native.rows, 0, 0, True)
            self._setups[batch] = Setup(sizes, self.settings)
        return self._setups[batch]

    def bounds(self, dry_friction: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        lower = torch.zeros(batch, self.native.rows, dtype=torch.float64)
        upper = torch.full_like(lower, float("inf"))
        if self.dry:
            assert dry_friction is not None
            upper[:, -self.dry :] = self.h * dry_friction.detach()
            lower[:, -self.dry :] = -upper[:, -self.dry :]
        return lower, upper


class _ContactStep(torch.autograd.Function):
    """(problem, x, u, parameters, friction, dry friction) -> x_next, impulses."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: _Problem,
        x: Tensor,
        u: Tensor,
        par: Tensor | None,
        friction: Tensor,
        dry_friction: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        native, batch = problem.native, len(x)
        at = array(x), array(u), array(par), array(friction)
        H, g = map(torch.from_numpy, native.problem(*at))
        lower, upper = problem.bounds(dry_friction, batch)
        named = {"H": H, "g": g, "lb": lower, "ub": upper}
        inputs = [named.get(name) for name in (*INPUTS, *START)]
        data, outputs, kept = qp_function.solve_arrays(problem.setup(batch), inputs, keep=any(ctx.needs_input_grad))
        ctx.problem, ctx.solved = problem, (data, outputs, kept)
        ctx.save_for_backward(x, u, par, friction, dry_friction)
        ctx.set_materialize_grads(False)
        impulses = torch.from_numpy(outputs[0])
        ctx.mark_non_differentiable(impulses)
        return torch.from_numpy(native.step(*at, outputs[0])), impulses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, _: Tensor | None) -> Any:
        if g is None:
            return (None,) * 6
        problem, (data, outputs, kept) = ctx.problem, ctx.solved
        x, u, par, friction, dry_friction = ctx.saved_tensors
        at = array(x), array(u), array(par), array(friction)
        by_next = array(g)
        loss = problem.native.loss(*at, outputs[0], by_next)
        want_dry = ctx.needs_input_grad[5]
        needed = [False, True, *[False] * 5, want_dry, want_dry]
        status = outputs[qp_function.FIELDS + 1].reshape(-1)
        losses = [loss, *[None] * qp_function.FIELDS]
        found = qp_function.adjoint_arrays(
            problem.setup(len(x)), data, outputs[: qp_function.FIELDS], status, losses, needed, kept
        )
        gradients = problem.native.adjoint(*at, outputs[0], by_next, found[1], list(ctx.needs_input_grad[1:5]))
        by_x, by_u, by_par, by_friction = map(tensor, gradients)
        if by_friction is not None and friction.ndim == 1:
            by_friction = by_friction.sum(0)
        by_dry = None
        if want_dry:
            lower, upper = (torch.from_numpy(f)[:, -problem.dry :] for f in found[7:9])
            by_dry = problem.h * (upper - lower)
            by_dry = by_dry.sum(0) if dry_friction.ndim == 1 else by_dry
        return None, by_x, by_u, by_par, by_friction, by_dry


class ContactDynamics(RobotModel):
    """A robot model (see `RobotModel`) that touches the ground: steps in time, differentiable in all arguments.

    dt: control period [s]; substeps: steps within it, each with a QP of its own.
    contacts: balls that may touch the ground, the plane normal'p = height [m].
    directions: of friction around the normal; mu holds exactly along them, and cos(pi / directions) mu between them.
    stiffness [N/m], damping [N s/m]: how contacts give way. None: a millimetre under the robot's weight, and critical
        damping.
    slip: part of that with which contacts that stick creep.
    lift: leave out the correction for sliding, as in the source.
    joint_limits: the limits of the model's joints of one number that have any. limit_stiffness [N/m or N m/rad]: how
        they give way; half of what a joint is beyond its limit is taken back in each step.
    dry_friction: largest friction of each velocity (nv,) [N or N m]; None: the model's (`friction` of a URDF's joints).
    settings: of the QP solver.

    Raises ValueError for bad arguments.
    """

    def __init__(
        self,
        model_or_urdf: Any,
        *,
        dt: float,
        contacts: Sequence[Contact] = (),
        substeps: int = 1,
        normal: Sequence[float] = (0.0, 0.0, 1.0),
        height: float = 0.0,
        directions: int = 4,
        stiffness: float | None = None,
        damping: float | None = None,
        slip: float = 1e-3,
        lift: bool = False,
        joint_limits: bool = True,
        limit_stiffness: float = 1e5,
        dry_friction: Tensor | Sequence[float] | None = None,
        actuated: Sequence[str | int] | None = None,
        threads: int = 0,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(model_or_urdf, actuated=actuated, threads=threads)
        self.dt, self.substeps, self.contacts = float(dt), int(substeps), tuple(contacts)
        if self.substeps < 1 or not self.dt > 0.0:
            raise ValueError(f"dt is {dt} and substeps {substeps}, expected a positive time and at least 1")
        mass = sum(inertia.mass for inertia in list(self.model.inertias)[1:])
        self.stiffness = float(mass * GRAVITY / 1e-3 if stiffness is None else stiffness)
        self.damping = float(2.0 * (self.stiffness * mass) ** 0.5 if damping is None else damping)
        self.slip, self.directions, self.height = float(slip), int(directions), float(height)
        self.limit_stiffness, self.lift = float(limit_stiffness), bool(lift)
        self.normal = [float(value) for value in normal]
        for contact in self.contacts:
            if not (np.isfinite(contact.friction) and contact.friction >= 0.0):
                raise ValueError(f"friction of {contact.frame!r} is {contact.friction}, expected at least 0")
        given = np.array(self.model.upperDryFrictionLimit) if dry_friction is None else dry_friction
        self.dry_friction = torch.as_tensor(given, dtype=torch.float64).clone()
        if self.dry_friction.shape != (self.nv,) or not bool((self.dry_friction >= 0.0).all()):
            raise ValueError(f"dry_friction is {given}, expected {self.nv} numbers of at least 0")
        self.joint_limits, self.settings = bool(joint_limits), settings or Settings(threads=threads)
        self.dry = [int(i) for i in self.dry_friction.nonzero()[:, 0]]
        self.limited = self._limited() if joint_limits else []
        h = self.dt / self.substeps
        native = _robot.ContactDynamics(
            model=self.model,
            dt=h,
            actuated=self._indices,
            threads=threads,
            balls=[(self._frame_indices([c.frame])[0], float(c.radius)) for c in self.contacts],
            normal=self.normal,
            height=self.height,
            directions=self.directions,
            stiffness=self.stiffness,
            damping=self.damping,
            slip=self.slip,
            lift=self.lift,
            limit_stiffness=self.limit_stiffness,
            limit_damping=self.limit_stiffness * h,
            limited=self.limited,
            dry=self.dry,
        )
        self._problem = _Problem(native, h, len(self.dry), self.settings)
        self.friction = torch.tensor([c.friction for c in self.contacts], dtype=torch.float64)

    def _limited(self) -> list[int]:
        lower, upper = self.model.lowerPositionLimit, self.model.upperPositionLimit
        limited = []
        for joint in list(self.model.joints)[1:]:
            if joint.nv == joint.nq == 1 and min(abs(lower[joint.idx_q]), abs(upper[joint.idx_q])) < _NO_LIMIT:
                limited.append(int(joint.idx_v))
        return limited

    def __reduce__(self) -> Any:
        return _rebuild_contact, (self.model, self._options())

    def _options(self) -> dict[str, Any]:
        names = ("dt", "contacts", "substeps", "normal", "height", "directions", "stiffness", "damping", "slip")
        more = ("lift", "joint_limits", "limit_stiffness", "dry_friction", "settings")
        return super()._options() | {name: getattr(self, name) for name in (*names, *more)}

    def step(
        self,
        x: Tensor,
        u: Tensor,
        parameters: Tensor | None = None,
        *,
        friction: Tensor | None = None,
        dry_friction: Tensor | None = None,
    ) -> Tensor:
        """State x_next (B, nx) one control period after x (B, nx) = (q, v) under the constant input u (B, nu), or
        NaN where numbers run away.

        parameters (n_par,) or (B, n_par). friction: coefficients (contacts,) or (B, contacts). dry_friction (nv,) or
        (B, nv): of the velocities that have any in the model. Differentiable in all of them, where no contact opens or
        closes and none begins to slide.
        """
        return self.step_with_forces(x, u, parameters, friction=friction, dry_friction=dry_friction)[0]

    def step_with_forces(
        self,
        x: Tensor,
        u: Tensor,
        parameters: Tensor | None = None,
        *,
        friction: Tensor | None = None,
        dry_friction: Tensor | None = None,
    ) -> tuple[Tensor, ContactForces]:
        """The same, and what the ground did in the last of the substeps; the forces carry no graph."""
        (x_, u_), par, finish, _ = self._inputs({"x": (x, self.nx), "u": (u, self.nu)}, parameters)
        batch = len(x_)
        mu = self._coefficients("friction", self.friction if friction is None else friction, len(self.contacts), batch)
        dry = self._coefficients(
            "dry_friction", self.dry_friction if dry_friction is None else dry_friction, self.nv, batch
        )[..., self.dry]
        start, lost = x_, torch.zeros(batch, 1, dtype=torch.bool)
        for _ in range(self.substeps):
            # States that have run away are no numbers, and stay so.
            lost = lost | ~x_.isfinite().all(1, keepdim=True)
            before = torch.where(lost, start, x_) if bool(lost.any()) else x_
            x_, impulses = call(_ContactStep, self._problem, before, u_, par, mu, dry if self.dry else None)
        if bool(lost.any()):
            x_ = torch.where(lost, torch.nan, x_)
        gaps, forces = self._problem.native.contacts(array(before), array(u_), array(par), array(mu), array(impulses))
        return finish(x_), ContactForces(finish(torch.from_numpy(gaps)), finish(torch.from_numpy(forces)))

    def _coefficients(self, name: str, value: Tensor, size: int, batch: int) -> Tensor:
        if value.shape not in ((size,), (batch, size)):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, expected ({size},) or (B, {size}) = ({batch}, {size})"
            )
        return value.to("cpu", torch.float64)


def _rebuild_contact(model: Any, options: dict[str, Any]) -> ContactDynamics:
    return ContactDynamics(model, **options)
