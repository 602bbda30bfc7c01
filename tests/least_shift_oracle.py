"""The least shift that makes contradicting rows solvable, in the user's units (NumPy only)."""

from __future__ import annotations

import itertools

import numpy as np
from qp_data import QP


def lstsq(M: np.ndarray, r: np.ndarray, rcond: float = 1e-11) -> np.ndarray:
    """Minimum-norm least-squares solution; singular values below rcond times the largest count as zero."""
    return np.linalg.lstsq(M, r, rcond=rcond)[0] if M.size else np.zeros((M.shape[1], *r.shape[1:]))


def nnls(M: np.ndarray, r: np.ndarray, nonnegative: np.ndarray) -> np.ndarray:
    """argmin |M t - r| with t_i >= 0 where asked (Lawson and Hanson 1974, chapter 23)."""
    size = M.shape[1]
    passive = ~nonnegative.copy()
    t = np.zeros(size)
    t[passive] = lstsq(M[:, passive], r)
    tolerance = 1e-12 * max(1.0, np.abs(M).max(initial=0.0)) * max(1.0, np.abs(r).max(initial=0.0)) * size
    rejected = np.zeros(size, dtype=bool)
    for _ in range(20 * size + 20):
        descent = M.T @ (r - M @ t)
        candidates = ~passive & ~rejected & (descent > tolerance)
        if not candidates.any():
            return t
        entering = int(np.flatnonzero(candidates)[np.argmax(descent[candidates])])
        passive[entering] = True
        first = True
        while True:
            trial = np.zeros(size)
            trial[passive] = lstsq(M[:, passive], r)
            if first and trial[entering] <= 0:  # rounding only: the gradient promised an increase
                passive[entering] = False
                rejected[entering] = True
                break
            first = False
            bad = passive & nonnegative & (trial <= 0)
            if not bad.any():
                t = trial
                rejected[:] = False
                break
            step = np.min(t[bad] / (t[bad] - trial[bad]))
            t = t + step * (trial - t)
            passive &= ~(bad & (t <= 1e-14 * (1 + np.abs(t).max())))
            t[~passive] = 0.0
    raise RuntimeError("nnls did not end")


def one_sided(qp: QP) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """G x <= h (or = h where equality); row index and side (+1 upper, -1 lower, 0 equality) of each."""
    R, lower, upper = qp.rows()
    G, h, index, side = [], [], [], []
    for i in range(R.shape[0]):
        if i < qp.n_eq:
            G.append(R[i]), h.append(upper[i]), index.append(i), side.append(0)
            continue
        if np.isfinite(upper[i]):
            G.append(R[i]), h.append(upper[i]), index.append(i), side.append(1)
        if np.isfinite(lower[i]):
            G.append(-R[i]), h.append(-lower[i]), index.append(i), side.append(-1)
    return np.array(G).reshape(-1, qp.n), np.array(h), np.array(index, dtype=int), np.array(side, dtype=int)


def least_shift(qp: QP, weights: np.ndarray | None = None) -> np.ndarray:
    """s with G x <= h + s solvable and sum of weight s^2 least, per one-sided row.

    min over x and t >= 0 of |G x + t - h|: with range(G) projected out, a non-negative least-squares
    problem in t.
    """
    G, h, index, side = one_sided(qp)
    if not G.shape[0]:
        return np.zeros(0)
    inequality = side != 0

    def shifts(root: np.ndarray) -> np.ndarray:
        U, sv, _ = np.linalg.svd(root[:, None] * G, full_matrices=False)
        U = U[:, sv > 1e-11 * sv[0]] if sv.size and sv[0] > 0 else U[:, :0]
        P = np.eye(len(h)) - U @ U.T
        t = np.zeros(len(h))
        t[inequality] = nnls(P[:, inequality], P @ (root * h), np.ones(inequality.sum(), dtype=bool))
        return np.asarray(-(P @ (root * h - t)) / root)

    # Whether there is a shift at all does not depend on the rows' lengths, so it is judged on rows of
    # length 1.
    length = np.linalg.norm(G, axis=1)
    length[length == 0] = 1.0
    s = shifts(1 / length)
    if np.abs(s / length).max() <= 1e-10 * (1 + np.abs(h / length).max()):
        return np.zeros(len(h))
    root = np.ones(len(h)) if weights is None else np.sqrt(weights[index])
    s = shifts(root)
    s[np.abs(s) < 1e-11 * (1 + np.abs(h).max())] = 0.0
    violated = (side == 0) | (s != 0)
    x = lstsq(root[violated, None] * G[violated], root[violated] * h[violated])
    s[violated] = G[violated] @ x - h[violated]  # the same number with less rounding
    return s


def least_shift_by_enumeration(qp: QP) -> np.ndarray:
    """The same as least_shift by trying every set of violated rows.

    s is the projection of -h onto the cone {s >= 0, G's = 0}. The projection onto the linear hull of each
    face costs one least-squares problem; among those that lie in the cone the longest is the projection
    onto the cone.
    """
    G, h, _, side = one_sided(qp)
    fixed = np.flatnonzero(side == 0)
    free = np.flatnonzero(side != 0)
    best = np.zeros(len(h))
    for count in range(len(free) + 1):
        for chosen in itertools.combinations(free, count):
            rows = np.concatenate([fixed, np.array(chosen, dtype=int)])
            E, e = G[rows], h[rows]
            s = E @ lstsq(E, e) - e
            if np.all(s[len(fixed) :] >= -1e-11) and s @ s > best @ best + 1e-18:
                best = np.zeros(len(h))
                best[rows] = s
    return best
