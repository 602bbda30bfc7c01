"""The optimal-control QP solver against its uncondensed dense form."""

import numpy as np
import pytest
from ocp_problems import INF, Dense, random_ocp

import qp_control as qc

SHIFTS = ("s_lower", "s_upper", "s_lower_N", "s_upper_N", "s_x_lower", "s_x_upper", "s_u_lower", "s_u_upper")
KINDS = {
    "boxes": {},
    "no constraints": {"box": False},
    "rows": {"rows": 3, "box": False},
    "rows, terminal rows and boxes": {"rows": 2, "terminal_rows": 2},
    "the same in every stage": {"varying": False, "box": False},
    "free start": {"free": True, "rows": 1},
    "one stage": {"N": 1, "rows": 2, "terminal_rows": 1},
    "no inputs": {"nu": 0},
    "long": {"N": 60},
    "beyond the lanes": {"nx": 20, "nu": 7, "N": 5, "rows": 3, "terminal_rows": 2},
    "beyond the lanes, free start": {"nx": 25, "nu": 3, "N": 3, "free": True},
}


def assert_solves(sol, d, N):
    assert sol.status == qc.Status.SOLVED
    dense = Dense(d, N)
    primal, dual, complementarity = dense.residuals(sol, "x0" not in d)
    assert max(primal, dual, complementarity) <= 1.0001e-8
    v = dense.join(sol.x, sol.u)
    assert abs(0.5 * v @ dense.H @ v + dense.g @ v - sol.objective) < 1e-9 * (1 + abs(sol.objective))
    return dense


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_riccati_solution_equals_that_of_the_dense_form(kind, seed):
    d, N = random_ocp(seed, **KINDS[kind])
    sol = qc.solve_ocp(**d, horizon=N)
    dense = assert_solves(sol, d, N)
    exact = qc.solve_qp(**dense.keywords())
    assert exact.status == qc.Status.SOLVED
    x, u = dense.split(exact.x) if d["B"].shape[-1] else (exact.x.reshape(N + 1, -1), sol.u)
    np.testing.assert_allclose(sol.x, x, atol=1e-8)
    np.testing.assert_allclose(sol.u, u, atol=1e-8)
    np.testing.assert_allclose(sol.y.ravel()[-len(exact.y) :], exact.y, atol=1e-7)
    for name in SHIFTS:
        assert not getattr(sol, name).any()


def test_costates_are_the_gradients_by_the_initial_state_and_the_constants():
    d, _ = random_ocp(0, rows=2)
    sol = qc.solve_ocp(**d)
    h = 1e-6

    def cost(name, index, change):
        moved = d[name].copy()
        moved[index] += change
        return qc.solve_ocp(**d | {name: moved}).objective

    for i in range(4):
        assert abs((cost("x0", i, h) - cost("x0", i, -h)) / (2 * h) - sol.y[0, i]) < 1e-5
        assert abs((cost("c", (3, i), h) - cost("c", (3, i), -h)) / (2 * h) - sol.y[4, i]) < 1e-5


@pytest.mark.parametrize("nx", [4, 26])
def test_element_has_the_same_bits_whatever_its_neighbours_threads_and_order(nx):
    problems = [random_ocp(seed, nx=nx, rows=2)[0] for seed in range(11)]
    batch = {name: np.stack([d[name] for d in problems]) for name in problems[0]}
    sols = [qc.solve_ocp(**batch, settings=qc.Settings(threads=threads)) for threads in (1, 2, 3)]
    order = np.random.default_rng(0).permutation(11)
    shuffled = qc.solve_ocp(**{name: array[order] for name, array in batch.items()})
    assert np.all(sols[0].status == qc.Status.SOLVED)
    for name in ("x", "u", "y", "z", "w_x", "w_u", "objective"):
        expected = getattr(sols[0], name)
        for sol in sols[1:]:
            assert np.array_equal(getattr(sol, name), expected)
        assert np.array_equal(getattr(shuffled, name), expected[order])
    for k in (0, 10):
        pair = qc.solve_ocp(**{name: array[[k, k]] for name, array in batch.items()})
        assert np.array_equal(pair.u[0], sols[0].u[k])
        # A batch of one fills the register by itself: the same to rounding.
        alone = qc.solve_ocp(**problems[k])
        np.testing.assert_allclose(alone.u, sols[0].u[k], rtol=0, atol=1e-9)


