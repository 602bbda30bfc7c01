"""Argument rules of an optimal-control QP over the stages k = 0..N, the same for NumPy arrays and tensors.

    minimise    sum_{k<N} 1/2 [x_k; u_k]'[Q_k S_k'; S_k R_k][x_k; u_k] + q_k'x_k + r_k'u_k
                + 1/2 x_N'Q_N x_N + q_N'x_N
    subject to  x_0 = x0                                      (y_0)
                x_{k+1} = A_k x_k + B_k u_k + c_k             (y_{k+1})
                lower_k <= C_k x_k + D_k u_k <= upper_k       (z_k), k < N
                lower_N <= C_N x_N <= upper_N                 (z_N)
                u_lower_k <= u_k <= u_upper_k, x_lower_k <= x_k <= x_upper_k     (w_u, w_x), x for k >= 1

Rows may be soft: with weights w1 (slack_linear) and w2 (slack_quadratic), for terminal rows slack_linear_N and
slack_quadratic_N, a row reads lower <= C x + D u + s_l - s_u <= upper, s_l, s_u >= 0, at the cost
w1 (s_l + s_u) + w2/2 (s_l^2 + s_u^2). A weight that is not given is zero; a row with a weight of +inf is hard, and so
are all rows without weights.

Stage data: matrices are (rows, cols), the same for all stages and elements, (N, rows, cols), or (B, N, rows, cols),
where an axis of length one stands for all; vectors have one axis less. Q, q may have N + 1 stages, the last of them
terminal. x_lower, x_upper have N stages, for x_1 to x_N, or N + 1, whose entries for x_0 apply only if x0 is not given.
x0 and arguments ending in _N have no stage axis: (rows,), (B, rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qp_control.qp.problem import Array, as_array, as_integer, check_symmetric, symmetry_tolerance

# Argument: its last axes, and the stages it may have beside N (None: no axis of stages).
_FORMS: dict[str, tuple[tuple[str, ...], tuple[int, ...] | None]] = {
    "Q": (("nx", "nx"), (0, 1)),
    "R": (("nu", "nu"), (0,)),
    "S": (("nu", "nx"), (0,)),
    "q": (("nx",), (0, 1)),
    "r": (("nu",), (0,)),
    "Q_N": (("nx", "nx"), None),
    "q_N": (("nx",), None),
    "A": (("nx", "nx"), (0,)),
    "B": (("nx", "nu"), (0,)),
    "c": (("nx",), (0,)),
    "x0": (("nx",), None),
    "C": (("rows", "nx"), (0,)),
    "D": (("rows", "nu"), (0,)),
    "lower": (("rows",), (0,)),
    "upper": (("rows",), (0,)),
    "C_N": (("terminal_rows", "nx"), None),
    "lower_N": (("terminal_rows",), None),
    "upper_N": (("terminal_rows",), None),
    "x_lower": (("nx",), (0, 1)),
    "x_upper": (("nx",), (0, 1)),
    "u_lower": (("nu",), (0,)),
    "u_upper": (("nu",), (0,)),
    "slack_linear": (("rows",), (0,)),
    "slack_quadratic": (("rows",), (0,)),
    "slack_linear_N": (("terminal_rows",), None),
    "slack_quadratic_N": (("terminal_rows",), None),
}
OCP_NAMES = tuple(_FORMS)
_SYMMETRIC = ("Q", "R", "Q_N")
_ROWS, _TERMINAL = (
    ("lower", "upper", "slack_linear", "slack_quadratic"),
    ("lower_N", "upper_N", "slack_linear_N", "slack_quadratic_N"),
)
WEIGHTS = (*_ROWS[2:], *_TERMINAL[2:])
_LOWER, _UPPER = ("lower", "lower_N", "x_lower", "u_lower"), ("upper", "upper_N", "x_upper", "u_upper")


@dataclass(frozen=True)
class OcpQP:
    """The data of an optimal-control QP, as arrays or tensors.

    The problem and the shapes of its data are defined at the top of `qp_control.ocp.problem`.

    `solve_ocp(**qp.arguments())` and `OcpLayer(horizon=qp.horizon)(**qp.data())` solve it,
    `save_problem(path, **qp.arguments())` writes it to a file.
    """

    A: Any
    B: Any
    x0: Any = None
    horizon: int | None = None
    """N, if no argument has a stage axis."""
    Q: Any = None
    R: Any = None
    S: Any = None
    q: Any = None
    r: Any = None
    Q_N: Any = None
    q_N: Any = None
    c: Any = None
    C: Any = None
    D: Any = None
    lower: Any = None
    upper: Any = None
    C_N: Any = None
    lower_N: Any = None
    upper_N: Any = None
    x_lower: Any = None
    x_upper: Any = None
    u_lower: Any = None
    u_upper: Any = None
    slack_linear: Any = None
    slack_quadratic: Any = None
    slack_linear_N: Any = None
    slack_quadratic_N: Any = None

    def data(self) -> dict[str, Any]:
        """The arguments that are present, by name."""
        return {name: getattr(self, name) for name in OCP_NAMES if getattr(self, name) is not None}

    def arguments(self) -> dict[str, Any]:
        """The same, and the horizon if it is given."""
        return self.data() if self.horizon is None else self.data() | {"horizon": self.horizon}

    def sizes(self) -> OcpSizes:
        """Its sizes.

        Raises:
            ValueError: shapes do not fit together.
        """
        return ocp_sizes({name: tuple(np.shape(value)) for name, value in self.data().items()}, self.horizon)

    def element(self, index: int) -> OcpQP:
        """One problem of the batch.

        Raises:
            ValueError: shapes do not fit together.
            IndexError: the batch has no such element.
        """
        sizes, own = self.sizes(), {}
        if not -sizes.batch <= index < sizes.batch:
            raise IndexError(f"element {index} of a batch of {sizes.batch}")
        for name, value in self.data().items():
            form, stages = _FORMS[name]
            per_element = np.ndim(value) == len(form) + (1 if stages is None else 2)
            own[name] = value[index if len(value) > 1 else 0] if per_element else value
        return OcpQP(**own, horizon=sizes.horizon)


class OcpSizes(NamedTuple):
    """Sizes of a batch of optimal-control QPs; `batched` is False if no argument has a batch axis."""

    batch: int
    horizon: int
    nx: int
    nu: int
    rows: int
    terminal_rows: int
    batched: bool

    @property
    def native(self) -> tuple[int, int, int, int, int, int]:
        return (self.batch, self.horizon, self.nx, self.nu, self.rows, self.terminal_rows)

    def one(self, name: str) -> tuple[int, ...]:
        """Shape of one stage of the argument `name`."""
        return tuple(int(getattr(self, axis)) for axis in _FORMS[name][0])

    @property
    def point_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one element's x, u, y, z, z_N, w_x, w_u."""
        x, u = (self.horizon + 1, self.nx), (self.horizon, self.nu)
        rows, terminal = (self.horizon, self.rows), (self.terminal_rows,)
        return {"x": x, "u": u, "y": x, "z": rows, "z_N": terminal, "w_x": x, "w_u": u}

    @property
    def shift_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one element's shifts, in the order of `ocp.SHIFTS`."""
        p = self.point_shapes
        return (p["z"], p["z"], p["z_N"], p["z_N"], p["x"], p["x"], p["u"], p["u"])

    @property
    def slack_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one element's slacks, in the order of `ocp.SLACKS`."""
        p = self.point_shapes
        return (p["z"], p["z"], p["z_N"], p["z_N"])

    @property
    def field_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one element's 19 fields, in the order of `ocp.OUTPUTS`."""
        return (*self.point_shapes.values(), *self.shift_shapes, *self.slack_shapes)


