"""Named QPs: the toy problems of Bambade et al. (ICLR 2024, C.1), awkward corners, seeded random families."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from kkt_oracle import solve
from qp_data import QP

INF = np.inf


def toy_crossing(theta: float) -> QP:
    """min 1/2|x|^2, theta <= x1 + x2 <= 1.55, 1.5 <= 2 x1 + x2 <= 1.55: infeasible for theta > 1.55."""
    return QP(np.eye(2), [0, 0], C=[[1, 1], [2, 1]], l=[theta, 1.5], u=[1.55, 1.55])


def toy_crossing_solution(theta: float) -> tuple[np.ndarray, np.ndarray]:
    """x and dx/dtheta, for theta > 1.034. Beyond 1.55 the first row ends midway between its bounds."""
    if theta <= 1.55:
        return np.array([1.55 - theta, 2 * theta - 1.55]), np.array([-1.0, 2.0])
    middle = 0.5 * (theta + 1.55)
    return np.array([1.55 - middle, 2 * middle - 1.55]), np.array([-0.5, 1.0])


def toy_interior(theta: float) -> QP:
    """min 1/2|x|^2 + (theta, -2)'x, -300 <= x1 + x2 <= 400, -200 <= 2 x1 + x2 <= 500: x = (-theta, 2)."""
    return QP(np.eye(2), [theta, -2], C=[[1, 1], [2, 1]], l=[-300, -200], u=[400, 500])


def toy_linear(theta: float, box_as_rows: bool = False) -> QP:
    """min x1 + x2, theta <= x1 + x2, 0 <= x <= 1: dx_i/dtheta = 1/2 for 0 < theta < 2, 1/3 for theta > 2."""
    if box_as_rows:
        return QP(None, [1, 1], C=[[1, 1], [1, 0], [0, 1]], l=[theta, 0, 0], u=[INF, 1, 1])
    return QP(None, [1, 1], C=[[1, 1]], l=[theta], u=[INF], lb=[0, 0], ub=[1, 1])


def degenerate_vertex() -> QP:
    """Six rows of the plane through the solution (1, 1)."""
    angles = np.linspace(0.1, np.pi / 2 - 0.1, 6)
    C = np.column_stack([np.cos(angles), np.sin(angles)])
    return QP(np.eye(2), [-3, -3], C=C, l=np.full(6, -INF), u=C @ np.ones(2))


def duplicate_rows() -> QP:
    row = [[1.0, 2.0, -1.0]]
    return QP(np.diag([1.0, 2.0, 3.0]), [1, 1, 1], A=row * 2, b=[1, 1], C=[[1, 0, 0]] * 3, l=[1] * 3, u=[INF] * 3)


def lp_vertex() -> QP:
    """min -x1 - 2 x2, x1 + x2 <= 1, x >= 0 has its solution at (0, 1)."""
    return QP(None, [-1, -2], C=[[1, 1]], l=[-INF], u=[1], lb=[0, 0], ub=[INF, INF])


def lp_edge() -> QP:
    """A linear program whose solutions are an edge."""
    return QP(None, [-1, -1], C=[[1, 1]], l=[-INF], u=[1], lb=[0, 0], ub=[INF, INF])


def zero_objective() -> QP:
    return QP(None, [0, 0], A=[[1, 1]], b=[1], lb=[0, 0], ub=[1, 1])


def badly_scaled_rows() -> QP:
    rng = np.random.default_rng(5)
    scale = np.logspace(-3, 3, 6)
    C = scale[:, None] * rng.normal(size=(6, 4))
    x = rng.normal(size=4)
    A = np.array([[1e-3, 2e-3, 0, 1e-3], [0, 1e3, 1e3, -1e3]])
    return QP(np.diag([1.0, 2, 3, 4]), 5 * rng.normal(size=4), A, A @ x, C, C @ x - scale, C @ x + 0.1 * scale)


