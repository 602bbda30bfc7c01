"""Linear programs whose active set is hard to find: degenerate vertices, dependent rows, exponential scales."""

import itertools

import numpy as np
import pytest
from qp_data import QP
from verdicts import assert_honest

import qp_control as qc


def transport(seed, sources, sinks):
    """Ship supplies to demands at least cost; the equalities are dependent, and ties make the vertices degenerate."""
    rng = np.random.default_rng(seed)
    supply = rng.integers(1, 9, size=sources).astype(float)
    demand = rng.multinomial(int(supply.sum()), np.ones(sinks) / sinks).astype(float)
    A = np.zeros((sources + sinks, sources * sinks))
    for i, j in itertools.product(range(sources), range(sinks)):
        A[i, i * sinks + j] = A[sources + j, i * sinks + j] = 1.0
    cost = rng.integers(1, 6, size=sources * sinks).astype(float)
    return {"g": cost, "A": A, "b": np.concatenate([supply, demand]), "lb": np.zeros(sources * sinks)}


@pytest.mark.parametrize("seed", range(6))
def test_degenerate_transport_problems_are_solved_with_a_proof(seed):
    arguments = transport(seed, 6 + seed, 9)
    sol = qc.solve_qp(**arguments, settings=qc.Settings(eps_abs=1e-9, eps_gap=1e-8))
    assert sol.status is qc.Status.SOLVED
    assert_honest(QP(**{"H": None} | arguments), sol)
    # Integer data: the least cost is an integer.
    assert sol.objective == pytest.approx(round(sol.objective), abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_transport_that_demands_more_than_there_is_is_infeasible_with_a_proof(seed):
    arguments = transport(seed, 7, 9)
    arguments["b"][-1] += 1.0
    sol = qc.solve_qp(**arguments)
    assert sol.status is qc.Status.PRIMAL_INFEASIBLE
    assert_honest(QP(**{"H": None} | arguments), sol)


def test_assignment_equals_the_best_permutation():
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(5, 5))
    best = min(sum(cost[i, p[i]] for i in range(5)) for p in itertools.permutations(range(5)))
    arguments = transport(0, 5, 5) | {"g": cost.reshape(-1), "b": np.ones(10)}
    sol = qc.solve_qp(**arguments)
    assert sol.status is qc.Status.SOLVED
    assert sol.objective == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("d", [3, 5, 7])
def test_klee_minty_cube(d):
    """max sum 10^(d-j) x_j  s.t.  2 sum_{j<i} 10^(i-j) x_j + x_i <= 100^(i-1), x >= 0: the optimum is 100^(d-1)."""
    C = np.eye(d)
    for i in range(d):
        for j in range(i):
            C[i, j] = 2.0 * 10.0 ** (i - j)
    u = 100.0 ** np.arange(d)
    g = -(10.0 ** np.arange(d - 1, -1, -1))
    sol = qc.solve_qp(g=g, C=C, u=u, lb=np.zeros(d), settings=qc.Settings(eps_abs=1e-6))
    assert sol.status is qc.Status.SOLVED
    assert sol.objective == pytest.approx(-(100.0 ** (d - 1)), rel=1e-12)


