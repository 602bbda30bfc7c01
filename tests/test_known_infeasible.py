"""Constraints that a batch shares and that cannot be met are found to be so once: nobody can tell from the results."""

import numpy as np
import pytest
from problems import random_feasible

import qp_control as qc

FIELDS = (
    "x", "y", "z", "w", "s_eq", "s_lower", "s_upper", "s_lb", "s_ub", "objective", "status", "iterations",
    "primal_residual", "dual_residual", "duality_gap", "certificate_x", "active_in", "active_box",
)  # fmt: skip
SIZES = [5, 30, 64]  # in lanes, and singly
CLOSEST = qc.Settings(infeasible="closest", threads=1)


def shared_problem(n, contradiction):
    """Two opposite rows want to be so much apart; costs of very different sizes."""
    rng = np.random.default_rng(n)
    qp = random_feasible(0, n, n // 5, n // 2 + 1, active=0.4, box=True).arguments()
    qp["C"][1] = -qp["C"][0]
    qp["l"][:2], qp["u"][:2] = 0.5 * contradiction, np.inf
    qp["lb"] -= 1.0  # leaves rows 0 and 1 room for zero
    qp["ub"] += 1.0
    return qp | {"g": rng.normal(size=(12, n)) * 10.0 ** rng.uniform(-4, 6, size=(12, 1))}


def statuses(problem, settings=CLOSEST):
    """Of the batch, each of whose elements is, to the bit, as it is alone and in the reverse order."""
    with np.errstate(all="ignore"):
        batch = qc.solve_qp(**problem, settings=settings)
        reverse = qc.solve_qp(**problem | {"g": problem["g"][::-1]}, settings=settings)
        alone = [qc.solve_qp(**problem | {"g": g}, settings=settings) for g in problem["g"]]
    for name in FIELDS:
        found = getattr(batch, name)
        np.testing.assert_array_equal(found, getattr(reverse, name)[::-1], err_msg=name)
        np.testing.assert_array_equal(found, [getattr(one, name) for one in alone], err_msg=name)
    return [qc.Status(s).name for s in batch.status]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("linear_program", [False, True])
def test_elements_are_what_they_are_alone(n, linear_program):
    problem = shared_problem(n, 0.3)
    if linear_program:
        problem["H"] = np.zeros((n, n))
    assert statuses(problem) == ["CLOSEST_FEASIBLE"] * 12


@pytest.mark.parametrize("n", SIZES)
def test_elements_without_an_answer_are_what_they_are_alone(n):
    """One overflows, others are unbounded along a variable that nothing else depends on."""
    problem = shared_problem(n, 0.3)
    for name in ("A", "C"):
        problem[name][:, -1] = 0.0
    problem["H"][-1], problem["H"][:, -1] = 0.0, 0.0
    problem["ub"][-1] = np.inf
    problem["g"][:, -1] = np.where(np.arange(12) % 4 == 1, -1.0, 1.0)
    problem["g"][6] *= 1e300
    found = statuses(problem)
    assert [name == "DUAL_INFEASIBLE" for name in found] == [k % 4 == 1 for k in range(12)]
    assert found.count("CLOSEST_FEASIBLE") >= 8


@pytest.mark.parametrize("seed", range(40))
def test_unbounded_elements_are_said_to_be_unbounded_however_badly_scaled(seed):
    """The level above may find no answer to them (seeds 11 and 32, once): that of the problem as it is stands."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=12)
    C = rng.normal(size=(5, 12)) * 10.0 ** rng.uniform(-6, 6, size=(5, 1))
    x = rng.normal(size=12)
    rows = {"A": np.outer([1e4, -3e4], a), "b": np.array([1e4, -3e4]) * (a @ x) + [1e4, 0.0]}
    rows |= {"C": C, "l": C @ x - np.linalg.norm(C, axis=1), "u": np.full(5, np.inf)}
    assert statuses(rows | {"g": 1e-6 * rng.normal(size=(6, 12))}) == ["DUAL_INFEASIBLE"] * 6


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", range(8))
def test_contradictions_of_tiny_rows_have_an_answer(seed, n):
    """Rows that are 1e-7 times another: attempts to meet them end without an answer."""
    rng = np.random.default_rng(seed)
    a, x = rng.normal(size=(2, n))
    A = np.stack([1e3 * a, 1e-4 * rng.normal(size=n), -1e-4 * a])
    problem = {"H": np.diag(rng.random(n)), "A": A, "b": A @ x + [0.0, 0.0, 3e-5]}
    problem |= {"lb": x - rng.exponential(size=n), "ub": x + rng.exponential(size=n)}
    problem["g"] = rng.normal(size=(6, n)) * 10.0 ** rng.uniform(-4, 8, size=(6, 1))
    settings = qc.Settings(infeasible="closest", eps_abs=1e-7, threads=1)
    assert statuses(problem, settings) == ["CLOSEST_FEASIBLE"] * 6


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("exponent", range(-12, -3))
def test_contradictions_near_the_tolerance_are_judged_alike(n, exponent):
    """Below it they are none, above it nothing is solved that a neighbour shows to be infeasible."""
    tolerance = 1e-8
    problem = shared_problem(n, 3.0 * 10.0**exponent)
    found = set(statuses(problem, qc.Settings(infeasible="closest", eps_abs=tolerance, threads=1)))
    if exponent < -8:
        assert "CLOSEST_FEASIBLE" not in found
    if exponent > -8:
        assert "SOLVED" not in found


@pytest.mark.parametrize("curvature", [1.0, 1e-6])
@pytest.mark.parametrize("exponent", range(-13, -5))
def test_contradictions_that_end_far_away_are_judged_alike(exponent, curvature):
    """x_0 >= 1e-4 and x_0 + c x_1 <= 0 contradict each other for the least shift, whose rank does not count c, but not
    where x_1 <= -1e-4 / c, to which the last cost leads."""
    c, n = 10.0**exponent, 30
    C = np.zeros((3, n))
    C[0, 0], C[1, 0], C[1, 1], C[2, 1:3] = 1.0, -1.0, -c, 1.0
    H = np.diag([1.0, curvature, *np.ones(n - 2)])
    g = np.zeros((3, n))
    g[2, 1] = 2e-4 * curvature / c
    rows = {"C": C, "l": np.array([1e-4, 0.0, -np.inf]), "u": np.full(3, np.inf)}
    found = statuses(rows | {"H": H, "g": g})
    assert exponent > -10 or found[0] == "CLOSEST_FEASIBLE"


@pytest.mark.parametrize("n", SIZES)
def test_certificates_are_of_the_status_alone(n):
    """Hard rows that contradict each other, of a problem that is unbounded as well."""
    H = np.diag([*np.ones(n - 1), 0.0])
    A = np.zeros((2, n))
    A[:, 0] = 1.0
    found = qc.solve_qp(H, -np.eye(n)[-1], A, [0.0, 1.0], weight_eq=[np.inf, np.inf], settings=CLOSEST)
    assert found.status in (qc.Status.PRIMAL_INFEASIBLE, qc.Status.DUAL_INFEASIBLE)
    assert np.isfinite(found.certificate_x).all() == (found.status == qc.Status.DUAL_INFEASIBLE)
    assert np.isfinite(found.certificate_y).all() == (found.status == qc.Status.PRIMAL_INFEASIBLE)


@pytest.mark.parametrize(
    "options", [{"eps_rel": 1e-6}, {"reduced_eps_rel": 1e-3}, {"max_iter": 30}, {"max_iter": 100}, {"eps_gap": 1e-6}]
)
@pytest.mark.parametrize("n", SIZES)
def test_settings_make_no_difference_to_that(n, options):
    statuses(shared_problem(n, 0.3), qc.Settings(infeasible="closest", threads=1, **options))


@pytest.mark.parametrize("n", SIZES)
def test_shift_weights_and_hard_rows_make_no_difference_to_that(n):
    problem = shared_problem(n, 0.3)
    weight = np.ones(len(problem["C"]))
    weight[:2] = 100.0, 0.01
    assert statuses(problem | {"weight_in": weight}) == ["CLOSEST_FEASIBLE"] * 12
    weight[0] = np.inf
    assert statuses(problem | {"weight_in": weight}) == ["CLOSEST_FEASIBLE"] * 12
    weight[1] = np.inf
    assert statuses(problem | {"weight_in": weight}) == ["PRIMAL_INFEASIBLE"] * 12


def test_the_level_above_follows_vectors_and_matrices_that_change():
    """Constraints a, b, a, in calls of one workspace after another, and another H with the same rows."""
    first, second = shared_problem(30, 0.3), shared_problem(30, 0.5)
    problems = [first, second, first, first | {"H": 2.0 * first["H"]}]
    batch = {name: np.stack([p[name] if name != "g" else first["g"][0] for p in problems]) for name in first}
    for shared in ((), ("H", "A", "C")):
        given = {name: first[name] if name in shared else value for name, value in batch.items()}
        found = qc.solve_qp(**given, settings=CLOSEST)
        for k in range(4):
            own = {name: value if name in shared else value[k] for name, value in given.items()}
            alone = qc.solve_qp(**own, settings=CLOSEST)
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(found, name)[k], getattr(alone, name), err_msg=name)
