"""A controller by inverse dynamics in a control loop: one robot, NumPy, and an answer at every tick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qp_control import _solver
from qp_control.inverse_dynamics.limits import TorqueLimit
from qp_control.inverse_dynamics.lower_levels import UNFINISHED, LowerLevels
from qp_control.inverse_dynamics.soft_rows import SoftRows
from qp_control.qp.problem import Array
from qp_control.settings import Settings, Status

_FIELDS = 9  # of a solution: x, y, z, w and five shifts


class Tick(NamedTuple):
    """What a controller decides in one control period."""

    torque: Array
    """(nu,) [N m or N] within hard limits; without an answer those of the tick before, zero at first."""
    acceleration: Array
    """(nv,) [m/s^2 or rad/s^2]; NaN without an answer, as is what follows."""
    force: Array
    """(points, 3) of the contacts on the robot, in the world's axes [N]."""
    status: Status
    shift: Array
    """(rows,) by how much each row gave way, in the order of the controller's `row_names`, in the row's unit."""
    x: Array
    """(n,) the QP's solution."""
    iterations: int
    """Newton steps of all levels."""


class ControlLoop:
    """Assembles and solves the QPs of one robot, tick by tick and level by level, each from the tick before."""

    def __init__(self, controller: Any, settings: Settings) -> None:
        self.native, self.offsets = controller.assembly.native, controller.assembly.offsets
        self.nv, self.nu, self.points = controller.model.nv, controller.model.nu, controller.points
        self.units, self.critical = controller.states.units, _critical(controller)
        self.reference_units = controller.assembly.directions.numbers
        self.settings = settings.native("closest")
        self.shift_weights = [np.ascontiguousarray(w.numpy()) for w in controller.shift_weights]
        sizes = [len(w) for w in self.shift_weights]
        self.sizes = (1, controller.n, sizes[0], sizes[1])
        # Without rows the solver has no matrix.
        self.absent = [
            k for k, size in ((2, sizes[0]), (3, sizes[0]), (4, sizes[1]), (5, sizes[1]), (6, sizes[1])) if not size
        ]
        hard = [limit for limit in controller.limits if isinstance(limit, TorqueLimit) and limit.shift_weight == np.inf]
        # Which numbers count in each level: the weights of others are zero.
        self.masks = []
        for level in controller.levels if len(controller.levels) > 1 else ():
            mask = np.ones(controller.assembly.size)
            for name, size in controller.weights_beside(level):
                mask[self.offsets[name] : self.offsets[name] + size] = 0.0
            self.masks.append(mask)
        self.lower = None
        if self.masks:
            self.lower = LowerLevels(len(self.masks) - 1, controller.n, sizes[1], self.settings)
        self.soft = SoftRows(self.shift_weights, controller.usual, settings)
        self.limit = [self.offsets[f"{hard[0].name}.{key}"] for key in ("lower", "upper")] if hard else None
        self.reset()

    def reset(self) -> None:
        """Forget the ticks before."""
        self.start: list[Array] | None = None
        if self.lower is not None:
            self.lower.reset()
        self.torque: Array = np.zeros(self.nu)

    def tick(self, q: Array, v: Array, numbers: Array, parameters: Array | None) -> Tick:
        q, v = np.array(q, dtype=np.float64), np.asarray(v, dtype=np.float64)
        valid = bool(np.isfinite(q).all() and np.isfinite(v).all())
        for unit in self.units:
            length = float(np.sqrt(q[unit] @ q[unit]))
            valid = valid and 1e-6 < length < 1e6
            if valid:
                q[unit] /= length
        if not valid:
            return self.without(Status.INVALID_INPUT)
        state = q[None], v[None]
        *data, T, t = self.native.problem(*state, numbers * self.masks[0] if self.masks else numbers, parameters)
        found, s_eq, s_lower, s_upper, now, steps = self._first_level(data)
        if now > Status.CLOSEST_FEASIBLE:
            return self.without(now, steps)
        if self.lower is not None:
            H, _, A, _, C, l, u, lb, ub = (a[0] for a in data)
            levels = (self._cost(*state, numbers * mask, parameters) for mask in self.masks[1:])
            n_in = len(l)
            rows = (C, l - s_lower[:n_in], u + s_upper[:n_in], lb - s_lower[n_in:], ub + s_upper[n_in:])
            found, below, more = self.lower(found, [A.T @ A, H], rows, levels)
            steps, now = steps + more, max(now, below)
            if now > Status.CLOSEST_FEASIBLE:
                return self.without(now, steps)
        torque = T[0] @ found + t[0]
        if self.limit is not None:
            first, last = self.limit
            torque = np.clip(torque, numbers[first : first + self.nu], numbers[last : last + self.nu])
        self.torque = torque
        shift = np.concatenate([np.abs(s_eq), np.maximum(s_lower, s_upper)[: self.sizes[3] + self.nv]])
        return Tick(torque, found[: self.nv], found[self.nv :].reshape(-1, 3), now, shift, found, steps)

    def _first_level(self, data: list[Array]) -> tuple[Array, Array, Array, Array, Status, int]:
        """x, the shifts of equalities, of all other rows downwards and upwards, the status, and the iterations."""
        given: list[Array | None] = [None if k in self.absent else a for k, a in enumerate(data)]
        given += [w if len(w) else None for w in self.shift_weights]
        result = _solver.solve(self.sizes, given, self.settings, self.start, False, False)[0]
        x, y, z, w, s_eq, s_lower, s_upper, s_lb, s_ub = result[:_FIELDS]
        status, iterations, active_in, active_box = result[-4:]
        now, steps = Status(int(status[0])), int(iterations[0])
        if now <= Status.CLOSEST_FEASIBLE:
            self.start = [x, y, z, w, active_in, active_box]
            return x[0], s_eq[0], np.append(s_lower, s_lb), np.append(s_upper, s_ub), now, steps
        if now not in UNFINISHED:
            return x[0], s_eq[0], s_lower[0], s_upper[0], now, steps
        self.start = None
        found, shift, now, more = self.soft.solve(*(a[0] for a in data))
        n_eq = self.sizes[2]
        lower, upper = np.maximum(shift[n_eq:], 0.0), np.maximum(-shift[n_eq:], 0.0)
        now = Status.CLOSEST_FEASIBLE if now == Status.SOLVED else now
        return found, shift[:n_eq], lower, upper, now, steps + more

    def _cost(self, q: Array, v: Array, numbers: Array, parameters: Array | None) -> tuple[Array, Array]:
        H, g, *_ = self.native.problem(q, v, numbers, parameters)
        return H[0], g[0]

    def without(self, status: Status, iterations: int = 0) -> Tick:
        """A tick that has no answer."""
        self.start = None
        if self.lower is not None:
            self.lower.reset()
        rows = self.sizes[2] + self.sizes[3] + self.nv
        gone = (np.full(self.nv, np.nan), np.full((self.points, 3), np.nan))
        return Tick(self.torque, *gone, status, np.full(rows, np.nan), np.full(self.sizes[1], np.nan), iterations)

    def exchange(self, packed: Array, given: Mapping[str, Any], sizes: Mapping[str, int]) -> Array:
        """The numbers with those given in their places."""
        packed = packed.copy()
        for name, value in given.items():
            if name not in self.offsets:
                raise ValueError(f"there is no number {name!r}, only {', '.join(self.offsets)}")
            first, size = self.offsets[name], sizes[name]
            try:
                packed[first : first + size] = value
            except ValueError:
                raise ValueError(f"{name} has shape {np.shape(value)}, expected ({size},) or one number") from None
            damping = self.critical.get(name)
            if damping is not None and damping not in given:
                second = self.offsets[damping]
                packed[second : second + size] = 2.0 * np.sqrt(packed[first : first + size])
        for block in self.reference_units:
            packed[block] /= np.sqrt(packed[block] @ packed[block])
        return packed


def _critical(controller: Any) -> dict[str, str]:
    """Names of stiffnesses whose damping follows from them, with those of the damping."""
    parts = controller.parts.values()
    return {
        f"{part.name}.stiffness": f"{part.name}.damping"
        for part in parts
        if "stiffness" in part.sizes and part.damping is None
    }


def table(controller: Any, q: Array, v: Array, packed: Array, parameters: Array | None, found: Tick) -> str:
    """Tasks with weight, error and residual, and the limits that are active or gave way."""
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
