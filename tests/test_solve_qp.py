"""The NumPy front: shapes, shared and batched data, statuses, certificates, warm starts, honest residuals."""

import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse
from kkt_oracle import duality_gap, residuals, solve
from problems import (
    FEASIBLE,
    INFEASIBLE,
    UNBOUNDED,
    both_infeasible,
    contradicting_equalities,
    crossed_bounds,
    crossed_box,
    degenerate_vertex,
    equal_bounds,
    lp_vertex,
    random_feasible,
    random_infeasible_rank_deficient,
    toy_crossing,
    zero_row,
)
from qp_data import DATA, QP
from verdicts import assert_honest, farkas_holds, ray_holds

import qp_control as qc

CLOSEST = qc.Settings(infeasible="closest")
INF = np.inf


# --- named problems ---


@pytest.mark.parametrize("name", FEASIBLE)
def test_named_feasible_problem_is_solved(name):
    qp, exact = FEASIBLE[name](), solve(FEASIBLE[name]())
    sol = qc.solve_qp(**qp.keywords())
    assert sol.status == qc.Status.SOLVED
    assert_honest(qp, sol)
    assert abs(sol.objective - exact.objective) < 1e-7 * (1 + abs(exact.objective))
    if exact.unique:
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)
    if exact.unique and exact.multipliers_unique:
        np.testing.assert_allclose(sol.z, exact.z, atol=1e-6)


@pytest.mark.parametrize("name", FEASIBLE)
def test_closest_mode_changes_nothing_on_a_feasible_problem(name):
    qp = FEASIBLE[name]()
    sol = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    assert sol.status == qc.Status.SOLVED
    for shift in (sol.s_eq, sol.s_lower, sol.s_upper, sol.s_lb, sol.s_ub):
        assert not np.any(shift)


@pytest.mark.parametrize("name", INFEASIBLE)
def test_named_infeasible_problem_comes_with_a_verified_certificate(name):
    qp = INFEASIBLE[name]()
    sol = qc.solve_qp(**qp.keywords())
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE
    assert farkas_holds(qp, sol.certificate_y, sol.certificate_z, sol.certificate_w)


@pytest.mark.parametrize("name", INFEASIBLE)
def test_named_infeasible_problem_is_shifted_by_the_least_amount(name):
    qp, exact = INFEASIBLE[name](), solve(INFEASIBLE[name]())
    sol = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    for shift in ("s_eq", "s_lower", "s_upper", "s_lb", "s_ub"):
        np.testing.assert_allclose(getattr(sol, shift), getattr(exact, shift), atol=1e-7, err_msg=shift)
    if exact.unique:
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)
        np.testing.assert_allclose(
            qp.hessian @ sol.x + qp.g + qp.rows()[0].T @ np.concatenate([sol.y, sol.z, sol.w]), 0, atol=1e-7
        )


@pytest.mark.parametrize("name", UNBOUNDED)
@pytest.mark.parametrize("infeasible", ["certify", "closest"])
def test_unbounded_problem_comes_with_a_verified_ray(name, infeasible):
    qp = UNBOUNDED[name]()
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible=infeasible))
    assert sol.status == qc.Status.DUAL_INFEASIBLE
    assert ray_holds(qp, sol.certificate_x)


def test_problem_infeasible_both_ways_gets_a_certificate_that_holds():
    sol = qc.solve_qp(**both_infeasible().keywords())
    assert sol.status in (qc.Status.PRIMAL_INFEASIBLE, qc.Status.DUAL_INFEASIBLE)
    assert_honest(both_infeasible(), sol)


@pytest.mark.parametrize("problem", [crossed_bounds, crossed_box])
def test_crossed_bounds_are_never_solved_and_end_midway(problem):
    qp = problem()
    assert qc.solve_qp(**qp.keywords()).status == qc.Status.PRIMAL_INFEASIBLE
    sol = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    if qp.C is not None:
        np.testing.assert_allclose([sol.s_lower[0], sol.s_upper[0]], [1.0, 1.0], atol=1e-9)
        np.testing.assert_allclose(sol.x, [2.0, 0.0], atol=1e-8)
    else:
        np.testing.assert_allclose([sol.s_lb[0], sol.s_ub[0]], [1.0, 1.0], atol=1e-9)
        np.testing.assert_allclose(sol.x, [1.0, 0.0], atol=1e-8)


