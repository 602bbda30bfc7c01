"""Trotting: a single rigid body plans forces over the gait, and inverse dynamics follows with the whole robot."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.controller import Control, ControlProblem
from qp_control.legged.foot_steps import landing, swing
from qp_control.legged.gait import Gait, trot
from qp_control.legged.shared_numbers import SharedNumbers
from qp_control.legged.single_rigid_body import BodyPlan, SingleRigidBody, about_vertical
from qp_control.legged.standing import level
from qp_control.legged.whole_body import Target, WholeBody
from qp_control.qp.layer import LayerSolution
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
"""Weights of the plan (of the order of those of Di Carlo et al.), and Raibert's gain [s]."""


class TrottingMemory(NamedTuple):
    """What a tick hands to the next one, B robots with k feet."""

    clock: Tensor
    """(B,) int64, control periods of the gait"""
    tick: int
    """control periods since the start"""
    command: Tensor
    """(B, 3) wanted velocity ahead and to the left [m/s], and turn to the left [rad/s]"""
    heading: Tensor
    """(B,) wanted direction [rad]"""
    left: Tensor
    """(B, k, 3) where feet in the air left the ground [m]"""
    plan: BodyPlan
    plan_heading: Tensor
    """(B,) direction in which it was made [rad]"""
    plan_arms: Tensor
    """(B, k, 3) from the centre of mass to the feet then [m]"""
    warm_start: LayerSolution | None

    def detach(self) -> TrottingMemory:
        """Without graph."""
        plan = BodyPlan(*(part.detach() for part in self.plan))
        names = ("heading", "left", "plan_heading", "plan_arms")
        return self._replace(plan=plan, **{name: getattr(self, name).detach() for name in names})


