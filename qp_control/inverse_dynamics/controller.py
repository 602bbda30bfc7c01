"""Whole-body control by inverse dynamics: one QP per control period, all of whose numbers can be learned.

    minimise    sum_tasks weight/2 |J x - a|^2        over x = (qdd, f)
    subject to  M qdd + n + d o v = S'tau + J_f'f     (the unactuated rows; the others give tau = T x + t)
                tasks that are constraints, torque limits, friction cones, normal forces, distances, bounds on qdd

qdd: accelerations (nv) [m/s^2, rad/s^2], f: forces at the contact points (3 each) [N], tau: torques of the actuated
joints (nu) [N m or N]. The shapes of the QP depend neither on the state nor on the numbers.

If limits contradict each other, the closest feasible QP is solved: the dynamics and, unless told otherwise, the torque
limits hold exactly; the other rows are shifted by the least sum of squares, each in a typical unit (9.81 m/s^2 or
rad/s^2; the robot's weight) and weighted by the `shift_weight` of its part. The status is then CLOSEST_FEASIBLE, and
the shifts are returned.

Gradients reach every number of tasks, limits and contacts, the inertial parameters, q and v.

Source: A. Del Prete, N. Mansard, O. E. Ramos, O. Stasse, F. Nori, "Implementing torque control with high-ratio gear
boxes and without joint-torque sensors", Int. J. Humanoid Robotics 13 (2016), and its library TSID.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from qp_control.exceptions import SolveError
from qp_control.inverse_dynamics import limits as limit_kinds
from qp_control.inverse_dynamics import tasks as task_kinds
from qp_control.inverse_dynamics.assembly import Assembly, shifted_row_names
from qp_control.inverse_dynamics.contacts import SupportContact
from qp_control.inverse_dynamics.control_loop import ControlLoop, Tick, table
from qp_control.inverse_dynamics.hierarchy import Rows, next_level, seen, shifted_rows
from qp_control.inverse_dynamics.parts import Part, all_of
from qp_control.inverse_dynamics.robot_states import RobotStates, normalised
from qp_control.qp.layer import LayerSolution, QPLayer
from qp_control.qp.problem import NAMES, WEIGHTS, Array, as_array
from qp_control.robot.model import RobotModel
from qp_control.settings import Settings, Status, settings_or

REDUCED = 1e-10  # relative tolerance where rounding keeps an absolute one out of reach
_VERSION = operator.attrgetter("_version")


class ControlProblem(NamedTuple):
    """The QPs of a batch of states, as data; for a single state without the axis B.

    minimise 1/2 x'H x + g'x subject to A x = b, l <= C x <= u, lb <= x <= ub; torques are T x + t.
    """

    H: Tensor
    g: Tensor
    A: Tensor
    b: Tensor
    C: Tensor
    l: Tensor
    u: Tensor
    lb: Tensor
    ub: Tensor
    weight_eq: Tensor
    """(n_eq,) weights of the shifts of A x = b, infinite where it holds exactly."""
    weight_in: Tensor
    weight_box: Tensor
    T: Tensor
    t: Tensor


class Control(NamedTuple):
    """What a controller decides; for a single state without the axis B."""

    torque: Tensor
    """(B, nu) of the actuated joints, within hard limits [N m or N]; zero where there is no answer."""
    acceleration: Tensor
    """(B, nv) that result [m/s^2 or rad/s^2]; zero where there is no answer."""
    force: Tensor
    """(B, points, 3) of the contacts on the robot, in the world's axes [N]."""
    status: Tensor
    """(B,) int64, see `Status`; CLOSEST_FEASIBLE: `shift` says which limits were shifted."""
    shift: Tensor
    """(B, rows) by how much each row was shifted, in the order of the controller's `row_names`, in the row's unit."""
    solution: LayerSolution
    """Of the QPs; can warm-start the next call."""


