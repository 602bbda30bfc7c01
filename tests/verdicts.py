"""What each status claims, checked on the caller's own data."""

import numpy as np
from kkt_oracle import residuals
from qp_data import QP

import qp_control as qc

# Solved to eps_abs = 1e-8: the residuals may exceed it by the rounding of their own evaluation only.
EPS = 1e-8


def rounding(qp: QP, x, v) -> tuple[float, float]:
    """Rounding of the primal and the dual residual in float64, in units of the data."""
    R, lower, upper = qp.rows()
    finite = np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]])
    unit = 64 * np.finfo(float).eps
    primal = (np.abs(R) @ np.abs(x)).max(initial=0) + np.abs(finite).max(initial=0)
    dual = (np.abs(qp.hessian) @ np.abs(x) + np.abs(qp.g) + np.abs(R).T @ np.abs(v)).max(initial=0)
    return unit * primal, unit * dual


def farkas_holds(qp: QP, y, z, w, tolerance: float = 1e-6) -> bool:
    """A'y + C'z + w = 0 while b'y + u'z+ + l'z- (box likewise) is negative: no x satisfies the rows.

    The combination of rows must vanish against the bound it has to beat: |A'y + C'z + w| <= tolerance
    |support| for an x of size 1.
    """
    R, lower, upper = qp.rows()
    if np.any(lower > upper):
        return True
    v = np.concatenate([y, z, w]).astype(float)
    size = np.abs(v).max(initial=0.0)
    if not np.isfinite(size) or size == 0:
        return False
    v = v / size
    # What pushes against a bound that does not exist is left out, and shows as a residual of the rest.
    v = np.where(((v > 0) & ~np.isfinite(upper)) | ((v < 0) & ~np.isfinite(lower)), 0.0, v)
    bound = np.where(v > 0, upper, np.where(v < 0, lower, 0.0))
    support = bound @ v
    # Rows cancel to the rounding of their own entries at best.
    rounding = 64 * np.finfo(float).eps * (np.abs(R).T @ np.abs(v)).max(initial=0.0)
    return bool(support < 0 and np.abs(R.T @ v).max(initial=0.0) <= tolerance * -support + rounding)


def ray_holds(qp: QP, ray, tolerance: float = 1e-6) -> bool:
    """H d = 0, g'd < 0, A d = 0 and C d, d within the cone of the finite bounds."""
    R, lower, upper = qp.rows()
    d = np.asarray(ray, dtype=float)
    size = np.abs(d).max(initial=0.0)
    if not np.isfinite(size) or size == 0:
        return False
    d = d / size
    value = R @ d
    room = tolerance * np.maximum(1.0, np.abs(R).max(axis=1, initial=0.0))
    slope = qp.g @ d
    return bool(
        slope < 0
        and np.abs(qp.hessian @ d).max(initial=0.0) <= tolerance * max(1.0, np.abs(qp.hessian).max(initial=0.0))
        and np.all(value[np.isfinite(upper)] <= room[np.isfinite(upper)])
        and np.all(value[np.isfinite(lower)] >= -room[np.isfinite(lower)])
    )


def assert_honest(qp: QP, sol, eps: float = EPS) -> None:
    """Whatever the status claims is true of the caller's data; residuals are those of the returned point."""
    status = qc.Status(int(sol.status))
    if status == qc.Status.SOLVED:
        v = np.concatenate([sol.y, sol.z, sol.w])
        assert np.all(np.isfinite(sol.x)) and np.all(np.isfinite(v))
        left = residuals(qp, sol.x, sol.y, sol.z, sol.w)
        primal, dual = rounding(qp, sol.x, v)
        assert left.primal <= eps + primal
        assert left.dual <= eps + dual
        assert left.complementarity <= 10 * eps + primal + dual
        assert signs_violated(qp, v) <= eps + dual
        assert abs(sol.primal_residual - left.primal) <= primal
        assert abs(sol.dual_residual - left.dual) <= dual
    elif status == qc.Status.CLOSEST_FEASIBLE:
        v = np.concatenate([sol.y, sol.z, sol.w])
        upper, lower = (
            np.concatenate([sol.s_eq, sol.s_upper, sol.s_ub]),
            np.concatenate([0.0 * sol.s_eq, sol.s_lower, sol.s_lb]),
        )
        assert np.all(np.isfinite(sol.x)) and np.all(np.isfinite(v)) and np.all(np.isfinite(lower + upper))
        assert lower.min(initial=0.0) == upper[qp.n_eq :].min(initial=0.0) == 0.0
        assert np.any(lower) or np.any(upper)
        moved = shifted(qp, sol)
        left = residuals(moved, sol.x, sol.y, sol.z, sol.w)
        primal, dual = rounding(moved, sol.x, v)
        assert left.primal <= eps + primal
        assert left.dual <= eps + dual
        # Multipliers of shifted rows are free in sign.
        kept = np.where((lower != 0) | (upper != 0), 0.0, v)
        left = residuals(moved, sol.x, *qp.split(kept))
        assert left.complementarity <= 10 * eps + primal + dual
    elif status == qc.Status.PRIMAL_INFEASIBLE:
        assert farkas_holds(qp, sol.certificate_y, sol.certificate_z, sol.certificate_w)
    elif status == qc.Status.DUAL_INFEASIBLE:
        assert ray_holds(qp, sol.certificate_x)
    elif status == qc.Status.NON_CONVEX:
        assert np.linalg.eigvalsh(qp.hessian)[0] < 0


def shifted(qp: QP, sol) -> QP:
    """The problem that a closest feasible solution solves."""
    changes = {"b": sol.s_eq, "l": -sol.s_lower, "u": sol.s_upper, "lb": -sol.s_lb, "ub": sol.s_ub}
    return qp.with_(**{name: v + changes[name] for name, v in qp.arguments().items() if name in changes})


def signs_violated(qp: QP, v) -> float:
    """The largest multiplier that pushes against a bound that does not exist."""
    _, lower, upper = qp.rows()
    against = np.where((v > 0) & ~np.isfinite(upper), v, 0.0) + np.where((v < 0) & ~np.isfinite(lower), -v, 0.0)
    return float(against.max(initial=0.0))
