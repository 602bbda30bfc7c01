"""Slow, exact answers for small QPs, written from the mathematics alone (NumPy only).

The problem and its signs stand in qp_data.py. Two methods find the active set, enumeration for n <= 6 and
an interior point for n <= 50; one KKT solve by minimum-norm least squares then gives the digits. An
infeasible QP is answered with the least shifts (least_shift_oracle.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from least_shift_oracle import least_shift, lstsq, nnls, one_sided
from qp_data import QP, Answer


def kkt_solve(H: np.ndarray, g: np.ndarray, R: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimum-norm solution of H x + g + R'v = 0, R x = bound, and the residual left."""
    m = R.shape[0]
    K = np.block([[H, R.T], [R, np.zeros((m, m))]])
    r = np.concatenate([-g, bound])
    solution = lstsq(K, r)
    solution = solution + lstsq(K, r - K @ solution)
    residual = np.abs(K @ solution - r).max(initial=0.0)
    return solution[: H.shape[0]], solution[H.shape[0] :], residual


def multipliers(
    qp: QP, x: np.ndarray, free: np.ndarray, tolerance: float = 1e-9
) -> tuple[np.ndarray, float, np.ndarray]:
    """Multipliers of the right signs (free rows: any sign) on the rows active at x, the stationarity left,
    J."""
    R, lower, upper = qp.rows()
    value = R @ x
    scale = tolerance * (1 + np.abs(value))
    at_lower = ~free & np.isfinite(lower) & (np.abs(value - lower) <= scale)
    at_upper = ~free & np.isfinite(upper) & (np.abs(value - upper) <= scale)
    columns, sign, rows = [], [], []
    for i in range(R.shape[0]):
        if free[i] or (at_lower[i] and at_upper[i]):
            columns.append(R[i]), sign.append(0), rows.append(i)
        elif at_upper[i]:
            columns.append(R[i]), sign.append(1), rows.append(i)
        elif at_lower[i]:
            columns.append(-R[i]), sign.append(-1), rows.append(i)
    gradient = qp.hessian @ x + qp.g
    v = np.zeros(R.shape[0])
    if not rows:
        return v, float(np.abs(gradient).max(initial=0.0)), free | at_lower | at_upper
    M, sign_array = np.array(columns).T, np.array(sign)
    t = nnls(M, -gradient, sign_array != 0)
    minimum_norm = lstsq(M, -gradient)  # preferred where its signs are right
    if np.all(minimum_norm[sign_array != 0] >= 0):
        t = minimum_norm
    left = float(np.abs(M @ t + gradient).max(initial=0.0))
    v[rows] = t * np.where(sign_array == 0, 1, sign_array)
    return v, left, free | at_lower | at_upper


def enumerate_active_sets(qp: QP, tolerance: float = 1e-9) -> tuple[np.ndarray, np.ndarray] | None:
    """x and multipliers of a feasible QP by trying every set of at most n active rows; None if unsolvable.

    A positive semidefinite QP with a solution has one in a minimal face, where it is the minimum-norm
    solution of the KKT system of some set of active rows; its multipliers may need other rows of the same
    face (see multipliers).
    """
    R, lower, upper = qp.rows()
    H, g = qp.hessian, qp.g
    fixed = np.flatnonzero(lower == upper)
    choices: list[tuple[int, float]] = []
    for i in np.flatnonzero(lower != upper):
        choices += [(int(i), float(bound)) for bound in (lower[i], upper[i]) if np.isfinite(bound)]
    rank_fixed = np.linalg.matrix_rank(R[fixed]) if len(fixed) else 0
    equal = lower == upper
    for count in range(qp.n - rank_fixed + 1):
        sets = [c for c in itertools.combinations(choices, count) if len({i for i, _ in c}) == count]
        if not sets:
            continue
        rows = np.array([[*fixed, *(i for i, _ in c)] for c in sets], dtype=int)
        bounds = np.array([[*lower[fixed], *(value for _, value in c)] for c in sets])
        B, m = rows.shape
        K = np.zeros((B, qp.n + m, qp.n + m))
        K[:, : qp.n, : qp.n] = H
        K[:, qp.n :, : qp.n] = R[rows]
        K[:, : qp.n, qp.n :] = R[rows].transpose(0, 2, 1)
        r = np.concatenate([np.broadcast_to(-g, (B, qp.n)), bounds], axis=1)
        inverse = np.linalg.pinv(K, rcond=1e-12, hermitian=True)
        solution = np.einsum("bij,bj->bi", inverse, r)
        solution += np.einsum("bij,bj->bi", inverse, r - np.einsum("bij,bj->bi", K, solution))
        left = np.abs(np.einsum("bij,bj->bi", K, solution) - r).max(axis=1, initial=0.0)
        x = solution[:, : qp.n]
        value = x @ R.T
        room = tolerance * (1 + np.abs(x).max(axis=1, initial=0.0))[:, None]
        inside = np.all((value >= lower - room) & (value <= upper + room), axis=1)
        for k in np.flatnonzero(inside & (left <= room[:, 0])):
            v, stationarity, _ = multipliers(qp, x[k], equal, tolerance)
            if stationarity <= tolerance * (1 + np.abs(g).max(initial=0.0) + np.abs(H @ x[k]).max(initial=0.0)):
                return x[k], v
    return None


