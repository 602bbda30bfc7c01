"""Limits, honest residuals, warm starts, and calls that leave no trace in the next one."""

import types

import numpy as np
import pytest
from kkt_oracle import duality_gap, residuals, solve
from problems import (
    crossed_bounds,
    degenerate_vertex,
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
)
from qp_data import DATA

import qp_control as qc

CLOSEST = qc.Settings(infeasible="closest")


@pytest.mark.parametrize("max_iter", [1, 2, 1000])
def test_residuals_are_those_of_the_returned_point(max_iter):
    for seed in range(4):
        qp = random_feasible(seed, 20, 5, 20, box=seed % 2 == 0)
        sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(max_iter=max_iter))
        left = residuals(qp, sol.x, sol.y, sol.z, sol.w)
        assert abs(sol.primal_residual - left.primal) < 1e-12 * (1 + left.primal)
        assert abs(sol.dual_residual - left.dual) < 1e-11 * (1 + left.dual)
        objective = 0.5 * sol.x @ qp.H @ sol.x + qp.g @ sol.x
        assert abs(sol.objective - objective) < 1e-12 * (1 + abs(objective))
        if sol.status == qc.Status.SOLVED:
            assert left.primal <= 1e-8 and left.dual <= 1e-8
            gap = duality_gap(qp, sol.x, sol.y, sol.z, sol.w)
            assert abs(abs(sol.duality_gap) - abs(gap)) < 1e-11 * (1 + abs(objective))


def test_one_iteration_is_flagged_and_returns_a_finite_point():
    qp = random_feasible(0, 30, 5, 30)
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(max_iter=1))
    assert sol.status == qc.Status.MAX_ITER
    assert np.all(np.isfinite(sol.x)) and np.isfinite(sol.primal_residual) and np.isfinite(sol.dual_residual)
    assert max(sol.primal_residual, sol.dual_residual) > 1e-8
    assert sol.iterations <= 1


@pytest.mark.parametrize("max_iter", [60, 500, 2000])
@pytest.mark.parametrize("n", [10, 30])
def test_problem_stopped_at_its_limit_returns_the_best_point_it_saw(n, max_iter):
    """A tolerance that rounding forbids: the point is as good as doubles are, however long the loop went on."""
    for seed in range(4):
        qp = random_feasible(seed, n, 3, n, box=seed % 2 == 0)
        sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(eps_abs=1e-30, max_iter=max_iter))
        assert sol.status == qc.Status.MAX_ITER
        left = residuals(qp, sol.x, sol.y, sol.z, sol.w)
        assert max(left.primal, left.dual, left.complementarity) < 1e-11
        np.testing.assert_allclose(sol.x, solve(qp, "interior point").x, atol=1e-9)


def test_no_time_is_flagged():
    qp = random_feasible(0, 50, 10, 50)
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(time_limit=1e-9))
    assert sol.status == qc.Status.TIME_LIMIT


def test_time_limit_ends_a_long_batch():
    rng = np.random.default_rng(0)
    n = 120
    qps = [random_feasible(seed, n, 20, 60) for seed in range(3)]
    batch = {name: np.stack([getattr(qps[k % 3], name) for k in range(48)]) for name in qps[0].arguments()}
    batch["g"] = batch["g"] + 1e-3 * rng.normal(size=batch["g"].shape)
    whole = qc.solve_qp(**batch, settings=qc.Settings(threads=1))
    sol = qc.solve_qp(**batch, settings=qc.Settings(time_limit=1e-4, threads=1))
    late = sol.status == qc.Status.TIME_LIMIT
    assert np.any(late) and np.all(late | (sol.status == qc.Status.SOLVED))
    assert np.all(sol.iterations[late] < whole.iterations[late])


def test_tighter_tolerance_is_reached():
    qp = random_feasible(2, 20, 5, 20)
    for eps in (1e-3, 1e-6, 1e-10):
        sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(eps_abs=eps))
        assert sol.status == qc.Status.SOLVED
        assert max(sol.primal_residual, sol.dual_residual) <= eps


def test_warm_start_from_the_solution_takes_fewer_iterations():
    qp = random_feasible(4, 30, 5, 30)
    cold = qc.solve_qp(**qp.keywords())
    warm = qc.solve_qp(**qp.keywords(), warm_start=cold)
    assert warm.status == qc.Status.SOLVED
    assert warm.iterations < cold.iterations
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-8)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e8, 1e100, 1e300])
@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize("kind", ["feasible", "full rank", "rank deficient"])
def test_far_off_warm_start_gives_the_same_answer(kind, n, size):
    qp = {
        "feasible": lambda: random_feasible(4, n, 3, n, box=True),
        "full rank": lambda: random_infeasible_full_rank(4, n),
        "rank deficient": lambda: random_infeasible_rank_deficient(4, n, box=True),
    }[kind]()
    cold = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    start = {name: getattr(cold, name).copy() for name in "xyzw"}
    rng = np.random.default_rng(0)
    for value in start.values():
        value += size * rng.normal(size=value.shape)
    warm = qc.solve_qp(**qp.keywords(), settings=CLOSEST, warm_start=types.SimpleNamespace(**start))
    assert warm.status == cold.status
    exact = solve(qp, "interior point")
    for name in ("x", "s_eq", "s_lower", "s_upper", "s_lb", "s_ub"):
        np.testing.assert_allclose(getattr(warm, name), getattr(exact, name), atol=1e-7, err_msg=name)


def test_warm_start_of_a_batch_is_taken_per_element():
    qps = [random_feasible(seed, 10, 3, 10) for seed in range(4)]
    batch = {name: np.stack([getattr(qp, name) for qp in qps]) for name in qps[0].arguments()}
    cold = qc.solve_qp(**batch)
    warm = qc.solve_qp(**batch, warm_start=cold)
    assert np.all(warm.iterations <= cold.iterations) and np.any(warm.iterations < cold.iterations)
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-8)


def test_the_same_problem_twice_gives_the_same_bits():
    for qp in (
        random_feasible(0, 20, 5, 20, box=True),
        random_feasible(0, 50, 5, 40, box=True),
        degenerate_vertex(),
        random_infeasible_rank_deficient(1),
        random_infeasible_rank_deficient(1, 40, box=True),
    ):
        first = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
        qc.solve_qp(**crossed_bounds().keywords(), settings=CLOSEST)  # another problem in between
        second = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
        for name in ("x", "y", "z", "w", "s_eq"):
            assert np.array_equal(getattr(first, name), getattr(second, name)), name
        one, two = (qc.qp_adjoint(**qp.keywords(), solution=sol, x=np.ones(qp.n)) for sol in (first, second))
        for name in qp.arguments():
            assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_bad_element_changes_nothing_for_its_neighbours():
    good = [random_feasible(seed, 6, 2, 4, box=True) for seed in range(8)]
    alone = [qc.solve_qp(**qp.keywords(), settings=CLOSEST) for qp in good]
    batch = {name: np.stack([getattr(qp, name) for qp in good]) for name in DATA}
    batch["l"][3], batch["u"][3] = 5.0, -5.0  # crossed
    batch["H"][5] *= -1.0  # indefinite
    sol = qc.solve_qp(**batch, settings=CLOSEST)
    assert sol.status[3] == qc.Status.CLOSEST_FEASIBLE
    assert sol.status[5] == qc.Status.NON_CONVEX
    for k in (0, 1, 2, 4, 6, 7):
        assert np.array_equal(sol.x[k], alone[k].x)
        assert sol.status[k] == qc.Status.SOLVED
