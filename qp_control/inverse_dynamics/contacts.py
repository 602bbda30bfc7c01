"""Contacts that support a robot, for control by inverse dynamics.

A contact is to stay in place: the acceleration a of its frame (linear [m/s^2], for a surface also angular [rad/s^2])
has the cost

    activation weight/2 |a - stiffness e + damping velocity|^2,   e the error from its reference,

and its forces f on the robot, one (3,) [N] per contact point, in the world's axes, satisfy

    d_k'f <= friction cos(pi / facets) n'f     for each facet, d_k its direction orthogonal to the normal n
    activation min_force <= n'f <= activation max_force,   summed over its points.

The pyramid lies inside the friction cone, so forces within it do not cause slip. activation is 0 in the air and 1 on
the ground; in between it is the share of the load that a foot may carry while touching down or lifting off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from qp_control.inverse_dynamics.parts import FINITE, NOT_NEGATIVE, Number, Part, Values, positive
from qp_control.inverse_dynamics.tasks import neutral_pose
from qp_control.qp.problem import Array
from qp_control.robot.model import RobotModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SupportOptions(TypedDict, total=False):
    """Keyword arguments of all contacts; see `PointContact` for meanings and defaults."""

    normal: Sequence[float]
    friction: Values
    facets: int
    min_force: Values
    max_force: Values
    activation: Values
    weight: Values
    stiffness: Values
    damping: Values
    reference: Values | None
    shift_weight: float
    name: str | None


class SupportContact(Part):
    """What `PointContact` and `SurfaceContact` have in common: a frame that stays in place, with forces at its points.

    frame: its name. points (k, 3) [m]: where forces act, in the frame; the others as in `PointContact`.

    Raises ValueError for values that are not numbers or out of range.
    """

    has_position = True
    has_orientation: bool

    def __init__(
        self,
        frame: str,
        points: Any,
        *,
        normal: Sequence[float] = (0.0, 0.0, 1.0),
        friction: Values = 0.7,
        facets: int = 4,
        min_force: Values = 0.0,
        max_force: Values = 1e4,
        activation: Values = 1.0,
        weight: Values = 1e3,
        stiffness: Values = 0.0,
        damping: Values = 20.0,
        reference: Values | None = None,
        shift_weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name or f"{frame} contact")
        self.frame, self.facets = frame, int(facets)
        if self.facets < 3:
            raise ValueError(f"facets of {self.name!r} is {facets}, expected at least 3")
        self.points = np.array(points, dtype=np.float64).reshape(-1, 3)
        self.normal = np.array(normal, dtype=np.float64)
        length = float(np.linalg.norm(self.normal))
        if self.normal.shape != (3,) or not (math.isfinite(length) and length > 0.0):
            raise ValueError(f"normal of {self.name!r} is {normal}, expected three numbers that are not all zero")
        self.normal /= length
        if not len(self.points) or not np.isfinite(self.points).all():
            raise ValueError(f"points of {self.name!r} are {points}, expected at least one of three numbers")
        self.shift_weight = positive("shift_weight", shift_weight)
        self.rows = list(range(6 if self.has_orientation else 3))
        self._give_weight(weight)
        self._give(NOT_NEGATIVE, stiffness=stiffness, damping=damping, activation=activation, friction=friction)
        # An activation could not scale an infinite force.
        self._give(FINITE, reference=reference, min_force=min_force, max_force=max_force)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        given, size = self._given, len(self.rows)
        pose = neutral_pose(model, self.frame, "universe")[: 7 if self.has_orientation else 3]
        quaternion = [slice(3, 7)] if self.has_orientation else []
        motion = {} if self.hard else {"weight": Number(given["weight"], size, True)}
        return motion | {
            "stiffness": Number(given["stiffness"], size, True),
            "damping": Number(given["damping"], size, True),
            "reference": Number(
                pose if given["reference"] is None else given["reference"], len(pose), units=quaternion
            ),
            "activation": Number(given["activation"], 1),
            "friction": Number(given["friction"], 1, True),
            "min_force": Number(given["min_force"], 1),
            "max_force": Number(given["max_force"], 1),
        }

    def directions(self) -> Array:
        """(facets, 3), orthogonal to the normal."""
        helper = np.eye(3)[0 if abs(self.normal[0]) < 0.9 else 1]
        first = helper - helper @ self.normal * self.normal
        first /= np.linalg.norm(first)
        angles = 2.0 * math.pi * np.arange(self.facets) / self.facets
        second = np.cross(self.normal, first)
        across: Array = np.outer(np.cos(angles), first) + np.outer(np.sin(angles), second)
        return across


class PointContact(SupportContact):
    """A contact at the origin of a frame, with one force.

    frame: its name; the contact is called "<frame> contact" unless given a name.
    normal (3,): of the surface it touches, in the world, of any non-zero length; (0, 0, 1) by default.
    friction: coefficient, 0.7 by default, learned. facets: sides of the friction pyramid, 4 by default.
    min_force, max_force [N]: bounds on the normal force at activation 1; 0 and 1e4 by default.
    activation: 0 to 1, 1 by default; see `qp_control.inverse_dynamics.contacts`.
    weight [s^4/m^2]: of the acceleration, 1e3 by default, learned; infinite, for all axes: a constraint at any
        activation, which then scales only the forces.
    stiffness [1/s^2]: towards reference (3,) [m] (None: the frame's position in the model's neutral configuration), 0
        by default; damping [1/s]: 20 by default. Both are learned; they counteract displacement and motion.
    shift_weight: of its force limits (and of the acceleration, if that is a constraint), 1 by default; the larger, the
        less they give way where others contradict them.

    Raises ValueError for values that are not numbers or out of range.
    """

    has_orientation = False

    def __init__(
        self,
        frame: str,
        **options: Unpack[SupportOptions],
    ) -> None:
        super().__init__(frame, np.zeros((1, 3)), **options)


class SurfaceContact(SupportContact):
    """A surface contact (6D) of a frame, with a force at each corner.

    points (k, 3) [m]: the corners, in the frame; their forces span all forces and torques that keep the centre of
    pressure between them. min_force, max_force [N]: bounds on the sum of their normal forces. reference (7,): pose, see
    `FrameTask`. Defaults and the other arguments are those of `PointContact`, with weight and gains for six axes.
    """

    has_orientation = True

    def __init__(
        self,
        frame: str,
        points: Any,
        **options: Unpack[SupportOptions],
    ) -> None:
        super().__init__(frame, points, **options)
