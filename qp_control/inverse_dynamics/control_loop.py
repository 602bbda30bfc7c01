"""Inverse dynamics in a control loop: one robot, NumPy, and torques at every tick."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qp_control import _robot, _solver
from qp_control.inverse_dynamics.robot_states import LARGEST_LENGTH, LEAST_LENGTH
from qp_control.qp.problem import Array, as_array
from qp_control.settings import Settings, Status

_STATUSES = tuple(Status)


class Tick(NamedTuple):
    """What a controller decides in one control period."""

    torque: Array
    """(nu,) [N m or N] within hard limits; without an answer those of the previous tick, zero at first."""
    acceleration: Array
    """(nv,) [m/s^2 or rad/s^2]; NaN without an answer, as are force, shift and x."""
    force: Array
    """(points, 3) of the contacts on the robot, in the world's axes [N]."""
    status: Status
    shift: Array
    """(rows,) by how much each row was shifted, in the order of the controller's `row_names`, in the row's unit."""
    x: Array
    """(n,) the QP's solution."""
    iterations: int
    """Newton steps over all levels."""


class ControlLoop:
    """The compiled loop, and the positions of the numbers of its parts.

    It assembles and solves the QPs of one robot, tick by tick and level by level, each starting from the previous tick.
    If the solver finds no answer, shifts are penalised instead of being minimised first.
    """

    def __init__(self, controller: Any, settings: Settings) -> None:
        assembly = controller.assembly
        self.offsets, self.units = assembly.offsets, assembly.units
        self.critical = _critical(controller)
        self.nv = controller.model.nv
        weights = np.concatenate([w.numpy() for w in controller.shift_weights])
        torque = np.inf if assembly.torque_limit is None else assembly.torque_limit.shift_weight
        solver = _solver.dense_qps(settings.native("closest"))
        self.native = _robot.InverseDynamicsLoop(assembly.native, solver, weights, torque)

    def tick(self, q: Array, v: Array, numbers: Array, parameters: Array | None) -> Tick:
        torque, x, shift, code, iterations = self.native.tick(q, v, numbers, parameters)
        status = _STATUSES[code]
        if status > Status.CLOSEST_FEASIBLE:
            x, shift = np.full_like(x, np.nan), np.full_like(shift, np.nan)
        return Tick(torque, x[: self.nv], x[self.nv :].reshape(-1, 3), status, shift, x, iterations)

    def exchange(self, packed: Array, given: Mapping[str, Any], sizes: Mapping[str, int]) -> Array:
        """The numbers, with those given put in place."""
        packed = packed.copy()
        for name, value in given.items():
            if name not in self.offsets:
                raise ValueError(f"there is no number {name!r}, only {', '.join(self.offsets)}")
            first, size = self.offsets[name], sizes[name]
            try:
                packed[first : first + size] = value
            except (ValueError, TypeError, RuntimeError):
                array = as_array(name, value)
                if array.shape not in ((), (1,), (size,)):
                    raise ValueError(f"{name} has shape {array.shape}, expected ({size},) or one number") from None
                packed[first : first + size] = array
            damping = self.critical.get(name)
            if damping is not None and damping not in given:
                second = self.offsets[damping]
                packed[second : second + size] = 2.0 * np.sqrt(packed[first : first + size])
            for unit in self.units.get(name, ()):
                length = math.sqrt(packed[unit] @ packed[unit])
                packed[unit] /= length if LEAST_LENGTH < length < LARGEST_LENGTH else np.nan  # which is invalid input
        return packed


def _critical(controller: Any) -> dict[str, str]:
    """Names of the stiffnesses that determine a damping, with the name of that damping."""
    parts = controller.parts.values()
    return {
        f"{part.name}.stiffness": f"{part.name}.damping"
        for part in parts
        if "stiffness" in part.sizes and part.damping is None
    }


def table(controller: Any, q: Array, v: Array, packed: Array, parameters: Array | None, found: Tick) -> str:
    """Tasks with weight, error and residual, and the limits that are active or shifted."""
    lines = [f"status {found.status.name}", f"{'task':<28}{'weight':>12}{'error':>12}{'residual':>12}"]
    residual, error = controller.assembly.native.residuals(q[None], v[None], packed, parameters, found.x[None])
    row = 0
    for part in (*controller.task_list, *controller.contacts):
        size = len(part.rows)
        first = controller.assembly.offsets.get(f"{part.name}.weight")
        weight = "constraint" if first is None else _short(packed[first : first + size])
        away = f"{np.linalg.norm(error[0, row : row + size]):.3g}" if "stiffness" in part.sizes else "-"
        lines.append(f"{part.name:<28}{weight:>12}{away:>12}{np.linalg.norm(residual[0, row : row + size]):>12.3g}")
        row += size
    _, _, A, b, C, l, u, lb, ub, *_ = (
        a[0] for a in controller.assembly.native.problem(q[None], v[None], packed, parameters)
    )
    values, lower, upper = C @ found.x, l, u
    names = controller.row_names
    head = f"{'limit':<40}{'value':>12}{'bound':>12}{'gave way':>12}"
    bounds = [(names[len(b) + k], values[k], lower[k], upper[k], len(b) + k) for k in range(len(l))]
    bounds += [
        (names[len(b) + len(l) + i], found.x[i], lb[i], ub[i], len(b) + len(l) + i) for i in range(controller.model.nv)
    ]
    bounds += [(names[k], (A @ found.x)[k], b[k], b[k], k) for k in range(len(b))]
    for name, value, low, high, k in bounds:
        tolerance = 1e-6 * (1.0 + abs(value))
        for bound, beyond in ((low, low - value), (high, value - high)):
            held = beyond >= -tolerance and not (k < len(b) and found.shift[k] <= tolerance)
            if np.isfinite(bound) and held:
                lines += [head] if head not in lines else []
                lines.append(f"{name:<40}{value:>12.4g}{bound:>12.4g}{found.shift[k]:>12.3g}")
                break
    return "\n".join(lines)


def _short(weight: Array) -> str:
    return f"{weight[0]:.3g}" if np.ptp(weight) == 0.0 else f"{weight.min():.2g}..{weight.max():.2g}"