@pytest.mark.parametrize("gap", [1e-5, 1e-9])
def test_nearly_infeasible_problem_is_reported_honestly(gap):
    """A contradiction of 1e-5 exceeds the tolerance, one of 1e-9 does not."""
    qp = QP(np.eye(2), [1.0, 0.0], C=[[1, 1], [1, 1]], l=[1 + gap, -INF], u=[INF, 1])
    sol = qc.solve_qp(**qp.keywords())
    if gap > 1e-8:
        assert sol.status == qc.Status.PRIMAL_INFEASIBLE
    else:
        assert sol.status in (qc.Status.PRIMAL_INFEASIBLE, qc.Status.SOLVED)
        # A Farkas vector needs its tolerance below the contradiction itself.
    if sol.status == qc.Status.PRIMAL_INFEASIBLE:
        assert farkas_holds(qp, sol.certificate_y, sol.certificate_z, sol.certificate_w)
    closest = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    if gap > 1e-8:
        assert closest.status == qc.Status.CLOSEST_FEASIBLE
        np.testing.assert_allclose([closest.s_lower[0], closest.s_upper[1]], gap / 2, rtol=1e-3)


def test_hard_rows_are_not_shifted():
    """x = 0 hard against x >= 1 soft: the soft row takes the whole shift."""
    qp = QP(np.eye(2), [0, 1], A=[[1, 0]], b=[0], C=[[1, 0]], l=[1], u=[INF])
    sol = qc.solve_qp(**qp.keywords(), weight_eq=[INF], settings=CLOSEST)
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(sol.x, [0, -1], atol=1e-8)
    assert abs(sol.s_eq[0]) < 1e-9
    assert abs(sol.s_lower[0] - 1) < 1e-8


def test_contradicting_hard_rows_are_infeasible_in_closest_mode():
    qp = contradicting_equalities()
    sol = qc.solve_qp(**qp.keywords(), weight_eq=[INF, INF], settings=CLOSEST)
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE


def test_zero_row_is_accepted_when_its_bound_is_zero_only():
    assert qc.solve_qp(**zero_row(0.0).keywords()).status == qc.Status.SOLVED
    assert qc.solve_qp(**zero_row(1.0).keywords()).status == qc.Status.PRIMAL_INFEASIBLE


# --- conditioning ---


@pytest.mark.parametrize(
    "H", [1e-12 * np.eye(2), np.diag([1e-8, 1e8]), np.diag([1.0, 1e-14]), 1e6 * np.eye(2)], ids=str
)
def test_badly_conditioned_hessian_is_answered_honestly(H):
    qp = QP(H, [1.0, -2.0], C=[[1, 1]], l=[-1], u=[1], lb=[-3, -3], ub=[3, 3])
    sol = qc.solve_qp(**qp.keywords())
    assert sol.status == qc.Status.SOLVED
    assert_honest(qp, sol)
    assert abs(sol.objective - solve(qp).objective) < 1e-6 * (1 + abs(solve(qp).objective))


@pytest.mark.parametrize("exponent", [2, 6, 10, 14])
def test_condition_number_up_to_1e14_is_answered_honestly(exponent):
    rng = np.random.default_rng(exponent)
    Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    H = (Q * np.logspace(0, -exponent, 6)) @ Q.T
    qp = QP((H + H.T) / 2, rng.normal(size=6), lb=-np.ones(6), ub=np.ones(6))
    sol = qc.solve_qp(**qp.keywords())
    assert_honest(qp, sol)
    assert sol.status == qc.Status.SOLVED


def test_large_objective_is_solved_to_its_relative_tolerance():
    qp = random_feasible(0, 10, 3, 10)
    large = qp.with_(H=1e9 * qp.H, g=1e9 * qp.g)
    sol = qc.solve_qp(**large.keywords(), settings=qc.Settings(eps_abs=1e-6, eps_rel=1e-12))
    assert sol.status == qc.Status.SOLVED
    np.testing.assert_allclose(sol.x, solve(qp, "interior point").x, atol=1e-7)


# --- shapes ---


