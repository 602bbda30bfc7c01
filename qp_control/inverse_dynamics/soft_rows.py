"""The answer of last resort of a controller's tick: rows that may give way are paid for instead of shifted the least.

    minimise    1/2 x'H x + g'x + 1/2 PRICE h sum_i weight_i s_i^2
    subject to  A x + s = b, l <= C x + s <= u, lb <= x + s <= ub,   s = 0 on rows of infinite weight

with h the size of H and g in units of what is usual. It is strictly convex in s and, where hard rows do not contradict
each other, feasible, so that it is solved where the two levels of the closest feasible problem are out of the reach of
double precision. The shifts are the least up to what the cost is worth beside their price.
"""

from __future__ import annotations

import numpy as np

from qp_control import _solver
from qp_control.qp.problem import Array
from qp_control.settings import Settings, Status

PRICE = 1e6


class SoftRows:
    """weights: of the rows of A, C and x; infinite: they hold exactly. units (n,): what is usual of x."""

    def __init__(self, weights: list[Array], units: Array, settings: Settings) -> None:
        self.settings = settings.native("certify")
        self.units, self.n, self.rows = units, len(units), [len(w) for w in weights]
        weight = np.concatenate(weights)
        # Of each row what is usual of it; hard rows are scaled by their own size.
        self.soft = np.isfinite(weight)
        self.usual = np.where(self.soft, 1.0 / np.sqrt(np.where(self.soft, weight, 1.0)), 1.0)

    def solve(self, *data: Array) -> tuple[Array, Array, Status, int]:
        """x, the shifts s, the status, and the iterations. data: H, g, A, b, C, l, u, lb, ub of one problem."""
        H, g, A, b, C, l, u, lb, ub = data
        n, n_eq = self.n, self.rows[0]
        R = np.vstack([A, C, np.eye(n)]) * self.units
        lower, upper = np.concatenate([b, l, lb]), np.concatenate([b, u, ub])
        used = np.isfinite(lower) | np.isfinite(upper)
        soft = np.flatnonzero(self.soft & used)
        scale = np.where(self.soft, 1.0 / self.usual, 1.0 / np.maximum(np.abs(R).max(1), 1e-300))
        G = np.zeros((len(R), n + len(soft)))
        G[:, :n] = R * scale[:, None]
        G[soft, n + np.arange(len(soft))] = 1.0
        lower, upper = lower * scale, upper * scale
        cost = np.zeros((n + len(soft), n + len(soft)))
        cost[:n, :n] = H * self.units[:, None] * self.units
        slope = np.zeros(n + len(soft))
        slope[:n] = g * self.units
        size = max(float(np.abs(cost).max()), float(np.abs(slope).max()), 1e-300)
        cost, slope = cost / size, slope / size
        cost[range(n, n + len(soft)), range(n, n + len(soft))] = PRICE
        rest = n_eq + np.flatnonzero(used[n_eq:])
        equalities = [G[None, :n_eq], lower[None, :n_eq]] if n_eq else [None] * 2
        inequalities = [G[None, rest], lower[None, rest], upper[None, rest]] if len(rest) else [None] * 3
        sizes = (1, n + len(soft), n_eq, len(rest))
        problem = [cost[None], slope[None], *equalities, *inequalities, *[None] * 5]
        problem = [None if a is None else np.ascontiguousarray(a) for a in problem]
        result = _solver.solve(sizes, problem, self.settings, None, False, False)[0]
        status, iterations, *_ = result[-4:]
        shift = np.zeros(len(R))
        shift[soft] = result[0][0, n:] * self.usual[soft]
        return result[0][0, :n] * self.units, shift, Status(int(status[0])), int(iterations[0])