def test_stage_and_batch_axes_of_length_one_stand_for_all():
    d, N = random_ocp(3, varying=False, box=False)
    x0 = np.random.default_rng(0).normal(size=(5, 4))
    shared = qc.solve_ocp(**d | {"x0": x0}, horizon=N)
    full = {}
    for name, array in d.items():
        if name in ("x0", "Q_N", "q_N"):
            full[name] = array
        else:
            full[name] = np.broadcast_to(array, (5, N, *array.shape)) if name != "c" else array[None, None]
    spread = qc.solve_ocp(**full | {"x0": x0})
    np.testing.assert_array_equal(shared.x, spread.x)
    one_batch = qc.solve_ocp(**d | {"x0": x0, "Q": np.broadcast_to(d["Q"], (5, 1, 4, 4))}, horizon=N)
    np.testing.assert_array_equal(shared.x, one_batch.x)


def test_terminal_stage_of_q_counts_as_q_n():
    d, _ = random_ocp(1)
    joined = {**d, "Q": np.concatenate([d["Q"], d["Q_N"][None]]), "q": np.concatenate([d["q"], d["q_N"][None]])}
    del joined["Q_N"], joined["q_N"]
    np.testing.assert_array_equal(qc.solve_ocp(**joined).u, qc.solve_ocp(**d).u)


