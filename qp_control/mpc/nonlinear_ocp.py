"""A nonlinear optimal-control problem over the stages k = 0..N, and its QP around a trajectory.

    minimise    the cost of an OcpQP (Q, R, S, q, r, Q_N, q_N)
    subject to  x_0 = x0,  x_{k+1} = f(x_k, u_k)                        (y_0, y_{k+1})
                rows, terminal rows and boxes of an OcpQP               (z, z_N, w_x, w_u)
                lower <= h(x_k) <= upper, k = 1..N                      (StateRows)
                lower <= h(x_k, u_k) <= upper, k = 0..N-1               (StageRows)

The QP around (xbar, ubar) has f and h linearised there, in the same coordinates: its solution is the next trajectory.
The rows of the functions follow the linear rows of the problem, in the order given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from qp_control.ocp.problem import OcpQP, base_rank
from qp_control.robot.torch_dynamics import value_and_jacobians, weighted_hessian

_INFINITY = float("inf")
ROW_DATA = ("lower", "upper", "slack_linear", "slack_quadratic")


@dataclass(frozen=True)
class _Rows:
    """What rows of states and of stages share."""

    function: Callable[..., Tensor]
    lower: Any = -_INFINITY
    upper: Any = _INFINITY
    slack_linear: Any = None
    slack_quadratic: Any = None
    data: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.data, tuple | list) or not all(isinstance(value, Tensor) for value in self.data):
            raise TypeError(f"data of rows is {self.data!r}, expected a tuple of tensors")
        for name in ROW_DATA:
            value = getattr(self, name)
            if not isinstance(value, Tensor) and value is not None:
                object.__setattr__(self, name, torch.as_tensor(value, dtype=torch.float64))

    @property
    def soft(self) -> bool:
        """Whether there are weights."""
        return self.slack_linear is not None or self.slack_quadratic is not None

    def expanded(self, name: str, like: Tensor) -> Tensor:
        """A bound or weight in the shape (B, N, rows) of the function's values `like`.

        Raises ValueError where it does not broadcast to that.
        """
        value = getattr(self, name)
        if value is None:
            return like.new_full(like.shape, self._missing(name))
        try:
            return cast(Tensor, value.to(like.dtype).expand(like.shape))
        except RuntimeError:
            got, expected = tuple(value.shape), f"(B, N, rows) = {tuple(like.shape)}"
            raise ValueError(f"{name} of rows has shape {got}, expected one that broadcasts to {expected}") from None

    def _missing(self, name: str) -> float:
        if name == "slack_linear" and not self.soft:
            return _INFINITY
        return {"lower": -_INFINITY, "upper": _INFINITY}.get(name, 0.0)


class StateRows(_Rows):
    """lower <= function(x, *data) <= upper for the states x_1..x_N; function maps (B, N, nx) to (B, N, rows).

    lower, upper: numbers or tensors that broadcast to (B, N, rows). slack_linear, slack_quadratic: weights of a soft
    row's violation, likewise; None: hard rows. data: further tensors for the function, shared, or per element: with
    three axes or more that begin with (B, N) or (B, 1).

    Raises TypeError for data that are not tensors. A controller's call raises ValueError if the function returns
    another shape, and for bounds and weights that do not broadcast to it.
    """

    def values(self, x: Tensor, u: Tensor) -> Tensor:
        """The function at the states x (B, N, nx): (B, N, rows); the inputs u are not used."""
        return _along_stages("the function of rows", self.function(x, *self.data), x, "rows")


class StageRows(_Rows):
    """lower <= function(x, u, *data) <= upper for the stages k = 0..N-1; otherwise like `StateRows`."""

    def values(self, x: Tensor, u: Tensor) -> Tensor:
        """The function at the states x (B, N, nx) and inputs u (B, N, nu): (B, N, rows)."""
        return _along_stages("the function of rows", self.function(x, u, *self.data), x, "rows")


Rows = StateRows | StageRows


def keep_out(position: Callable[[Tensor], Tensor], centre: Any, radius: Any, **slack: Any) -> StateRows:
    """Rows that keep position(x) (B, N, d) [m] outside a ball: |position(x) - centre|^2 >= radius^2.

    centre (d,), (B, 1, d) or (B, N, d) [m], radius a number or (B, N, 1) [m]; slack_linear, slack_quadratic make the
    row soft, see `StateRows`. Raises TypeError for other keywords; a controller's call raises ValueError if position
    returns another shape, or another d than the centre's.
    """

    def squared(x: Tensor, c: Tensor) -> Tensor:
        offset = _along_stages("position", position(x), x, c.shape[-1] if c.ndim else "d") - c
        return (offset * offset).sum(-1, keepdim=True)

    centre, radius = (torch.as_tensor(value, dtype=torch.float64) for value in (centre, radius))
    return StateRows(squared, lower=radius**2, data=(centre,), **slack)


def speed_limit(velocity: Callable[[Tensor], Tensor], limit: Any, **slack: Any) -> StateRows:
    """Rows |velocity(x)|^2 <= limit^2, velocity(x) (B, N, d) [m/s], limit a number or (B, N, 1) [m/s].

    slack_linear, slack_quadratic make the row soft, see `StateRows`. Raises TypeError for other keywords; a
    controller's call raises ValueError if velocity returns another shape.
    """

    def squared(x: Tensor) -> Tensor:
        v = _along_stages("velocity", velocity(x), x, "d")
        return (v * v).sum(-1, keepdim=True)

    return StateRows(squared, upper=torch.as_tensor(limit, dtype=torch.float64) ** 2, **slack)


def _along_stages(name: str, value: Tensor, x: Tensor, last: int | str) -> Tensor:
    """`value`, checked for the leading axes of x and `last`, a size or its name: others would broadcast silently."""
    good = value.ndim == x.ndim and value.shape[:-1] == x.shape[:-1]
    if not good or (isinstance(last, int) and value.shape[-1] != last):
        hint = "" if good else ": x[..., 1:2], not x[..., 1]"
        expected = ", ".join(map(str, (*x.shape[:-1], last)))
        raise ValueError(f"{name} returned shape {tuple(value.shape)}, expected ({expected}){hint}")
    return value


@dataclass(frozen=True)
class NonlinearOcp:
    """The problem of a batch of B, as defined at the top of `qp_control.mpc.nonlinear_ocp`.

    dynamics: an object with step, linearize and second_order, such as a `RobotDynamics`, `TorchDynamics` or
        `ErrorDynamics`.
    x0 (B, nx). data: arguments of an OcpQP except A, B, c and x0. parameters: of the dynamics, (n_par,) or (B, n_par).
    """

    dynamics: Any
    horizon: int
    x0: Tensor
    data: dict[str, Tensor]
    parameters: Tensor | None = None
    rows: Sequence[Rows] = field(default=())

    @property
    def batch(self) -> int:
        return len(self.x0)

    def element(self, elements: Tensor) -> NonlinearOcp:
        """A part of the batch."""
        data = {
            name: value[elements] if per_element(name, value) and len(value) > 1 else value
            for name, value in self.data.items()
        }
        par = self.parameters
        rows = [_part_of_rows(r, self.batch, self.horizon, elements) for r in self.rows]
        par = par[elements] if par is not None and par.ndim > 1 else par
        dynamics = part_of_dynamics(self.dynamics, elements)
        return dataclasses.replace(self, dynamics=dynamics, x0=self.x0[elements], data=data, parameters=par, rows=rows)

    def step(self, states: Tensor, inputs: Tensor) -> Tensor:
        """f(x_k, u_k) (B, N, nx) of states (B, N + 1, nx) and inputs (B, N, nu)."""
        next_states: Tensor = self.dynamics.step(states[:, :-1], inputs, self._stage_parameters())
        return next_states

    def around(self, states: Tensor, inputs: Tensor) -> OcpQP:
        """The QP linearised along states (B, N + 1, nx), inputs (B, N, nu); differentiable in all its data."""
        x = states[:, :-1]
        x_next, A, B = self.dynamics.linearize(x, inputs, self._stage_parameters())
        c = x_next - times(torch.cat([A, B], -1), torch.cat([x, inputs], -1))
        data = dict(self.data)
        if self.rows:
            data |= self._linearized_rows(states, inputs)
        return OcpQP(A=A, B=B, c=c, x0=self.x0, horizon=self.horizon, **data)

    def curvature(self, states: Tensor, inputs: Tensor, y: Tensor, z: Tensor, z_N: Tensor) -> tuple[Tensor, Tensor]:
        """What f and h add to the Hessian of the Lagrangian: (B, N, n, n) for (x_k, u_k), (B, nx, nx) for x_N.

        Multipliers y that are not finite, of QPs without an answer, count as zero.
        """
        x, nx = states[:, :-1], states.shape[-1]
        y = y[:, 1:].nan_to_num(0.0, 0.0, 0.0)
        total: Tensor = self.dynamics.second_order(x, inputs, y, self._stage_parameters())
        end = states.new_zeros(self.batch, nx, nx)
        stage, terminal = self._linear_rows()
        for rows in self.rows:
            if isinstance(rows, StateRows):
                later, none = states[:, 1:], torch.zeros_like(inputs)
                m = rows.values(later, none).shape[-1]
                weights = torch.cat([z[:, 1:, stage : stage + m], z_N[:, None, terminal : terminal + m]], 1)
                found = weighted_hessian(rows.values, later, none, weights)
                total = total.clone()
                total[:, 1:] += found[:, :-1]
                end = end + found[:, -1, :nx, :nx]
                terminal += m
            else:
                m = rows.values(x, inputs).shape[-1]
                total = total + weighted_hessian(rows.values, x, inputs, z[..., stage : stage + m])
            stage += m
        return total, end

    def _linear_rows(self) -> tuple[int, int]:
        stage = next((self.data[name].shape[-2] for name in ("C", "D") if name in self.data), 0)
        return stage, self.data["C_N"].shape[-2] if "C_N" in self.data else 0

    def _stage_parameters(self) -> Tensor | None:
        par = self.parameters
        return par if par is None or par.ndim == 1 else par[:, None].expand(-1, self.horizon, -1)

    def _linearized_rows(self, states: Tensor, inputs: Tensor) -> dict[str, Tensor]:
        B, N, nx = self.batch, self.horizon, states.shape[-1]
        nu = inputs.shape[-1]
        stage, terminal = self._linear_rows()
        blocks = _Blocks(self.data, stage, terminal, self)
        for rows in self.rows:
            of_state = isinstance(rows, StateRows)
            x = states[:, 1:] if of_state else states[:, :-1]
            u = inputs.new_zeros(B, N, nu) if of_state else inputs
            h, J_x, J_u = value_and_jacobians(rows.values, x, u)
            constant = times(J_x, x) + times(J_u, u) - h
            m = h.shape[-1]
            entries = {name: rows.expanded(name, h) for name in ROW_DATA}
            weights = {name: entries.pop(name) for name in ("slack_linear", "slack_quadratic")}
            entries = {"C": J_x, "D": J_u} | {name: bound + constant for name, bound in entries.items()}
            if of_state:
                # x_0 is given: its rows are free.
                first = {"C": h.new_zeros(B, 1, m, nx), "D": h.new_zeros(B, 1, m, nu)}
                first |= {"lower": h.new_full((B, 1, m), -_INFINITY), "upper": h.new_full((B, 1, m), _INFINITY)}
                first |= {name: value[:, :1] for name, value in weights.items()}
                entries |= weights
                blocks.add({f"{name}_N": value[:, -1] for name, value in entries.items() if name != "D"}, rows.soft)
                entries = {name: torch.cat([first[name], value[:, :-1]], 1) for name, value in entries.items()}
            else:
                entries |= weights
            blocks.add(entries, rows.soft)
        return blocks.joined()


class _Blocks:
    """Rows of an OcpQP under construction: the linear ones of `data`, then blocks of further ones."""

    def __init__(self, data: dict[str, Tensor], stage: int, terminal: int, ocp: NonlinearOcp) -> None:
        nx, nu = ocp.x0.shape[-1], ocp.dynamics.nu
        B, N, like = ocp.batch, ocp.horizon, ocp.x0
        shapes = {"C": (B, N, stage, nx), "D": (B, N, stage, nu), "C_N": (B, terminal, nx)}
        defaults = {"C": 0.0, "D": 0.0, "lower": -_INFINITY, "upper": _INFINITY}
        defaults |= {"slack_linear": 0.0, "slack_quadratic": 0.0}
        self.parts: dict[str, list[Tensor]] = {}
        self.soft = any(name.startswith("slack") for name in data)
        for name in ("C", "D", *ROW_DATA, "C_N", *[f"{name}_N" for name in ROW_DATA]):
            end = name.endswith("_N")
            shape = shapes.get(name, (B, terminal) if end else (B, N, stage))
            pair = ("slack_linear_N", "slack_quadratic_N") if end else ("slack_linear", "slack_quadratic")
            hard = name == pair[0] and not any(p in data for p in pair)
            value = _INFINITY if hard else defaults.get(name.removesuffix("_N"), 0.0)
            given = full(name, data[name], ocp).expand(shape) if name in data else like.new_full(shape, value)
            self.parts[name] = [given]

    def add(self, entries: dict[str, Tensor], soft: bool) -> None:
        self.soft |= soft
        for name, value in entries.items():
            self.parts[name].append(value)

    def joined(self) -> dict[str, Tensor]:
        axis = {"C": 2, "D": 2, "C_N": 1}
        whole = {
            name: torch.cat(parts, axis.get(name, -1))
            for name, parts in self.parts.items()
            if self.soft or not name.startswith("slack")
        }
        return {name: value for name, value in whole.items() if value.shape[axis.get(name, -1)] > 0}


def full(name: str, value: Tensor, ocp: NonlinearOcp) -> Tensor:
    """An argument of an OcpQP with batch and stage axes: (B, N or N + 1, ...), or (B, ...) if it has no stages.

    Bounds of states are those of x_1 to x_N.
    """
    base = base_rank(name)
    if name.endswith("_N") or name == "x0":
        return value.expand(ocp.batch, *value.shape[-base:])
    stages = value.shape[-base - 1] if value.ndim > base else 1
    stages = ocp.horizon if stages == 1 else stages
    whole = value.expand(ocp.batch, stages, *value.shape[-base:])
    return whole[:, -ocp.horizon :] if name.startswith("x_") else whole


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def per_element(name: str, value: Tensor) -> bool:
    stageless = name.endswith("_N") or name == "x0"
    return value.ndim == base_rank(name) + (1 if stageless else 2)


def part_of_dynamics(dynamics: Any, elements: Tensor) -> Any:
    """The dynamics of a part of the batch, if they differ between elements (`ErrorDynamics`)."""
    return dynamics.element(elements) if hasattr(dynamics, "element") else dynamics


def _part_of_rows(rows: Rows, batch: int, horizon: int, elements: Tensor) -> Rows:
    own = [value.ndim > 2 and tuple(value.shape[:2]) in ((batch, 1), (batch, horizon)) for value in rows.data]
    if not all(own):
        rows = _with_shared_data(rows, own)
    data = tuple(value[elements] for value in rows.data)
    bounds = {name: getattr(rows, name) for name in ROW_DATA}
    return dataclasses.replace(
        rows,
        data=data,
        **{
            name: value[elements] if value is not None and value.ndim == 3 and len(value) > 1 else value
            for name, value in bounds.items()
        },
    )


def _with_shared_data(rows: Rows, own: Sequence[bool]) -> Rows:
    """The rows with the data that differ by element, `own`, alone: the others belong to the function.

    A part of the batch may be as large as something that is shared.
    """
    inner, given, count = rows.function, rows.data, sum(own)

    def function(*arguments: Tensor) -> Tensor:
        first, mine = arguments[: len(arguments) - count], iter(arguments[len(arguments) - count :])
        return inner(*first, *(next(mine) if own_ else value for own_, value in zip(own, given, strict=True)))

    return dataclasses.replace(
        rows, function=function, data=tuple(value for own_, value in zip(own, given, strict=True) if own_)
    )
