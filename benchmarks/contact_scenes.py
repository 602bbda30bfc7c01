"""Robots that touch the ground, and what they do: a block that slides and one that falls, a hopper, a quadruped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pinocchio as pin
import torch
from numpy.typing import NDArray
from torch import Tensor

from qp_control.robot.contact import Contact, ContactDynamics
from qp_control.robot.description import read_urdf

Array = NDArray[np.float64]
DT = 0.002  # [s] of all steps
FRICTION = 0.6
ASSETS = Path(__file__).resolve().parents[1] / "envs" / "assets"
LEGS = ("FL", "FR", "RL", "RR")

BLOCK = """<robot name="block"><link name="block">
  <inertial><mass value="2"/><inertia ixx="0.00833" ixy="0" ixz="0" iyy="0.00833" iyz="0" izz="0.0133"/></inertial>
  <collision><geometry><box size="0.2 0.2 0.1"/></geometry></collision>
</link></robot>"""


@dataclass(frozen=True)
class Robot:
    """urdf: a path, or the text itself. joints: driven, in the order of the inputs. hold: posture (nu,) that gains kp
    [N m/rad] and kd [N m s/rad] hold."""

    name: str
    urdf: str
    joints: tuple[str, ...]
    floating: bool
    stand: tuple[float, ...]
    hold: tuple[float, ...] = ()
    kp: float = 0.0
    kd: float = 0.0

    def ours(self, **options: object) -> ContactDynamics:
        if self.name == "block":
            model = pin.buildModelFromXML(self.urdf, pin.JointModelFreeFlyer())
            corners = [(0.1 * i, 0.1 * j, -0.05) for i in (1, -1) for j in (1, -1)]
            contacts = [Contact("block", 0.0, FRICTION, corner) for corner in corners]
        else:
            model = read_urdf(self.urdf, floating_base=self.floating)
            feet = [(f"{leg}_foot", 0.022) for leg in LEGS] if self.floating else [("heel", 0.03), ("toe", 0.03)]
            contacts = [Contact(foot, radius, FRICTION) for foot, radius in feet]
        given: dict[str, object] = {"dt": DT, "contacts": contacts, "actuated": list(self.joints)}
        return ContactDynamics(model, **given | options)  # type: ignore[arg-type]

    def start(self) -> Array:
        """At rest, standing (nx,)."""
        q = np.array(self.stand)
        return np.concatenate([q, np.zeros(len(q) - (1 if self.floating else 0))])

    def torques(self, x: Tensor) -> Tensor:
        """Of the springs and dampers that hold the posture (B, nu), at states (B, nx)."""
        n, nq, nx = len(self.hold), len(self.stand), x.shape[1]
        hold = torch.tensor(self.hold, dtype=torch.float64)
        return self.kp * (hold - x[:, nq - n : nq]) - self.kd * x[:, nx - n :]


UPRIGHT = (0.0, 0.0, 0.0, 1.0)
LEG = (0.0, 0.8, -1.6)
CROUCH = (-0.4, 0.8, -0.4)
BLOCK_ROBOT = Robot("block", BLOCK, (), True, (0.0, 0.0, 0.05, *UPRIGHT))
HOPPER = Robot(
    "hopper",
    str(ASSETS / "hopper.urdf"),
    ("hip", "knee", "ankle"),
    False,
    (0.0, 0.05 + 0.03 + 0.9 * float(np.cos(0.4)), 0.0, *CROUCH),
    CROUCH,
    kp=400.0,
    kd=3.0,
)
QUADRUPED = Robot(
    "quadruped",
    str(ASSETS / "quadruped.urdf"),
    tuple(f"{leg}_{joint}_joint" for leg in LEGS for joint in ("hip", "thigh", "calf")),
    True,
    (0.0, 0.0, 0.3188, *UPRIGHT, *LEG * 4),
    LEG * 4,
    kp=100.0,
    kd=3.0,
)
ROBOTS = (BLOCK_ROBOT, HOPPER, QUADRUPED)


@dataclass(frozen=True)
class Scene:
    """A robot, what is changed of its standing state at the start, and what changes later: a push [s], after which
    velocities are other ones."""

    name: str
    robot: Robot
    seconds: float
    change: Callable[[Array], None]
    push_at: float = float("inf")
    push: Callable[[Array], None] = lambda x: None

    def start(self) -> Array:
        x = self.robot.start()
        self.change(x)
        return x


def _set(index: int, value: float) -> Callable[[Array], None]:
    def change(x: Array) -> None:
        x[index] = value

    return change


SCENES = (
    Scene("block slides", BLOCK_ROBOT, 0.8, _set(7, 3.0)),
    Scene("block falls", BLOCK_ROBOT, 0.8, _set(2, 0.25)),
    Scene("hopper lands", HOPPER, 1.0, _set(1, HOPPER.stand[1] + 0.05)),
    Scene("quadruped pushed", QUADRUPED, 3.0, _set(2, QUADRUPED.stand[2] + 0.01), 1.0, _set(20, 0.6)),
)


@dataclass
class Course:
    """What happened, step by step."""

    states: Array
    """(steps + 1, nx)"""
    forces: Array
    """(steps, 3) sums of the ground's forces [N]."""
    gaps: Array
    """(steps,) least distances of the contacts from the ground [m], infinite where there is none."""


def play(scene: Scene) -> Course:
    """The scene as it goes here."""
    robot = scene.robot.ours()
    x = torch.from_numpy(scene.start())[None]
    states, forces, gaps = [x[0].numpy().copy()], [], []
    for k in range(round(scene.seconds / DT)):
        if k == round(min(scene.push_at, 1e6) / DT):
            scene.push(x[0].numpy())
        x, found = robot.step_with_forces(x, scene.robot.torques(x))
        states.append(x[0].numpy().copy())
        forces.append(found.force[0].sum(0).numpy())
        gaps.append(float(found.gap.min()))
    return Course(np.array(states), np.array(forces), np.array(gaps))
