"""Argument rules of a QP, the same for NumPy arrays and tensors.

    minimise    1/2 x'H x + g'x
    subject to  A x = b              (y)
                l <= C x <= u        (z)
                lb <= x <= ub        (w)

Matrices are (rows, n) or (B, rows, n), vectors (rows,) or (B, rows), told apart by their rank. Arguments without a
batch axis, or with one of length one, are shared by the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_FLOAT64 = np.dtype(np.float64)

NAMES = ("H", "g", "A", "b", "C", "l", "u", "lb", "ub")
WEIGHTS = ("weight_eq", "weight_in", "weight_box")
MATRICES = frozenset({"H", "A", "C"})
# What each argument's last axes are made of.
_ROWS = {
    "H": "n", "g": "n", "A": "n_eq", "b": "n_eq", "C": "n_in", "l": "n_in", "u": "n_in", "lb": "n", "ub": "n",
    "weight_eq": "n_eq", "weight_in": "n_in", "weight_box": "n",
}  # fmt: skip


class Sizes(NamedTuple):
    """Sizes of a batch of QPs; `batched` is False if no argument has a batch axis."""

    batch: int
    n: int
    n_eq: int
    n_in: int
    batched: bool

    @property
    def native(self) -> tuple[int, int, int, int]:
        return (self.batch, self.n, self.n_eq, self.n_in)

    @property
    def widths(self) -> tuple[int, ...]:
        """Lengths of one element's solution fields: x, y, z, w, s_eq, s_lower, s_upper, s_lb, s_ub."""
        n, n_eq, n_in = self.n, self.n_eq, self.n_in
        return (n, n_eq, n_in, n, n_eq, n_in, n_in, n, n)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one element's argument `name`."""
        rows = int(getattr(self, _ROWS[name]))
        return (rows, self.n) if name in MATRICES else (rows,)


def sizes_of(shapes: dict[str, tuple[int, ...]]) -> Sizes:
    """Sizes of the problem whose present arguments have these shapes.

    Raises:
        ValueError: shapes do not fit together; the message names the argument, its shape and the one expected.
    """
    if "g" not in shapes:
        raise ValueError("g is missing")
    for name, shape in shapes.items():
        rank = 2 if name in MATRICES else 1
        if len(shape) not in (rank, rank + 1):
            kind = "matrix" if rank == 2 else "vector"
            raise ValueError(f"{name} has shape {shape}, expected a {kind} or a batch of them")
    for matrix, vectors in (("A", ("b", "weight_eq")), ("C", ("l", "u", "weight_in"))):
        for vector in vectors:
            if vector in shapes and matrix not in shapes:
                raise ValueError(f"{vector} is given without {matrix}")
    if "A" in shapes and "b" not in shapes:
        raise ValueError("A is given without b")

    # If they disagree, the argument that differs from the others is the wrong one.
    widths = {name: shapes[name][-1] for name in ("g", "H", "A", "C", "lb", "ub") if name in shapes}
    votes = list(widths.values())
    n = next((width for width in votes if 2 * votes.count(width) > len(votes)), votes[0])
    n_eq = shapes["A"][-2] if "A" in shapes else 0
    n_in = shapes["C"][-2] if "C" in shapes else 0
    batches = {name: shape[0] for name, shape in shapes.items() if len(shape) > (2 if name in MATRICES else 1)}
    batch = next((size for size in batches.values() if size != 1), 1)
    sizes = Sizes(batch, n, n_eq, n_in, bool(batches))
    for name, size in batches.items():
        if size not in (1, batch):
            raise ValueError(f"{name} has a batch of {size}, expected 1 or {batch}")
    rows = {"H": "(n, n)", "A": "(n_eq, n)", "C": "(n_in, n)"}
    for name, shape in shapes.items():
        expected = sizes.shape(name)
        if shape[-len(expected) :] != expected:
            meaning = rows.get(name, f"({_ROWS[name]},)")
            message = f"{name} has shape {shape}, expected {meaning} = {expected}"
            if len(shape) > len(expected):
                message += f" or (B, {meaning.strip('(,)')})"
            if name in widths and widths[name] != n:
                source = next(other for other, width in widths.items() if width == n)
                message += f"; n = {n} from {source} of shape {shapes[source]}"
                if source not in MATRICES and len(shapes[source]) == 2:
                    message += "; a vector is (n,)"
            raise ValueError(message)
    return sizes


def drop_unit_batch(name: str, shape: tuple[int, ...], sizes: Sizes) -> bool:
    """Whether the leading axis of this argument has length one and stands for a larger batch."""
    return len(shape) > (2 if name in MATRICES else 1) and shape[0] == 1 and sizes.batch != 1


@dataclass(frozen=True)
class Problem:
    """A QP as float64, C-contiguous arrays; None where absent."""

    sizes: Sizes
    arrays: tuple[Array | None, ...]  # in the order of NAMES and WEIGHTS

    def as_dict(self) -> dict[str, Array]:
        """The arrays that are present, by name."""
        return {name: array for name, array in zip(NAMES + WEIGHTS, self.arrays, strict=True) if array is not None}