def test_single_problem_gives_vectors_and_scalars():
    qp = random_feasible(0, 5, 2, 4)
    sol = qc.solve_qp(**qp.keywords())
    shapes = {"x": (5,), "y": (2,), "z": (4,), "w": (5,), "s_eq": (2,), "s_lower": (4,), "s_upper": (4,)}
    for name, shape in (shapes | {"s_lb": (5,), "s_ub": (5,)}).items():
        assert getattr(sol, name).shape == shape, name
        assert getattr(sol, name).dtype == np.float64
    assert isinstance(sol.status, qc.Status)
    for name in ("objective", "iterations", "primal_residual", "dual_residual", "duality_gap"):
        assert np.ndim(getattr(sol, name)) == 0, name


def test_absent_rows_give_multipliers_of_length_zero_and_w_of_length_n():
    sol = qc.solve_qp(np.eye(3), np.ones(3))
    assert sol.y.shape == (0,) and sol.z.shape == (0,) and sol.w.shape == (3,)
    np.testing.assert_allclose(sol.x, -np.ones(3), atol=1e-9)


@pytest.mark.parametrize("batched", DATA)
def test_one_batched_argument_makes_a_batch_of_the_shared_rest(batched):
    qp = random_feasible(3, 4, 1, 3, box=True)
    arguments = qp.arguments()
    single = qc.solve_qp(**arguments)
    arguments[batched] = np.stack([arguments[batched]] * 3)
    sol = qc.solve_qp(**arguments)
    assert sol.x.shape == (3, 4) and sol.status.shape == (3,) and sol.objective.shape == (3,)
    for k in range(3):
        assert np.array_equal(sol.x[k], single.x)
        assert sol.status[k] == single.status


def test_batch_of_one_keeps_its_axis():
    sol = qc.solve_qp(np.eye(2)[None], np.ones(2))
    assert sol.x.shape == (1, 2) and sol.status.shape == (1,)


def test_empty_batch_and_empty_problem_are_answered():
    sol = qc.solve_qp(np.eye(2), np.zeros((0, 2)))
    assert sol.x.shape == (0, 2) and sol.status.shape == (0,)
    sol = qc.solve_qp(np.zeros((0, 0)), np.zeros(0))
    assert sol.x.shape == (0,) and sol.status == qc.Status.SOLVED and sol.objective == 0
    sol = qc.solve_qp(np.zeros((0, 0)), np.zeros(0), C=np.zeros((1, 0)), l=[1.0], u=[2.0])
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE


def test_rows_of_length_zero_equal_absent_rows():
    sol = qc.solve_qp(np.eye(2), np.ones(2), np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    np.testing.assert_allclose(sol.x, [-1, -1], atol=1e-9)


def test_missing_hessian_is_a_linear_program():
    np.testing.assert_allclose(qc.solve_qp(**lp_vertex().keywords()).x, [0, 1], atol=1e-8)


def test_missing_bounds_are_infinite():
    C = np.array([[1.0, 1.0]])
    only_lower = qc.solve_qp(np.eye(2), np.zeros(2), C=C, l=[2.0])
    np.testing.assert_allclose(only_lower.x, [1, 1], atol=1e-8)
    only_upper = qc.solve_qp(np.eye(2), np.zeros(2), C=C, u=[-2.0])
    np.testing.assert_allclose(only_upper.x, [-1, -1], atol=1e-8)
    only_lb = qc.solve_qp(np.eye(2), np.zeros(2), lb=[1.0, -1.0])
    np.testing.assert_allclose(only_lb.x, [1, 0], atol=1e-8)


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_bounds_act_as_an_equality_of_either_sign(sign):
    qp = equal_bounds()
    qp = qp.with_(g=sign * qp.g)
    exact, sol = solve(qp), qc.solve_qp(**qp.keywords())
    np.testing.assert_allclose(sol.x, exact.x, atol=1e-8)
    np.testing.assert_allclose(sol.z, exact.z, atol=1e-7)


# --- arrays as they come ---


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "read-only", "stride 0", "list", "sparse"])
def test_memory_layout_does_not_change_the_answer(kind):
    qp = random_feasible(1, 5, 2, 4, box=True)
    plain = qc.solve_qp(**qp.keywords())

    def convert(value):
        if kind == "fortran":
            return np.asfortranarray(value)
        if kind == "strided":
            wide = np.full(tuple(2 * s for s in value.shape), np.nan)
            wide[tuple(slice(None, None, 2) for _ in value.shape)] = value
            return wide[tuple(slice(None, None, 2) for _ in value.shape)]
        if kind == "reversed":
            return np.ascontiguousarray(value[::-1])[::-1]
        if kind == "read-only":
            value = value.copy()
            value.flags.writeable = False
            return value
        if kind == "stride 0":
            return np.broadcast_to(value, (3, *value.shape))
        if kind == "sparse":
            return scipy.sparse.csc_matrix(value) if value.ndim == 2 else value
        return value.tolist()

    sol = qc.solve_qp(**{name: convert(value) for name, value in qp.keywords().items()})
    x = sol.x[2] if kind == "stride 0" else sol.x
    assert np.array_equal(x, plain.x)


