"""What solve_qp answers to one problem: named problems of every kind, and badly conditioned ones."""

import dataclasses

import numpy as np
import pytest
from kkt_oracle import solve
from problems import (
    FEASIBLE,
    INFEASIBLE,
    UNBOUNDED,
    both_infeasible,
    contradicting_equalities,
    crossed_bounds,
    crossed_box,
    random_feasible,
    zero_row,
)
from qp_data import QP
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
    assert_honest(qp, sol)
    closest = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    assert closest.status in (qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE)
    assert_honest(qp, closest)
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
    strict = qc.solve_qp(**large.keywords())  # asks for more digits than doubles have: whatever it says must hold
    assert strict.status in (qc.Status.SOLVED, qc.Status.MAX_ITER)
    assert_honest(large, strict)


@pytest.mark.parametrize("bounds", ["met", "contradicting"])
def test_reduced_tolerance_counts_where_rounding_is_above_the_others(bounds):
    qp = random_feasible(0, 10, 3, 10)
    large = qp.with_(H=1e9 * qp.H, g=1e9 * qp.g)
    if bounds == "contradicting":
        large = large.with_(lb=np.full(10, 3.0), ub=np.full(10, 4.0))
    strict = qc.Settings(eps_abs=1e-9, infeasible="closest")
    reduced = dataclasses.replace(strict, reduced_eps_rel=1e-11)
    assert qc.solve_qp(**large.keywords(), settings=strict).status == qc.Status.MAX_ITER
    sol = qc.solve_qp(**large.keywords(), settings=reduced)
    assert sol.status == (qc.Status.SOLVED if bounds == "met" else qc.Status.CLOSEST_FEASIBLE)
    terms = max(np.abs(large.H @ sol.x).max(), np.abs(large.g).max(), np.abs(large.C.T @ sol.z).max())
    assert 1e-9 < sol.dual_residual <= 1e-9 + 1e-11 * 10.0 * terms


def test_reduced_tolerance_changes_nothing_where_the_others_are_reached():
    for name in FEASIBLE:
        qp = FEASIBLE[name]()
        first, second = (qc.solve_qp(**qp.keywords(), settings=qc.Settings(reduced_eps_rel=r)) for r in (0.0, 1e-2))
        assert second.status == qc.Status.SOLVED and second.iterations == first.iterations
        np.testing.assert_array_equal(second.x, first.x)


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
