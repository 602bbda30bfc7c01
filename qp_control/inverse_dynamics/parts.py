"""What tasks, limits and contacts of a controller have in common: a name, and numbers to learn or to set per call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.robot_states import has_direction
from qp_control.robot.model import RobotModel

Values = Any  # a number, a sequence of numbers, an array or a tensor


class Number(NamedTuple):
    """A vector of a part: its value, of the given size or one number for all entries, and whether it is learned."""

    value: Values
    size: int
    learned: bool = False
    units: Sequence[slice] = ()
    """Where quaternions and (cos, sin) are in it."""


class Range(NamedTuple):
    """Which values a part may be constructed with."""

    holds: Callable[[Tensor], Tensor]
    expected: str


FINITE = Range(torch.isfinite, "finite numbers")
NOT_NEGATIVE = Range(lambda x: x.isfinite() & (x >= 0.0), "finite numbers of at least 0")
POSITIVE = Range(lambda x: x.isfinite() & (x > 0.0), "positive numbers")
LIMIT = Range(lambda x: x >= 0.0, "numbers of at least 0")
BOUND = Range(lambda x: ~x.isnan(), "numbers")
WEIGHT = Range(
    lambda x: (x.isfinite() & (x >= 0.0)).all() | (x == math.inf).all(),
    "finite numbers of at least 0, or infinity for all axes",
)


class Part(nn.Module):
    """A task, limit or contact.

    Its numbers become parameters of the module when it joins a controller, which calls them `name.number`, such as
    "com.weight"; they can be replaced per call and per element of the batch. Those described as learned require grad.
    """

    rows: list[int]
    """Of a task or contact: which of all its axes count."""
    hard: bool
    """Of a task or contact: whether it is a constraint."""
    shift_weight: float

    def __init__(self, name: str) -> None:
        super().__init__()
        if not name or "." in name:
            raise ValueError(f"name is {name!r}, expected one without dots")
        self.name = name
        self.sizes: dict[str, int] = {}
        self.units: dict[str, Sequence[slice]] = {}
        """Where quaternions and (cos, sin) are in its numbers, by name."""
        self._given: dict[str, Values] = {}

    def _give(self, allowed: Range, **values: Values) -> None:
        """Keep the values the part is constructed with. Raises ValueError for values out of range."""
        for key, value in values.items():
            if value is None:
                continue
            try:
                holds = bool(allowed.holds(torch.as_tensor(value, dtype=torch.float64)).all())
            except (TypeError, ValueError):
                holds = False
            if not holds:
                raise ValueError(f"{key} of {self.name!r} is {_shown(value)}, expected {allowed.expected}")
        self._given |= values

    def _give_weight(self, weight: Values) -> None:
        """The same for a weight; if infinite, it makes the part a constraint."""
        self._give(WEIGHT, weight=weight)
        self.hard = bool(torch.as_tensor(weight).isinf().all())

    def numbers(self, model: RobotModel) -> dict[str, Number]:
        """Its numbers by name, for a model, with their initial values.

        Called when the part joins a controller. Raises ValueError for names that the model does not have.
        """
        raise NotImplementedError

    def join(self, model: RobotModel) -> None:
        """Create the numbers, for the model of a controller.

        Raises:
            ValueError: the part belongs to a controller already; a number of the wrong size; a quaternion of length
                zero; names the model does not have.
        """
        if self.sizes:
            raise ValueError(f"{self.name!r} belongs to a controller already")
        for key, number in self.numbers(model).items():
            self.sizes[key] = number.size
            if number.value is None:  # follows from the others, see `value`
                self.register_parameter(key, None)
                continue
            value = torch.as_tensor(number.value, dtype=torch.float64).detach().clone()
            if value.shape not in ((), (number.size,)):
                raise ValueError(
                    f"{self.name}.{key} has shape {tuple(value.shape)}, expected one number or ({number.size},)"
                )
            if bool(torch.isnan(value).any()):
                raise ValueError(f"{self.name}.{key} is {_shown(number.value)}, expected numbers")
            for unit in number.units:
                if not bool(has_direction(value.expand(number.size)[unit])):
                    what = f"{self.name}.{key} is {_shown(number.value)}"
                    raise ValueError(f"{what}, expected a quaternion, or (cos, sin), of positive length")
            if number.units:
                self.units[key] = number.units
            self.register_parameter(key, nn.Parameter(value, requires_grad=number.learned))

    def value(self, key: str, given: Mapping[str, Tensor]) -> Tensor:
        """The number in use, (size,) or (B, size)."""
        name, size = f"{self.name}.{key}", self.sizes[key]
        own: Tensor | None = given.get(name, getattr(self, key))
        if own is None:
            return critical(self.value("stiffness", given))
        if own.ndim == 0 or own.shape[-1] == 1 != size:
            return own.expand(*own.shape[:-1], size)
        if own.shape[-1] != size or own.ndim > 2:
            raise ValueError(f"{name} has shape {tuple(own.shape)}, expected ({size},) or (B, {size}), or 1 for {size}")
        return own


def _shown(value: Values) -> str:
    """In one line."""
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def all_of(name: str, parts: Any, kinds: Any) -> list[Any]:
    """The parts as a list. Raises ValueError for anything else, or a part of another kind."""
    if isinstance(parts, (Part, str)) or not isinstance(parts, Iterable):
        raise ValueError(f"{name} is a {type(parts).__name__}, expected a list of {name}")
    found = list(parts)
    for part in found:
        if not isinstance(part, kinds):
            what = f"{name} has a {type(part).__name__}, expected {name} alone"
            raise ValueError(f"{what}; the order is (model, tasks, limits, contacts)")
    return found


def critical(stiffness: Tensor) -> Tensor:
    """Damping 2 sqrt(stiffness), with zero derivative at zero."""
    positive = stiffness > 0.0
    return torch.where(positive, 2.0 * torch.where(positive, stiffness, 1.0).sqrt(), 0.0)


def positive(name: str, value: float) -> float:
    """The value, which must be a positive number."""
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} is {value}, expected a positive number")
    return float(value)


def axes_of(name: str, mask: Sequence[bool] | None, size: int) -> list[int]:
    """Which of `size` axes a mask selects; all without one."""
    if mask is None:
        return list(range(size))
    if len(mask) != size or not any(mask):
        raise ValueError(f"mask of {name!r} is {mask}, expected {size} times True or False, and one of them True")
    return [i for i, kept in enumerate(mask) if kept]


def frame_index(model: RobotModel, name: str) -> int:
    """Index of a frame; ValueError if there is none."""
    return model._frame_indices([name])[0]


def plain_joints(model: RobotModel) -> dict[str, tuple[int, int]]:
    """Indices of configuration and velocity of each joint that has one of each."""
    native = model.model
    joints = {name: native.joints[native.getJointId(name)] for name in list(native.names)[1:]}
    return {name: (int(j.idx_q), int(j.idx_v)) for name, j in joints.items() if j.nq == j.nv == 1}


def chosen_joints(model: RobotModel, part: str, joints: Sequence[str] | None) -> list[str]:
    """Joints with one coordinate, the named ones or all; ValueError for others."""
    known = plain_joints(model)
    for name in joints or ():
        if name not in known:
            raise ValueError(f"{part!r} has the joint {name!r}, expected joints of one coordinate: {', '.join(known)}")
    return list(known if joints is None else joints)
