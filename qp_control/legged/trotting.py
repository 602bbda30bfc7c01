"""Trotting: a single rigid body plans forces over the gait, and inverse dynamics follows with the whole robot."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.positive_numbers import PositiveNumbers
from qp_control.legged.decision import LeggedDecision
from qp_control.legged.foot_steps import landing, swing
from qp_control.legged.gait import Gait, trot
from qp_control.legged.single_rigid_body import SingleRigidBody, about_vertical
from qp_control.legged.standing import level
from qp_control.legged.whole_body import Target, WholeBody
from qp_control.ocp.problem import OcpQP
from qp_control.qp.problem import as_integer
from qp_control.robot.contact import GRAVITY
from qp_control.settings import Settings, Status

UNTUNED: dict[str, Any] = {
    "angle_weight": [10.0, 10.0, 10.0],
    "position_weight": [1.0, 1.0, 50.0],
    "angular_velocity_weight": [0.1, 0.1, 0.3],
    "velocity_weight": [1.0, 1.0, 1.0],
    "planned_force_weight": 1e-6,
    "placement_gain": 0.12,
}
"""Weights of the plan (similar to those of Di Carlo et al.), and Raibert's gain [s]."""


@dataclass(frozen=True)
class TrottingDecision(LeggedDecision):
    """A `LeggedDecision` with the gait and its plan:

    clock (B,): int64, the gait's clock in control periods. tick (B,): int64, control periods since the start.
    command (B, 3): commanded velocity forward and to the left [m/s], and turning rate to the left [rad/s].
    heading (B,): commanded heading [rad].
    left (B, k, 3): where feet in the air left the ground [m].
    body (B, 2, 12), body_force (B, k, 3), plan_status (B,): first states, forces [N] and status of the `BodyPlan`.
    plan_heading (B,): heading when it was made [rad]. plan_arms (B, k, 3): from the centre of mass to the feet at that
    time [m].
    """

    clock: Tensor
    tick: Tensor
    command: Tensor
    heading: Tensor
    left: Tensor
    body: Tensor
    body_force: Tensor
    plan_status: Tensor
    plan_heading: Tensor
    plan_arms: Tensor


class _Seen(NamedTuple):
    """What planning and tracking are based on."""

    q: Tensor
    v: Tensor
    centre: Tensor
    """(B, 3) centre of mass [m]"""
    velocity: Tensor
    """(B, 3) of the centre of mass [m/s]"""
    feet: Tensor
    """(B, k, 3) [m]"""
    land: Tensor
    """(B, k, 2) where feet in the air will land [m]"""
    wanted: Tensor
    """(B, 2) commanded velocity in the world [m/s]"""


