"""The exact gradient of a QP's answer: the whole KKT matrix on the active rows by least squares (NumPy only).

Where the matrix is singular the minimum-norm solution is taken.

Feasible. With J the active rows, K = [H R_J'; R_J 0] and K (dx, dv) = -(dL/dx, dL/dv):
    dL/dg = dx, dL/dH = (dx x' + x dx')/2, dL/dR_J = v dx' + dv x', dL/dbound_J = -dv.

Closest feasible. E x - s = e are the equalities and the violated rows, E'W s = 0 says the shift is least.
The KKT system in (x, s, nu, eta, v_J),
    H x + g + E'nu + R_J'v_J = 0,  -nu + W E eta = 0,  E x - s = e,  E'W s = 0,  R_J x = bound_J,
is symmetric, so the adjoint has the same matrix:
    dL/dE = nu dx' + dnu x' + W s deta' + W ds eta',  dL/de = -dnu.
"""

from __future__ import annotations

import numpy as np
from least_shift_oracle import lstsq
from qp_data import DATA, QP, Answer

OUTPUTS = ("x", "y", "z", "w", "s_eq", "s_lower", "s_upper", "s_lb", "s_ub", "objective")


def adjoint(
    qp: QP,
    answer: Answer,
    gradients: dict[str, np.ndarray | float],
    *,
    weights: np.ndarray | None = None,
    active: float = 1e-8,
) -> dict[str, np.ndarray]:
    """dL/d(data) from dL/d(outputs), both by name; weights: shift weight per row (equalities, C, box).

    A row counts as active when it is within `active` (relative) of a bound: weakly active rows included.
    """
    n, H = qp.n, qp.hessian
    R, lower, upper = qp.rows()
    m = len(lower)
    x, v = answer.x, np.concatenate([answer.y, answer.z, answer.w])

    def given(*names: str) -> np.ndarray:
        sizes = {"y": qp.n_eq, "z": qp.n_in, "w": n}
        parts = [gradients.get(name) for name in names]
        return np.concatenate(
            [
                np.zeros(size) if part is None else np.asarray(part, float)
                for part, size in zip(parts, sizes.values(), strict=True)
            ]
        )

    gx = np.array(gradients.get("x", np.zeros(n)), dtype=float)
    gv = given("y", "z", "w")
    g_objective = float(gradients.get("objective", 0.0))
    gx = gx + g_objective * (H @ x + qp.g)
    zero_eq = np.zeros(qp.n_eq)
    gs_upper = np.concatenate(
        [
            gradients.get("s_eq", zero_eq),
            gradients.get("s_upper", np.zeros(qp.n_in)),
            gradients.get("s_ub", np.zeros(n)),
        ]
    )
    gs_lower = np.concatenate(
        [zero_eq, gradients.get("s_lower", np.zeros(qp.n_in)), gradients.get("s_lb", np.zeros(n))]
    )
    s_upper = np.concatenate([answer.s_eq, answer.s_upper, answer.s_ub])
    s_lower = np.concatenate([zero_eq, answer.s_lower, answer.s_lb])

    value = R @ x
    near = active * (1 + np.abs(value))
    on_upper = np.abs(value - upper) <= near
    on_lower = np.abs(value - lower) <= near
    # A row with l = u is active on the side that its multiplier names.
    both = on_upper & on_lower
    on_upper &= ~both | (v >= 0)
    on_lower &= ~both | (v < 0)

    closest = answer.status == "closest"
    violated = np.zeros(m, dtype=bool)
    if closest:
        violated = (s_upper != 0) | (s_lower > 0)
        violated[: qp.n_eq] = True
    J = (on_upper | on_lower) & ~violated
    V = np.flatnonzero(violated)
    Ji = np.flatnonzero(J)
    crossed = (s_upper > 0) & (s_lower > 0)
    crossed[: qp.n_eq] = False

    d_lower, d_upper, dR = np.zeros(m), np.zeros(m), np.zeros((m, n))
    if not closest:
        K = np.block([[H, R[J].T], [R[J], np.zeros((len(Ji), len(Ji)))]])
        solution = refined(K, -np.concatenate([gx, gv[J]]))
        dx, dv = solution[:n], solution[n:]
        dR[J] = np.outer(v[J], dx) + np.outer(dv, x)
    else:
        E, p, j = R[V], len(V), len(Ji)
        equality = qp.n_eq > V
        # A crossed row moves both its shifts: one row at the middle of its bounds with twice the weight.
        W = (np.ones(m) if weights is None else weights)[V] * np.where(crossed[V], 2.0, 1.0)
        e = np.where(s_upper[V] != 0, upper[V], lower[V])
        e = np.where(crossed[V], 0.5 * (lower[V] + upper[V]), e)
        e[equality] = upper[V][equality]
        s, nu = E @ x - e, v[V]
        eta = lstsq(W[:, None] * E, nu)
        gs = np.where(s_upper[V] != 0, gs_upper[V], -gs_lower[V])
        gs = np.where(crossed[V], gs_upper[V] - gs_lower[V], gs)
        gs[equality] = gs_upper[V][equality]
        WE, I, Z = W[:, None] * E, np.eye(p), np.zeros
        K = np.block(
            [
                [H, Z((n, p)), E.T, Z((n, n)), R[J].T],
                [Z((p, n)), Z((p, p)), -I, WE, Z((p, j))],
                [E, -I, Z((p, p)), Z((p, n)), Z((p, j))],
                [Z((n, n)), WE.T, Z((n, p)), Z((n, n)), Z((n, j))],
                [R[J], Z((j, p)), Z((j, p)), Z((j, n)), Z((j, j))],
            ]
        )
        solution = refined(K, -np.concatenate([gx, gs, gv[V], np.zeros(n), gv[J]]))
        dx, ds, dnu, deta, dv = np.split(solution, np.cumsum([n, p, p, n]))
        dR[V] = np.outer(nu, dx) + np.outer(dnu, x) + np.outer(W * s, deta) + np.outer(W * ds, eta)
        dR[J] = np.outer(v[J], dx) + np.outer(dv, x)
        de = -dnu
        for k, i in enumerate(V):
            if crossed[i]:
                # s_upper = s + (l - u)/2 and s_lower = -s + (l - u)/2 around the middle
                half = 0.5 * (gs_upper[i] + gs_lower[i])
                d_lower[i] += 0.5 * de[k] + half
                d_upper[i] += 0.5 * de[k] - half
            elif i < qp.n_eq or s_upper[i] != 0:
                d_upper[i] += de[k]
            else:
                d_lower[i] += de[k]
    d_upper[Ji] += np.where(on_upper[Ji] | (Ji < qp.n_eq), -dv, 0.0)
    d_lower[Ji] += np.where(on_lower[Ji] & ~on_upper[Ji] & (Ji >= qp.n_eq), -dv, 0.0)

    dA, dC, _ = qp.split(dR)
    db, du, dub = qp.split(d_upper)
    _, dl, dlb = qp.split(d_lower)
    dH = 0.5 * (np.outer(dx, x) + np.outer(x, dx)) + 0.5 * g_objective * np.outer(x, x)
    everything = {
        "H": dH,
        "g": dx + g_objective * x,
        "A": dA,
        "b": db,
        "C": dC,
        "l": dl,
        "u": du,
        "lb": dlb,
        "ub": dub,
    }
    return {name: everything[name] for name in DATA if getattr(qp, name) is not None}


def refined(K: np.ndarray, r: np.ndarray) -> np.ndarray:
    solution = lstsq(K, r)
    return solution + lstsq(K, r - K @ solution)