def equal_bounds() -> QP:
    return QP(np.diag([1.0, 2, 1]), [1, -1, 2], C=[[1, 1, 1], [1, -1, 0]], l=[1, -0.5], u=[1, -0.5])


def infinite_bounds() -> QP:
    return QP(np.eye(2), [1, -2], C=[[1, 1], [1, -1]], l=[-INF, -INF], u=[INF, INF], lb=[-INF, -INF], ub=[INF, INF])


def huge_bounds() -> QP:
    return QP(
        np.eye(2),
        [1, -2],
        C=[[1, 1], [1, -1]],
        l=[-1e20, -1e25],
        u=[1e20, 1],
        lb=[-1e30, -1],
        ub=[1e20, 1e21],
    )


def single_feasible_point() -> QP:
    """x1 + x2 <= 0, x1 - x2 <= 0 and x1 >= 0 leave the origin alone."""
    return QP(np.eye(2), [-1, -1], C=[[1, 1], [1, -1]], l=[-INF, -INF], u=[0, 0], lb=[0, -INF], ub=[INF, INF])


def contradicting_equalities() -> QP:
    return QP(np.eye(2), [1, 0], A=[[1, 1], [1, 1]], b=[1, 2])


def contradicting_inequalities() -> QP:
    return QP(np.eye(2), [1, 0], C=[[1, 0], [1, 0]], l=[1, -INF], u=[INF, 0])


def zero_row(b: float) -> QP:
    """A zero row: feasible for b = 0, a contradiction for b = 1."""
    return QP(np.eye(2), [1, 1], A=[[0, 0], [1, 0]], b=[b, 0.5])


def crossed_bounds() -> QP:
    """l > u in one row: never solved; closest feasible ends midway."""
    return QP(np.eye(2), [0, 0], C=[[1, 0], [0, 1]], l=[3, -1], u=[1, 1])


def crossed_box() -> QP:
    return QP(np.eye(2), [5, 0], lb=[2, -1], ub=[0, 1])


def unbounded_lp() -> QP:
    return QP(None, [-1, 0], C=[[0, 1]], l=[0], u=[1])


def unbounded_qp() -> QP:
    return QP(np.diag([1.0, 0.0]), [0, -1], lb=[-INF, 0], ub=[INF, INF])


def both_infeasible() -> QP:
    return QP(None, [-1, 0, 0], C=[[0, 1, 0], [0, 1, 0]], l=[1, -INF], u=[INF, 0])


FEASIBLE: dict[str, Callable[[], QP]] = {
    "toy crossing": lambda: toy_crossing(1.54),
    "toy interior": lambda: toy_interior(-1.5),
    "toy linear": lambda: toy_linear(0.5),
    "degenerate vertex": degenerate_vertex,
    "duplicate rows": duplicate_rows,
    "vertex of a linear program": lp_vertex,
    "edge of a linear program": lp_edge,
    "zero objective": zero_objective,
    "badly scaled rows": badly_scaled_rows,
    "equal bounds": equal_bounds,
    "infinite bounds": infinite_bounds,
    "huge bounds": huge_bounds,
    "single feasible point": single_feasible_point,
    "zero row": lambda: zero_row(0.0),
}

INFEASIBLE: dict[str, Callable[[], QP]] = {
    "toy crossing": lambda: toy_crossing(1.57),
    "toy linear": lambda: toy_linear(2.5),
    "toy linear as rows": lambda: toy_linear(2.5, box_as_rows=True),
    "contradicting equalities": contradicting_equalities,
    "contradicting inequalities": contradicting_inequalities,
    "zero row": lambda: zero_row(1.0),
    "crossed bounds": crossed_bounds,
    "crossed box": crossed_box,
}

UNBOUNDED: dict[str, Callable[[], QP]] = {"linear": unbounded_lp, "quadratic": unbounded_qp}


def random_hessian(rng: np.random.Generator, n: int, rank: int | None = None) -> np.ndarray:
    """Positive semidefinite of the rank asked for, with singular values between 0.3 and 3."""
    rank = n if rank is None else rank
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0][:, :rank]
    return (Q * rng.uniform(0.3, 3.0, size=rank)) @ Q.T


