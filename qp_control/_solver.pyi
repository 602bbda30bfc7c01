from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]
_IntArray = npt.NDArray[np.int64]

kernels: str
available: list[str]

class Settings:
    eps_abs: float
    eps_rel: float
    reduced_eps_rel: float
    eps_gap: float
    max_iter: int
    time_limit: float
    closest: bool
    threads: int
    def __init__(self) -> None: ...

def thread_count(requested: int = 0) -> int: ...
def solve(
    sizes: tuple[int, int, int, int],
    data: Sequence[_Array | None],
    settings: Settings,
    warm_start: Sequence[_Array] | None = None,
    certificates: bool = True,
    keep: bool = False,
) -> tuple[tuple[_Array, ...], bool, bool, _Array | None]:
    """Solves; a warm start is x, y, z, w, active_in, active_box.

    Returns the fields of the solutions, whether every H was equal to its transpose, whether every element is SOLVED or
    CLOSEST_FEASIBLE, and, with `keep` and where it helps, the factors that `adjoint` may reuse."""

def dense_qps(settings: Settings) -> object:
    """A solver of QPs, for the robots' module."""
    ...

class WeaklyActive:
    least_squares: WeaklyActive
    one_sided: WeaklyActive
    smoothed: WeaklyActive

class DerivativeSettings:
    weakly_active: WeaklyActive
    smoothing: float
    nan_without_solution: bool
    threads: int
    def __init__(self) -> None: ...

_Derivative = tuple[tuple[_Array | None, ...], _Array, _IntArray, _IntArray, float]  # and the largest residual

def box_qps(settings: Settings, derivatives: DerivativeSettings) -> object:
    """A solver of QPs with bounds, for the robots' module."""
    ...

def adjoint(
    sizes: tuple[int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array],
    status: _IntArray,
    loss: Sequence[_Array | None],
    needed: Sequence[bool],
    settings: DerivativeSettings,
    kept: _Array | None = None,
) -> _Derivative: ...
def tangent(
    sizes: tuple[int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array],
    status: _IntArray,
    change: Sequence[_Array | None],
    settings: DerivativeSettings,
) -> _Derivative: ...
def solution_point(
    sizes: tuple[int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array],
    status: _IntArray,
    settings: DerivativeSettings,
) -> tuple[_Array, _Array]: ...
def kkt_solve(
    sizes: tuple[int, int, int, int],
    matrices: Sequence[_Array | None],
    status: _IntArray,
    pattern: _Array,
    rhs: _Array,
    settings: DerivativeSettings,
) -> _Array: ...
def solve_ocp(
    sizes: tuple[int, int, int, int, int, int],
    data: Sequence[_Array | None],
    settings: Settings,
    warm_start: Sequence[_Array] | None = None,
    certify: bool = False,
) -> tuple[tuple[_Array, ...], bool, bool]:
    """The fields of the solutions (with certify, the certificates follow the slacks), whether every Q and R was equal
    to its transpose, and whether every element has an answer."""

def convex_stages(
    hessian: _Array, last: _Array, AB: _Array, size: _Array, threads: int = 0, repair: bool = False
) -> tuple[_Array, _Array, npt.NDArray[np.bool_]]:
    """Convex stages, M, and for which elements this succeeded; the numbers of the others have no meaning."""

def ocp_adjoint(
    sizes: tuple[int, int, int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array | None],
    status: _IntArray,
    loss: Sequence[_Array | None],
    needed: Sequence[bool],
    settings: DerivativeSettings,
) -> _Derivative: ...
def ocp_tangent(
    sizes: tuple[int, int, int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array | None],
    status: _IntArray,
    change: Sequence[_Array | None],
    settings: DerivativeSettings,
) -> _Derivative: ...
def ocp_point(
    sizes: tuple[int, int, int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array | None],
    status: _IntArray,
    settings: DerivativeSettings,
) -> tuple[_Array, _Array]:
    """v (B, .) and the roles of its rows (B, 3, rows), see `qp_control.ocp.kkt_functions`."""

def ocp_system(
    sizes: tuple[int, int, int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array | None],
    status: _IntArray,
    rhs: _Array,
    settings: DerivativeSettings,
) -> _Array:
    """K^-1 of right-hand sides (B, count, .)."""

def ocp_gain(
    sizes: tuple[int, int, int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array | None],
    status: _IntArray,
    settings: DerivativeSettings,
) -> tuple[_Array, _Array]:
    """(B, nu, nx) derivatives of u_0 with respect to x0, and the residuals (nu, B)."""