class Inputs(NamedTuple):
    """What the QPs of a batch are made of."""

    q: Tensor
    v: Tensor
    numbers: dict[str, Tensor]
    parameters: Tensor | None
    shift_weights: tuple[Tensor, Tensor, Tensor]


class InverseDynamics(nn.Module):
    """Control by inverse dynamics; `qp_control.inverse_dynamics.controller` states the problem.

    model: a `RobotModel` (also a `RobotDynamics` or `ContactDynamics`).
    tasks: see qp_control.inverse_dynamics.tasks.
    limits: see qp_control.inverse_dynamics.limits; torques are limited only by a `TorqueLimit`.
    contacts: see qp_control.inverse_dynamics.contacts.
    settings: of the QP solver; its `reduced_eps_rel` is raised to at least 1e-10.

    `parts` contains them by name, with their numbers as parameters. Names must be unique.

    Raises ValueError for parts passed in the wrong list, frames, joints or contacts that do not exist, references with
    quaternions of length zero, and duplicate names.
    """

    def __init__(
        self,
        model: RobotModel,
        tasks: Sequence[task_kinds.Task],
        limits: Sequence[limit_kinds.Limit] = (),
        contacts: Sequence[SupportContact] = (),
        *,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, RobotModel):
            raise ValueError(f"model is a {type(model).__name__}, expected a RobotModel")
        self.model = model
        self.task_list = all_of("tasks", tasks, task_kinds.Task)
        self.limits = all_of("limits", limits, limit_kinds.KINDS)
        self.contacts = all_of("contacts", contacts, SupportContact)
        points = sum(len(contact.points) for contact in self.contacts)
        self.points, self.n = points, model.nv + 3 * points
        self.parts = nn.ModuleDict()
        self._part_list: list[Part] = [*self.task_list, *self.contacts, *self.limits]
        for part in self._part_list:
            if part.name in self.parts:
                raise ValueError(f"two parts have the name {part.name!r}")
            if isinstance(part, task_kinds.ForceRegularization):
                part.points = points
            part.join(model)
            self.parts[part.name] = part
        if sum(isinstance(limit, limit_kinds.TorqueLimit) for limit in self.limits) > 1:
            raise ValueError("there is more than one TorqueLimit, expected one at most")
        self.force_offsets: dict[str, tuple[int, int]] = {}
        first = model.nv
        for contact in self.contacts:
            self.force_offsets[contact.name] = first, len(contact.points)
            first += 3 * len(contact.points)
        for task in self.task_list:
            if isinstance(task, task_kinds.ContactForceTask) and task.contact not in self.force_offsets:
                raise ValueError(f"{task.name!r} has the contact {task.contact!r}, expected {[*self.force_offsets]}")
        self.assembly = Assembly(model, self.task_list, self.contacts, self.limits, self.force_offsets)
        self.levels = self.assembly.levels
        self.row_names, self.shift_weights = shifted_row_names(model, self.task_list, self.contacts, self.limits)
        self.states = RobotStates(model)
        self._loop: ControlLoop | None = None
        self._held: list[nn.Parameter | None] = []
        self._present: list[nn.Parameter] = []
        self._versions: list[int] | None = None
        places = [(f"{part.name}.{key}", part, key) for part in self._part_list for key in part.sizes]
        self._places = {name: (part, key) for name, part, key in places}
        self._sizes = {name: part.sizes[key] for name, part, key in places}
        self._units = {name: part.units[key] for name, part, key in places if key in part.units}
        self._initial = {name: value.detach().clone() for name, value in self.numbers().items()}
        settings = settings_or(settings, Settings(threads=model.threads))
        # With forces and weights in the thousands, rounding alone may exceed an absolute tolerance.
        self.layer = QPLayer(dataclasses.replace(settings, reduced_eps_rel=max(settings.reduced_eps_rel, REDUCED)))
        # Upper levels leave directions free, in which weakly active rows must not block the derivative.
        self.upper_layer = QPLayer(dataclasses.replace(self.layer.settings, weakly_active="one_sided"))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loop": None, "_versions": None}  # a copy starts without previous ticks

    def numbers(self, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All numbers by name, (size,) or (B, size): the controller's own or those given.

        Quaternions are normalised; NaN if their length is zero or infinite.
        """
        given = given or {}
        for name in given:
            if name not in self._places:
                raise ValueError(f"there is no number {name!r}, only {', '.join(self._places)}")
        native = {name: torch.as_tensor(value).to("cpu", torch.float64) for name, value in given.items()}
        values = {name: part.value(key, native) for name, (part, key) in self._places.items()}
        return values | {name: normalised(values[name], units) for name, units in self._units.items()}

    def build(
        self,
        q: Tensor,
        v: Tensor,
        numbers: Mapping[str, Tensor] | None = None,
        *,
        parameters: Tensor | None = None,
    ) -> ControlProblem:
        """The QPs of states q (B, nq), v (B, nv), differentiable in all arguments; arguments as in `forward`.

        Elements with an invalid state have the QP of the neutral state.
        """
        state = self.states(q, v)
        problem = self._problem(state.q, state.v, self.numbers(numbers), parameters)
        H, g, A, b, C, l, u, lb, ub, T, t = problem if state.batched else [array[0] for array in problem]
        return ControlProblem(H, g, A, b, C, l, u, lb, ub, *self.shift_weights, T, t)

    def _problem(
        self, q: Tensor, v: Tensor, numbers: dict[str, Tensor], parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        for name, value in numbers.items():
            if value.ndim == 2 and len(value) not in (1, len(q)):
                raise ValueError(f"{name} has a batch of {len(value)}, expected {len(q)}")
        return self.assembly.problem(q, v, self.assembly.pack(numbers, len(q)), parameters)

    def forward(
        self,
        q: Tensor,
        v: Tensor,
        numbers: Mapping[str, Tensor] | None = None,
        *,
        parameters: Tensor | None = None,
        shift_weights: tuple[Tensor, Tensor, Tensor] | None = None,
        warm_start: LayerSolution | None = None,
    ) -> Control:
        """Torques for states q (B, nq), v (B, nv) or one state (nq,), (nv,).

        numbers: values for this call of the parts' numbers, such as "com.reference" or "posture.weight", (size,) or
            (B, size); one number or (B, 1) applies to a whole vector.
        parameters: of the model, (n_par,) or (B, n_par), see `RobotModel`.
        shift_weights: of the rows of A, C and x instead of the controller's own, see `shift_weights`; differentiable.
        warm_start: `solution` of an earlier call.

        Quaternions and (cos, sin) of any non-zero length are normalised. If a state or its numbers are invalid (NaN,
        infinite, zero quaternion) the status is INVALID_INPUT, the torques are zero and there is no gradient. Torques
        and gradient are zero too for any other state without an answer.
        """
        state = self.states(q, v)
        given = Inputs(state.q, state.v, self.numbers(numbers), parameters, shift_weights or self.shift_weights)
        sol, x, status, T, t = self._solve(given, warm_start)
        lost = status >= Status.DUAL_INFEASIBLE
        if self.layer.settings.on_failure == "zero" and bool(lost.any()):
            # A gradient of zero times what is not finite is NaN, in all that the batch shares.
            given = self._without(lost, given)
            other, x, now, T, t = self._solve(given, warm_start)
            status = torch.where(lost, status, now)
            sol = LayerSolution(*(torch.where(over(lost, a), a.detach(), b) for a, b in zip(sol, other, strict=True)))
        values = given.numbers
        status = torch.where(state.valid, status, int(Status.INVALID_INPUT))
        x = torch.where((status < Status.DUAL_INFEASIBLE).unsqueeze(-1), x, 0.0)
        torque = (T @ x.unsqueeze(-1)).squeeze(-1) + t
        for limit in self.limits:
            if isinstance(limit, limit_kinds.TorqueLimit) and limit.shift_weight == torch.inf:
                # Limits hold exactly, not just to the solver's tolerance.
                lower, upper = (values[f"{limit.name}.{key}"] for key in ("lower", "upper"))
                torque = torch.minimum(torch.maximum(torque, lower), upper)
        torque = torch.where((status < Status.DUAL_INFEASIBLE).unsqueeze(-1), torque, 0.0)
        nv = self.model.nv
        shift = torch.cat(
            [sol.s_eq.abs(), torch.maximum(sol.s_lower, sol.s_upper), torch.maximum(sol.s_lb, sol.s_ub)[:, :nv]], 1
        )
        force = x[:, nv:].reshape(len(x), self.points, 3)
        finish = state.finish
        return Control(finish(torque), finish(x[:, :nv]), finish(force), finish(status), finish(shift), sol)

    def _solve(
        self, given: Inputs, warm_start: LayerSolution | None
    ) -> tuple[LayerSolution, Tensor, Tensor, Tensor, Tensor]:
        """The first level's solution; x and status after all levels; T and t."""
        *data, T, t = self._problem(given.q, given.v, self._of_level(given.numbers, self.levels[0]), given.parameters)
        weight_eq, weight_in, weight_box = given.shift_weights
        sol = self.layer(*data, weight_eq=weight_eq, weight_in=weight_in, weight_box=weight_box, warm_start=warm_start)
        if len(self.levels) == 1:
            return sol, sol.x, sol.status, T, t
        return sol, *self._lower_levels(given, sol, data), T, t

    def _without(self, lost: Tensor, given: Inputs) -> Inputs:
        """Replaces some elements (B,) by the neutral state and the controller's initial numbers."""
        neutral, nominal = self.states.neutral, self.model.parameters
        shift_weights = [
            own if value is own else torch.where(over(lost, value.expand(len(lost), -1)), own, value)
            for own, value in zip(self.shift_weights, given.shift_weights, strict=True)
        ]
        column = lost.unsqueeze(-1)
        return Inputs(
            torch.where(column, neutral, given.q),
            torch.where(column, 0.0, given.v),
            {name: torch.where(column, self._initial[name], value) for name, value in given.numbers.items()},
            None if given.parameters is None else torch.where(column, nominal, given.parameters),
            (shift_weights[0], shift_weights[1], shift_weights[2]),
        )

    def _of_level(self, values: dict[str, Tensor], level: int) -> dict[str, Tensor]:
        """The numbers, with the weights of tasks and contacts of other levels zero."""
        if len(self.levels) == 1:
            return values
        others = [task for task in self.task_list if (task.level or self.levels[-1]) != level]
        parts: list[Part] = [*others, *(self.contacts if level != self.levels[0] else [])]
        names = [f"{part.name}.weight" for part in parts if not part.hard]
        return values | {name: torch.zeros_like(values[name]) for name in names}

    def _lower_levels(self, given: Inputs, sol: LayerSolution, data: list[Tensor]) -> tuple[Tensor, Tensor]:
        """x and status after all levels."""
        H, _, A, *_ = data
        rows = shifted_rows(Rows(*data[2:]), sol)
        x, status, above = sol.x, sol.status, [A.mT @ A, H]
        for level in self.levels[1:]:
            H, g, *_ = self._problem(given.q, given.v, self._of_level(given.numbers, level), given.parameters)
            layer = self.layer if level == self.levels[-1] else self.upper_layer
            x, now = next_level(layer, x, seen(*above), H, g, rows)
            status = torch.where(now > Status.CLOSEST_FEASIBLE, torch.maximum(now, status), status)
            above.append(H)
        return x, status

    def compute(
        self,
        q: npt.ArrayLike,
        v: npt.ArrayLike,
        numbers: Mapping[str, npt.ArrayLike] | None = None,
        *,
        parameters: npt.ArrayLike | None = None,
    ) -> Tick:
        """One tick of a control loop with one robot, in NumPy; arguments as in `forward`, without a batch.

        It starts from the solution of the previous tick. Without an answer (NaN, time limit, ..) the torques are those
        of the previous tick, zero at first, and the status says why; `reset` forgets that tick. Changes to the parts'
        numbers take effect.

        Raises ValueError for wrong shapes, TypeError for tensors that require grad, and SolveError for a tick without
        an answer if the settings have on_failure="raise".
        """
        loop, packed = self._prepared()
        if numbers:
            packed = loop.exchange(packed, numbers, self._sizes)
        q, v = as_array("q", q), as_array("v", v)
        for name, value, size in (("q", q, self.model.nq), ("v", v, self.model.nv)):
            if value.shape != (size,):
                raise ValueError(f"{name} has shape {value.shape}, expected ({size},)")
        par = None if parameters is None else as_array("parameters", parameters)
        found = loop.tick(q, v, packed, par)
        if found.status > Status.CLOSEST_FEASIBLE and self.layer.settings.on_failure == "raise":
            raise SolveError(f"no torques at this tick: {found.status.name}", self._data(q, v, numbers, par), found)
        return found

    @torch.no_grad()
    def _data(
        self, q: Array, v: Array, numbers: Mapping[str, npt.ArrayLike] | None, parameters: Array | None
    ) -> dict[str, Array]:
        """The QP of one state, as `solve_qp` takes it."""
        given = {name: torch.as_tensor(value) for name, value in (numbers or {}).items()}
        par = None if parameters is None else torch.as_tensor(parameters)
        problem = self.build(torch.as_tensor(q), torch.as_tensor(v), given, parameters=par)._asdict()
        return {name: problem[name].numpy() for name in (*NAMES, *WEIGHTS)}

    def reset(self) -> None:
        """Forget the ticks of `compute` so far."""
        if self._loop is not None:
            self._loop.native.reset()

    def describe(
        self,
        q: npt.ArrayLike,
        v: npt.ArrayLike,
        numbers: Mapping[str, npt.ArrayLike] | None = None,
        *,
        parameters: npt.ArrayLike | None = None,
    ) -> str:
        """A table for one state: weight, error and residual |J x - a| of each task, active and shifted limits."""
        _, packed = self._prepared()
        loop = ControlLoop(self, self.layer.settings)
        packed = loop.exchange(packed, numbers or {}, self._sizes)
        par = None if parameters is None else as_array("parameters", parameters)
        state = self.states(torch.as_tensor(as_array("q", q)), torch.as_tensor(as_array("v", v)))
        at = state.q[0].numpy(), state.v[0].numpy()
        found = loop.tick(*at, packed, par)
        if not bool(state.valid[0]) or found.status > Status.CLOSEST_FEASIBLE:
            status = found.status if bool(state.valid[0]) else Status.INVALID_INPUT
            return f"status {status.name}: no answer"
        return table(self, *at, packed, par, found)

    def _prepared(self) -> tuple[ControlLoop, Array]:
        """The control loop, and the current numbers."""
        if self._loop is None:
            self._loop = ControlLoop(self, self.layer.settings)
        # Not by self.parameters() or loops in Python, which take as long as a QP: there are about fifty.
        held = [*itertools.chain.from_iterable(part._parameters.values() for part in self._part_list)]
        if len(held) != len(self._held) or not all(map(operator.is_, held, self._held)):
            self._held, self._present, self._versions = held, [p for p in held if p is not None], None
        versions = [*map(_VERSION, self._present)]
        if versions != self._versions:
            self._versions = versions
            with torch.no_grad():
                self._packed = self.assembly.pack(self.numbers(), 1).numpy()
        return self._loop, self._packed


def over(elements: Tensor, values: Tensor) -> Tensor:
    """Booleans (B,) with axes of size one added to broadcast over values (B, ..)."""
    return elements.reshape(-1, *[1] * (values.ndim - 1))