def base_rank(name: str) -> int:
    """2 for a matrix, 1 for a vector."""
    return len(_FORMS[name][0])


def ocp_sizes(shapes: dict[str, tuple[int, ...]], horizon: int | None) -> OcpSizes:
    """Sizes of the problem whose present arguments have these shapes.

    Raises:
        ValueError: shapes do not fit together; the message names the argument, its shape and the one expected.
    """
    for name in ("A", "B"):
        if name not in shapes:
            raise ValueError(f"{name} is missing")
    for name, shape in shapes.items():
        form, stages = _FORMS[name]
        extra = len(shape) - len(form)
        if extra not in ((0, 1) if stages is None else (0, 1, 2)):
            kind = "matrix" if len(form) == 2 else "vector"
            raise ValueError(f"{name} has shape {shape}, expected a {kind}, or one per stage or element")
    for names, matrices in ((_ROWS, ("C", "D")), (_TERMINAL, ("C_N",))):
        for name in names:
            if name in shapes and not any(matrix in shapes for matrix in matrices):
                raise ValueError(f"{name} is given without {' or '.join(matrices)}")
    # If they disagree, the argument that differs from the others is the wrong one.
    widths = [shapes["A"][-1], shapes["A"][-2], shapes["B"][-2], *(shapes[k][-1] for k in ("Q", "x0") if k in shapes)]
    nx = max(widths, key=widths.count)
    named = {"nx": nx, "nu": shapes["B"][-1], "rows": 0, "terminal_rows": 0}
    for matrix in ("D", "C"):
        if matrix in shapes:
            named["rows"] = shapes[matrix][-2]
    if "C_N" in shapes:
        named["terminal_rows"] = shapes["C_N"][-2]
    named["horizon"] = N = _horizon(shapes, horizon)
    batches: dict[str, int] = {}
    for name, shape in shapes.items():
        form, stages = _FORMS[name]
        expected = tuple(named[axis] for axis in form)
        if shape[-len(form) :] != expected:
            raise ValueError(f"{name} has shape {shape}, expected ({', '.join(form)}) = {expected} at its end")
        axes = shape[: -len(form)]
        if stages is not None and axes and axes[-1] != 1 and axes[-1] - N not in stages:
            allowed = " or ".join(str(N + more) for more in stages)
            raise ValueError(f"{name} has {axes[-1]} stages, expected {allowed}")
        if len(axes) == (1 if stages is None else 2):
            batches[name] = axes[0]
    batch = next((size for size in batches.values() if size != 1), 1)
    for name, size in batches.items():
        if size not in (1, batch):
            raise ValueError(f"{name} has a batch of {size}, expected 1 or {batch}")
    for name, end in (("Q", "Q_N"), ("q", "q_N")):
        axes = shapes.get(name, ())[: -len(_FORMS[name][0])]
        if axes and axes[-1] == N + 1 and end in shapes:
            raise ValueError(f"{name} has N + 1 = {N + 1} stages, the last of which is the terminal one, and {end} too")
        if axes and axes[-1] == N != 1 and end not in shapes:
            raise ValueError(f"{name} has N = {N} stages: give {end}, or N + 1 stages")
    return OcpSizes(batch, N, named["nx"], named["nu"], named["rows"], named["terminal_rows"], bool(batches))


