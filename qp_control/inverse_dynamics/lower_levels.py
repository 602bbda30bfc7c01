"""The levels of a strict hierarchy below the first, for one robot and without torch: see hierarchy.py.

The step of a level has coordinates z in a basis of what no level above sees, so that its QP is the smaller the lower it
stands, and has one solution where its tasks see all that is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from qp_control import _solver
from qp_control._robot import Freedom
from qp_control.inverse_dynamics.hierarchy import NARROW, SEEN, SETTLED
from qp_control.qp.problem import Array
from qp_control.settings import Status

UNFINISHED = (Status.MAX_ITER, Status.NUMERICAL_ERROR)  # the best point so far is worth something


class LowerLevels:
    """Solves them one after the other, each from the active set that it had in the tick before.

    n: size of x. rows: of C. settings: of the solver, as it takes them.
    """

    def __init__(self, count: int, n: int, rows: int, settings: Any) -> None:
        self.count, self.n, self.rows, self.settings = count, n, rows + n, settings
        self.reset()

    def reset(self) -> None:
        """Forget the ticks before."""
        self._multipliers = np.zeros((self.count, self.rows))
        self._active = np.zeros((self.count, self.rows), dtype=np.int8)

    def __call__(
        self,
        x: Array,
        above: list[Array],
        rows: tuple[Array, Array, Array, Array, Array],
        levels: Iterable[tuple[Array, Array]],
    ) -> tuple[Array, Status, int]:
        """x after all levels, the status, and the iterations.

        above: positive semidefinite matrices of what the first level and the equalities see. rows: C, l, u, lb, ub as
        the first level has left them. levels: H and g of each.
        """
        freedom, steps, status = Freedom(self.n), 0, Status.SOLVED
        for k, (H, g) in enumerate(levels):
            freedom.see(above, SEEN)
            if not freedom.size:
                break
            above = [H]
            z, now, iterations = self._solve(k, *freedom.reduce(x, H, g, *rows, SETTLED, NARROW))
            steps += iterations
            status = max(status, now)
            if status > Status.CLOSEST_FEASIBLE:
                break
            x = x + freedom.step(z)
        return x, status, steps

    def _solve(
        self, k: int, H: Array, g: Array, C: Array, lower: Array, upper: Array, used: list[int]
    ) -> tuple[Array, Status, int]:
        n, none = len(g), np.zeros((1, 0))
        start: list[Any] = [
            np.zeros((1, n)),
            none,
            self._multipliers[k, used][None],
            np.zeros((1, n)),
            self._active[k, used][None],
            np.zeros((1, n), dtype=np.int8),
        ]
        limits = [C[None], lower[None], upper[None]] if used else [None] * 3
        data = [H[None], g[None], None, None, *limits, *[None] * 5]
        result = _solver.solve((1, n, 0, len(used)), data, self.settings, start, False, False)[0]
        x, _, z, *_ = result
        status, iterations, active, _ = result[-4:]
        found, steps = Status(int(status[0])), int(iterations[0])
        self._multipliers[k] = self._active[k] = 0
        if found <= Status.CLOSEST_FEASIBLE:
            self._multipliers[k, used], self._active[k, used] = z[0], active[0]
        elif found in UNFINISHED:
            return _allowed(x[0], H, g, C, lower, upper), Status.CLOSEST_FEASIBLE, steps
        return x[0], found, steps


def _allowed(z: Array, H: Array, g: Array, C: Array, lower: Array, upper: Array) -> Array:
    """The part of a step that the rows allow, which hold without it; nothing where that does not pay."""
    change = C @ z
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(change > 0.0, upper / change, np.where(change < 0.0, lower / change, 1.0))
    step = z * min(1.0, float(parts.min(initial=1.0)))
    better = bool(np.isfinite(step).all()) and (0.5 * H @ step + g) @ step < 0.0
    return step if better else np.zeros_like(z)