@pytest.mark.parametrize("n", [12, 40])
def test_linear_program_with_a_line_of_solutions_in_badly_scaled_units(n):
    rng = np.random.default_rng(n)
    units = 10.0 ** rng.uniform(-3, 3, size=n)
    A = rng.normal(size=(n // 3, n)) * units
    x = np.where(rng.random(n) < 0.6, rng.exponential(size=n), 0.0) / units
    multiplier = A.T @ rng.normal(size=n // 3)
    g = np.where(x > 0, 0.0, rng.exponential(size=n)) * units - multiplier
    arguments = {"g": g, "A": A, "b": A @ x, "lb": np.zeros(n)}
    sol = qc.solve_qp(**arguments, settings=qc.Settings(eps_abs=1e-8, eps_gap=1e-6))
    assert sol.status is qc.Status.SOLVED
    assert_honest(QP(**{"H": None} | arguments), sol)
    assert sol.objective == pytest.approx(g @ x, rel=1e-7, abs=1e-6)


def test_linear_programs_in_units_eight_orders_apart_need_the_rescue_and_are_solved():
    """The loop gives up after at most 60 Newton steps; who answers later has been rescued."""
    steps = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        units = 10.0 ** rng.uniform(-4, 4, size=60)
        A = rng.normal(size=(30, 60)) * units
        x = np.where(rng.random(60) < 0.6, rng.exponential(size=60), 0.0) / units
        multiplier = A.T @ rng.normal(size=30)
        g = np.where(x > 0, 0.0, rng.exponential(size=60)) * units - multiplier
        sol = qc.solve_qp(g=g, A=A, b=A @ x, lb=np.zeros(60), settings=qc.Settings(eps_abs=1e-7))
        assert sol.status is qc.Status.SOLVED
        assert sol.objective == pytest.approx(g @ x, rel=1e-7, abs=1e-5)
        steps.append(sol.iterations)
    assert max(steps) > 60


def held_at_zero(seed, n):
    """Rows of positive entries with b = 0 hold variables at zero: every larger multiplier of theirs would do, too."""
    rng = np.random.default_rng(seed)
    m, holding = n // 2, n // 4
    A = rng.normal(size=(m, n)) * 10.0 ** rng.uniform(-2, 2, size=(m, n)) * (rng.random((m, n)) < 0.3)
    x = np.where(rng.random(n) < 0.4, rng.exponential(size=n), 0.0) * 10.0 ** rng.uniform(-1, 3, size=n)
    A[:holding] = 0.0
    for row in A[:holding]:
        held = rng.choice(np.flatnonzero(x == 0.0), 4, replace=False)
        row[held] = 10.0 ** rng.uniform(-2, 2, size=4)
    g = np.where(x > 0.0, 0.0, rng.exponential(size=n)) - A.T @ rng.normal(size=m)
    return {"g": g, "A": A, "b": A @ x, "lb": np.zeros(n)}


def dense_program(seed, n=100):
    """One where the gradient of the solver's loop does not fall in the first 20 steps."""
    rng = np.random.default_rng(seed)
    C, bound = rng.normal(size=(n, n)), np.full(n, 10.0)
    u = C @ rng.normal(size=n) + rng.exponential(size=n)
    return {"g": -C.T @ rng.exponential(size=n), "C": C, "u": u, "lb": -bound, "ub": bound}


@pytest.mark.parametrize("seed", range(6))
def test_program_whose_active_set_the_loop_does_not_find_is_rescued_early_and_ends_early(seed):
    """20 steps of the loop, and of the rescue no more than name the active set."""
    arguments = dense_program(seed)
    sol = qc.solve_qp(**arguments, settings=qc.Settings(eps_abs=1e-9, eps_gap=1e-8))
    assert sol.status is qc.Status.SOLVED
    assert_honest(QP(**{"H": None} | arguments), sol)
    assert sol.iterations < 33


@pytest.mark.parametrize("mode", [{}, {"infeasible": "closest", "eps_rel": 1e-10}])
@pytest.mark.parametrize("seed", range(6))
def test_an_early_rescue_that_fails_does_not_hide_a_contradiction(seed, mode):
    arguments = dense_program(seed)
    rng = np.random.default_rng(seed + 77)
    weights = rng.exponential(size=100) * (rng.random(100) < 0.5)
    arguments["u"] = np.append(arguments["u"], -weights @ arguments["u"] - 1e-5)
    arguments["C"] = np.vstack([arguments["C"], -weights @ arguments["C"]])
    sol = qc.solve_qp(**arguments, settings=qc.Settings(**mode))
    assert sol.status is (qc.Status.CLOSEST_FEASIBLE if mode else qc.Status.PRIMAL_INFEASIBLE)
    assert_honest(QP(**{"H": None} | arguments), sol)


@pytest.mark.parametrize("seed", [6, 97, 161, 177, 199])
def test_an_early_rescue_that_fails_does_not_hide_a_ray(seed):
    """Along d, which no row holds and H does not see, the gradient falls only far away."""
    rng = np.random.default_rng(seed)
    d, C, g = rng.normal(size=60), rng.normal(size=(40, 60)), rng.normal(size=60)
    C[C @ d > 0.0] *= -1.0
    F = rng.normal(size=(rng.integers(1, 30), 60))
    F -= np.outer(F @ d, d) / (d @ d)
    x = rng.normal(size=60)
    g *= -np.sign(g @ d) * 10.0 ** rng.uniform(-3.0, 3.0)
    arguments = {"H": F.T @ F, "g": g, "C": C, "u": C @ x + rng.exponential(size=40) * 10.0 ** rng.uniform(-3.0, 3.0)}
    sol = qc.solve_qp(**arguments)
    assert sol.status is qc.Status.DUAL_INFEASIBLE
    assert_honest(QP(**arguments), sol)
    assert sol.iterations > 60  # of the loop, the rescue and the loop again


# Of 60 variables those that the interior point does not solve by itself.
@pytest.mark.parametrize(("n", "seeds"), [(100, range(20)), (60, (18, 21, 114, 171, 179, 195, 201, 260, 262, 271))])
def test_multipliers_without_a_bound_do_not_keep_a_linear_program_from_nine_digits(n, seeds):
    """An interior point stops at multipliers of 1e7 and more, whose rounding alone exceeds 1e-9."""
    for seed in seeds:
        arguments = held_at_zero(seed, n)
        sol = qc.solve_qp(**arguments, settings=qc.Settings(eps_abs=1e-9, eps_gap=1e-9))
        assert sol.status is qc.Status.SOLVED
        assert_honest(QP(**{"H": None} | arguments), sol)