def _horizon(shapes: dict[str, tuple[int, ...]], horizon: int | None) -> int:
    if horizon is None:
        for name, shape in shapes.items():
            form, stages = _FORMS[name]
            axes = shape[: -len(form)]
            if stages == (0,) and axes and axes[-1] != 1:
                return axes[-1]
        raise ValueError("no argument has an axis of stages: give the horizon")
    return as_integer("horizon", horizon, 1)


@dataclass(frozen=True)
class OcpProblem:
    """An optimal-control QP as float64, C-contiguous arrays; those with a batch axis also have a stage axis."""

    sizes: OcpSizes
    arrays: tuple[Array | None, ...]  # in the order of OCP_NAMES


def with_stage_axis(name: str, value: Any) -> Any:
    """The value with a stage axis added if it has a batch axis but none of stages."""
    form, stages = _FORMS[name]
    if stages is not None or value.ndim == len(form):
        return value
    return value.reshape(value.shape[0], 1, *value.shape[1:])


def without_stage_axis(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape before `with_stage_axis`."""
    form, stages = _FORMS[name]
    return shape if stages is not None or len(shape) == len(form) else (shape[0], *shape[2:])


def ocp_from_arrays(arguments: dict[str, Any], horizon: int | None) -> OcpProblem:
    """Convert NumPy-like arguments; values are not checked, see `check_ocp_data`.

    Raises:
        ValueError: invalid shapes or dtypes.
    """
    arrays = {name: as_array(name, value) for name, value in arguments.items() if value is not None}
    sizes = ocp_sizes({name: array.shape for name, array in arrays.items()}, horizon)
    arrays = {name: with_stage_axis(name, array) for name, array in arrays.items()}
    return OcpProblem(sizes, tuple(arrays.get(name) for name in OCP_NAMES))


def check_ocp_data(arguments: dict[str, Any]) -> None:
    """Raise ValueError, naming array and index, for invalid values."""
    for name, value in arguments.items():
        if value is None:
            continue
        array = as_array(name, value)
        if name in _LOWER:
            bad, expected = np.isnan(array) | (array >= 1e20), "a number below +infinity"
        elif name in _UPPER:
            bad, expected = np.isnan(array) | (array <= -1e20), "a number above -infinity"
        elif name in WEIGHTS:
            bad, expected = ~(array >= 0), "a weight of at least zero, +infinity for a hard row"
        else:
            bad, expected = ~np.isfinite(array), "a finite number"
        if bad.any():
            where = np.unravel_index(int(np.argmax(bad)), bad.shape)
            index = ", ".join(str(int(k)) for k in where)
            raise ValueError(f"{name}[{index}] is {array[where]}, expected {expected}")
        if name in _SYMMETRIC:
            check_symmetric(array, symmetry_tolerance(getattr(value, "dtype", array.dtype)), name)


def check_ocp_symmetric(arrays: dict[str, Array | None], tolerance: float) -> None:
    """Raise ValueError if Q, R or Q_N differs from its transpose."""
    for name in _SYMMETRIC:
        array = arrays.get(name)
        if array is not None:
            check_symmetric(array, tolerance, name)
