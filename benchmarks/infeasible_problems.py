"""Problems whose constraints contradict each other, and their least shift from an independent solver (SciPy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sudoku_puzzles
import torch
from scipy.optimize import lsq_linear

import qp_control as qc

Array = npt.NDArray[np.float64]


@dataclass
class Problems:
    """g (B, n) and maybe H, A, b per element; C, l, u and the rest shared: what proxsuite's layer can differentiate.

    `box`: C is the identity, so that the rows of C are the box lb, ub of a solver that has one.
    """

    name: str
    H: Array
    g: Array
    A: Array
    b: Array
    C: Array
    l: Array
    u: Array
    box: bool = False

    def violations(self, x: Array) -> tuple[Array, Array, Array]:
        """(B, n_eq) of either sign, and (B, n_in) >= 0 below and above: the shifts that the points x need."""
        Ax = np.einsum("...ij,...j->...i", self.A, x)
        Cx = x @ self.C.T
        return Ax - self.b, np.maximum(self.l - Cx, 0.0), np.maximum(Cx - self.u, 0.0)

    def least_shifts(self) -> Array:
        """(B,) norms of the least shift. Elements with the same rows share the answer."""
        same = self.A.ndim == 2 and self.b.ndim == 1
        norms = [self._least_shift(i) for i in range(1 if same else len(self.g))]
        return np.full(len(self.g), norms[0]) if same else np.array(norms)

    def _least_shift(self, i: int) -> float:
        """min |A x - b|^2 + |C x - t|^2 over x and l <= t <= u: a bounded least-squares problem in (x, t).

        Raises:
            RuntimeError: the gradient says that SciPy has not found the minimum.
        """
        A = self.A if self.A.ndim == 2 else self.A[i]
        b = self.b if self.b.ndim == 1 else self.b[i]
        n, n_in = A.shape[1], len(self.u)
        M = np.block([[A, np.zeros((len(A), n_in))], [self.C, -np.eye(n_in)]])
        free = np.full(n, np.inf)
        bounds = (np.concatenate([-free, self.l]), np.concatenate([free, self.u]))
        found = lsq_linear(M, np.concatenate([b, np.zeros(n_in)]), bounds, method="bvls", tol=1e-14, max_iter=10_000)
        x = found.x[:n]
        below, above = np.maximum(self.l - self.C @ x, 0.0), np.maximum(self.C @ x - self.u, 0.0)
        shift = np.concatenate([A @ x - b, above - below])
        gradient = np.concatenate([A, self.C]).T @ shift
        if np.abs(gradient).max() > 1e-8 * (1.0 + np.abs(shift).max()):
            raise RuntimeError(f"the least shift of element {i} was not found: gradient {np.abs(gradient).max():.1e}")
        return float(np.linalg.norm(shift))


def random_problems(kind: str, batch: int, n: int, seed: int = 0) -> Problems:
    """Over-constrained random QPs.

    kind: "equalities" (3/2 n equalities), "inequalities" (3 n two-sided rows that no x satisfies), "parallel" (pairs of
    rows that exclude each other and leave freedom to the objective), "mixed" (n equalities, 2 n such rows).
    """
    rng = np.random.default_rng(seed)
    n_eq, n_in = {
        "equalities": (3 * n // 2, n),
        "inequalities": (max(1, n // 5), 3 * n),
        "parallel": (max(2, n // 5), n // 2),
        "mixed": (n, 2 * n),
    }[kind]
    F = rng.normal(size=(batch, n, n))
    A = rng.normal(size=(batch, n_eq, n))
    x = rng.normal(size=(batch, n, 1))
    b = (A @ x)[..., 0]
    C = rng.normal(size=(n_in, n))
    centre = C @ rng.normal(size=n)
    width = rng.uniform(0.1, 1.0, size=n_in)
    if kind in ("equalities", "mixed"):
        b = b + rng.normal(size=b.shape)
    if kind in ("inequalities", "mixed"):
        centre = rng.normal(scale=np.sqrt(n), size=n_in)
    if kind == "parallel":
        # The second half repeats the first with bounds that lie apart; the last equality repeats the first.
        half = n_in // 2
        C[half : 2 * half] = 1.5 * C[:half]
        centre[half : 2 * half] = 1.5 * centre[:half] + 1.5 * width[:half] + width[half : 2 * half] + 0.5
        A[:, -1] = A[:, 0]
        b[:, -1] = b[:, 0] + 1.0
    H = F @ F.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    return Problems(f"{kind} n={n}", H, 3.0 * rng.normal(size=(batch, n)), A, b, C, centre - width, centre + width)


def puzzles(count: int, seed: int) -> tuple[Array, Array]:
    """(count, 64) puzzles, 4 to 10 of the 16 cells given, and their solutions."""
    rng = np.random.default_rng(seed)
    all_boards = sudoku_puzzles.one_hot(sudoku_puzzles.boards() + 1)
    solutions = all_boards[rng.integers(len(all_boards), size=count)]
    given = np.zeros((count, 16, 1))
    for i in range(count):
        given[i, rng.permutation(16)[: rng.integers(4, 11)]] = 1.0
    return (solutions.reshape(count, 16, 4) * given).reshape(count, 64), solutions


def sudoku(batch: int, stages: list[int], seed: int = 0) -> list[Problems]:
    """A x = 1, x >= 0, H = 0, cost -puzzle'x, with A random non-negative (40, 64) after each number of training steps.

    Training (E4b of the ICLR 2024 paper): Adam, rate 5e-2, mean squared error to the solution plus 1e-3 times the norm
    of the shift.
    """
    torch.manual_seed(seed)
    A = torch.rand(40, 64, dtype=torch.float64).requires_grad_()
    b, lb = torch.ones(40, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    layer, optimiser = qc.QPLayer(qc.Settings(eps_abs=1e-6)), torch.optim.Adam([A], lr=5e-2)
    puzzle, _ = puzzles(batch, seed)
    infinite = np.full(64, np.inf)
    found: list[Problems] = []
    for step in range(max(stages) + 1):
        if step in stages:
            name, rows = f"Sudoku, A after {step} steps" if step else "Sudoku, A random", A.detach().numpy().copy()
            none = np.zeros((64, 64))
            found.append(Problems(name, none, -puzzle, rows, np.ones(40), np.eye(64), np.zeros(64), infinite, box=True))
        given, solution = (torch.tensor(v) for v in puzzles(batch, seed + step + 1))
        out = layer(None, -given, A=A, b=b, lb=lb)
        # An element without an answer has NaN outputs; training goes on with the others.
        fine = torch.isfinite(out.x).all(dim=1)
        shift = torch.cat([out.s_eq, out.s_lb], dim=1)[fine].norm(dim=1).mean()
        optimiser.zero_grad()
        (((out.x - solution)[fine] ** 2).mean() + 1e-3 * shift).backward()
        optimiser.step()
    return found
