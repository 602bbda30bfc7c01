"""The QP of inverse dynamics for a batch of states in one C++ call, and its gradient in another."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qp_control import _robot
from qp_control.inverse_dynamics import limits, tasks
from qp_control.inverse_dynamics.contacts import SupportContact
from qp_control.inverse_dynamics.parts import Part, frame_index
from qp_control.inverse_dynamics.problem_function import Directions, assemble
from qp_control.inverse_dynamics.robot_states import RobotStates
from qp_control.robot.contact import GRAVITY
from qp_control.robot.model import RobotModel


class Assembly:
    """The compiled form of a controller's parts, and the positions of their numbers in one vector."""

    def __init__(
        self,
        model: RobotModel,
        task_list: list[tasks.Task],
        contacts: list[SupportContact],
        limit_list: list[limits.Limit],
        force_offsets: dict[str, tuple[int, int]],
    ) -> None:
        self.model = model
        levels = {task.level for task in task_list if task.level is not None and not task.hard} | {1}
        self.levels = sorted(levels)
        """Of the costs; tasks without a level belong to the last."""
        self.offsets: dict[str, int] = {}
        self.size = 0
        for part in (*task_list, *contacts, *limit_list):
            for key, size in part.sizes.items():
                self.offsets[f"{part.name}.{key}"] = self.size
                self.size += size
        self.units: dict[str, list[slice]] = {}
        """Where quaternions and (cos, sin) are in that vector, by the name of the number."""
        for part in (*task_list, *contacts, *limit_list):
            for key, units in part.units.items():
                first = self.offsets[f"{part.name}.{key}"]
                self.units[f"{part.name}.{key}"] = [slice(first + u.start, first + u.stop) for u in units]
        self.directions = Directions(RobotStates(model).units, [u for units in self.units.values() for u in units])
        terms = [self._term(task, force_offsets) for task in task_list]
        terms += [self._contact_term(contact) for contact in contacts]
        torque = next((limit for limit in limit_list if isinstance(limit, limits.TorqueLimit)), None)
        self.torque_limit = torque
        # The compiled form ignores the names in it.
        self.description: dict[str, Any] = {
            "actuated": model._indices,
            "threads": model.threads,
            "numbers": self.size,
            "terms": terms,
            "supports": [self._support(contact, force_offsets) for contact in contacts],
            "bounds": [self._bounds(limit) for limit in limit_list if isinstance(limit, limits.JointLimit)],
            "barriers": [self._barrier(limit) for limit in limit_list if isinstance(limit, limits.Barrier)],
            "torque_lower": -1 if torque is None else self.offsets[f"{torque.name}.lower"],
            "torque_upper": -1 if torque is None else self.offsets[f"{torque.name}.upper"],
        }
        self._compile()

    def _compile(self) -> None:
        self.native = _robot.WholeBody(model=self.model.model, **self.description)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "native"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compile()

    def pack(self, numbers: dict[str, Tensor], batch: int) -> Tensor:
        """All numbers in one vector (size,), or (B, size) if some differ between elements."""
        values = [numbers[name] for name in self.offsets]
        if not values:
            return torch.zeros(0, dtype=torch.float64)
        if all(value.ndim == 1 for value in values):
            return torch.cat(values)
        return torch.cat([value.expand(batch, value.shape[-1]) for value in values], 1)

    def problem(self, q: Tensor, v: Tensor, packed: Tensor, parameters: Tensor | None) -> tuple[Tensor, ...]:
        """H, g, A, b, C, l, u, lb, ub, T, t, differentiable in all arguments."""
        return assemble(self.native, self.directions, q, v, packed, parameters)

    def _numbers(self, part: Part) -> dict[str, Any]:
        """The part's name and the offsets of its numbers."""
        return {"name": part.name} | {key: self.offsets[f"{part.name}.{key}"] for key in part.sizes}

    def _frame(self, part: Any, base: str, own_axes: bool) -> dict[str, Any]:
        return {
            "kind": "frame", "rows": part.rows, "hard": part.hard, "own_axes": own_axes,
            "frame": frame_index(self.model, part.frame), "base": frame_index(self.model, base),
            "position": part.has_position, "orientation": part.has_orientation,
        }  # fmt: skip

    def _contact_term(self, contact: SupportContact) -> dict[str, Any]:
        return self._frame(contact, "universe", False) | self._numbers(contact)

    def _term(self, task: tasks.Task, force_offsets: dict[str, tuple[int, int]]) -> dict[str, Any]:
        numbers = self._numbers(task) | {"level": task.level or self.levels[-1]}
        if isinstance(task, tasks.FrameTask):
            return self._frame(task, task.base, task.own_axes) | numbers
        own = {"rows": task.rows, "hard": task.hard} | numbers
        if isinstance(task, tasks.AngularMomentumTask):
            own["acceleration"] = own.pop("rate")
            return own | {"kind": "angular_momentum"}
        for kind, name in (
            (tasks.CenterOfMassTask, "centre_of_mass"),
            (tasks.PostureTask, "posture"),
            (tasks.TorqueRegularization, "torque"),
        ):
            if isinstance(task, kind):
                return own | {"kind": name}
        if isinstance(task, tasks.ContactForceTask):
            first, points = force_offsets[task.contact]
            return own | {"kind": "selection", "first": first, "points": points}
        first = self.model.nv if isinstance(task, tasks.ForceRegularization) else 0
        return own | {"kind": "selection", "first": first}

    def _support(self, contact: SupportContact, force_offsets: dict[str, tuple[int, int]]) -> dict[str, Any]:
        return self._numbers(contact) | {
            "frame": frame_index(self.model, contact.frame),
            "first": force_offsets[contact.name][0],
            "points": list(contact.points),
            "directions": list(contact.directions()),
            "normal": contact.normal,
        }

    def _bounds(self, limit: limits.JointLimit) -> dict[str, Any]:
        kinds = {
            limits.JointPositionLimit: "position",
            limits.JointVelocityLimit: "velocity",
            limits.JointAccelerationLimit: "acceleration",
        }
        own = self._numbers(limit) | {"kind": kinds[type(limit)], "q": limit.q_index, "v": limit.v_index}
        return own | {name: getattr(limit, name) for name in ("dt", "return_time") if hasattr(limit, name)}

    def _barrier(self, barrier: limits.Barrier) -> dict[str, Any]:
        kinds = {limits.PlaneBarrier: "plane", limits.SphereBarrier: "sphere", limits.FrameBarrier: "frame"}
        own = self._numbers(barrier) | {"kind": kinds[type(barrier)]}
        own |= {name: frame_index(self.model, getattr(barrier, name)) for name in ("frame", "other")}
        return own | ({"normal": barrier.normal} if isinstance(barrier, limits.PlaneBarrier) else {})