class Trotting(nn.Module):
    """Walks as commanded, or on the spot.

    stand (nx,): the state of standing, with the feet on the ground. period [s]: of control. every: control periods from
    plan to plan, and in a stage of it; the gait's cycle should be a multiple. clearance [m]: height of a step.

    `numbers` are those of plan and foot placement, those of the controller by inverse dynamics are in `whole_body`.
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
        self.period, self.gait, self.every, self.clearance = period, gait or trot(), every, clearance
        self.stand, rest = stand[: model.nq], torch.zeros(model.nv, dtype=torch.float64)
        feet, centre = model.frame_positions(whole_body.feet, self.stand), model.centroid(self.stand).position
        self.ground, self.height = float(feet[:, 2].mean()), float(centre[2])
        self.under = (feet - self.stand[:3])[:, :2]
        # The body that the robot is as a whole, rigid in its stand.
        spin = torch.eye(model.nv, dtype=torch.float64)[3:6]
        turned = model.centroid(self.stand.expand(3, -1), spin).momentum[:, 3:]
        mass = float(model.inverse_dynamics(self.stand, rest, rest)[2]) / GRAVITY
        self.body = SingleRigidBody(
            mass, turned, feet=len(whole_body.feet), horizon=horizon, dt=every * period, settings=settings
        )
        self.numbers = SharedNumbers(UNTUNED)
        self.numbers.set(**values)

    def start(self, x: Tensor, command: Tensor | None = None, clock: Tensor | None = None) -> TrottingMemory:
        """From states x (B, nx).

        command (B, 3) or (3,): velocity ahead and to the left [m/s] and turn to the left [rad/s]; clock (B,): where in
        the gait, in control periods.
        """
        n, k = len(x), len(self.whole_body.feet)
        wanted = x.new_zeros(n, 3) if command is None else command.expand(n, 3)
        now = torch.zeros(n, dtype=torch.int64) if clock is None else clock
        feet = self.whole_body.model.frame_positions(self.whole_body.feet, x[:, : self.whole_body.model.nq])
        nothing = BodyPlan(x.new_zeros(n, 2, 12), x.new_zeros(n, 1, k, 3), torch.zeros(n, dtype=torch.int64))
        heading = heading_of(x[:, 3:7]).detach()
        return TrottingMemory(now, 0, wanted, heading, feet, nothing, heading, feet, None)

    def forward(self, x: Tensor, memory: TrottingMemory) -> tuple[Control, TrottingMemory]:
        """Torques for states x (B, nx), and what the next tick is to be given."""
        q, v = self._parts(x)
        target, memory = self._prepare(q, v, memory)
        found = self.whole_body(q, v, target, memory.warm_start)
        unplanned = memory.plan.status > Status.CLOSEST_FEASIBLE
        found = found._replace(status=torch.where(unplanned, memory.plan.status, found.status))
        heading = memory.heading + self.period * memory.command[:, 2]
        after = memory._replace(
            clock=memory.clock + 1, tick=memory.tick + 1, heading=heading, warm_start=found.solution
        )
        return found, after

    def problem(self, x: Tensor, memory: TrottingMemory) -> ControlProblem:
        """The QPs of a tick, as data."""
        q, v = self._parts(x)
        return self.whole_body.build(q, v, self._prepare(q, v, memory)[0])

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        nq = self.whole_body.model.nq
        return x[:, :nq], x[:, nq:]

    def _prepare(self, q: Tensor, v: Tensor, memory: TrottingMemory) -> tuple[Target, TrottingMemory]:
        """What to do now, planned anew where it is time."""
        model, gait = self.whole_body.model, self.gait
        feet = model.frame_positions(self.whole_body.feet, q)
        centroid = model.centroid(q, v)
        velocity = centroid.momentum[:, :3] / self.body.mass
        on = gait.on_ground(memory.clock)
        memory = memory._replace(left=torch.where(on[..., None], feet, memory.left))
        ahead = about_vertical(memory.heading)[:, :2, :2]
        wanted = torch.einsum("bij,bj->bi", ahead, memory.command[:, :2])
        until = gait.period - gait.since_touchdown(memory.clock)
        land = landing(
            q[:, :2],
            torch.einsum("bij,kj->bki", ahead, self.under),
            memory.command[:, 2],
            velocity[:, :2],
            wanted,
            self.period * until,
            self.period * gait.stance,
            self.numbers["placement_gain"],
        )
        if memory.tick % self.every == 0:
            memory = self._planned(q, v, memory, centroid.position, velocity, feet, land, wanted)
        return self._target(q, memory, feet, land), memory

    def _planned(
        self, q: Tensor, v: Tensor, memory: TrottingMemory, centre: Tensor, velocity: Tensor, feet: Tensor,
        land: Tensor, wanted: Tensor,
    ) -> TrottingMemory:  # fmt: skip
        """The memory with a new plan."""
        n, N, dt = len(q), self.body.horizon, self.body.dt
        yaw, R = heading_of(q[:, 3:7]), rotation(q[:, 3:7])
        zero, up = torch.zeros(n, dtype=torch.float64), R[:, :, 2]
        spin = torch.einsum("bij,bj->bi", R, v[:, 3:6])
        x0 = torch.cat([torch.stack([-up[:, 1], up[:, 0], zero], 1), centre, spin, velocity], 1)
        t = dt * torch.arange(N + 1, dtype=torch.float64)
        turned = torch.remainder(memory.heading - yaw + torch.pi, 2.0 * torch.pi) - torch.pi
        zeros = torch.zeros(n, N + 1, 2, dtype=torch.float64)
        place = centre[:, None, :2] + t[:, None] * wanted[:, None]
        reference = torch.cat(
            [
                zeros,
                (turned[:, None] + t * memory.command[:, 2:])[..., None],
                place,
                torch.full_like(zeros[..., :1], self.height),
                zeros,
                memory.command[:, None, 2:].expand(n, N + 1, 1),
                wanted[:, None].expand(n, N + 1, 2),
                zeros[..., :1],
            ],
            2,
        )
        later = memory.clock[:, None] + self.every * torch.arange(N)
        since = self.gait.since_touchdown(later)
        still = since >= (later - memory.clock[:, None])[..., None]  # it has not left the ground since now
        next_one = torch.cat([land, torch.full_like(land[..., :1], self.ground)], -1)
        places = torch.where(still[..., None], feet[:, None], next_one[:, None])
        arms = places - reference[:, :N, None, 3:6]
        numbers = self.numbers
        Q = torch.cat([numbers[f"{name}_weight"] for name in ("angle", "position", "angular_velocity", "velocity")])
        plan = self.body(
            x0, reference, yaw, arms, self.gait.on_ground(later), Q=Q, r=numbers["planned_force_weight"],
            friction=self.whole_body.numbers["friction"],
        )  # fmt: skip
        return memory._replace(plan=plan, plan_heading=yaw, plan_arms=arms[:, 0])

    def _target(self, q: Tensor, memory: TrottingMemory, feet: Tensor, land: Tensor) -> Target:
        gait, plan = self.gait, memory.plan
        share = (memory.tick % self.every) / self.every
        now = torch.lerp(plan.states[:, 0], plan.states[:, 1], share)
        angle, centre, spin, velocity = now.view(-1, 4, 3).unbind(1)
        force = plan.forces[:, 0]
        I = about_vertical(memory.plan_heading) @ self.body.inertia @ about_vertical(memory.plan_heading).mT
        moment = torch.linalg.cross(memory.plan_arms, force).sum(1)
        fall = torch.tensor([0.0, 0.0, -GRAVITY], dtype=torch.float64)
        half = 0.5 * memory.plan_heading
        zero = torch.zeros_like(half)
        facing = torch.stack([zero, zero, torch.sin(half), torch.cos(half)], 1)
        over = gait.swing(memory.clock)
        seconds = self.period * (gait.period - gait.stance)
        moved = swing(memory.left, land, over, seconds, self.ground, self.clearance)
        return Target(
            com=centre,
            com_velocity=velocity,
            com_acceleration=force.sum(1) / self.body.mass + fall,
            orientation=turned_by(angle, facing),
            angular_velocity=spin,
            angular_acceleration=torch.linalg.solve(I, moment),
            posture=self.stand.expand_as(q),
            activation=gait.activation(memory.clock),
            foot=moved.position,
            foot_velocity=moved.velocity,
            foot_acceleration=moved.acceleration,
            force=force,
        )


def heading_of(quaternion: Tensor) -> Tensor:
    """(B,) angle about the vertical of the level rotation that is nearest [rad]."""
    flat = level(quaternion)
    return 2.0 * torch.atan2(flat[:, 2], flat[:, 3])


def rotation(quaternion: Tensor) -> Tensor:
    """(B, 3, 3) of unit quaternions x y z w."""
    x, y, z, w = quaternion.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3)


def turned_by(vector: Tensor, quaternion: Tensor) -> Tensor:
    """(B, 4) the quaternion turned by a small rotation vector (B, 3), in the world's axes; of any length but zero."""
    a, w = quaternion[:, :3], quaternion[:, 3:]
    half = 0.5 * vector
    return torch.cat([half * w + a + torch.linalg.cross(half, a), w - (half * a).sum(1, keepdim=True)], 1)
