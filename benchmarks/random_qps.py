"""Random QPs for the timing of layers, and exact answers to them: dense KKT systems of the active rows, in NumPy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import adjoint_oracle
from qp_data import QP, Answer

Array = npt.NDArray[np.float64]
Cell = tuple[int, int, int, int]
MARGIN = 1e-6  # a row whose multiplier or distance to its bound is below this is weakly active


@dataclass
class Batch:
    """B dense QPs, every array with the axis B; l is -inf throughout where the rows are one-sided."""

    H: Array
    g: Array
    A: Array
    b: Array
    C: Array
    l: Array
    u: Array

    @property
    def one_sided(self) -> bool:
        return bool(np.all(np.isneginf(self.l)))

    @property
    def size(self) -> Cell:
        return len(self.g), self.g.shape[1], self.b.shape[1], self.u.shape[1]

    def changed(self, seed: int, by: float) -> Batch:
        """g, b, l, u moved by `by`, relative to the size of each vector's entries."""
        rng = np.random.default_rng(seed)

        def moved(v: Array) -> Array:
            size = float(np.abs(v[np.isfinite(v)]).mean()) if np.isfinite(v).any() else 0.0
            return v + by * size * rng.normal(size=v.shape)

        return Batch(self.H, moved(self.g), self.A, moved(self.b), self.C, moved(self.l), moved(self.u))

    def residuals(self, x: Array, y: Array, z: Array) -> Array:
        """(B,) the largest violation of a row, entry of the dual residual, or multiplier times distance to its bound.

        z_i > 0 names the upper bound, z_i < 0 the lower one; where that is infinite z_i itself counts.
        """
        Cx = np.einsum("bij,bj->bi", self.C, x)
        dual = np.einsum("bij,bj->bi", self.H, x) + self.g
        dual += np.einsum("bij,bi->bj", self.A, y) + np.einsum("bij,bi->bj", self.C, z)
        bound = np.where(z > 0, self.u, np.where(z < 0, self.l, Cx))
        finite = np.isfinite(bound)
        slack = np.abs(Cx - np.where(finite, bound, 0.0))
        parts = [
            np.abs(np.einsum("bij,bj->bi", self.A, x) - self.b),
            self.l - Cx,
            Cx - self.u,
            np.abs(dual),
            np.abs(z) * np.where(finite, slack, 1.0),
        ]
        worst: Array = np.max(np.concatenate(parts, axis=1), axis=1, initial=0.0)
        return worst


def random_batch(cell: Cell, *, one_sided: bool, seed: int = 0) -> Batch:
    """Feasible strictly convex QPs, some rows of C active: x with C x strictly inside the bounds exists."""
    batch, n, n_eq, n_in = cell
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(batch, n, n))
    x = rng.normal(size=(batch, n, 1))
    A, C = rng.normal(size=(batch, n_eq, n)), rng.normal(size=(batch, n_in, n))
    Cx = (C @ x)[..., 0]
    l = Cx - rng.uniform(0.1, 1.0, size=Cx.shape)
    return Batch(
        H=F @ F.transpose(0, 2, 1) / n + 0.1 * np.eye(n),
        g=3.0 * rng.normal(size=(batch, n)),
        A=A,
        b=(A @ x)[..., 0],
        C=C,
        l=np.full_like(l, -np.inf) if one_sided else l,
        u=Cx + rng.uniform(0.1, 1.0, size=Cx.shape),
    )


@dataclass
class Exact:
    """Exact answer to one element, and how far it is from a change of its active rows."""

    answer: Answer
    qp: QP
    margin: float

    @property
    def degenerate(self) -> bool:
        return self.margin < MARGIN


def exact(data: Batch, i: int, x: Array, z: Array) -> Exact:
    """The KKT system of the rows that (x, z), a solution to six digits, calls active, solved and then verified.

    Raises:
        RuntimeError: the answer is not a KKT point: (x, z) was not good enough.
    """
    H, g, A, b, C, l, u = (getattr(data, name)[i] for name in "HgAbClu")
    n, n_eq = len(g), len(b)
    side = np.where(z > MARGIN, 1, np.where(z < -MARGIN, -1, 0))
    J = np.flatnonzero(side)
    G = np.concatenate([A, C[J]])
    K = np.block([[H, G.T], [G, np.zeros((len(G), len(G)))]])
    rhs = np.concatenate([-g, b, np.where(side[J] > 0, u[J], l[J])])
    point = np.linalg.solve(K, rhs)
    point += np.linalg.solve(K, rhs - K @ point)
    x, y, z = point[:n], point[n : n + n_eq], np.zeros(len(u))
    z[J] = point[n + n_eq :]
    Cx = C @ x
    inactive = side == 0
    room = np.minimum(u - Cx, Cx - l)[inactive]
    margin = min(np.min(side[J] * z[J], initial=np.inf), np.min(room, initial=np.inf))
    if margin < -1e-7:
        raise RuntimeError(f"element {i}: the active rows lead to no KKT point (margin {margin:.1e})")
    zero = np.zeros(n)
    shifts = {"s_eq": np.zeros(n_eq), "s_lower": 0 * u, "s_upper": 0 * u, "s_lb": zero, "s_ub": zero}
    answer = Answer("solved", x=x, y=y, z=z, w=zero, objective=float(0.5 * x @ H @ x + g @ x), **shifts)
    return Exact(answer, QP(H, g, A, b, C, l, u), float(margin))


def gradient_errors(exacts: list[Exact], direction: Array, found: dict[str, Array]) -> float:
    """Largest error of gradients of sum(direction * x) over the non-degenerate elements.

    Of each array: the largest difference of an entry, relative to the largest entry of the exact gradient or one (at a
    vertex the gradient of H is zero).
    """
    worst = 0.0
    for i, one in enumerate(exacts):
        if one.degenerate:
            continue
        truth = adjoint_oracle.adjoint(one.qp, one.answer, {"x": direction[i]})
        for name, array in found.items():
            size = float(np.abs(truth[name]).max(initial=1.0))
            worst = max(worst, float(np.abs(array[i] - truth[name]).max(initial=0.0)) / size)
    return worst
