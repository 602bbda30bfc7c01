"""Time steps with contact, friction, joint limits and dry joint friction, as one QP per step.

The velocity at the end of a step of h seconds is the one nearest to the velocity without contact, in the metric of the
mass matrix, subject to

    (n + mu d_k)' J v+ + b >= 0     for each contact, its normal n, coefficient of friction mu and directions d_k;
                                    J v+ is the velocity of one body against the other or the ground
    +-v+_i + b >= 0                 for each joint near one of its limits

where b accounts for the gap and the compliance; dry joint friction opposes v+_i with at most eta_i. The dual of that
QP, in the impulses, is solved by the QP solver and differentiated by its adjoint:

    minimise    1/2 lambda'(G M^-1 G' + R) lambda + (G v_free + b)'lambda
    subject to  lambda >= 0 (contacts, limits), |lambda| <= h eta (dry friction)

Properties of this model: contacts are compliant like a spring and a damper; sticking contacts creep, with a tangential
compliance of about `slip` times the normal one. The velocity cone by itself lifts a body that slides with the velocity
v_t by h mu |v_t|, and throws up one that lands sliding; so mu |v_t|, with the velocity at the start of the step, is
added to b, which leaves only the effect of the change of v_t in a step. A step is a function of state and input alone.

Source: M. Anitescu, "Optimization-based simulation of nonsmooth rigid multibody dynamics", Math. Program. 105 (2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qp_control import _robot, _solver
from qp_control.qp.problem import as_integer
from qp_control.robot.contact_path import follow
from qp_control.robot.ground import Ground, Plane
from qp_control.robot.model import RobotModel
from qp_control.robot.motions import check_tensor
from qp_control.robot.shapes import CollisionPair, Point, point, rounded_box, size
from qp_control.settings import Settings, settings_or

GRAVITY = 9.81  # [m/s^2]
_NO_LIMIT = 1e20  # joints without limits have the largest floating-point numbers


@dataclass(frozen=True)
class Contact:
    """A ball that may touch the ground.

    frame: name of the frame it is fixed to. radius [m]: 0 for a point. friction: coefficient mu.
    offset [m]: of its centre from the frame's origin, along the frame's axes.
    """

    frame: str
    radius: float = 0.0
    friction: float = 0.8
    offset: Point = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", size(f"the radius of the contact of {self.frame!r}", self.radius))
        object.__setattr__(self, "offset", point(f"the offset of the contact of {self.frame!r}", self.offset))


class ContactForces(NamedTuple):
    """Gaps and forces of the contacts in a step: those with the ground, then the pairs."""

    gap: Tensor
    """(B, contacts) distances at its start [m], negative where bodies penetrate the ground or each other."""
    force: Tensor
    """(B, contacts, 3) mean forces in the world's axes [N]; for pairs, those on the first body."""


