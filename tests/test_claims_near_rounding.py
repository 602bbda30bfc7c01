"""Solved is said only of what is within the tolerance, also where rounding is as large as the tolerance.

The judge here has more digits than a double: NumPy's longdouble. Where that is a double too, the tests prove nothing.
"""

import dataclasses

import numpy as np
import pytest

import qp_control as qc

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="no floating-point type with more digits than a double here"
)


def lopsided_problem(seed, n, multiplier):
    """Multipliers far larger than g: the dual residual is a small difference of large numbers."""
    rng = np.random.default_rng(seed)
    M = rng.normal(size=(n, n))
    H = M @ M.T / n + np.eye(n)
    H = (H + H.T) / 2
    A = rng.normal(size=(n // 2, n))
    x = rng.normal(size=n)
    g = -(H @ x) - A.T @ (multiplier * rng.normal(size=n // 2))
    return {"H": H, "g": g, "A": A, "b": A @ x, "lb": x - 1.0, "ub": x + 1.0}


def residuals(arguments, sol, dtype):
    """Primal, dual and gap."""
    H, g, A, b, lb, ub = (arguments[name].astype(dtype) for name in ("H", "g", "A", "b", "lb", "ub"))
    x, y, w = (np.asarray(v).astype(dtype) for v in (sol.x, sol.y, sol.w))
    primal = max(np.abs(A @ x - b).max(), (lb - x).max(), (x - ub).max())
    Hx = H @ x
    dual = np.abs(Hx + g + A.T @ y + w).max()
    gap = x @ Hx + g @ x + b @ y + np.where(w > 0, ub, lb) @ w
    return float(primal), float(dual), float(abs(gap))


@pytest.mark.parametrize("n", [8, 40])
def test_solved_points_are_within_the_tolerance_by_precise_arithmetic(n):
    settings = qc.Settings(eps_abs=1e-9)
    statuses, noise = [], 0.0
    for seed in range(20):
        for multiplier in (1e5, 6e5, 8e5, 1e6, 1.3e6, 2e6, 3e6):
            arguments = lopsided_problem(seed, n, multiplier)
            sol = qc.solve_qp(**arguments, settings=settings)
            statuses.append(sol.status)
            precise = max(residuals(arguments, sol, np.longdouble)[:2])
            if sol.status is qc.Status.SOLVED:
                assert precise <= 1e-9
            noise = max(noise, abs(precise - max(residuals(arguments, sol, np.float64)[:2])))
    # Both verdicts occur, and what double arithmetic gets wrong is as large as the tolerance.
    assert {qc.Status.SOLVED, qc.Status.MAX_ITER} <= set(statuses)
    assert noise > 3e-10


@pytest.mark.parametrize("n", [8, 40])
def test_a_gap_that_is_only_rounding_is_closed(n):
    """At an objective of 1e8 the gap's own rounding is 1e-8."""
    solved = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        arguments = lopsided_problem(seed, n, 1.0)
        arguments |= {"b": arguments["b"] + 0.0, "H": 1e4 * arguments["H"]}
        shift = 100.0 * rng.normal(size=n)  # of the origin: a large objective, the same multipliers
        arguments["g"] = 1e4 * arguments["g"] - arguments["H"] @ shift
        arguments["b"] = arguments["b"] + arguments["A"] @ shift
        arguments["lb"], arguments["ub"] = arguments["lb"] + shift, arguments["ub"] + shift
        sol = qc.solve_qp(**arguments, settings=qc.Settings(eps_abs=1e-7, eps_gap=1e-9))
        if sol.status is qc.Status.SOLVED:
            solved += 1
            assert abs(sol.objective) > 1e6
            primal, dual, gap = residuals(arguments, sol, np.longdouble)
            assert primal <= 1e-7 and dual <= 1e-7 and gap <= 1e-9
    assert solved >= 5


def test_point_that_is_not_a_number_has_residuals_that_are_none_either():
    huge = 1e300 * np.array([[2.0, 1.0], [1.0, 2.0]])
    sol = qc.solve_qp(huge, [1e300, -1e300], C=1e300 * np.ones((1, 2)), l=[-1.0], u=[1.0])
    assert sol.status is not qc.Status.SOLVED
    if np.isnan(sol.x).any():
        assert np.isnan(sol.primal_residual) and np.isnan(sol.dual_residual)


def rescued_problem(seed, n=60, m=120):
    """Rows six orders of magnitude apart, half of which meet their bound at one point: most need the rescue."""
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(rng.integers(1, n + 1), n))
    C = rng.normal(size=(m, n)) * 10.0 ** rng.uniform(-3.0, 3.0, size=(m, 1))
    x = rng.normal(size=n)
    u = C @ x + rng.exponential(size=m) * (rng.random(m) < 0.5)
    g = rng.normal(size=n) * 10.0 ** rng.uniform(-3.0, 3.0)
    lb, ub = x - 3.0 * rng.exponential(size=n), x + 3.0 * rng.exponential(size=n)
    return {"H": F.T @ F / n, "g": g, "C": C, "u": u, "lb": lb, "ub": ub}


def test_a_rescue_that_ends_early_is_as_exact_as_a_late_one():
    solutions = [qc.solve_qp(**rescued_problem(seed), settings=qc.Settings(threads=1)) for seed in range(80)]
    assert all(sol.status is qc.Status.SOLVED for sol in solutions)
    assert sum(sol.iterations > 60 for sol in solutions) > 20
    assert max(max(sol.primal_residual, sol.dual_residual) for sol in solutions) < 1e-10


def far_problem(seed, n=100, rank=30):
    """As learned by steps that are too long: 30 directions of L are 3e5 times as large as the others, of which H, whose
    entries are 1e13, keeps one digit."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, rank)), rng.normal(size=(n, rank)) * 10.0 ** rng.uniform(-3.0, 0.0, size=(n, 1))
    e = rng.normal(size=(n, rank))
    L = np.eye(n) + 3e5 * a @ b.T
    H, C = L.T @ L, rng.normal(size=(n, n)) + 1e4 * e @ b.T
    return {"H": H, "C": C, "u": 0.1 * rng.random(n), "g": 100.0 * rng.normal(size=n)}


def test_far_solution_of_a_hessian_that_rounding_made_singular_is_found() -> None:
    """On the way to the solution the products of slacks and multipliers stay large. What the digit is that H keeps
    depends on how a machine multiplies: most problems are solved, and with reduced tolerances all."""
    strict = qc.Settings(eps_abs=1e-6, eps_rel=1e-6, threads=1)
    solved = 0
    for seed in range(10):
        problem = far_problem(seed)
        reduced = qc.solve_qp(**problem, settings=dataclasses.replace(strict, reduced_eps_rel=1e-5))
        assert reduced.status is qc.Status.SOLVED
        sol = qc.solve_qp(**problem, settings=strict)
        if sol.status is qc.Status.SOLVED:
            solved += 1
            slope = problem["H"] @ sol.x
            assert np.abs(slope + problem["g"] + problem["C"].T @ sol.z).max() < 1e-6 * np.abs(slope).max()
            assert (problem["C"] @ sol.x - problem["u"]).max() < 1e-6
    assert solved >= 6


def stiff_problem(seed, stiffness, n=30):
    """A solution that is nearly orthogonal to the one stiff direction v of H, and the same problem with v'x = 0."""
    rng = np.random.default_rng(seed)
    v, L = rng.normal(size=n), np.eye(n) + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
    shared = {"g": 1e4 * rng.normal(size=n), "C": rng.normal(size=(20, n)), "u": rng.uniform(size=20)}
    shared |= {"lb": -np.ones(n), "ub": np.ones(n)}
    H = L.T @ L + stiffness * np.outer(v, v)
    return shared | {"H": (H + H.T) / 2}, shared | {"H": L.T @ L, "A": v[None], "b": [0.0]}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stiffness", [1e14, 1e15])
def test_rounding_of_the_terms_of_a_residual_is_accepted_only_where_asked_for(stiffness, seed):
    """H x is a sum of products of 1e15 and more that leave 1e3: no x of doubles has a dual residual of 1e-6 of that."""
    problem, limit = stiff_problem(seed, stiffness)
    strict = qc.solve_qp(**problem, settings=qc.Settings(eps_abs=1e-6, eps_rel=1e-6))
    assert strict.status is qc.Status.MAX_ITER and strict.dual_residual > 1e-2
    sol = qc.solve_qp(**problem, settings=qc.Settings(eps_abs=1e-6, eps_rel=1e-6, reduced_eps_rel=1e-5))
    assert sol.status is qc.Status.SOLVED
    np.testing.assert_allclose(sol.x, qc.solve_qp(**limit).x, rtol=0, atol=1e-9)


def test_a_point_that_rounding_leaves_without_meaning_is_not_solved():
    """With 1e18 in H the ones in it are lost: the best point is that of another problem."""
    for seed in range(4):
        problem, limit = stiff_problem(seed, 1e18)
        sol = qc.solve_qp(**problem, settings=qc.Settings(eps_abs=1e-6, eps_rel=1e-6, reduced_eps_rel=1e-5))
        assert sol.status is qc.Status.MAX_ITER and np.abs(sol.x - qc.solve_qp(**limit).x).max() > 0.1
