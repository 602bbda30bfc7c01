from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]
_IntArray = npt.NDArray[np.int64]

kernels: str

class Settings:
    eps_abs: float
    eps_rel: float
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
) -> tuple[_Array, ...]: ...
def adjoint(
    sizes: tuple[int, int, int, int],
    data: Sequence[_Array | None],
    solution: Sequence[_Array],
    status: _IntArray,
    loss: Sequence[_Array | None],
    loss_objective: _Array | None,
    needed: Sequence[bool],
    threads: int = 0,
) -> tuple[tuple[_Array | None, ...], _Array, _IntArray, _IntArray]: ...