def as_array(name: str, value: Any) -> Array:
    """`value` as a float64, C-contiguous array that is never written to.

    Raises:
        ValueError: it is not an array of numbers.
        TypeError: it is a tensor that requires grad.
    """
    if type(value) is np.ndarray and value.dtype is _FLOAT64 and value.flags.c_contiguous:
        return value
    if hasattr(value, "toarray"):
        value = value.toarray()  # SciPy sparse
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        array = _tensor_as_array(name, value, error)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {array.dtype}, expected real numbers")
    return np.asarray(array, dtype=np.float64, order="C")  # ascontiguousarray makes a vector of a number


def as_integer(name: str, value: Any, least: int) -> int:
    """`value` as an int.

    Raises:
        ValueError: it is not an integer >= `least`.
    """
    try:
        whole = int(value) == value
    except (TypeError, ValueError, OverflowError):  # not a number, NaN, infinite
        whole = False
    if not whole or value < least:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")
    return int(value)


def _tensor_as_array(name: str, value: Any, error: Exception) -> npt.NDArray[Any]:
    """A tensor that NumPy cannot convert: on another device, or of a dtype that NumPy lacks."""
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{name} is a tensor that requires grad, and there are no gradients here: take QPLayer, OcpLayer or a "
            "controller's forward, or detach it"
        ) from None
    try:
        value = value.cpu()
        return np.asarray(value.double() if value.is_floating_point() else value)
    except (AttributeError, TypeError, RuntimeError):
        raise ValueError(f"{name} is not an array of numbers: {error}") from None


def symmetry_tolerance(dtype: Any = _FLOAT64) -> float:
    """How asymmetric H may be, relative to its largest entry."""
    return 1e-10 if getattr(dtype, "itemsize", 0) >= _FLOAT64.itemsize else 1e-5


def check_symmetric(H: Array, tolerance: float, name: str = "H") -> None:
    """Raise ValueError if H differs from its transpose by more than the tolerance; the message calls it `name`.

    In a batch, the tolerance is relative to each element's own largest entry. Elements that are not finite are left to
    the solver, which returns INVALID_INPUT.
    """
    transposed = H.swapaxes(-1, -2)
    if (transposed == H).all():
        return
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(H - transposed)
        largest = np.max(np.abs(H), axis=(-2, -1), keepdims=True, initial=1e-300)
        asymmetric = difference > tolerance * largest
    if asymmetric.any():
        where = np.unravel_index(np.argmax(np.where(asymmetric, difference, 0.0)), difference.shape)
        index = ", ".join(str(int(k)) for k in where)
        raise ValueError(f"{name} is not symmetric: {name} - {name}' is {difference[where]:.3g} at [{index}]")


def check_values(arrays: dict[str, Array]) -> None:
    """Raise ValueError, naming array and index, for NaN and for infinities that nothing satisfies."""

    def refuse(name: str, bad: npt.NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            where = np.unravel_index(int(np.argmax(bad)), bad.shape)
            index = ", ".join(str(int(k)) for k in where)
            raise ValueError(f"{name}[{index}] is {arrays[name][where]}, expected {expected}")

    for name, array in arrays.items():
        if name in ("l", "lb"):
            refuse(name, np.isnan(array) | (array >= 1e20), "a number below +infinity")
        elif name in ("u", "ub"):
            refuse(name, np.isnan(array) | (array <= -1e20), "a number above -infinity")
        elif name in WEIGHTS:
            refuse(name, ~(array > 0), "a positive weight or infinity")
        else:
            refuse(name, ~np.isfinite(array), "a finite number")


def check_data(arguments: dict[str, Any], arrays: dict[str, Array] | None = None) -> None:
    """Raise ValueError for invalid values; `arrays`: the arguments as arrays, if already converted."""
    if arrays is None:
        arrays = {name: as_array(name, value) for name, value in arguments.items() if value is not None}
    check_values(arrays)
    if "H" in arrays:
        check_symmetric(arrays["H"], symmetry_tolerance(getattr(arguments["H"], "dtype", _FLOAT64)))


def problem_from_arrays(arguments: dict[str, Any], *, check: bool = True) -> Problem:
    """Check and convert NumPy-like arguments.

    Args:
        check: whether to check the values too, see `check_data`.

    Raises:
        ValueError: invalid shapes, dtypes or values; H not symmetric.
    """
    arrays = {name: as_array(name, value) for name, value in arguments.items() if value is not None}
    sizes = sizes_of({name: array.shape for name, array in arrays.items()})
    if check:
        check_data(arguments, arrays)
    for name, array in arrays.items():
        if drop_unit_batch(name, array.shape, sizes):
            arrays[name] = array[0]
    return Problem(sizes, tuple(arrays.get(name) for name in NAMES + WEIGHTS))
