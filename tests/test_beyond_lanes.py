"""Named problems beside so many variables of their own that they are not solved in lanes: the same answers by the other
code."""

import numpy as np
import pytest
from adjoint_oracle import OUTPUTS, adjoint
from kkt_oracle import solve
from problems import FEASIBLE, INFEASIBLE, UNBOUNDED, both_infeasible
from qp_data import DATA, QP
from verdicts import assert_honest, farkas_holds, ray_holds

import qp_control as qc

CLOSEST = qc.Settings(infeasible="closest")
EXTRA = 30
SHIFTS = ("s_eq", "s_lower", "s_upper", "s_lb", "s_ub")


def padded(qp):
    """The first of the added variables ends at its bound 1, the others at 0."""
    n = qp.n + EXTRA
    H, g = np.zeros((n, n)), np.zeros(n)
    H[: qp.n, : qp.n], H[qp.n :, qp.n :] = qp.hessian, np.eye(EXTRA)
    g[: qp.n] = qp.g
    lb, ub = np.full(n, -np.inf), np.full(n, np.inf)
    if qp.lb is not None:
        lb[: qp.n] = qp.lb
    if qp.ub is not None:
        ub[: qp.n] = qp.ub
    lb[qp.n] = 1.0

    def wide(rows):
        return None if rows is None else np.hstack([rows, np.zeros((rows.shape[0], EXTRA))])

    return QP(H, g, wide(qp.A), qp.b, wide(qp.C), qp.l, qp.u, lb, ub)


def padded_answer(exact):
    added = np.zeros(EXTRA)
    added[0] = 1.0
    exact.x, exact.w = np.concatenate([exact.x, added]), np.concatenate([exact.w, -added])
    exact.s_lb, exact.s_ub = (np.concatenate([s, np.zeros(EXTRA)]) for s in (exact.s_lb, exact.s_ub))
    exact.objective += 0.5
    return exact


@pytest.mark.parametrize("mode", ["certify", "closest"])
@pytest.mark.parametrize("name", FEASIBLE)
def test_named_feasible_problem_is_solved(name, mode):
    qp, exact = padded(FEASIBLE[name]()), padded_answer(solve(FEASIBLE[name]()))
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible=mode))
    assert sol.status == qc.Status.SOLVED
    assert_honest(qp, sol)
    assert abs(sol.objective - exact.objective) < 1e-7 * (1 + abs(exact.objective))
    assert not any(getattr(sol, shift).any() for shift in SHIFTS)
    if exact.unique:
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)
    if exact.unique and exact.multipliers_unique:
        for multiplier in ("y", "z", "w"):
            np.testing.assert_allclose(getattr(sol, multiplier), getattr(exact, multiplier), atol=1e-6)


@pytest.mark.parametrize("name", INFEASIBLE)
def test_named_infeasible_problem_has_a_certificate_and_the_least_shift(name):
    qp, exact = padded(INFEASIBLE[name]()), padded_answer(solve(INFEASIBLE[name]()))
    strict = qc.solve_qp(**qp.keywords())
    assert strict.status == qc.Status.PRIMAL_INFEASIBLE
    assert farkas_holds(qp, strict.certificate_y, strict.certificate_z, strict.certificate_w)
    sol = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    for shift in SHIFTS:
        np.testing.assert_allclose(getattr(sol, shift), getattr(exact, shift), atol=1e-7, err_msg=shift)
    if exact.unique:
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)


@pytest.mark.parametrize("mode", ["certify", "closest"])
@pytest.mark.parametrize("name", UNBOUNDED)
def test_named_unbounded_problem_has_a_ray(name, mode):
    qp = padded(UNBOUNDED[name]())
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible=mode))
    assert sol.status == qc.Status.DUAL_INFEASIBLE
    assert ray_holds(qp, sol.certificate_x)


def test_problem_infeasible_both_ways_gets_a_certificate_that_holds():
    qp = padded(both_infeasible())
    sol = qc.solve_qp(**qp.keywords())
    assert sol.status in (qc.Status.PRIMAL_INFEASIBLE, qc.Status.DUAL_INFEASIBLE)
    assert_honest(qp, sol)


@pytest.mark.parametrize("group", [FEASIBLE, INFEASIBLE], ids=["feasible", "infeasible"])
def test_gradients_equal_the_exact_active_set_where_the_answer_is_unique(group):
    seen = 0
    for name, problem in group.items():
        qp, exact = padded(problem()), padded_answer(solve(problem()))
        if not (exact.unique and exact.multipliers_unique):
            continue
        seen += 1
        sol = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
        rng = np.random.default_rng(0)
        loss = {output: rng.normal(size=np.shape(getattr(sol, output))) for output in OUTPUTS}
        found = qc.qp_adjoint(**qp.keywords(), solution=sol, **loss)
        expected = adjoint(qp, exact, loss)
        for data in DATA:
            if getattr(qp, data) is not None:
                scale = max(1.0, np.abs(expected[data]).max())
                assert np.abs(getattr(found, data) - expected[data]).max() < 1e-8 * scale, (name, data)
    assert seen >= 3


def test_indefinite_hessian_is_not_called_solved_and_rounding_is():
    H = np.eye(40)
    H[7, 7] = -1e-3
    for bounds in ({}, {"lb": -np.ones(40), "ub": np.ones(40)}):
        assert qc.solve_qp(H, np.zeros(40), **bounds).status == qc.Status.NON_CONVEX
    H[7, 7] = -1e-14
    assert qc.solve_qp(H, np.zeros(40), lb=-np.ones(40), ub=np.ones(40)).status == qc.Status.SOLVED


@pytest.mark.parametrize("exponent", [2, 6, 10, 14])
def test_condition_number_up_to_1e14_is_answered_honestly(exponent):
    rng = np.random.default_rng(exponent)
    Q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    H = (Q * np.logspace(0, -exponent, 40)) @ Q.T
    qp = QP((H + H.T) / 2, rng.normal(size=40), lb=-np.ones(40), ub=np.ones(40))
    sol = qc.solve_qp(**qp.keywords())
    assert sol.status == qc.Status.SOLVED
    assert_honest(qp, sol)
