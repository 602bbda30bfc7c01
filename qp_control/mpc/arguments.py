"""What controllers are given beside their own numbers, checked before anything is made of it: arguments of an `OcpQP`,
and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from qp_control.mpc.nonlinear_ocp import Rows, per_element
from qp_control.ocp.problem import OCP_NAMES, OcpSizes, base_rank, ocp_sizes
from qp_control.qp.layer import check_tensor, is_native

NOT_YOURS = ("A", "B", "c", "x0")
"""What dynamics and state give."""


def checked_data(data: Mapping[str, Any]) -> dict[str, Tensor]:
    """`data` as float64 tensors on the CPU, without what is None.

    Raises ValueError for names that are no arguments, TypeError for what is no floating-point tensor.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"data is a {type(data).__name__}, expected a dict of tensors by their names")
    found = {}
    for name, value in data.items():
        if name not in OCP_NAMES or name in NOT_YOURS:
            known = ", ".join(n for n in OCP_NAMES if n not in NOT_YOURS)
            raise ValueError(f"{name!r} is no argument of the problem, expected one of {known}")
        if value is None:
            continue
        check_tensor(name, value)
        found[name] = value if is_native(value) else value.double().cpu()
    return found


def check_sizes(data: Mapping[str, Tensor], x0: Tensor, nx: int, nu: int, horizon: int) -> None:
    """Raise ValueError unless `data` fits states of size nx, inputs of size nu, the horizon and the batch of x0 (B, .).

    Where q has no own last stage, q_N is one.
    """
    shapes = {"A": (nx, nx), "B": (nx, nu), "x0": (len(x0), nx)} | {n: tuple(v.shape) for n, v in data.items()}
    if not ends("q", data, horizon):
        shapes.setdefault("q_N", (nx,))
    sizes = _sizes(tuple(shapes.items()), horizon)
    if sizes.batch != len(x0):  # one state, which stands for no more than itself
        name = next(n for n, value in data.items() if per_element(n, value) and len(value) == sizes.batch)
        raise ValueError(f"{name} has a batch of {sizes.batch}, expected that of x0, {len(x0)}")


def ends(name: str, data: Mapping[str, Tensor], horizon: int) -> bool:
    """Whether the last stage of Q or q in `data` is the terminal one."""
    if name not in data:
        return False
    base, shape = base_rank(name), data[name].shape
    return len(shape) > base and shape[-base - 1] == horizon + 1


@lru_cache(maxsize=256)
def _sizes(shapes: tuple[tuple[str, tuple[int, ...]], ...], horizon: int) -> OcpSizes:
    return ocp_sizes(dict(shapes), horizon)


def checked_rows(rows: Sequence[Rows | nn.Module]) -> tuple[Rows | nn.Module, ...]:
    """`rows` as a tuple. Raises TypeError for what is neither rows nor a module."""
    if not isinstance(rows, Sequence):
        raise TypeError(f"rows is a {type(rows).__name__}, expected a list of StateRows, StageRows or modules")
    for group in rows:
        if not isinstance(group, Rows | nn.Module):
            raise TypeError(f"rows has a {type(group).__name__}, expected StateRows, StageRows or modules")
    return tuple(rows)


def rows_of(group: Rows | nn.Module) -> Rows:
    """The rows, or those that the module returns. Raises TypeError where it returns something else."""
    if not isinstance(group, nn.Module):
        return group
    found = group()
    if not isinstance(found, Rows):
        raise TypeError(f"a module of rows returned a {type(found).__name__}, expected StateRows or StageRows")
    return found