class ContactDynamics(RobotModel):
    """A robot model (see `RobotModel`) that touches the ground or itself: differentiable time steps.

    dt: control period [s]; substeps: steps within it, each with its own QP.
    contacts: balls that may touch the ground. ground: a `Plane` or a `HeightField`.
    pairs: pairs of shapes of two bodies that may touch each other.
    directions: number of friction directions around the normal; the coefficient is exactly mu along them, and
        cos(pi / directions) mu midway between them.
    stiffness [N/m], damping [N s/m]: of the contacts. None: a millimetre under the robot's weight, and critical
        damping.
    slip: tangential compliance of sticking contacts, which makes them creep, relative to the normal one.
    lift: leave out the compensation for sliding (mu |v_t|, see `qp_control.robot.contact`), as in Anitescu (2006).
    joint_limits: whether the limits of the model's joints with one coordinate apply. limit_stiffness [N/m or N m/rad]:
        their stiffness; half of what a joint is beyond its limit is taken back in each step.
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
        pairs: Sequence[CollisionPair] = (),
        substeps: int = 1,
        ground: Ground = Plane(),  # noqa: B008 (it is immutable)
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
        self.dt, self.substeps = float(dt), as_integer("substeps", substeps, 1)
        self.contacts, self.pairs = tuple(contacts), tuple(pairs)
        if not self.dt > 0.0:
            raise ValueError(f"dt is {dt}, expected a positive time")
        for argument, given, kind in (("contacts", self.contacts, Contact), ("pairs", self.pairs, CollisionPair)):
            for entry in given:
                if not isinstance(entry, kind):
                    raise ValueError(f"{argument} has a {type(entry).__name__}, expected a {kind.__name__}")
        mass = sum(inertia.mass for inertia in list(self.model.inertias)[1:])
        self.stiffness = float(mass * GRAVITY / 1e-3 if stiffness is None else stiffness)
        if not self.stiffness > 0.0:  # before its root; the other numbers are checked below
            raise ValueError(f"stiffness is {self.stiffness}, expected a positive number [N/m]")
        self.damping = float(2.0 * (self.stiffness * mass) ** 0.5 if damping is None else damping)
        self.slip, self.directions, self.ground = float(slip), as_integer("directions", directions, 2), ground
        self.limit_stiffness, self.lift = float(limit_stiffness), bool(lift)
        if not isinstance(ground, Ground):
            raise ValueError(f"ground is a {type(ground).__name__}, expected a Plane or a HeightField")
        named = [(contact.frame, contact.friction) for contact in self.contacts]
        named += [(f"{pair.first.frame} and {pair.second.frame}", pair.friction) for pair in self.pairs]
        for name, coefficient in named:
            if not (np.isfinite(coefficient) and coefficient >= 0.0):
                raise ValueError(f"friction of {name!r} is {coefficient}, expected at least 0")
        dry = np.array(self.model.upperDryFrictionLimit) if dry_friction is None else dry_friction
        self.dry_friction = torch.as_tensor(dry, dtype=torch.float64).clone()
        good = (self.dry_friction >= 0.0) & self.dry_friction.isfinite()
        if self.dry_friction.shape != (self.nv,) or not bool(good.all()):
            raise ValueError(f"dry_friction is {dry}, expected {self.nv} finite numbers of at least 0")
        self.joint_limits, self.settings = bool(joint_limits), settings_or(settings, Settings(threads=threads))
        self.dry = [int(i) for i in self.dry_friction.nonzero()[:, 0]]
        self._dry = self.dry_friction[self.dry]
        self.limited = self._limited() if joint_limits else []
        self._native = _robot.ContactDynamics(
            model=self.model,
            dt=self.dt,
            substeps=self.substeps,
            actuated=self._indices,
            threads=threads,
            balls=[(self._frame_indices([c.frame])[0], c.radius, c.offset) for c in self.contacts],
            pairs=[self._shapes(pair) for pair in self.pairs],
            ground=self.ground.native,
            directions=self.directions,
            stiffness=self.stiffness,
            damping=self.damping,
            slip=self.slip,
            lift=self.lift,
            limit_stiffness=self.limit_stiffness,
            limit_damping=self.limit_stiffness * self.dt / self.substeps,
            limited=self.limited,
            dry=self.dry,
            solver=_solver.box_qps(self.settings.native("closest"), self.settings.native_derivative()),
        )
        self.friction = torch.tensor([coefficient for _, coefficient in named], dtype=torch.float64)
        signs = [1.0] * len(self.contacts) + [-1.0 if pair.swapped else 1.0 for pair in self.pairs]
        self._signs = torch.tensor(signs, dtype=torch.float64)[:, None]

    def _shapes(self, pair: CollisionPair) -> list[tuple[Any, ...]]:
        order = (pair.second, pair.first) if pair.swapped else (pair.first, pair.second)
        return [(self._frame_indices([shape.frame])[0], *rounded_box(shape)) for shape in order]

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
        names = ("dt", "contacts", "pairs", "substeps", "ground", "directions", "stiffness", "damping", "slip")
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
        """State x_next (B, nx) one control period after x (B, nx) = (q, v) under the constant input u (B, nu), or NaN
        if the motion diverges.

        parameters (n_par,) or (B, n_par). friction: coefficients (contacts,) or (B, contacts), those with the ground
        before those of pairs. dry_friction (nv,) or (B, nv): applies to the velocities that have dry friction in the
        model. ValueError if a coefficient is negative. Differentiable in all of them, except where a contact opens,
        closes or begins to slide.
        """
        return self._follow(False, x, u, 1, parameters, friction, dry_friction)[0]

    def step_with_forces(
        self,
        x: Tensor,
        u: Tensor,
        parameters: Tensor | None = None,
        *,
        friction: Tensor | None = None,
        dry_friction: Tensor | None = None,
    ) -> tuple[Tensor, ContactForces]:
        """The same, and the gaps and forces of the contacts in the last substep; these carry no graph."""
        x_next, forces = self._follow(True, x, u, 1, parameters, friction, dry_friction)
        assert forces is not None
        return x_next, forces

    def rollout(
        self,
        x: Tensor,
        u: Tensor,
        parameters: Tensor | None = None,
        *,
        friction: Tensor | None = None,
        dry_friction: Tensor | None = None,
    ) -> Tensor:
        """States (B, T, nx) at the ends of T control periods with the inputs u (B, T, nu), from x (B, nx).

        Equal to T steps, in one call of C++, and differentiable like them; arguments as for `step`.
        """
        if u.ndim < 2:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected (..., T, {self.nu})")
        periods = u.shape[-2]
        states, _ = self._follow(False, x, u.flatten(-2), periods, parameters, friction, dry_friction)
        return states.reshape(*states.shape[:-1], periods, self.nx)

    def _follow(
        self,
        contacts: bool,
        x: Tensor,
        u: Tensor,
        periods: int,
        parameters: Tensor | None,
        friction: Tensor | None,
        dry_friction: Tensor | None,
    ) -> tuple[Tensor, ContactForces | None]:
        """States (..., periods nx) after inputs (..., periods nu), and the contacts in the last substep."""
        (x_, u_), par, finish, _ = self._inputs({"x": (x, self.nx), "u": (u, periods * self.nu)}, parameters)
        batch, mu, dry = len(x_), self.friction, self._dry
        if friction is not None:
            mu = self._coefficients("friction", friction, len(self.friction), batch)
        if dry_friction is not None:
            dry = self._coefficients("dry_friction", dry_friction, self.nv, batch)[..., self.dry]
        u_ = u_.reshape(batch, periods, self.nu)
        states, gaps, forces = follow(self._native, self.settings, contacts, x_, u_, par, mu, dry)
        states = finish(states.reshape(batch, periods * self.nx))
        if gaps is None or forces is None:
            return states, None
        return states, ContactForces(finish(gaps[:, -1]), finish(self._signs * forces[:, -1]))

    def ground_points(self, x: Tensor) -> Tensor:
        """(B, contacts, 3) points of the balls nearest to the ground at x (B, nx), in the world [m]; no graph."""
        q = x.detach()[..., : self.nq]
        found = self.frame_motions([contact.frame for contact in self.contacts], q)
        offsets, radii = (
            torch.tensor(values, dtype=torch.float64).to(q)
            for values in ([c.offset for c in self.contacts], [c.radius for c in self.contacts])
        )
        centres = found.position + (found.rotation @ offsets.reshape(-1, 3, 1))[..., 0]
        normals = self.ground.at(centres.reshape(-1, 3).cpu()).normal
        return centres - radii[:, None] * torch.from_numpy(normals).to(q).reshape(centres.shape)

    def _coefficients(self, name: str, value: Tensor, size: int, batch: int) -> Tensor:
        check_tensor(name, value)
        if value.shape not in ((size,), (batch, size)):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, expected ({size},) or (B, {size}) = ({batch}, {size})"
            )
        native = value.to("cpu", torch.float64)
        if native.detach().numpy().min(initial=0.0) < 0.0:  # in a third of the time of torch
            raise ValueError(f"{name} has {float(native.min())}, expected at least 0")
        return native


def _rebuild_contact(model: Any, options: dict[str, Any]) -> ContactDynamics:
    return ContactDynamics(model, **options)
