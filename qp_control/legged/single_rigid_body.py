"""Model predictive control of a legged robot as a single rigid body, over a given gait: a convex QP in contact forces.

    state x = (theta, p, omega, v): rotation vector from the upright body at its current heading [rad], position [m],
    angular velocity and velocity [rad/s, m/s], all in the world; input u = (f_1, .., f_k) forces at feet [N]

    theta+ = theta + dt omega,  omega+ = omega + dt I^-1 sum (r_i - p) x f_i     I turned by the yaw, r_i - p as planned
    p+ = p + dt v + dt^2/2 a,   v+ = v + dt a,                                   a = sum f_i / m + gravity

    minimise  sum (x - reference)'Q (x - reference)/2 + r |f|^2/2
    subject to  |f_x|, |f_y| <= friction f_z / sqrt 2,  min_force <= f_z <= max_force on the ground, f = 0 in the air

Source: J. Di Carlo, P. M. Wensing, B. Katz, G. Bledt, S. Kim, "Dynamic locomotion in the MIT Cheetah 3 through convex
model-predictive control", IROS 2018. Tracking of its plans by inverse dynamics: D. Kim, J. Di Carlo, B. Katz, G. Bledt,
S. Kim, "Highly dynamic quadruped locomotion via whole-body impulse control and model predictive control",
arXiv:1909.06586 (2019).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qp_control.ocp.layer import OcpLayer, OcpLayerSolution
from qp_control.robot.contact import GRAVITY
from qp_control.settings import Settings, settings_or


class BodyPlan(NamedTuple):
    """Planned motion and forces."""

    states: Tensor
    """(B, N + 1, 12)"""
    forces: Tensor
    """(B, N, feet, 3) on the robot [N]"""
    status: Tensor
    """(B,)"""


class BodyProblem(NamedTuple):
    """The arguments of `OcpLayer`."""

    A: Tensor
    B: Tensor
    x0: Tensor
    Q: Tensor
    R: Tensor
    q: Tensor
    c: Tensor
    D: Tensor
    upper: Tensor
    u_lower: Tensor
    u_upper: Tensor


class SingleRigidBody(nn.Module):
    """The model and problem stated in `qp_control.legged.single_rigid_body`.

    mass [kg], inertia (3, 3) about the centre of mass in the body's axes [kg m^2]; feet: their number; horizon: number
    N of stages of dt [s]; min_force, max_force [N]: normal force of a foot on the ground.
    """

    def __init__(
        self,
        mass: float,
        inertia: Tensor,
        *,
        feet: int = 4,
        horizon: int = 12,
        dt: float = 0.03,
        min_force: float = 5.0,
        max_force: float = 250.0,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.mass, self.feet, self.horizon, self.dt = mass, feet, horizon, dt
        self.min_force, self.max_force = min_force, max_force
        self.inertia: Tensor
        self.register_buffer("inertia", torch.as_tensor(inertia, dtype=torch.float64), persistent=False)
        self.layer = OcpLayer(settings_or(settings, Settings(eps_abs=1e-6)), horizon=horizon)

    def build(
        self, x0: Tensor, reference: Tensor, yaw: Tensor, arms: Tensor, on_ground: Tensor, *, Q: Tensor, r: Tensor,
        friction: Tensor,
    ) -> BodyProblem:  # fmt: skip
        """The QPs; arguments as in `forward`."""
        n, N, k, dt = len(x0), self.horizon, self.feet, self.dt
        eye, cross = torch.eye(3, dtype=torch.float64), skew(arms)
        R = about_vertical(yaw)
        inverse = R @ torch.linalg.inv(self.inertia) @ R.mT
        A = torch.eye(12, dtype=torch.float64)
        A[:6, 6:] = dt * torch.eye(6, dtype=torch.float64)
        turn = dt * torch.einsum("bij,bnkjl->bnikl", inverse, cross).reshape(n, N, 3, 3 * k)
        push = (dt / self.mass * eye).repeat(1, k).expand(n, N, 3, 3 * k)
        B = torch.cat([0.5 * dt * turn, 0.5 * dt * push, turn, push], 2)
        fall = torch.zeros(12, dtype=torch.float64)
        fall[5], fall[11] = -0.5 * dt**2 * GRAVITY, -dt * GRAVITY
        edge = friction / math.sqrt(2.0)
        sides = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
        facets = torch.cat([sides, -edge.reshape(1, 1).expand(4, 1)], 1)
        D = torch.kron(torch.eye(k, dtype=torch.float64), facets)
        # Linearly dependent rows are slow to differentiate: a foot in the air has only bounds, and one on the ground a
        # least force, so that it is never at the apex of its cone.
        on = on_ground.unsqueeze(-1)
        largest = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64) * self.max_force
        least = torch.tensor([-self.max_force, -self.max_force, self.min_force], dtype=torch.float64)
        u_upper, u_lower = (torch.where(on, bound, 0.0).flatten(-2) for bound in (largest, least))
        upper = torch.where(on, torch.zeros(4, dtype=torch.float64), math.inf).flatten(-2)
        cost = torch.diag(Q)
        R_ = r * torch.eye(3 * k, dtype=torch.float64)
        return BodyProblem(A, B, x0, cost, R_, -Q * reference, fall, D, upper, u_lower, u_upper)

    def forward(
        self, x0: Tensor, reference: Tensor, yaw: Tensor, arms: Tensor, on_ground: Tensor, *, Q: Tensor, r: Tensor,
        friction: Tensor,
    ) -> BodyPlan:  # fmt: skip
        """Plans from states x0 (B, 12).

        reference (B, N + 1, 12). yaw (B,) [rad]. arms (B, N, feet, 3): from the centre of mass to the feet [m].
        on_ground (N, feet) or (B, N, feet). Q (12,): weights of theta [1/rad^2] etc.; r (1,) [1/N^2]; friction (1,).
        """
        problem = self.build(x0, reference, yaw, arms, on_ground, Q=Q, r=r, friction=friction)
        data = problem._asdict()
        found: OcpLayerSolution = self.layer(data.pop("A"), data.pop("B"), data.pop("x0"), **data)
        return BodyPlan(found.x, found.u.view(*found.u.shape[:-1], self.feet, 3), found.status)


def skew(vector: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of the map from f to vector x f."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    return rows.view(*rows.shape[:-1], 3, 3)


def about_vertical(yaw: Tensor) -> Tensor:
    """Rotations (..., 3, 3) by yaw [rad] about the vertical."""
    c, s = torch.cos(yaw), torch.sin(yaw)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1)
    return rows.view(*rows.shape[:-1], 3, 3)
