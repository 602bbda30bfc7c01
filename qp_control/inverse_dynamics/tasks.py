"""Tasks of inverse dynamics: what the robot is to do, as costs or as constraints.

A motion task has an error e [m or rad], asks for the acceleration

    a* = acceleration + stiffness e + damping (velocity - own velocity)

and has the cost weight/2 |a - a*|^2, summed over its axes; with an infinite weight a = a* is a constraint. stiffness
[1/s^2], damping [1/s] (None: critical, 2 sqrt(stiffness)) and weight are one number or one per axis, and learned.

Tasks of the same `level` are weighted against each other; those of level 2 use the freedom that level 1 leaves, and so
on. Contacts belong to level 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import pinocchio as pin
import torch

from qp_control.inverse_dynamics.parts import (
    FINITE,
    NOT_NEGATIVE,
    Number,
    Part,
    Values,
    axes_of,
    frame_index,
    positive,
)
from qp_control.inverse_dynamics.robot_states import RobotStates
from qp_control.robot.model import RobotModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MotionOptions(TypedDict, total=False):
    """Keyword arguments of all motion tasks; see `MotionTask` for meanings and defaults."""

    weight: Values
    stiffness: Values
    damping: Values | None
    velocity: Values
    acceleration: Values
    shift_weight: float
    level: int
    name: str | None


class Task(Part):
    """A term of the cost. `rows`: which of all its axes count."""

    def __init__(self, name: str, weight: Values, shift_weight: float = 1.0, level: int | None = 1) -> None:
        super().__init__(name)
        if level is not None and level < 1:
            raise ValueError(f"level of {name!r} is {level}, expected at least 1")
        self.level = level
        self._give_weight(weight)
        self.shift_weight = positive("shift_weight", shift_weight)
        self.rows: list[int] = []

    def _weight(self) -> dict[str, Number]:
        # A constraint has none.
        return {} if self.hard else {"weight": Number(self._given["weight"], len(self.rows), True)}


class MotionTask(Task):
    """A task whose error determines an acceleration, see `qp_control.inverse_dynamics.tasks`. Its kinds are below.

    reference: what is to be reached; None, the default: as in the model's neutral configuration.
    weight [s^4/m^2 or s^4/rad^2]: 1 by default; infinite, for all axes: a constraint.
    stiffness [1/s^2]: 100 by default. damping [1/s]: None, the default: critical, 2 sqrt(stiffness). These and weights
        are one number or one per axis, at least 0, and learned.
    velocity, acceleration: of the reference, 0 by default.
    shift_weight: of a constraint that others contradict, 1 by default; the larger, the less it gives way.
    level: in a strict hierarchy, at least 1; 1 by default. name: in the controller; each kind has its own default.

    Raises ValueError for values that are not numbers or out of range.
    """

    def __init__(
        self,
        kind: str,
        reference: Values | None,
        *,
        weight: Values = 1.0,
        stiffness: Values = 100.0,
        damping: Values | None = None,
        velocity: Values = 0.0,
        acceleration: Values = 0.0,
        shift_weight: float = 1.0,
        level: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(name or kind, weight, shift_weight, level)
        self._give(NOT_NEGATIVE, stiffness=stiffness, damping=damping)
        self._give(FINITE, reference=reference, velocity=velocity, acceleration=acceleration)

    def _motion(self, positions: int, velocities: int, at_start: Any, units: Sequence[slice] = ()) -> dict[str, Number]:
        given, size = self._given, len(self.rows)
        reference = at_start if given["reference"] is None else given["reference"]
        return self._weight() | {
            "stiffness": Number(given["stiffness"], size, True),
            "damping": Number(given["damping"], size, True),
            "reference": Number(reference, positions, units=units),
            "velocity": Number(given["velocity"], velocities),
            "acceleration": Number(given["acceleration"], velocities),
        }


class FrameTask(MotionTask):
    """A frame of the robot is to reach a pose (SE3), in the world or relative to another frame.

    frame: its name. relative_to: name of the frame that the pose is relative to; None: the world.
    reference: pose (7,), position [m] and quaternion (x, y, z, w) of any non-zero length; None: the one in the model's
        neutral configuration.
    velocity (6,) linear [m/s] and angular [rad/s], acceleration (6,) [m/s^2, rad/s^2]: of the reference, relative to
        that frame and in its axes.
    axes: "world" (those of the frame that the pose is relative to) or "frame": of errors, gains, weights and mask.
    mask: which of the six axes (linear, angular) count.
    weight (1 by default), stiffness (100), damping (critical) and the others: see `MotionTask`.
    name: that of the frame by default.

    The error consists of the position error and the rotation vector from the frame to its reference.
    """

    has_position, has_orientation = True, True

    def __init__(
        self,
        frame: str,
        reference: Values | None = None,
        *,
        relative_to: str | None = None,
        axes: Literal["world", "frame"] = "world",
        mask: Sequence[bool] | None = None,
        **options: Unpack[MotionOptions],
    ) -> None:
        super().__init__(frame, reference, **options)
        if axes not in ("world", "frame"):
            raise ValueError(f"axes is {axes!r}, expected 'world' or 'frame'")
        self.frame, self.base, self.own_axes = frame, relative_to or "universe", axes == "frame"
        self.rows = axes_of(self.name, mask, 3 * (self.has_position + self.has_orientation))

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        motions = 3 * (self.has_position + self.has_orientation)
        pose = neutral_pose(model, self.frame, self.base)
        first, last = 0 if self.has_position else 3, 7 if self.has_orientation else 3
        quaternion = [slice(3 - first, 7 - first)] if self.has_orientation else []
        return self._motion(last - first, motions, pose[first:last], quaternion)


class PositionTask(FrameTask):
    """The origin of a frame is to reach a position: `FrameTask` without orientation.

    reference (3,) [m], velocity (3,) [m/s], acceleration (3,) [m/s^2], mask of three axes.
    """

    has_orientation = False


class OrientationTask(FrameTask):
    """A frame is to reach an orientation: `FrameTask` without position.

    reference (4,), a quaternion (x, y, z, w), velocity (3,) [rad/s], acceleration (3,) [rad/s^2], mask of three axes.
    """

    has_position = False


class RelativeFrameTask(FrameTask):
    """A frame is to reach a pose relative to another frame of the robot: `FrameTask` with `relative_to`."""

    def __init__(self, frame: str, relative_to: str, reference: Values | None = None, **options: Any) -> None:
        options = {"name": f"{frame} from {relative_to}"} | options
        super().__init__(frame, reference, relative_to=relative_to, **options)


class CenterOfMassTask(MotionTask):
    """The centre of mass is to reach a position in the world.

    reference (3,) [m] (None: as in the model's neutral configuration), velocity (3,) [m/s], acceleration (3,) [m/s^2];
    mask: which of the world's axes count.
    weight (1 by default), stiffness (100), damping (critical) and the others: see `MotionTask`.
    name: "com" unless given.
    """

    def __init__(
        self,
        reference: Values | None = None,
        *,
        mask: Sequence[bool] | None = None,
        **options: Unpack[MotionOptions],
    ) -> None:
        super().__init__("com", reference, **options)
        self.rows = axes_of(self.name, mask, 3)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return self._motion(3, 3, model.centroid(model.neutral_state()[: model.nq]).position)


class PostureTask(MotionTask):
    """Joints are to reach a configuration.

    reference (nq,): a configuration [m or rad] (None: the model's neutral one). velocity, acceleration (nv,).
    joints: the names of those that count (None: all but floating bases).
    weight (1 by default), stiffness (100), damping (critical): one per velocity coordinate of these joints, or one for
        all; for these and the others see `MotionTask`.
    name: "posture" unless given.
    """

    def __init__(
        self,
        reference: Values | None = None,
        *,
        joints: Sequence[str] | None = None,
        **options: Unpack[MotionOptions],
    ) -> None:
        super().__init__("posture", reference, **options)
        self.joints = joints

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        native = model.model
        known = {name: native.joints[native.getJointId(name)] for name in list(native.names)[1:]}
        free = [name for name, joint in known.items() if joint.shortname() != "JointModelFreeFlyer"]
        for name in self.joints or ():
            if name not in known:
                raise ValueError(f"{self.name!r} has the joint {name!r}, expected names from {', '.join(known)}")
        chosen = [known[name] for name in (free if self.joints is None else self.joints)]
        self.rows = [int(i) for joint in chosen for i in range(joint.idx_v, joint.idx_v + joint.nv)]
        return self._motion(model.nq, model.nv, model.neutral_state()[: model.nq], RobotStates(model).units)


class AngularMomentumTask(Task):
    """The angular momentum L about the centre of mass is to reach a reference, usually zero.

    It asks for dL/dt = rate + damping (reference - L). reference (3,) [kg m^2/s], rate (3,) [N m], in the world's axes;
    damping [1/s], 10 by default, learned; weight [1/(N m)^2], 0.01 by default, learned; reference and rate are 0 unless
    given; mask: which axes count.
    """

    def __init__(
        self,
        reference: Values = 0.0,
        *,
        mask: Sequence[bool] | None = None,
        weight: Values = 1e-2,
        damping: Values = 10.0,
        rate: Values = 0.0,
        shift_weight: float = 1.0,
        level: int = 1,
        name: str = "angular_momentum",
    ) -> None:
        super().__init__(name, weight, shift_weight, level)
        self._give(NOT_NEGATIVE, damping=damping)
        self._give(FINITE, reference=reference, rate=rate)
        self.rows = axes_of(name, mask, 3)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        given, size = self._given, len(self.rows)
        return self._weight() | {
            "damping": Number(given["damping"], size, True),
            "reference": Number(given["reference"], 3),
            "rate": Number(given["rate"], 3),
        }


class Regularization(Task):
    """The cost weight/2 |value - reference|^2 of quantities that the controller decides; never a constraint.

    level: in a strict hierarchy; None: the last one.
    """

    def __init__(self, name: str, weight: Values, reference: Values = 0.0, level: int | None = None) -> None:
        super().__init__(name, weight, level=level)
        self._give(NOT_NEGATIVE, weight=weight)
        self._give(FINITE, reference=reference)

    def _sized(self, size: int) -> dict[str, Number]:
        self.rows = list(range(size))
        return self._weight() | {"reference": Number(self._given["reference"], size)}


class ContactForceTask(Regularization):
    """The force at a contact, summed over its points, is to be near a reference.

    contact: its name. reference (3,) [N] on the robot, in the world's axes, 0 by default; weight [1/N^2], one or one
        per axis, 1e-4 by default, learned.
    """

    def __init__(
        self, contact: str, reference: Values = 0.0, *, weight: Values = 1e-4, name: str | None = None
    ) -> None:
        super().__init__(name or f"{contact} force", weight, reference)
        self.contact = contact

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return self._sized(3)


class TorqueRegularization(Regularization):
    """Torques of the actuated joints are to be small, or near a reference (nu,) [N m or N].

    weight [1/(N m)^2 or 1/N^2]: 1e-4 by default, learned. level: None, the default: the last one.
    """

    def __init__(
        self, reference: Values = 0.0, *, weight: Values = 1e-4, level: int | None = None, name: str = "torque"
    ) -> None:
        super().__init__(name, weight, reference, level)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return self._sized(model.nu)


class AccelerationRegularization(Regularization):
    """Accelerations are to be small, or near a reference (nv,) [m/s^2 or rad/s^2].

    weight [s^4/m^2 or s^4/rad^2]: 1e-4 by default, learned. level: None, the default: the last one.
    """

    def __init__(
        self, reference: Values = 0.0, *, weight: Values = 1e-4, level: int | None = None, name: str = "acceleration"
    ) -> None:
        super().__init__(name, weight, reference, level)

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return self._sized(model.nv)


class ForceRegularization(Regularization):
    """Forces at the points of all contacts are to be small.

    weight [1/N^2]: 1e-4 by default, learned. level: None, the default: the last one.
    """

    def __init__(self, *, weight: Values = 1e-4, level: int | None = None, name: str = "force") -> None:
        super().__init__(name, weight, level=level)
        self.points = 0  # set by the controller

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        return self._sized(3 * self.points)


def neutral_pose(model: RobotModel, frame: str, base: str) -> torch.Tensor:
    """Pose (7,) of a frame relative to another one in the neutral configuration."""
    frame_index(model, frame), frame_index(model, base)
    found = model.frame_motions([base, frame], model.neutral_state()[: model.nq])
    (p_a, p_b), (R_a, R_b) = found.position.numpy(), found.rotation.numpy()
    pose = pin.SE3(R_a, p_a).actInv(pin.SE3(R_b, p_b))
    return torch.from_numpy(pin.SE3ToXYZQUAT(pose))
