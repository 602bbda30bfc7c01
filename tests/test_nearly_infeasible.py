"""Problems at the edge of feasibility: an unstable closed loop amplifies what one row of an OCP asks for.

With as many rows as inputs in every stage some input satisfies them all, at states of 1e5 and multipliers of 1e11; with
fewer inputs there is a bound where feasibility ends. Answers are held against 60-digit arithmetic on the active set
that the solver names, which proves that it is the right one.
"""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from least_shift_oracle import least_shift
from ocp_problems import INF, Dense, random_ocp
from qp_data import QP
from verdicts import assert_honest, farkas_holds

import qp_control as qc

MODES = ("certify", "closest")
# (N, nx, nu, seed, lower bound of the first row of the first stage)
FEASIBLE = [
    (8, 4, 2, 0, 60.0), (8, 4, 2, 0, 3.0), (8, 4, 2, 15, 60.0), (8, 4, 2, 22, 60.0), (8, 4, 2, 24, 3.0),
    (8, 4, 2, 36, 60.0), (12, 4, 2, 5, 60.0), (12, 4, 2, 20, 60.0), (12, 4, 2, 27, 60.0),
]  # fmt: skip
INFEASIBLE = [(8, 3, 1, 2, 60.0), (8, 3, 1, 2, 3.0), (12, 3, 1, 10, 60.0), (12, 3, 1, 26, 60.0)]


def demanding(N, nx, nu, seed, lower):
    d, _ = random_ocp(seed, nx=nx, nu=nu, N=N, rows=2, box=False)
    d["lower"][0, 0], d["upper"][0, 0] = lower, lower + 1.0
    return d


def settings(mode, eps_rel):
    return qc.Settings(eps_rel=eps_rel, infeasible=mode)


def qp_of(dense):
    return QP(dense.H, dense.g, dense.E, dense.e, dense.C, dense.l, dense.u, dense.lb, dense.ub)


def decimals(a):
    return np.vectorize(Decimal, otypes=[object])(np.asarray(a, float))


def solve_decimal(K, rhs):
    """Gaussian elimination with pivots by rows."""
    M = np.column_stack([K, rhs])
    n = len(M)
    for j in range(n):
        pivot = j + int(np.argmax(np.abs(M[j:, j])))
        M[[j, pivot]] = M[[pivot, j]]
        factors = M[j + 1 :, j] / M[j, j]
        busy = np.flatnonzero(factors)
        M[j + 1 + busy, j:] -= np.outer(factors[busy], M[j, j:])
    x = np.full(n, Decimal(0))
    for j in reversed(range(n)):
        x[j] = (M[j, n] - M[j, j + 1 : n] @ x[j + 1 :]) / M[j, j]
    return x


def exact_solution(dense, sol):
    """x by 60 digits; fails unless the rows of C that carry a multiplier are the active set of the solution."""
    active = np.flatnonzero(sol.z)
    side = np.sign(sol.z[active])
    with localcontext() as context:
        context.prec = 60
        R = decimals(np.vstack([dense.E, dense.C[active]]))
        bound = decimals(np.concatenate([dense.e, np.where(side > 0, dense.u[active], dense.l[active])]))
        H = (decimals(dense.H) + decimals(dense.H.T)) / 2
        zero = np.full((len(R), len(R)), Decimal(0))
        s = solve_decimal(np.block([[H, R.T], [R, zero]]), np.concatenate([-decimals(dense.g), bound]))
        x, z = s[: len(H)], s[len(H) + len(dense.e) :]
        v = decimals(dense.C) @ x
        free = np.setdiff1d(np.arange(len(v)), active)
        assert np.all(z * decimals(side) > 0)
        assert all(Decimal(dense.l[i]) < v[i] < Decimal(dense.u[i]) for i in free)
        return x.astype(float)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", FEASIBLE, ids=str)
