"""Solvers of single QPs behind one interface, each on the form of the data that suits it, made outside the timing.

The tolerance goes to every solver as absolute on both residuals and on the duality gap, relative zero. `Solver.prepare`
takes the problem and gives a function that sets up and solves it once.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from strict import INFINITE, Array, Point, SparseQP

OURS = "qp-control"
SOLVED, PRIMAL_INFEASIBLE, DUAL_INFEASIBLE, UNSOLVED = "solved", "primal infeasible", "dual infeasible", "unsolved"


@dataclass
class Outcome:
    """What a solver says; the point is its solution, or its certificate (x unused) where it says infeasible."""

    status: str
    point: Point
    detail: str = ""
    iterations: int = 0


Call = Callable[[], Outcome]


def none_if_empty(matrix: Array) -> Array | None:
    return matrix if matrix.shape[0] else None


def ours(qp: SparseQP, tolerance: float, seconds: float) -> Call:
    import qp_control as qc

    H = qp.H.toarray() if qp.H.nnz else None
    A, C = none_if_empty(qp.A.toarray()), none_if_empty(qp.C.toarray())
    rows: dict[str, Any] = {} if A is None else {"A": A, "b": qp.b}
    rows |= {} if C is None else {"C": C, "l": qp.l, "u": qp.u}
    settings = qc.Settings(eps_abs=tolerance, eps_gap=tolerance, time_limit=seconds, threads=1)
    names = {
        qc.Status.SOLVED: SOLVED,
        qc.Status.PRIMAL_INFEASIBLE: PRIMAL_INFEASIBLE,
        qc.Status.DUAL_INFEASIBLE: DUAL_INFEASIBLE,
    }

    def call() -> Outcome:
        sol = qc.solve_qp(H, qp.g, **rows, lb=qp.lb, ub=qp.ub, settings=settings)
        status = names.get(sol.status, UNSOLVED)
        point = Point(sol.x, sol.y, sol.z, sol.w)
        if status == PRIMAL_INFEASIBLE:
            point = Point(sol.x, sol.certificate_y, sol.certificate_z, sol.certificate_w)
        return Outcome(status, point, sol.status.name, sol.iterations)

    return call


def piqp_solver(dense: bool) -> Callable[[SparseQP, float, float], Call]:
    def prepare(qp: SparseQP, tolerance: float, seconds: float) -> Call:
        import piqp

        def matrix(M: sp.csc_matrix) -> Any:
            return np.asfortranarray(M.toarray()) if dense else M

        # Rows without bounds only slow it down, as it says itself.
        bounded = np.isfinite(qp.l) | np.isfinite(qp.u)
        P, A, G = matrix(qp.H), matrix(qp.A), matrix(sp.csc_matrix(qp.C.tocsr()[bounded]))
        l, u = qp.l[bounded], qp.u[bounded]
        statuses = {
            piqp.PIQP_SOLVED: SOLVED,
            piqp.PIQP_PRIMAL_INFEASIBLE: PRIMAL_INFEASIBLE,
            piqp.PIQP_DUAL_INFEASIBLE: DUAL_INFEASIBLE,
        }

        def call() -> Outcome:
            solver = piqp.DenseSolver() if dense else piqp.SparseSolver()
            settings = solver.settings
            settings.eps_abs = settings.eps_duality_gap_abs = tolerance
            settings.eps_rel = settings.eps_duality_gap_rel = 0.0
            settings.check_duality_gap = True
            settings.max_iter = 1000
            solver.setup(P, qp.g, A, qp.b, G, l, u, qp.lb, qp.ub)
            status = solver.solve()
            r = solver.result
            z = np.zeros(len(qp.l))
            z[bounded] = r.z_u - r.z_l
            point = Point(r.x, r.y, z, r.z_bu - r.z_bl)
            return Outcome(statuses.get(status, UNSOLVED), point, status.name, r.info.iter)

        return call

    return prepare


def proxqp_solver(qp: SparseQP, tolerance: float, seconds: float) -> Call:
    from proxsuite import proxqp

    H = qp.H.toarray() if qp.H.nnz else None
    A, C = none_if_empty(qp.A.toarray()), none_if_empty(qp.C.toarray())
    b, l, u = (None if v.size == 0 else np.clip(v, -INFINITE, INFINITE) for v in (qp.b, qp.l, qp.u))
    lb, ub = np.clip(qp.lb, -INFINITE, INFINITE), np.clip(qp.ub, -INFINITE, INFINITE)
    box = bool(np.isfinite(qp.lb).any() or np.isfinite(qp.ub).any())
    n, n_eq, n_in = qp.n, len(qp.b), len(qp.l)
    output = proxqp.QPSolverOutput
    statuses = {
        output.PROXQP_SOLVED: SOLVED,
        output.PROXQP_PRIMAL_INFEASIBLE: PRIMAL_INFEASIBLE,
        output.PROXQP_DUAL_INFEASIBLE: DUAL_INFEASIBLE,
    }

    def call() -> Outcome:
        solver = proxqp.dense.QP(n, n_eq, n_in, box)
        solver.settings.eps_abs = solver.settings.eps_duality_gap_abs = tolerance
        solver.settings.eps_rel = solver.settings.eps_duality_gap_rel = 0.0
        solver.settings.check_duality_gap = True
        if box:
            solver.init(H, qp.g, A, b, C, l, u, lb, ub)
        else:
            solver.init(H, qp.g, A, b, C, l, u)
        solver.solve()
        r = solver.results
        w = r.z[n_in:] if box else np.zeros(n)
        point = Point(np.array(r.x), np.array(r.y), np.array(r.z[:n_in]), np.array(w))
        return Outcome(statuses.get(r.info.status, UNSOLVED), point, r.info.status.name, r.info.iter)

    return call


def clarabel_solver(qp: SparseQP, tolerance: float, seconds: float) -> Call:
    """Rows with equal bounds go to its zero cone, two-sided ones and the box are two one-sided rows each."""
    import clarabel

    n = qp.n
    R = sp.vstack([qp.A, qp.C, sp.identity(n)], format="csr")
    lower, upper = np.concatenate([qp.b, qp.l, qp.lb]), np.concatenate([qp.b, qp.u, qp.ub])
    equal = lower == upper
    E = np.flatnonzero(equal)
    U, L = np.flatnonzero(~equal & np.isfinite(upper)), np.flatnonzero(~equal & np.isfinite(lower))
    M = sp.vstack([R[E], R[U], -R[L]], format="csc")
    rhs = np.concatenate([upper[E], upper[U], -lower[L]])
    cones = [clarabel.ZeroConeT(len(E)), clarabel.NonnegativeConeT(len(U) + len(L))]
    P = sp.triu(qp.H, format="csc")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.time_limit = seconds
    settings.tol_feas = settings.tol_gap_abs = tolerance
    settings.tol_gap_rel = 0.0
    statuses = {
        "Solved": SOLVED,
        "PrimalInfeasible": PRIMAL_INFEASIBLE,
        "DualInfeasible": DUAL_INFEASIBLE,
    }

    def call() -> Outcome:
        solution = clarabel.DefaultSolver(P, qp.g, M, rhs, cones, settings).solve()
        v, z = np.zeros(len(lower)), np.array(solution.z)
        v[E] = z[: len(E)]
        v[U] += z[len(E) : len(E) + len(U)]
        v[L] -= z[len(E) + len(U) :]
        y, z, w = np.split(v, np.cumsum([len(qp.b), len(qp.l)]))
        name = str(solution.status)
        return Outcome(statuses.get(name, UNSOLVED), Point(np.array(solution.x), y, z, w), name, solution.iterations)

    return call


def daqp_solver(qp: SparseQP, tolerance: float, seconds: float) -> Call:
    """Its certificate of infeasibility is not given out."""
    import daqp

    R = np.ascontiguousarray(sp.vstack([qp.A, qp.C]).toarray())
    lower = np.clip(np.concatenate([qp.lb, qp.b, qp.l]), -1e30, 1e30)
    upper = np.clip(np.concatenate([qp.ub, qp.b, qp.u]), -1e30, 1e30)
    sense = np.where(lower == upper, 5, 0).astype(np.int32)
    H, n, n_eq = np.ascontiguousarray(qp.H.toarray()), qp.n, len(qp.b)
    statuses = {1: SOLVED, -1: PRIMAL_INFEASIBLE, -3: DUAL_INFEASIBLE}
    options = {"primal_tol": min(tolerance, 1e-6), "time_limit": seconds}

    def call() -> Outcome:
        x, _, flag, info = daqp.solve(H, qp.g, R, upper, lower, sense, **options)
        v = np.array(info["lam"])
        point = Point(np.array(x), v[n : n + n_eq], v[n + n_eq :], v[:n])
        return Outcome(statuses.get(flag, UNSOLVED), point, f"exit flag {flag}", info["iterations"])

    return call


SOLVERS: dict[str, Callable[[SparseQP, float, float], Call]] = {
    OURS: ours,
    "piqp dense": piqp_solver(dense=True),
    "piqp sparse": piqp_solver(dense=False),
    "proxqp": proxqp_solver,
    "clarabel": clarabel_solver,
    "daqp": daqp_solver,
}
PACKAGES = {"piqp dense": "piqp", "piqp sparse": "piqp", "proxqp": "proxsuite"}


def version(name: str) -> str | None:
    """None: not installed."""
    try:
        return importlib.metadata.version(PACKAGES.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None


def installed(name: str) -> bool:
    return version(name) is not None
