"""Inverse dynamics with the tasks of a legged robot; weights, gains and friction are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.contacts import PointContact
from qp_control.inverse_dynamics.controller import Control, InverseDynamics
from qp_control.inverse_dynamics.limits import TorqueLimit
from qp_control.inverse_dynamics.positive_numbers import PositiveNumbers
from qp_control.inverse_dynamics.robot_states import RobotStates
from qp_control.inverse_dynamics.tasks import (
    AngularMomentumTask,
    CenterOfMassTask,
    ContactForceTask,
    OrientationTask,
    PositionTask,
    PostureTask,
    TorqueRegularization,
)
from qp_control.robot.model import RobotModel
from qp_control.settings import Settings

UNTUNED: dict[str, Any] = {
    "com_weight": [1.0, 1.0, 1.0],
    "com_stiffness": [100.0, 100.0, 100.0],
    "com_damping": [20.0, 20.0, 20.0],
    "trunk_weight": [1.0, 1.0, 1.0],
    "trunk_stiffness": [100.0, 100.0, 100.0],
    "trunk_damping": [20.0, 20.0, 20.0],
    "momentum_weight": 1e-2,
    "momentum_damping": 10.0,
    "posture_weight": 1e-2,
    "posture_stiffness": 100.0,
    "posture_damping": 20.0,
    "contact_weight": 1e2,
    "contact_damping": 20.0,
    "friction": 0.7,
    "swing_weight": 10.0,
    "swing_stiffness": 400.0,
    "swing_damping": 40.0,
    "force_weight": 1e-4,
}
"""The defaults of the controller's parts, and rough guesses where these have none."""


class Target(NamedTuple):
    """The target of a robot with k feet at one tick, in the world."""

    com: Tensor
    """(B, 3) [m]"""
    com_velocity: Tensor
    """(B, 3) [m/s]"""
    orientation: Tensor
    """(B, 4) of the trunk, quaternion (x, y, z, w)"""
    angular_velocity: Tensor
    """(B, 3) of the trunk [rad/s]"""
    posture: Tensor
    """(B, nq)"""
    activation: Tensor
    """(B, k) of the contacts: 1 on the ground, 0 in the air"""
    foot: Tensor
    """(B, k, 3) reference position of feet in the air [m]"""
    foot_velocity: Tensor
    """(B, k, 3) [m/s]"""
    foot_acceleration: Tensor
    """(B, k, 3) [m/s^2]"""
    force: Tensor
    """(B, k, 3) on the robot at feet on the ground [N]"""
    com_acceleration: Tensor
    """(B, 3) [m/s^2]"""
    angular_acceleration: Tensor
    """(B, 3) of the trunk [rad/s^2]"""


class WholeBody(nn.Module):
    """Inverse dynamics of a robot that stands on the origins of some frames.

    feet: these frames. trunk: the frame that is kept upright. max_force [N]: of a foot on the ground.
    values: initial values of the learned numbers, by the names in `UNTUNED`.

    `numbers` contains what is learned: weights, gains and the assumed friction coefficient.
    """

    def __init__(
        self,
        model: RobotModel,
        feet: Sequence[str],
        *,
        trunk: str = "base",
        max_force: float = 250.0,
        settings: Settings | None = None,
        **values: Any,
    ) -> None:
        super().__init__()
        self.model, self.feet, self._states = model, tuple(feet), RobotStates(model)
        contacts = [PointContact(foot, max_force=max_force, name=f"{foot} contact") for foot in feet]
        tasks = [
            CenterOfMassTask(),
            OrientationTask(trunk, name="trunk"),
            AngularMomentumTask(name="momentum"),
            PostureTask(),
            TorqueRegularization(weight=1e-5),
            *(PositionTask(foot, name=f"{foot} swing") for foot in feet),
            *(ContactForceTask(f"{foot} contact", name=f"{foot} force") for foot in feet),
        ]
        self.controller = InverseDynamics(model, tasks, [TorqueLimit()], contacts, settings=settings)
        self.controller.requires_grad_(False)
        self.numbers = PositiveNumbers(UNTUNED, self._places())
        self.numbers.set(**values)

    def _places(self) -> dict[str, list[str]]:
        places = {}
        for name in UNTUNED:
            part, _, key = name.partition("_")
            if part in ("contact", "friction", "swing", "force"):
                part, key = ("contact", "friction") if part == "friction" else (part, key)
                places[name] = [f"{foot} {part}.{key}" for foot in self.feet]
            else:
                places[name] = [f"{part}.{key}"]
        return places

    def forward(self, q: Tensor, v: Tensor, target: Target, warm_start: Any = None) -> Control:
        """Torques for states q (B, nq), v (B, nv). warm_start: see `QPLayer`."""
        control: Control = self.controller(q, v, self._numbers(target), warm_start=warm_start)
        return control

    def build(self, q: Tensor, v: Tensor, target: Target) -> dict[str, Tensor]:
        """The QPs, as arguments of `qc.solve_qp`."""
        problem = self.controller.build(q, v, self._numbers(target))
        return {name: value for name, value in problem._asdict().items() if name not in ("T", "t")}

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(q, v) of states x (B, nx) of a plant, which may be followed by more."""
        nq, nx = self.model.nq, self.model.nx
        x = self.checked(x)
        return x[:, :nq], x[:, nq:nx]

    def checked(self, x: Tensor) -> Tensor:
        """States x (B, nx or more) in double precision; ValueError for what is none."""
        if not isinstance(x, Tensor):
            raise ValueError(f"x is a {type(x).__name__}, expected a torch.Tensor")
        if x.ndim != 2 or x.shape[1] < self.model.nx:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {self.model.nx}) or more in a row")
        return x.double()

    def finite(self, x: Tensor) -> Tensor:
        """States (B, nx) as the controller uses those of x (B, nx or more).

        Quaternions are normalised, and states that are not finite replaced by the neutral one.
        """
        state = self._states(*self.parts(x))
        return torch.cat([state.q, state.v], 1)

    def _numbers(self, target: Target) -> dict[str, Tensor]:
        numbers: dict[str, Tensor] = self.numbers()
        numbers |= {
            "com.reference": target.com,
            "com.velocity": target.com_velocity,
            "com.acceleration": target.com_acceleration,
            "trunk.reference": target.orientation,
            "trunk.velocity": target.angular_velocity,
            "trunk.acceleration": target.angular_acceleration,
            "posture.reference": target.posture,
        }
        on = target.activation
        weight, follow = self.numbers["swing_weight"], self.numbers["force_weight"]
        for k, foot in enumerate(self.feet):
            numbers |= {
                f"{foot} contact.activation": on[:, k : k + 1],
                f"{foot} swing.weight": weight * (1.0 - on[:, k : k + 1]),
                f"{foot} swing.reference": target.foot[:, k],
                f"{foot} swing.velocity": target.foot_velocity[:, k],
                f"{foot} swing.acceleration": target.foot_acceleration[:, k],
                f"{foot} force.weight": follow * on[:, k : k + 1],
                f"{foot} force.reference": target.force[:, k],
            }
        return numbers