def test_unstable_plant_over_a_long_horizon_is_solved_accurately():
    """Spectral radius 1.2 over 500 stages: condensing would meet 1e39."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3, 3))
    A *= 1.2 / np.abs(np.linalg.eigvals(A)).max()
    d = {"A": A, "B": rng.normal(size=(3, 2)), "Q": np.eye(3), "R": np.eye(2), "x0": np.ones(3)}
    d |= {"u_lower": np.full(2, -0.4), "u_upper": np.full(2, 0.4)}
    sol = qc.solve_ocp(**d, horizon=500)
    assert sol.status == qc.Status.SOLVED
    assert np.any(np.abs(np.abs(sol.u) - 0.4) < 1e-9)
    assert max(sol.primal_residual, sol.dual_residual) < 1e-10 * np.abs(sol.y).max()
    assert np.abs(sol.x[-1]).max() < 1e-6


@pytest.mark.parametrize("nx", [4, 26])
def test_warm_start_from_the_solution_takes_two_steps(nx):
    d, _ = random_ocp(2, nx=nx, rows=2)
    cold = qc.solve_ocp(**d)
    warm = qc.solve_ocp(**d, warm_start=cold)
    assert warm.status == qc.Status.SOLVED and warm.iterations <= 3 < cold.iterations
    np.testing.assert_allclose(warm.u, cold.u, atol=1e-9)
    far = qc.solve_ocp(**d | {"x0": d["x0"] + 1e-3}, warm_start=cold)
    assert far.status in (qc.Status.SOLVED, qc.Status.PRIMAL_INFEASIBLE)


def infeasible():
    """The bound on x_1 is out of reach."""
    d, N = random_ocp(5, N=4, rows=1, tight=2.0)
    d["x_lower"] = np.full((N, 4), -INF)
    d["x_upper"] = np.full((N, 4), INF)
    d["u_lower"], d["u_upper"] = np.full((N, 2), -0.1), np.full((N, 2), 0.1)
    d["lower"], d["upper"] = np.full((N, 1), -INF), np.full((N, 1), INF)
    d["x_lower"][0] = 50.0
    return d, N


@pytest.mark.parametrize("make", [infeasible])
def test_contradicting_constraints_are_shifted_and_the_dynamics_are_not(make):
    d, N = make()
    assert qc.solve_ocp(**d).status == qc.Status.PRIMAL_INFEASIBLE
    closest = qc.Settings(infeasible="closest")
    sol = qc.solve_ocp(**d, settings=closest)
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    dense = Dense(d, N)
    exact = qc.solve_qp(**dense.keywords(), settings=closest)
    assert np.abs(dense.E @ dense.join(sol.x, sol.u) - dense.e).max() < 1e-9
    np.testing.assert_allclose(dense.join(sol.x, sol.u), exact.x, atol=1e-7)
    np.testing.assert_allclose(
        dense.join(np.vstack([np.zeros((1, 4)), sol.s_x_lower[1:]]), sol.s_u_lower), exact.s_lb, atol=1e-7
    )


def test_crossed_bounds_are_infeasible_and_end_midway():
    d = {"A": [[1.0]], "B": [[1.0]], "x0": [0.0], "R": [[1.0]], "u_lower": [[3.0], [-1.0]], "u_upper": [[1.0], [1.0]]}
    assert qc.solve_ocp(**d).status == qc.Status.PRIMAL_INFEASIBLE
    sol = qc.solve_ocp(**d, settings=qc.Settings(infeasible="closest"))
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(sol.u, [[2.0], [0.0]], atol=1e-9)
    np.testing.assert_allclose([sol.s_u_lower[0, 0], sol.s_u_upper[0, 0]], 1.0, atol=1e-9)


def test_infeasible_neighbour_changes_nothing():
    good, _ = random_ocp(5, N=4, rows=1)
    bad, _ = infeasible()
    batch = {name: np.stack([good[name], bad[name], good[name]]) for name in good}
    sol = qc.solve_ocp(**batch, settings=qc.Settings(infeasible="closest"))
    assert list(sol.status) == [qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE, qc.Status.SOLVED]
    np.testing.assert_allclose(sol.u[0], qc.solve_ocp(**good).u, rtol=0, atol=1e-9)  # alone, another register
    np.testing.assert_array_equal(sol.u[0], sol.u[2])


def test_statuses_of_problems_without_a_solution():
    d, _ = random_ocp(0)
    concave = qc.solve_ocp(**d | {"R": -d["R"]})
    assert concave.status == qc.Status.NON_CONVEX and np.isnan(concave.u).all()
    unbounded = qc.solve_ocp(A=[[1.0]], B=[[1.0]], r=[1.0], x0=[0.0], horizon=3)
    assert unbounded.status == qc.Status.DUAL_INFEASIBLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.ones((8, 4, 3))}, r"A has shape \(8, 4, 3\), expected \(nx, nx\)"),
        ({"B": np.ones((7, 4, 2))}, "B has 7 stages, expected 8"),
        ({"Q": np.ones((8, 4, 4, 4, 4))}, "expected a matrix, or one per stage or element"),
        ({"q": np.full((8, 4), np.nan)}, r"q\[0, 0\] is nan"),
        ({"x_lower": np.full((8, 4), np.inf)}, r"x_lower\[0, 0\] is inf, expected a number below \+infinity"),
        ({"R": np.array([[1.0, 0.5], [0.0, 1.0]])}, "R is not symmetric"),
        ({"x0": np.ones((3, 4)), "Q_N": np.ones((2, 4, 4))}, "Q_N has a batch of 2, expected 1 or 3|x0 has a batch"),
        ({"Q_N": None, "q_N": None}, "Q has N = 8 stages: give Q_N, or N \\+ 1 stages"),
        ({"lower_N": np.ones(2)}, "lower_N is given without C_N"),
        ({"A": "text"}, "A has dtype|A is not an array"),
        ({"horizon": 0}, "horizon is 0"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    d, _ = random_ocp(0)
    with pytest.raises(ValueError, match=message):
        qc.solve_ocp(**{**d, **change})


def test_horizon_must_be_given_where_no_argument_tells_it():
    with pytest.raises(ValueError, match="give the horizon"):
        qc.solve_ocp(A=[[1.0]], B=[[1.0]], x0=[1.0], R=[[1.0]])


def test_max_iter_one_is_honest():
    d, _ = random_ocp(0)
    sol = qc.solve_ocp(**d, settings=qc.Settings(max_iter=1))
    assert sol.status == qc.Status.MAX_ITER


def test_reduced_tolerance_counts_where_rounding_is_above_the_others():
    d, _ = random_ocp(0)
    costs = ("Q", "R", "S", "q", "r", "Q_N", "q_N")
    large = d | {name: 1e10 * np.asarray(d[name]) for name in costs if name in d}
    assert qc.solve_ocp(**large, settings=qc.Settings(eps_abs=1e-9)).status == qc.Status.MAX_ITER
    sol = qc.solve_ocp(**large, settings=qc.Settings(eps_abs=1e-9, reduced_eps_rel=1e-11))
    assert sol.status == qc.Status.SOLVED and 1e-9 < sol.dual_residual < 10.0
    np.testing.assert_allclose(sol.u, qc.solve_ocp(**d).u, atol=1e-7)


def test_problem_as_data_is_solved_saved_and_taken_apart(tmp_path):
    d, N = random_ocp(0, rows=2)
    x0 = np.stack([d["x0"], d["x0"] + 0.001])
    qp = qc.OcpQP(**d | {"x0": x0})
    assert qp.sizes()[:3] == (2, N, 4)
    both = qc.solve_ocp(**qp.arguments())
    file = qc.save_problem(tmp_path / "ocp.npz", **qp.element(1).arguments())
    again = qc.load_problem(file)
    assert again["horizon"] == N
    np.testing.assert_allclose(qc.solve_ocp(**again).u, both.u[1], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="not parts of a QP"):
        qc.save_problem(tmp_path / "mixed.npz", Q=np.eye(2), H=np.eye(2))


def test_problem_of_lists_has_sizes_and_elements():
    qp = qc.OcpQP([[1.0]], [[1.0]], [[1.0], [2.0]], horizon=3, R=[[1.0]], q=[[[0.0]], [[1.0]]])
    assert qp.sizes()[:3] == (2, 3, 1)
    both = qc.solve_ocp(**qp.arguments())
    for k in (0, 1, -1):
        np.testing.assert_allclose(qc.solve_ocp(**qp.element(k).arguments()).u, both.u[k], rtol=0, atol=1e-9)
    for data in (qp, qp.element(0)):
        with pytest.raises(IndexError, match="element 2 of a batch of"):
            data.element(2)


def out_of_reach(seed, **options):
    """A state's last bounds moved away, or the first row's where there are no boxes."""
    d, N = random_ocp(seed, **options)
    if "x_lower" in d:
        d["x_lower"][-1, 1] = d["x_upper"][-1, 1] + np.random.default_rng(seed).uniform(0.0, 30.0)
        d["x_upper"][-1, 1] = d["x_lower"][-1, 1] + 1.0
    else:
        d["lower"][0, 0], d["upper"][0, 0] = 60.0, 61.0
    return d, N


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": 2},
        {"rows": 2, "terminal_rows": 2},
        {"free": True, "rows": 1},
        {"N": 1, "rows": 2},
        {"N": 30},
        {"nx": 26, "N": 4},
    ],
    ids=str,
)
def test_closest_feasible_solution_equals_that_of_the_dense_form(options, seed):
    d, N = out_of_reach(seed, **options)
    closest = qc.Settings(infeasible="closest")
    sol = qc.solve_ocp(**d, horizon=N, settings=closest)
    dense = Dense(d, N)
    exact = qc.solve_qp(**dense.keywords(), settings=closest)
    assert sol.status == exact.status == qc.Status.CLOSEST_FEASIBLE
    v = dense.join(sol.x, sol.u)
    np.testing.assert_allclose(v, exact.x, atol=1e-7)
    assert np.abs(dense.E @ v - dense.e).max() < 1e-9
    np.testing.assert_allclose(dense.join(sol.s_x_lower, sol.s_u_lower), exact.s_lb, atol=1e-7)
    np.testing.assert_allclose(dense.join(sol.s_x_upper, sol.s_u_upper), exact.s_ub, atol=1e-7)
    if "lower" in d:
        shift = np.concatenate([sol.s_lower.ravel(), sol.s_lower_N])
        np.testing.assert_allclose(shift, exact.s_lower, atol=1e-7)


def test_shifted_solution_is_a_better_start_for_the_next_period():
    """A regulator that moves on by one period: the shifted start is close to the next solution, the old one is not."""
    A, B = np.array([[1.0, 0.1], [-0.3, 1.0]]), np.array([[0.0], [0.1]])
    data = {"A": A, "B": B, "Q": np.eye(2), "R": np.array([[0.01]]), "horizon": 40}
    data |= {"u_lower": [-2.0], "u_upper": [2.0], "C": np.array([[1.0, 1.0]]), "upper": [0.9]}
    sol = qc.solve_ocp(x0=[1.0, -0.5], **data)
    start = qc.shifted(sol)
    assert np.array_equal(start.x[:-1], sol.x[1:]) and np.array_equal(start.x[-1], sol.x[-1])
    assert np.array_equal(start.w_u[:-1], sol.w_u[1:]) and np.array_equal(start.z_N, sol.z_N)
    cold = qc.solve_ocp(x0=sol.x[1], **data)
    warm = qc.solve_ocp(x0=sol.x[1], **data, warm_start=start)
    stale = qc.solve_ocp(x0=sol.x[1], **data, warm_start=sol)
    assert np.abs(start.u - cold.u).max() < 0.1 * np.abs(sol.u - cold.u).max()
    assert 2 * warm.iterations < stale.iterations < cold.iterations
    np.testing.assert_allclose(warm.u, cold.u, rtol=0, atol=1e-8)
    assert qc.shifted(start).x.shape == (41, 2)


def test_bounded_regulators_take_few_steps():
    """The plant of acados' published timings; with the first penalties of a dense QP it takes 18 steps on average."""
    rng = np.random.default_rng(0)
    A = np.eye(8) + 0.2 * rng.normal(size=(8, 8))
    B, c = rng.normal(size=(8, 4)), rng.normal(size=8)
    x0 = rng.normal(size=(128, 8))
    bounds = {"u_lower": -np.ones(4), "u_upper": np.ones(4)}
    settings = qc.Settings(eps_abs=1e-7, eps_rel=1e-7)
    sol = qc.solve_ocp(A, B, x0, c=c, Q=np.eye(8), R=np.eye(4), **bounds, horizon=20, settings=settings)
    assert np.all(sol.status == qc.Status.SOLVED)
    assert np.mean(np.abs(sol.u) > 1 - 1e-9) > 0.3  # the bounds matter
    assert sol.iterations.mean() < 14


def test_judgement_in_doubt_reads_only_what_has_been_written():
    """At this tolerance residuals are computed anew, among outputs that are filled in later and begin as leftovers."""
    rng = np.random.default_rng(0)
    A, B, x0 = np.eye(6) + 0.2 * rng.normal(size=(6, 6)), rng.normal(size=(6, 2)), 5.0 * rng.normal(size=(2, 6))
    cost = {"Q": 10.0 * np.eye(6), "R": np.eye(2), "Q_N": 1e3 * np.eye(6)}
    bounds = {"u_lower": -np.ones(2), "u_upper": np.ones(2)}
    for _ in range(3):
        # Leaves multipliers of the states' boxes behind, which the next problem has none of.
        qc.solve_ocp(
            A, B, x0, **cost, **bounds, horizon=20, x_upper=-np.ones(6), settings=qc.Settings(infeasible="closest")
        )
        found = qc.solve_ocp(A, B, x0, **cost, **bounds, horizon=20, settings=qc.Settings(eps_abs=1e-11))
        assert found.status[1] == qc.Status.SOLVED
        # Doubts that are not dispelled send it through another solver, which takes a hundred steps more.
        assert found.iterations[1] < 50