class Trotting(nn.Module):
    """Trots as commanded, or on the spot. A `Controller` of `qp_control.training.closed_loop`.

    stand (nx,): the standing state, with the feet on the ground. period [s]: control period. every: control periods
    between plans, and per stage of a plan; the gait's cycle should be a multiple. clearance [m]: height of a step.

    `numbers` are those of plan and foot placement; those of inverse dynamics are in `whole_body`.

    Raises ValueError for a gait with another number of feet.
    """

    def __init__(
        self,
        whole_body: WholeBody,
        stand: Tensor,
        *,
        period: float,
        gait: Gait | None = None,
        every: int = 6,
        horizon: int = 12,
        clearance: float = 0.06,
        settings: Settings | None = None,
        **values: Any,
    ) -> None:
        super().__init__()
        self.whole_body, model = whole_body, whole_body.model
        self.period, self.gait, self.clearance = period, gait or trot(), clearance
        self.every = every = as_integer("every", every, 1)
        if len(self.gait.offsets) != len(whole_body.feet):
            raise ValueError(f"the gait is one of {len(self.gait.offsets)} feet, expected {len(whole_body.feet)}")
        self.stand, rest = stand[: model.nq], torch.zeros(model.nv, dtype=torch.float64)
        feet, centre = model.frame_positions(whole_body.feet, self.stand), model.centroid(self.stand).position
        self.ground, self.height = float(feet[:, 2].mean()), float(centre[2])
        self.under = (feet - self.stand[:3])[:, :2]
        # The whole robot as one rigid body in its standing configuration.
        spin = torch.eye(model.nv, dtype=torch.float64)[3:6]
        turned = model.centroid(self.stand.expand(3, -1), spin).momentum[:, 3:]
        mass = float(model.inverse_dynamics(self.stand, rest, rest)[2]) / GRAVITY
        self.body = SingleRigidBody(
            mass, turned, feet=len(whole_body.feet), horizon=horizon, dt=every * period, settings=settings
        )
        self.numbers = PositiveNumbers(UNTUNED)
        self.numbers.set(**values)

    @property
    def input_limit(self) -> Tensor:
        """(nu,) [N m] the effort limits of the robot."""
        return self.whole_body.model.effort_limit

    def start(self, x: Tensor, command: Tensor | None = None, clock: Tensor | None = None) -> TrottingDecision:
        """The previous decision to pass to the first call in states x (B, nx) if the defaults do not apply.

        command (B, 3) or (3,): velocity forward and to the left [m/s] and turning rate to the left [rad/s]; None: on
        the spot. clock (B,): the gait's clock, in control periods; None: 0.
        """
        x = self.whole_body.checked(x)
        n, k = len(x), len(self.whole_body.feet)
        q, _ = self.whole_body.parts(self.whole_body.finite(x))
        none = torch.zeros(n, dtype=torch.int64)
        feet, heading = self.whole_body.model.frame_positions(self.whole_body.feet, q), heading_of(q[:, 3:7]).detach()
        return TrottingDecision(
            **LeggedDecision.nothing(self.whole_body, n),
            clock=none if clock is None else clock,
            tick=none,
            command=x.new_zeros(n, 3) if command is None else command.expand(n, 3),
            heading=heading,
            left=feet,
            body=x.new_zeros(n, 2, 12),
            body_force=x.new_zeros(n, k, 3),
            plan_status=none,
            plan_heading=heading,
            plan_arms=feet,
        )

    def forward(self, x: Tensor, before: TrottingDecision | None = None) -> TrottingDecision:
        """Torques for states x (B, nx), which may be followed by more of the plant's state.

        before: the decision of the previous control period. If the plan has no answer, the status is that of the plan.
        """
        target, now = self._prepare(x, before)
        found = self.whole_body(*self.whole_body.parts(x), target, now.warm_start)
        unplanned = now.plan_status > Status.CLOSEST_FEASIBLE
        return now.decided(
            found,
            status=torch.where(unplanned, now.plan_status, found.status),
            clock=now.clock + 1,
            tick=now.tick + 1,
            heading=now.heading + self.period * now.command[:, 2],
        )

    def build(self, x: Tensor, before: TrottingDecision | None = None) -> OcpQP | dict[str, Tensor]:
        """The QPs of a call, as arguments of `qc.solve_qp`; if a plan made in it has no answer, the plan's QP."""
        seen, now = self._see(x, before)
        if bool(self._due(now).all()):
            arguments = self._plan_arguments(seen, now)
            if bool((self.body(**arguments).status > Status.CLOSEST_FEASIBLE).any()):
                return OcpQP(**self.body.build(**arguments)._asdict(), horizon=self.body.horizon)
        return self.whole_body.build(*self.whole_body.parts(x), self._prepare(x, before)[0])

    def _due(self, now: TrottingDecision) -> Tensor:
        """bool (B,): whether a new plan is due."""
        return now.tick % self.every == 0

    def _prepare(self, x: Tensor, before: TrottingDecision | None) -> tuple[Target, TrottingDecision]:
        """The current target, replanned where due."""
        seen, now = self._see(x, before)
        due = self._due(now)
        if bool(due.any()):
            plan = self._plan(seen, now)
            if not bool(due.all()):
                plan = {
                    name: torch.where(due.view(-1, *[1] * (value.ndim - 1)), value, getattr(now, name))
                    for name, value in plan.items()
                }
            now = dataclasses.replace(now, **plan)
        return self._target(seen, now), now

    def _see(self, x: Tensor, before: TrottingDecision | None) -> tuple[_Seen, TrottingDecision]:
        """What planning and tracking are based on, and the decision with an updated `left`."""
        now = self.start(x) if before is None else before
        model, gait = self.whole_body.model, self.gait
        q, v = self.whole_body.parts(self.whole_body.finite(x))
        feet = model.frame_positions(self.whole_body.feet, q)
        centroid = model.centroid(q, v)
        velocity = centroid.momentum[:, :3] / self.body.mass
        on = gait.on_ground(now.clock)
        now = dataclasses.replace(now, left=torch.where(on[..., None], feet, now.left))
        ahead = about_vertical(now.heading)[:, :2, :2]
        wanted = torch.einsum("bij,bj->bi", ahead, now.command[:, :2])
        until = gait.period - gait.since_touchdown(now.clock)
        land = landing(
            q[:, :2],
            torch.einsum("bij,kj->bki", ahead, self.under),
            now.command[:, 2],
            velocity[:, :2],
            wanted,
            self.period * until,
            self.period * gait.stance,
            self.numbers["placement_gain"],
        )
        return _Seen(q, v, centroid.position, velocity, feet, land, wanted), now

    def _plan_arguments(self, seen: _Seen, now: TrottingDecision) -> dict[str, Tensor]:
        """Arguments of `SingleRigidBody`."""
        q, v, centre, velocity, feet, land, wanted = seen
        n, N, dt = len(q), self.body.horizon, self.body.dt
        yaw, R = heading_of(q[:, 3:7]), rotation(q[:, 3:7])
        zero, up = torch.zeros(n, dtype=torch.float64), R[:, :, 2]
        spin = torch.einsum("bij,bj->bi", R, v[:, 3:6])
        x0 = torch.cat([torch.stack([-up[:, 1], up[:, 0], zero], 1), centre, spin, velocity], 1)
        t = dt * torch.arange(N + 1, dtype=torch.float64)
        turned = torch.remainder(now.heading - yaw + torch.pi, 2.0 * torch.pi) - torch.pi
        zeros = torch.zeros(n, N + 1, 2, dtype=torch.float64)
        place = centre[:, None, :2] + t[:, None] * wanted[:, None]
        reference = torch.cat(
            [
                zeros,
                (turned[:, None] + t * now.command[:, 2:])[..., None],
                place,
                torch.full_like(zeros[..., :1], self.height),
                zeros,
                now.command[:, None, 2:].expand(n, N + 1, 1),
                wanted[:, None].expand(n, N + 1, 2),
                zeros[..., :1],
            ],
            2,
        )
        later = now.clock[:, None] + self.every * torch.arange(N)
        since = self.gait.since_touchdown(later)
        still = since >= (later - now.clock[:, None])[..., None]  # it has not left the ground since now
        next_one = torch.cat([land, torch.full_like(land[..., :1], self.ground)], -1)
        places = torch.where(still[..., None], feet[:, None], next_one[:, None])
        arms = places - reference[:, :N, None, 3:6]
        numbers = self.numbers
        Q = torch.cat([numbers[f"{name}_weight"] for name in ("angle", "position", "angular_velocity", "velocity")])
        return {
            "x0": x0,
            "reference": reference,
            "yaw": yaw,
            "arms": arms,
            "on_ground": self.gait.on_ground(later),
            "Q": Q,
            "r": numbers["planned_force_weight"],
            "friction": self.whole_body.numbers["friction"],
        }

    def _plan(self, seen: _Seen, now: TrottingDecision) -> dict[str, Any]:
        """The fields of a decision that come from a new plan."""
        arguments = self._plan_arguments(seen, now)
        plan = self.body(**arguments)
        return {
            "body": plan.states[:, :2],
            "body_force": plan.forces[:, 0],
            "plan_status": plan.status,
            "plan_heading": arguments["yaw"],
            "plan_arms": arguments["arms"][:, 0],
        }

    def _target(self, seen: _Seen, now: TrottingDecision) -> Target:
        gait, force = self.gait, now.body_force
        share = (now.tick % self.every).double() / self.every
        body = torch.lerp(now.body[:, 0], now.body[:, 1], share[:, None])
        angle, centre, spin, velocity = body.view(-1, 4, 3).unbind(1)
        I = about_vertical(now.plan_heading) @ self.body.inertia @ about_vertical(now.plan_heading).mT
        moment = torch.linalg.cross(now.plan_arms, force).sum(1)
        fall = torch.tensor([0.0, 0.0, -GRAVITY], dtype=torch.float64)
        half = 0.5 * now.plan_heading
        zero = torch.zeros_like(half)
        facing = torch.stack([zero, zero, torch.sin(half), torch.cos(half)], 1)
        over = gait.swing(now.clock)
        seconds = self.period * (gait.period - gait.stance)
        moved = swing(now.left, seen.land, over, seconds, self.ground, self.clearance)
        return Target(
            com=centre,
            com_velocity=velocity,
            com_acceleration=force.sum(1) / self.body.mass + fall,
            orientation=turned_by(angle, facing),
            angular_velocity=spin,
            angular_acceleration=torch.linalg.solve(I, moment),
            posture=self.stand.expand_as(seen.q),
            activation=gait.activation(now.clock),
            foot=moved.position,
            foot_velocity=moved.velocity,
            foot_acceleration=moved.acceleration,
            force=force,
        )


def heading_of(quaternion: Tensor) -> Tensor:
    """Heading (B,): angle of the closest rotation about the vertical [rad]."""
    flat = level(quaternion)
    return 2.0 * torch.atan2(flat[:, 2], flat[:, 3])


def rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) of unit quaternions x y z w."""
    x, y, z, w = quaternion.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3)


def turned_by(vector: Tensor, quaternion: Tensor) -> Tensor:
    """The quaternion (B, 4) rotated by a small rotation vector (B, 3) in the world's axes; not normalised."""
    a, w = quaternion[:, :3], quaternion[:, 3:]
    half = 0.5 * vector
    return torch.cat([half * w + a + torch.linalg.cross(half, a), w - (half * a).sum(1, keepdim=True)], 1)
