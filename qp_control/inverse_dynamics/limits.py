"""Limits of inverse dynamics: torques, joints, and distances to be kept.

Joint limits are bounds on joint accelerations; the tightest of those given applies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from qp_control.inverse_dynamics.parts import (
    BOUND,
    FINITE,
    LIMIT,
    NOT_NEGATIVE,
    POSITIVE,
    Number,
    Part,
    Values,
    chosen_joints,
    frame_index,
    plain_joints,
    positive,
)
from qp_control.robot.model import RobotModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TorqueLimit(Part):
    """Torques of the actuated joints, between lower and upper (nu,) [N m or N].

    upper: None, the default: the model's effort limits. lower: None, the default: -upper.
    shift_weight: infinite, the default: they hold exactly; finite: they give way where other limits contradict them.
    """

    def __init__(
        self,
        upper: Values | None = None,
        lower: Values | None = None,
        *,
        shift_weight: float = math.inf,
        name: str = "torque_limit",
    ) -> None:
        super().__init__(name)
        self._give(BOUND, upper=upper, lower=lower)
        self.shift_weight = float(shift_weight)
        if not self.shift_weight > 0.0:
            raise ValueError(f"shift_weight is {shift_weight}, expected a positive number or infinity")

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        given = self._given
        upper = model.effort_limit if given["upper"] is None else given["upper"]
        lower = -torch.as_tensor(upper, dtype=torch.float64) if given["lower"] is None else given["lower"]
        return {"lower": Number(lower, model.nu), "upper": Number(upper, model.nu)}


class JointLimit(Part):
    """Bounds on the accelerations of joints that have one coordinate each."""

    def __init__(self, name: str, joints: Sequence[str] | None, shift_weight: float) -> None:
        super().__init__(name)
        self.joints, self.shift_weight = joints, positive("shift_weight", shift_weight)
        self.q_index: list[int] = []
        self.v_index: list[int] = []

    def _choose(self, model: RobotModel) -> int:
        known = plain_joints(model)
        chosen = [known[name] for name in chosen_joints(model, self.name, self.joints)]
        self.q_index, self.v_index = [q for q, _ in chosen], [v for _, v in chosen]
        return len(chosen)


class JointPositionLimit(JointLimit):
    """Joints between lower and upper [m or rad] (None: the model's), by bounds that leave room to brake.

    After a step of dt [s] with the bound a as acceleration, a joint can just stop at its limit with the deceleration
    `acceleration` [m/s^2 or rad/s^2] (joints,): (v + dt a)^2 = 2 acceleration (upper - q - dt v - dt^2/2 a). Closer
    than dt v/2 to its limit it stops within the step (and passes it by at most acceleration dt^2/8); beyond, it is to
    come back with the velocity (upper - q) / return_time. No bound demands more than the deceleration `acceleration`;
    outside the viable set, where that is not enough, the bound is that deceleration.

    Source: A. Del Prete, "Joint position and velocity bounds in discrete-time acceleration/torque control of robot
    manipulators", IEEE RA-L 3 (2018); the rule beyond the limit is our own.
    """

    def __init__(
        self,
        dt: float,
        *,
        acceleration: Values,
        lower: Values | None = None,
        upper: Values | None = None,
        joints: Sequence[str] | None = None,
        return_time: float = 0.1,
        shift_weight: float = 1.0,
        name: str = "position_limit",
    ) -> None:
        super().__init__(name, joints, shift_weight)
        self.dt, self.return_time = positive("dt", dt), positive("return_time", return_time)
        self._give(BOUND, lower=lower, upper=upper)
        self._give(POSITIVE, acceleration=acceleration)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        size, given = self._choose(model), self._given
        own = {
            "lower": np.array(model.model.lowerPositionLimit)[self.q_index],
            "upper": np.array(model.model.upperPositionLimit)[self.q_index],
        }
        numbers = {key: Number(own[key] if given[key] is None else given[key], size) for key in own}
        return numbers | {"acceleration": Number(given["acceleration"], size)}


class JointVelocityLimit(JointLimit):
    """Joint velocities within +-velocity [m/s or rad/s] (None: the model's) after a step of dt [s].

    No bound demands more than the deceleration `acceleration` [m/s^2 or rad/s^2].
    """

    def __init__(
        self,
        dt: float,
        *,
        velocity: Values | None = None,
        acceleration: Values = math.inf,
        joints: Sequence[str] | None = None,
        shift_weight: float = 1.0,
        name: str = "velocity_limit",
    ) -> None:
        super().__init__(name, joints, shift_weight)
        self.dt = positive("dt", dt)
        self._give(LIMIT, velocity=velocity, acceleration=acceleration)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        size, velocity = self._choose(model), self._given["velocity"]
        own = np.array(model.model.upperVelocityLimit)[self.v_index] if velocity is None else velocity
        return {"velocity": Number(own, size), "acceleration": Number(self._given["acceleration"], size)}


class JointAccelerationLimit(JointLimit):
    """Joint accelerations within +-acceleration [m/s^2 or rad/s^2]."""

    def __init__(
        self,
        acceleration: Values,
        *,
        joints: Sequence[str] | None = None,
        shift_weight: float = 1.0,
        name: str = "acceleration_limit",
    ) -> None:
        super().__init__(name, joints, shift_weight)
        self._give(LIMIT, acceleration=acceleration)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return {"acceleration": Number(self._given["acceleration"], self._choose(model))}


class BarrierOptions(TypedDict, total=False):
    """Keyword arguments of all barriers; see `Barrier`."""

    stiffness: Values
    damping: Values | None
    shift_weight: float
    name: str | None


class Barrier(Part):
    """A distance h of a frame's origin that is to stay positive, as a row of relative degree two:

        d2h/dt2 + damping dh/dt + stiffness h >= 0

    stiffness [1/s^2]: 100 by default; damping [1/s]: None, the default: critical, 2 sqrt(stiffness); both learned.
    shift_weight: 1 by default; the larger, the less it gives way where others contradict it. name: each kind has its
    own default.

    Raises ValueError for values that are not numbers or out of range.
    """

    def __init__(
        self,
        kind: str,
        frame: str,
        *,
        stiffness: Values = 100.0,
        damping: Values | None = None,
        shift_weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name or kind)
        self.frame, self.other = frame, "universe"
        self.shift_weight = positive("shift_weight", shift_weight)
        self._give(NOT_NEGATIVE, stiffness=stiffness, damping=damping)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        frame_index(model, self.frame), frame_index(model, self.other)
        gains = {key: Number(self._given[key], 1, True) for key in ("stiffness", "damping")}
        return gains | {"distance": Number(self._given["distance"], 1)}


class PlaneBarrier(Barrier):
    """A frame's origin p stays on one side of a plane: h = n'p - offset [m], n its normal (3,), of any non-zero length.

    offset [m]: 0 by default; as a number it is called `<name>.distance`, as for other barriers.
    stiffness (100 by default) and the others: see `Barrier`. name: "<frame> plane" unless given.
    """

    def __init__(
        self,
        frame: str,
        normal: Sequence[float],
        offset: Values = 0.0,
        **options: Unpack[BarrierOptions],
    ) -> None:
        super().__init__(f"{frame} plane", frame, **options)
        self.normal = np.array(normal, dtype=np.float64)
        length = float(np.linalg.norm(self.normal))
        if self.normal.shape != (3,) or not (math.isfinite(length) and length > 0.0):
            raise ValueError(f"normal of {self.name!r} is {normal}, expected three numbers that are not all zero")
        self.normal /= length
        self._give(FINITE, distance=offset)


class SphereBarrier(Barrier):
    """A frame's origin stays outside a sphere about centre (3,) [m] in the world: h = |p - centre| - distance [m].

    stiffness (100 by default) and the others: see `Barrier`. name: "<frame> sphere" unless given.
    """

    def __init__(
        self,
        frame: str,
        centre: Values,
        distance: Values,
        **options: Unpack[BarrierOptions],
    ) -> None:
        super().__init__(f"{frame} sphere", frame, **options)
        self._give(FINITE, centre=centre, distance=distance)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return super().numbers(model) | {"centre": Number(self._given["centre"], 3)}


class FrameBarrier(Barrier):
    """The origins of two frames of the robot stay apart: h = |p - other's p| - distance [m].

    stiffness (100 by default) and the others: see `Barrier`. name: "<frame> from <other>" unless given.
    """

    def __init__(
        self,
        frame: str,
        other: str,
        distance: Values,
        **options: Unpack[BarrierOptions],
    ) -> None:
        super().__init__(f"{frame} from {other}", frame, **options)
        self.other = other
        self._give(FINITE, distance=distance)


Limit = Any  # one of KINDS
KINDS = (TorqueLimit, JointLimit, Barrier)