def interior_point(qp: QP, iterations: int = 100) -> np.ndarray | None:
    """x of a feasible QP to about 1e-6, by Mehrotra's method in the null space of the equalities."""
    R, lower, upper = qp.rows()
    equal = lower == upper
    n = qp.n
    x0, Z = np.zeros(n), np.eye(n)
    if equal.any():
        U, sv, Vt = np.linalg.svd(R[equal])
        rank = int((sv > 1e-10 * sv[0]).sum()) if sv.size and sv[0] > 0 else 0
        x0 = Vt[:rank].T @ ((U[:, :rank].T @ lower[equal]) / sv[:rank])
        Z = Vt[rank:].T
    up, low = ~equal & np.isfinite(upper), ~equal & np.isfinite(lower)
    G = np.vstack([R[up], -R[low]]) @ Z
    h = np.concatenate([upper[up], -lower[low]]) - np.vstack([R[up], -R[low]]) @ x0
    scale = np.maximum(np.abs(G).max(axis=1, initial=0.0), 1e-300)
    keep = scale > 1e-12
    G, h = G[keep] / scale[keep, None], h[keep] / scale[keep]
    P, q = Z.T @ qp.hessian @ Z, Z.T @ (qp.hessian @ x0 + qp.g)
    t = np.zeros(Z.shape[1])
    m = len(h)
    if m == 0:
        return x0 + Z @ (-lstsq(P, q))
    s, v = np.maximum(1.0, h - G @ t), np.ones(m)
    identity = 1e-13 * (1 + np.abs(P).max(initial=0.0)) * np.eye(len(t))
    for _ in range(iterations):
        rd, rp, mu = P @ t + q + G.T @ v, G @ t + s - h, s @ v / m
        size = 1 + np.abs(q).max(initial=0.0)
        if max(np.abs(rd).max(initial=0.0) / size, np.abs(rp).max(), mu) < 1e-11:
            break
        M = P + G.T @ ((v / s)[:, None] * G) + identity

        def direction(rc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            dt = np.linalg.solve(M, -rd - G.T @ ((v * rp - rc) / s))  # noqa: B023
            ds = -rp - G @ dt  # noqa: B023
            return dt, ds, -(rc + v * ds) / s  # noqa: B023

        def longest(value: np.ndarray, change: np.ndarray) -> float:
            negative = change < 0
            return float(min(1.0, np.min(-value[negative] / change[negative], initial=1.0)))

        dt, ds, dv = direction(s * v)
        affine = (s + longest(s, ds) * ds) @ (v + longest(v, dv) * dv) / m
        dt, ds, dv = direction(s * v + ds * dv - (affine / mu) ** 3 * mu)
        step = 0.995 * min(longest(s, ds), longest(v, dv))
        t, s, v = t + step * dt, s + step * ds, v + step * dv
    return x0 + Z @ t


def polish(qp: QP, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Exact x and multipliers from a nearby x: the KKT system on its active rows, rows of wrong sign dropped.

    Which rows are active is decided by trying several distances; the answer is taken only if it satisfies
    the KKT conditions to 1e-9, so a wrong guess cannot pass.
    """
    R, lower, upper = qp.rows()
    equal = lower == upper
    for distance in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
        value = R @ x
        bound = np.where(np.abs(value - lower) <= np.abs(value - upper), lower, upper)
        active = equal | (np.abs(value - bound) <= distance * (1 + np.abs(value)))
        for _ in range(qp.n + len(lower)):
            point, v_active, left = kkt_solve(qp.hessian, qp.g, R[active], bound[active])
            v = np.zeros(len(lower))
            v[active] = v_active
            if left > 1e-8 * (1 + np.abs(point).max(initial=0.0)):
                break
            if natural_residual(qp, point, v) < 1e-9 * (1 + np.abs(point).max(initial=0.0)):
                return point, v
            wrong = ~equal & active & np.where(bound == upper, v < 0, v > 0)
            if not wrong.any():
                break
            active[np.argmax(np.where(wrong, np.abs(v), -1.0))] = False
    return None


def natural_residual(qp: QP, x: np.ndarray, v: np.ndarray) -> float:
    """0 at a KKT point and nowhere else: stationarity, and R x - clip(R x + v, lower, upper) for the rest."""
    R, lower, upper = qp.rows()
    value = R @ x
    stationarity = np.abs(qp.hessian @ x + qp.g + R.T @ v).max(initial=0.0)
    crossed = np.maximum(lower - upper, 0.0).max(initial=0.0)
    rows = np.abs(value - np.minimum(np.maximum(value + v, lower), upper)).max(initial=0.0)
    return float(max(stationarity, rows, crossed))


def shifted(qp: QP, s: np.ndarray) -> tuple[QP, dict[str, np.ndarray], np.ndarray]:
    """The QP with its bounds moved by s (violated rows become equalities), the shifts by name, the
    violated rows."""
    _, _, index, side = one_sided(qp)
    _, lower, upper = qp.rows()
    s_lower, s_upper, violated = np.zeros(len(lower)), np.zeros(len(lower)), np.zeros(len(lower), dtype=bool)
    for amount, i, which in zip(s, index, side, strict=True):
        if which == 0:
            s_upper[i] = amount
        elif which > 0:
            s_upper[i] = max(amount, 0.0)
        else:
            s_lower[i] = max(amount, 0.0)
        violated[i] |= amount != 0
    violated[: qp.n_eq] = True
    new_lower, new_upper = lower - s_lower, upper + s_upper
    new_lower[: qp.n_eq] = new_upper[: qp.n_eq]
    on_upper, on_lower = s_upper > 0, s_lower > 0
    on_upper[: qp.n_eq] = on_lower[: qp.n_eq] = False
    new_lower[on_upper] = new_upper[on_upper]
    new_upper[on_lower & ~on_upper] = new_lower[on_lower & ~on_upper]
    b, l, lb = qp.split(new_lower)
    _, u, ub = qp.split(new_upper)
    moved = QP(
        qp.H,
        qp.g,
        qp.A,
        b if qp.A is not None else None,
        qp.C,
        l if qp.C is not None else None,
        u if qp.C is not None else None,
        lb,
        ub,
    )
    s_eq = s_upper[: qp.n_eq]
    names = {
        "s_eq": s_eq,
        "s_lower": qp.split(s_lower)[1],
        "s_upper": qp.split(s_upper)[1],
        "s_lb": qp.split(s_lower)[2],
        "s_ub": qp.split(s_upper)[2],
    }
    return moved, names, violated


def solve(qp: QP, method: str = "enumeration", weights: np.ndarray | None = None, feasible: float = 1e-9) -> Answer:
    """The exact answer; an infeasible QP gets status "closest" and the answer with the least shifts.

    method: "enumeration" (n <= 6, few rows) or "interior point" (n <= 50). weights: shift weight per row
    (finite).
    """
    s = least_shift(qp, weights)
    infeasible = bool(np.abs(s).max(initial=0.0) > feasible)
    if not infeasible:
        s = np.zeros_like(s)
    moved, names, _violated = shifted(qp, s)
    if method == "enumeration":
        found = enumerate_active_sets(moved, 1e-9)
    else:
        guess = interior_point(moved)
        found = polish(moved, guess) if guess is not None else None
        if found is None:
            raise RuntimeError("the interior point or its polish did not reach an exact KKT point")
    if found is None:
        return Answer("unbounded")
    x, _ = found
    R, lower, upper = moved.rows()
    free = lower == upper
    v, _, active = multipliers(moved, x, free)
    y, z, w = moved.split(v)
    strongly = free | (np.abs(v) > 1e-9)
    return Answer(
        "closest" if infeasible else "solved",
        x=x,
        y=y,
        z=z,
        w=w,
        objective=float(0.5 * x @ qp.hessian @ x + qp.g @ x),
        # Sufficient: no direction keeps H x and the strongly active rows.
        unique=bool(np.linalg.matrix_rank(np.vstack([qp.hessian, R[strongly]]), tol=1e-9) == qp.n),
        multipliers_unique=bool(np.linalg.matrix_rank(R[active], tol=1e-9) == active.sum()),
        **names,
    )


def duality_gap(qp: QP, x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray) -> float:
    """Primal minus dual objective."""
    _, lower, upper = qp.rows()
    v = np.concatenate([y, z, w])
    bound = np.where(v > 0, upper, np.where(v < 0, lower, 0.0))
    return float(x @ qp.hessian @ x + qp.g @ x + bound @ v)


@dataclass
class Residuals:
    primal: float  # largest violation of a row
    dual: float  # largest entry of H x + g + A'y + C'z + w
    complementarity: float  # largest |R x - clip(R x + v)|: wrong signs and multipliers off their bound


def residuals(qp: QP, x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray) -> Residuals:
    R, lower, upper = qp.rows()
    v = np.concatenate([y, z, w])
    value = R @ x
    violation = np.maximum(np.maximum(lower - value, value - upper), 0.0)
    dual = qp.hessian @ x + qp.g + R.T @ v
    rows = np.abs(value - np.minimum(np.maximum(value + v, lower), upper))
    return Residuals(
        float(violation.max(initial=0.0)), float(np.abs(dual).max(initial=0.0)), float(rows.max(initial=0.0))
    )