def shifted_row_names(
    model: RobotModel, task_list: list[tasks.Task], contacts: list[SupportContact], limit_list: list[limits.Limit]
) -> tuple[list[str], tuple[Tensor, Tensor, Tensor]]:
    """Names of the rows of A, C and the bounds of qdd, and the weights of their shifts."""
    velocities = velocity_names(model)
    mass = float(model.parameters[: 10 * model.bodies : 10].sum())
    acceleration, force = 1.0 / GRAVITY**2, 1.0 / (mass * GRAVITY) ** 2
    eq = [(f"dynamics of {velocities[i]}", math.inf) for i in range(model.nv) if i not in model._indices]
    for part in (*task_list, *contacts):
        if part.hard:
            eq += [(f"{part.name} {row}", acceleration * part.shift_weight) for row in part.rows]
    ineq = []
    for limit in limit_list:
        if isinstance(limit, limits.TorqueLimit):
            half = 0.5 * (limit.value("upper", {}) - limit.value("lower", {})).detach()
            scales = torch.where(half.isfinite() & (half > 0.0), half, 1.0).tolist()
            weights = [limit.shift_weight / scale**2 for scale in scales]
            ineq += [(f"torque of {velocities[i]}", w) for i, w in zip(model._indices, weights, strict=True)]
    for contact in contacts:
        names = [f"point {p} facet {k}" for p in range(len(contact.points)) for k in range(contact.facets)]
        ineq += [(f"{contact.name} {name}", force * contact.shift_weight) for name in (*names, "normal force")]
    box = [1.0] * (model.nv + 3 * sum(len(contact.points) for contact in contacts))
    for limit in limit_list:
        if isinstance(limit, limits.Barrier):
            ineq.append((limit.name, acceleration * limit.shift_weight))
        elif isinstance(limit, limits.JointLimit):
            for i in limit.v_index:
                box[i] = acceleration * limit.shift_weight
    names = [name for name, _ in (*eq, *ineq)] + [f"acceleration of {name}" for name in velocities]
    of_eq, of_ineq = (torch.tensor([w for _, w in rows], dtype=torch.float64) for rows in (eq, ineq))
    return names, (of_eq, of_ineq, torch.tensor(box, dtype=torch.float64))


def velocity_names(model: RobotModel) -> list[str]:
    """A name for each velocity coordinate."""
    names = []
    for name in list(model.model.names)[1:]:
        nv = model.model.joints[model.model.getJointId(name)].nv
        names += [name] if nv == 1 else [f"{name} {k}" for k in range(nv)]
    return names