def test_integers_and_float32_give_the_same_answer():
    arguments = toy_crossing(1.5).arguments()
    exact = qc.solve_qp(**arguments)
    for dtype in (np.float32, np.float16):
        sol = qc.solve_qp(**{name: value.astype(dtype) for name, value in arguments.items()})
        assert sol.x.dtype == np.float64
        np.testing.assert_allclose(sol.x, exact.x, atol=20 * np.finfo(dtype).eps)
    sol = qc.solve_qp(np.eye(2, dtype=int), np.array([1, -2]), lb=np.array([0, 0], dtype=np.int32))
    np.testing.assert_allclose(sol.x, [0, 2], atol=1e-8)


def test_callers_arrays_never_change():
    for qp in (random_feasible(1, 5, 2, 4, box=True), random_infeasible_rank_deficient(0)):
        arguments = qp.arguments()
        before = {name: value.copy() for name, value in arguments.items()}
        qc.solve_qp(**arguments, settings=CLOSEST)
        for name, value in arguments.items():
            assert np.array_equal(value, before[name]), name


# --- residuals, limits, warm starts ---


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
    started = time.perf_counter()
    sol = qc.solve_qp(**batch, settings=qc.Settings(time_limit=1e-4, threads=1))
    assert time.perf_counter() - started < 10
    assert np.all((sol.status == qc.Status.TIME_LIMIT) | (sol.status == qc.Status.SOLVED))
    assert np.any(sol.status == qc.Status.TIME_LIMIT)


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


@pytest.mark.parametrize("size", [1.0, 1e3, 1e8])
def test_far_off_warm_start_gives_the_same_answer(size):
    qp = random_feasible(4, 10, 3, 10, box=True)
    cold = qc.solve_qp(**qp.keywords())
    rng = np.random.default_rng(0)
    for name in ("x", "y", "z", "w"):
        getattr(cold, name)[...] += size * rng.normal(size=getattr(cold, name).shape)
    warm = qc.solve_qp(**qp.keywords(), warm_start=cold)
    assert warm.status == qc.Status.SOLVED
    np.testing.assert_allclose(warm.x, solve(qp, "interior point").x, atol=1e-7)


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
        degenerate_vertex(),
        random_infeasible_rank_deficient(1),
    ):
        first = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
        qc.solve_qp(**crossed_bounds().keywords(), settings=CLOSEST)  # another problem in between
        second = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
        for name in ("x", "y", "z", "w", "s_eq"):
            assert np.array_equal(getattr(first, name), getattr(second, name)), name


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


def test_import_is_quick_and_does_not_load_torch():
    """0.3 s is the project's bar; torch alone takes longer than that."""
    code = (
        "import time; t = time.perf_counter(); import qp_control; t = time.perf_counter() - t\n"
        "import sys; print(t, 'torch' in sys.modules, 'pinocchio' in sys.modules)"
    )
    results = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert results[0][1:] == ["False", "False"]
    assert min(float(r[0]) for r in results) < 0.3


def test_row_that_elimination_leaves_as_rounding_does_not_carry_a_multiplier():
    """A box fixes x_1 where the shifted rows fix it too: what is left of a row must not be scaled up."""
    sol = qc.solve_qp(
        [[0.25, -1.5], [-1.5, 9.0]],
        [2.0, 0.0],
        [[-1.0, 2.0], [1.0, 2.0]],
        [0.5, 2.0],
        [[1.0, 1.0], [0.0, -1.0]],
        [-1.0, -np.inf],
        [0.5, 2.0],
        lb=[0.5, -2.0],
        ub=[np.inf, 0.0],
        settings=qc.Settings(infeasible="closest"),
    )
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(sol.x, [0.5, 0.5], atol=1e-12)
    assert np.abs(np.concatenate([sol.y, sol.z, sol.w])).max() < 1e3