def random_feasible(
    seed: int,
    n: int,
    n_eq: int = 0,
    n_in: int = 0,
    *,
    active: float = 0.5,
    box: bool = False,
    rank: int | None = None,
) -> QP:
    """A QP solvable by construction: `active` of its rows are active, multipliers away from 0.

    The number of active rows is kept below n - n_eq, so that they are independent.
    """
    rng = np.random.default_rng(seed)
    H = random_hessian(rng, n, rank)
    x = rng.normal(size=n)
    A, C = rng.normal(size=(n_eq, n)), rng.normal(size=(n_in, n))
    y, z, w = rng.normal(size=n_eq), np.zeros(n_in), np.zeros(n)
    l, u = C @ x - rng.uniform(0.3, 2, n_in), C @ x + rng.uniform(0.3, 2, n_in)
    l[rng.random(n_in) < 0.25] = -INF
    u[rng.random(n_in) < 0.25] = INF
    room = n - n_eq - (0 if rank is None else max(0, n_eq + rank - n))
    for i in rng.permutation(n_in)[: min(round(active * n_in), max(room, 0))]:
        size = rng.uniform(0.3, 2)
        if rng.random() < 0.5:
            u[i], z[i] = C[i] @ x, size
        else:
            l[i], z[i] = C[i] @ x, -size
    lb = ub = None
    if box:
        lb, ub = x - rng.uniform(0.3, 2, n), x + rng.uniform(0.3, 2, n)
        lb[rng.random(n) < 0.25] = -INF
        left = max(room - int((z != 0).sum()), 0)
        for i in rng.permutation(n)[: min(n // 4, left)]:
            size = rng.uniform(0.3, 2)
            if rng.random() < 0.5:
                ub[i], w[i] = x[i], size
            else:
                lb[i], w[i] = x[i], -size
    g = -(H @ x + A.T @ y + C.T @ z + w)
    return QP(
        H,
        g,
        A if n_eq else None,
        A @ x if n_eq else None,
        C if n_in else None,
        l if n_in else None,
        u if n_in else None,
        lb,
        ub,
    )


def random_infeasible_full_rank(seed: int, n: int = 4) -> QP:
    """More contradicting rows than unknowns: x is the least-squares point whatever H and g are."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n + 2, n))
    b = rng.normal(size=n + 2)
    C = rng.normal(size=(3, n))
    return QP(
        random_hessian(rng, n),
        rng.normal(size=n),
        A,
        b,
        C,
        np.array([-INF, -20.0, -20]),
        np.array([20.0, 20, INF]),
    )


def random_infeasible_rank_deficient(seed: int, n: int = 6, *, box: bool = False) -> QP:
    """Contradicting rows that leave freedom, decided by H, g and further active rows.

    Two dependent equalities and two parallel inequalities contradict each other; n exceeds the rank of the
    violated rows.
    """
    rng = np.random.default_rng(seed)
    a, c = rng.normal(size=(2, n)), rng.normal(size=n)
    A = np.vstack([a, a[0] + a[1]])
    b = np.concatenate([rng.normal(size=2), [0.0]])
    b[2] = b[0] + b[1] + rng.uniform(0.5, 1.5)
    C = np.vstack([c, -1.5 * c, rng.normal(size=(2, n))])
    H, g = random_hessian(rng, n), 3 * rng.normal(size=n)
    l, u = np.array([1.0, 0.5, -INF, -50.0]), np.array([INF, INF, 50.0, 50.0])
    # Rows 2 and 3 are put through a point that the rest would pass, so that one of them is active.
    free = QP(H, g, A, b, C, l, u)
    x = solve(free).x
    u[2] = C[2] @ x - 0.4
    lb = ub = None
    if box:
        lb, ub = np.full(n, -50.0), np.full(n, 50.0)
        ub[0] = x[0] - 0.2
    return QP(H, g, A, b, C, l, u, lb, ub)