def test_feasible_problem_with_huge_multipliers_is_solved_to_its_relative_tolerance(problem, mode):
    dense = Dense(demanding(*problem), problem[0])
    sol = qc.solve_qp(**dense.keywords(), settings=settings(mode, 1e-9))
    assert sol.status is qc.Status.SOLVED
    assert np.abs(sol.y).max() > 1e6
    assert not any(np.any(s) for s in (sol.s_eq, sol.s_lower, sol.s_upper))
    x = exact_solution(dense, sol)
    # The states amplify rounding as they amplify the bounds: 1e16 in double precision leaves this many digits.
    np.testing.assert_allclose(sol.x, x, atol=1e-9 * np.abs(x).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", FEASIBLE, ids=str)
def test_absolute_tolerance_that_rounding_keeps_out_of_reach_still_gives_the_solution(problem, mode):
    dense = Dense(demanding(*problem), problem[0])
    sol = qc.solve_qp(**dense.keywords(), settings=settings(mode, 0.0))
    assert sol.status in (qc.Status.SOLVED, qc.Status.MAX_ITER)
    assert_honest(qp_of(dense), sol)
    solved = qc.solve_qp(**dense.keywords(), settings=settings(mode, 1e-9))
    np.testing.assert_allclose(sol.x, solved.x, atol=1e-9 * np.abs(solved.x).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", FEASIBLE, ids=str)
def test_optimal_control_front_solves_it_too(problem, mode):
    d, N = demanding(*problem), problem[0]
    dense = Dense(d, N)
    sol = qc.solve_ocp(**d, horizon=N, settings=settings(mode, 1e-9))
    exact = qc.solve_qp(**dense.keywords(), settings=settings(mode, 1e-9))
    assert sol.status is exact.status is qc.Status.SOLVED
    # A residual of 1e-9 of the states, times multipliers, is this much of the objective.
    room = 10 * 1e-9 * np.abs(exact.x).max() * np.abs(exact.y).max()
    assert abs(sol.objective - exact.objective) <= room


def with_tail(d, N, stages):
    """The same problem with stages behind it whose states and inputs are zero: too long for the dense form."""
    nx, nu = d["B"].shape[1:]
    tail = {name: np.zeros((stages - N, *array.shape[1:])) for name, array in d.items() if name not in ("x0", "q_N")}
    tail["Q"][0], tail["q"][0] = d["Q_N"], d["q_N"]
    tail["R"][:] = np.eye(nu)
    tail["lower"][:], tail["upper"][:] = -INF, INF
    joined = {name: np.concatenate([d[name], tail[name]]) for name in d if name not in ("x0", "Q_N", "q_N")}
    return joined | {"x0": d["x0"], "Q_N": np.zeros((nx, nx)), "q_N": np.zeros(nx)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", FEASIBLE, ids=str)
def test_long_horizon_is_rescued_at_a_cost_that_is_linear_in_it(problem, mode):
    d, N = demanding(*problem), problem[0]
    dense = Dense(d, N)
    sol = qc.solve_ocp(**with_tail(d, N, 520), settings=settings(mode, 1e-9))
    exact = qc.solve_qp(**dense.keywords(), settings=settings(mode, 1e-9))
    assert sol.status is exact.status is qc.Status.SOLVED
    np.testing.assert_allclose(dense.join(sol.x[: N + 1], sol.u[:N]), exact.x, atol=1e-8 * np.abs(exact.x).max())
    assert not sol.x[N + 1 :].any()


def condensed(dense):
    """The rows as functions of the inputs alone: what is left where the dynamics are hard."""
    inputs = np.concatenate([np.arange(s.start, s.stop) for s in dense.U])
    states = np.setdiff1d(np.arange(len(dense.g)), inputs)
    at_zero = np.linalg.solve(dense.E[:, states], dense.e)
    change = np.linalg.solve(dense.E[:, states], -dense.E[:, inputs])
    C = dense.C[:, inputs] + dense.C[:, states] @ change
    offset = dense.C[:, states] @ at_zero
    n = len(inputs)
    return QP(np.eye(n), np.zeros(n), C=C, l=dense.l - offset, u=dense.u - offset)


@pytest.mark.parametrize("front", ["dense", "optimal control", "long horizon"])
@pytest.mark.parametrize("problem", INFEASIBLE, ids=str)
def test_infeasible_problem_with_huge_multipliers_is_certified_and_shifted_by_the_least_amount(problem, front):
    d, N = demanding(*problem), problem[0]
    dense = Dense(d, N)

    def solve(mode):
        if front == "dense":
            return qc.solve_qp(**dense.keywords(), settings=settings(mode, 1e-9))
        longer = with_tail(d, N, 800) if front == "long horizon" else d
        return qc.solve_ocp(**longer, settings=settings(mode, 1e-9))

    strict, closest = solve("certify"), solve("closest")
    assert strict.status is qc.Status.PRIMAL_INFEASIBLE
    if front == "dense":
        assert farkas_holds(qp_of(dense), strict.certificate_y, strict.certificate_z, strict.certificate_w)
    assert closest.status is qc.Status.CLOSEST_FEASIBLE
    shift = least_shift(condensed(dense))
    found = np.sqrt((np.ravel(closest.s_lower) ** 2).sum() + (np.ravel(closest.s_upper) ** 2).sum())
    # The oracle's rows are products over the stages, so it has fewer digits than the solver.
    assert found == pytest.approx(np.linalg.norm(shift), rel=1e-6)


# Inequalities of one input cannot all be had: (nx, N, seed).
EDGES = [(nx, N, seed) for nx, N in ((3, 4), (3, 8), (4, 4), (4, 8)) for seed in (0, 1, 3, 5, 7, 11, 12)]


@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_both_sides_of_the_edge_of_feasibility_are_told_apart(edge):
    nx, N, seed = edge

    def solve(lower, mode, structured):
        d = demanding(N, nx, 1, seed, lower)
        if structured:
            return qc.solve_ocp(**d, horizon=N, settings=settings(mode, 1e-9)), None
        dense = Dense(d, N)
        return qc.solve_qp(**dense.keywords(), settings=settings(mode, 1e-9)), qp_of(dense)

    original, _ = random_ocp(seed, nx=nx, nu=1, N=N, rows=2, box=False)
    # Feasible by construction, and far beyond.
    low, high = original["upper"][0, 0] - 1.0, 100.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        feasible = solve(middle, "closest", False)[0].status is qc.Status.SOLVED
        low, high = (middle, high) if feasible else (low, middle)
    for distance in (1e-2, 1e-4):
        for side, strict, closest in (
            (-1.0, qc.Status.SOLVED, qc.Status.SOLVED),
            (1.0, qc.Status.PRIMAL_INFEASIBLE, qc.Status.CLOSEST_FEASIBLE),
        ):
            lower = low + side * distance * max(1.0, abs(low))
            for structured in (False, True):
                for mode, expected in (("certify", strict), ("closest", closest)):
                    sol, qp = solve(lower, mode, structured)
                    assert sol.status == expected, (distance, side, mode, structured)
                    if expected is qc.Status.PRIMAL_INFEASIBLE and not structured:
                        assert farkas_holds(qp, sol.certificate_y, sol.certificate_z, sol.certificate_w)
                    if expected is qc.Status.SOLVED and not structured:
                        assert_honest(qp, sol, 1e-8 + 1e-9 * np.abs(qp.rows()[0] @ sol.x).max())


def reach(seed, N=700, at=349, target=50.0):
    """Inputs within 0.1 cannot bring the first state there; what they lack fades away with the stages before."""
    A, B = 0.9 * np.eye(3) + 0.2 * np.eye(3, k=1), np.random.default_rng(seed).normal(size=(3, 2))
    x_lower = np.full((N, 3), -INF)
    x_lower[at, 0] = target
    box = {"u_lower": np.full(2, -0.1), "u_upper": np.full(2, 0.1), "x_lower": x_lower}
    return {"A": A, "B": B, "Q": np.eye(3), "R": np.eye(2), "x0": np.ones(3)} | box


@pytest.mark.parametrize("seed", [0, 3, 7, 21])
def test_state_out_of_reach_in_700_stages_is_certified_and_shifted_by_the_least_amount(seed):
    d = reach(seed)
    assert qc.solve_ocp(**d, horizon=700).status is qc.Status.PRIMAL_INFEASIBLE
    sol = qc.solve_ocp(**d, horizon=700, settings=qc.Settings(infeasible="closest"))
    assert sol.status is qc.Status.CLOSEST_FEASIBLE
    follows = sol.x[:-1] @ d["A"].T + sol.u @ d["B"].T
    assert np.abs(follows - sol.x[1:]).max() < 1e-9
    s_x, s_u = sol.s_x_upper - sol.s_x_lower, sol.s_u_upper - sol.s_u_lower
    assert np.abs(s_x).max() > 0.1
    # A shifted row ends at its shifted bound.
    assert np.abs(np.where(s_x != 0, sol.x - np.r_[np.full((1, 3), -INF), d["x_lower"]] - s_x, 0.0)).max() < 1e-9
    assert np.abs(np.where(s_u != 0, np.abs(sol.u) - 0.1 - np.abs(s_u), 0.0)).max() < 1e-9
    # The least: the shifts are multipliers of their rows, y_k = A'y_{k+1} + s_x,k, B'y_{k+1} + s_u,k = 0. Shifts below
    # 1e-11 are none, and multipliers of the wrong sign up to 1e-9 are taken for rounding.
    y = np.zeros(3)
    for k in reversed(range(700)):
        y = d["A"].T @ y + s_x[k + 1]
        assert np.abs(d["B"].T @ y + s_u[k]).max() < 2e-9 + 1e-9 * np.abs(y).max()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("N", "at"), [(60, 40), (120, 90)])
def test_fading_shifts_equal_those_of_the_dense_form(seed, N, at):
    d = reach(seed, N, at)
    closest = qc.Settings(infeasible="closest")
    sol = qc.solve_ocp(**d, horizon=N, settings=closest)
    dense = Dense(d | {"Q": np.broadcast_to(d["Q"], (N + 1, 3, 3))}, N)
    exact = qc.solve_qp(**dense.keywords(), settings=closest)
    assert sol.status is exact.status is qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(dense.join(sol.x, sol.u), exact.x, atol=1e-7)
    np.testing.assert_allclose(dense.join(sol.s_x_lower, sol.s_u_lower), exact.s_lb, atol=1e-8)
