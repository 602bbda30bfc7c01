"""qp_adjoint and qp_tangent: values, certificates, and the choices at weakly active rows."""

import numpy as np
import pytest
from adjoint_oracle import OUTPUTS, adjoint
from kkt_oracle import solve
from problems import (
    badly_scaled_rows,
    crossed_bounds,
    crossed_box,
    degenerate_vertex,
    duplicate_rows,
    equal_bounds,
    lp_edge,
    lp_vertex,
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
    toy_crossing,
    toy_interior,
)
from qp_data import DATA

import qp_control as qc

CLOSEST = qc.Settings(infeasible="closest")


def weights_of(solution, seed=0):
    """A fixed random gradient of a loss by every output."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=np.shape(getattr(solution, name))) for name in OUTPUTS}


def solved(qp, settings=CLOSEST):
    arguments = qp.keywords()
    return arguments, qc.solve_qp(**arguments, settings=settings)


# Both sides of the lanes' limits in size, with and without every kind of row.
NON_DEGENERATE = {
    "crossing": lambda: toy_crossing(1.54),
    "crossing, infeasible": lambda: toy_crossing(1.57),
    "interior": lambda: toy_interior(-1.5),
    "vertex of a linear program": lp_vertex,
    "equal bounds": equal_bounds,
    "badly scaled rows": badly_scaled_rows,
    "crossed bounds": crossed_bounds,
    "crossed box": crossed_box,
    "full rank 3": lambda: random_infeasible_full_rank(0, 3),
    "full rank 12": lambda: random_infeasible_full_rank(2, 12),
    "full rank 30": lambda: random_infeasible_full_rank(1, 30),
    **{
        f"rank deficient {n}{' box' * box}": lambda n=n, box=box: random_infeasible_rank_deficient(n, n, box=box)
        for n in (5, 8, 30)
        for box in (False, True)
    },
    **{
        f"feasible {n} {n_eq} {n_in}{' box' * box}": lambda n=n, n_eq=n_eq, n_in=n_in, box=box: random_feasible(
            n, n, n_eq, n_in, active=0.4, box=box
        )
        for n, n_eq, n_in in ((3, 0, 4), (6, 2, 0), (10, 3, 10), (20, 5, 20), (24, 4, 16), (30, 5, 30), (50, 10, 50))
        for box in (False, True)
    },
}


@pytest.mark.parametrize("name", NON_DEGENERATE)
def test_gradient_of_every_output_equals_the_exact_active_set_to_1e_8(name):
    """1e-8 relative is the project's target; the oracle's least squares is exact to about 1e-12."""
    qp = NON_DEGENERATE[name]()
    arguments, solution = solved(qp)
    exact = solve(qp, "enumeration" if qp.n <= 3 else "interior point")
    every = weights_of(solution)
    losses = [every] + [{output: every[output]} for output in OUTPUTS]
    for loss in losses:
        found = qc.qp_adjoint(**arguments, solution=solution, **loss)
        expected = adjoint(qp, exact, loss)
        for data in qp.arguments():
            scale = max(1.0, np.abs(expected[data]).max())
            assert np.abs(getattr(found, data) - expected[data]).max() < 1e-8 * scale, (data, list(loss))
        assert found.residual < 1e-10


@pytest.mark.parametrize("name", NON_DEGENERATE)
def test_tangent_is_the_transpose_of_the_adjoint(name):
    qp = NON_DEGENERATE[name]()
    arguments, solution = solved(qp)
    loss = weights_of(solution)
    rng = np.random.default_rng(1)
    change = {data: np.where(np.isfinite(v), rng.normal(size=v.shape), 0.0) for data, v in qp.arguments().items()}
    gradients = qc.qp_adjoint(**arguments, solution=solution, **loss)
    tangent = qc.qp_tangent(**arguments, solution=solution, **{f"d{data}": v for data, v in change.items()})
    left = sum(np.sum(loss[name] * getattr(tangent, name)) for name in OUTPUTS)
    terms = [np.sum(change[data] * getattr(gradients, data)) for data in change]
    assert abs(left - sum(terms)) < 1e-9 * (1 + np.abs(terms).max())


def test_tangent_equals_finite_differences():
    for qp in (random_feasible(5, 8, 2, 6, box=True), random_infeasible_full_rank(1, 4)):
        arguments, solution = solved(qp)
        rng = np.random.default_rng(0)
        change = {name: np.where(np.isfinite(v), rng.normal(size=v.shape), 0.0) for name, v in qp.arguments().items()}
        tangent = qc.qp_tangent(**arguments, solution=solution, **{f"d{name}": v for name, v in change.items()})
        change["H"] = 0.5 * (change["H"] + change["H"].T)  # H counts as (H + H')/2
        up, down = (
            qc.solve_qp(**{name: arguments[name] + h * change[name] for name in change}, settings=CLOSEST)
            for h in (1e-6, -1e-6)
        )
        for name in OUTPUTS:
            difference = (np.array(getattr(up, name)) - getattr(down, name)) / 2e-6
            np.testing.assert_allclose(getattr(tangent, name), difference, rtol=1e-6, atol=1e-6, err_msg=name)


def test_shapes_are_those_of_the_arguments_and_shared_gradients_are_sums():
    qp = random_feasible(2, 5, 2, 4, box=True)
    g = qp.g + 0.01 * np.random.default_rng(0).normal(size=(3, 5))
    arguments = qp.keywords() | {"g": g, "H": qp.H[None]}
    solution = qc.solve_qp(**arguments)
    loss = weights_of(solution)
    found = qc.qp_adjoint(**arguments, solution=solution, **loss)
    assert found.H.shape == (1, 5, 5) and found.g.shape == (3, 5) and found.A.shape == (2, 5)
    assert found.residual.shape == found.weakly_active.shape == found.rank_deficiency.shape == (3,)
    total = {name: 0.0 for name in DATA}
    for k in range(3):
        one = qp.keywords() | {"g": g[k]}
        alone = qc.qp_adjoint(**one, solution=qc.solve_qp(**one), **{name: value[k] for name, value in loss.items()})
        for name in DATA:
            total[name] = total[name] + getattr(alone, name)
        np.testing.assert_allclose(found.g[k], alone.g, rtol=1e-10, atol=1e-10)
    for name in DATA:
        if name != "g":
            np.testing.assert_allclose(
                getattr(found, name).reshape(total[name].shape), total[name], rtol=1e-10, atol=1e-10, err_msg=name
            )


def test_absent_arguments_have_no_gradient_and_unasked_outputs_count_as_zero():
    H, g = np.diag([2.0, 4.0]), np.array([1.0, -2.0])
    solution = qc.solve_qp(H, g)
    found = qc.qp_adjoint(H, g, solution=solution, x=[1.0, 0.0])
    np.testing.assert_allclose(found.g, [-0.5, 0.0], atol=1e-15)
    assert all(getattr(found, name) is None for name in ("A", "b", "C", "l", "u", "lb", "ub"))
    nothing = qc.qp_adjoint(H, g, solution=solution)
    assert not nothing.H.any() and not nothing.g.any()
    assert not qc.qp_tangent(H, g, solution=solution).x.any()


def test_wrong_shapes_are_refused_with_got_and_expected():
    H, g = np.eye(2), np.ones((3, 2))
    solution = qc.solve_qp(H, g)
    with pytest.raises(ValueError, match=r"x has shape \(2, 2\), expected \(3, 2\)"):
        qc.qp_adjoint(H, g, solution=solution, x=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"dg has shape \(3,\), expected \(2,\) or a batch of 3"):
        qc.qp_tangent(H, g, solution=solution, dg=np.ones(3))
    smaller = qc.solve_qp(np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match=r"^solution\.x has shape \(2,\), expected \(3,\)$"):
        qc.qp_adjoint(np.eye(3), np.ones(3), solution=smaller, x=np.ones(3))
    with pytest.raises(ValueError, match=r"^solution\.x has shape \(2,\), expected \(3,\)$"):
        qc.qp_tangent(np.eye(3), np.ones(3), solution=smaller, dg=np.ones(3))
    with pytest.raises(ValueError, match=r"^x has shape \(2,\), expected \(3,\)$"):
        qc.qp_adjoint(np.eye(3), np.ones(3), solution=qc.solve_qp(np.eye(3), np.ones(3)), x=np.ones(2))


# --- certificates ---


def test_certificate_of_a_regular_problem_says_nothing_is_wrong():
    for n in (5, 40):
        arguments, solution = solved(random_feasible(1, n, 2, 5, box=True))
        for found in (
            qc.qp_adjoint(**arguments, solution=solution, x=np.ones(n)),
            qc.qp_tangent(**arguments, solution=solution, dg=np.ones(n)),
        ):
            assert found.residual < 1e-11 and found.weakly_active == 0 and found.rank_deficiency == 0


def test_certificate_counts_dependent_active_rows():
    """Two equal equalities and three equal active inequalities: one and two rows too many."""
    arguments, solution = solved(duplicate_rows())
    found = qc.qp_adjoint(**arguments, solution=solution, x=np.ones(3))
    assert found.rank_deficiency == 1 + 2
    assert found.residual < 1e-10
    assert qc.qp_tangent(**arguments, solution=solution, dg=np.ones(3)).rank_deficiency == 3


def test_certificate_counts_rows_through_a_degenerate_vertex():
    arguments, solution = solved(degenerate_vertex())
    found = qc.qp_adjoint(**arguments, solution=solution, x=[1.0, 0.0])
    assert found.rank_deficiency == 6 - 2
    assert found.weakly_active == 0  # the minimum-norm multipliers push on all six


def test_certificate_shows_a_linear_program_off_a_vertex():
    """On the edge x1 + x2 = 1 a direction is left free: the system is singular with its one active row."""
    arguments, solution = solved(lp_edge())
    assert np.all(solution.x > 1e-6)
    assert qc.qp_adjoint(**arguments, solution=solution, x=[1.0, -1.0]).rank_deficiency == 1
    vertex, at_vertex = solved(lp_vertex())
    assert qc.qp_adjoint(**vertex, solution=at_vertex, x=[1.0, -1.0]).rank_deficiency == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_certificate_is_per_element():
    """Regular, weakly active, without a solution, dependent rows."""
    C = np.array([[[1.0, 0.0], [0.0, 1.0]]] * 3 + [[[1.0, 0.0], [2.0, 0.0]]])
    g = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    H = np.stack([np.eye(2), np.eye(2), -np.eye(2), np.eye(2)])
    arguments = {"H": H, "g": g, "C": C, "l": np.zeros(2)}
    solution = qc.solve_qp(**arguments)
    assert solution.status.tolist() == [0, 0, qc.Status.NON_CONVEX, 0]
    found = qc.qp_adjoint(**arguments, solution=solution, x=np.ones((4, 2)))
    assert found.weakly_active.tolist() == [0, 1, 0, 0]
    assert found.rank_deficiency.tolist() == [0, 0, 0, 1]
    assert np.all(found.residual[[0, 1, 3]] < 1e-12) and np.isnan(found.residual[2])
    assert not found.g[2].any() and np.all(np.isfinite(found.H))
    nan = qc.qp_adjoint(**arguments, solution=solution, x=np.ones((4, 2)), settings=qc.Settings(on_failure="nan"))
    assert np.all(np.isnan(nan.g[2])) and np.array_equal(nan.g[[0, 1, 3]], found.g[[0, 1, 3]])


def test_certificate_says_that_a_problem_stopped_at_its_limit_has_no_derivative():
    arguments = random_feasible(0, 30, 5, 30).keywords()
    stopped = qc.solve_qp(**arguments, settings=qc.Settings(max_iter=1))
    assert stopped.status == qc.Status.MAX_ITER
    adjoint_of, tangent_of = (
        qc.qp_adjoint(**arguments, solution=stopped, x=np.ones(30)),
        qc.qp_tangent(**arguments, solution=stopped, dg=np.ones(30)),
    )
    assert np.isnan(adjoint_of.residual) and np.isnan(tangent_of.residual)
    assert not adjoint_of.g.any() and not tangent_of.x.any()


# --- weakly active rows ---


def at_the_kink():
    """min 1/2 |x|^2 + g'x, x1 >= 0, at g = (0, 1): x1 = max(-g1, lb1) meets its bound without force."""
    arguments = {"H": np.eye(2), "g": [0.0, 1.0], "lb": [0.0, -np.inf]}
    return arguments, qc.solve_qp(**arguments)


def slopes(settings):
    arguments, solution = at_the_kink()
    found = qc.qp_adjoint(**arguments, solution=solution, x=[1.0, 0.0], settings=settings)
    tangent = qc.qp_tangent(**arguments, solution=solution, dg=[1.0, 0.0], settings=settings)
    assert found.weakly_active == tangent.weakly_active == 1
    assert abs(tangent.x[0] - found.g[0]) < 1e-14
    return found.g[0], found.lb[0]


def test_least_squares_and_one_sided_are_the_two_one_sided_derivatives():
    def moved(g1, lb1):
        return (qc.solve_qp(np.eye(2), [g1, 1.0], lb=[lb1, -np.inf]).x[0] - at_the_kink()[1].x[0]) / 1e-4

    # The bound holds: g1 pushes against it, or the bound pushes.
    assert slopes(qc.Settings()) == pytest.approx((moved(1e-4, 0.0), moved(0.0, 1e-4)), abs=1e-10)
    assert slopes(qc.Settings()) == pytest.approx((0.0, 1.0), abs=1e-14)
    # The solution leaves the bound.
    released = qc.Settings(weakly_active="one_sided")
    assert slopes(released) == pytest.approx((-moved(-1e-4, 0.0), moved(0.0, -1e-4)), abs=1e-10)
    assert slopes(released) == pytest.approx((-1.0, 0.0), abs=1e-14)


def test_smoothed_takes_the_middle_of_the_kink():
    """t = x1 - lb1 = 0 and z = 0 have compliance 1: (1 + 1) dx1 = -dg1 + dlb1."""
    for smoothing in (1e-2, 1e-6):
        found = slopes(qc.Settings(weakly_active="smoothed", smoothing=smoothing))
        assert found == pytest.approx((-0.5, 0.5), abs=1e-9)


@pytest.mark.parametrize("g1", [-0.3, -0.01, 0.02, 0.5])
@pytest.mark.parametrize("smoothing", [1e-1, 1e-4])
def test_smoothed_slope_follows_its_compliance_off_the_kink(g1, smoothing):
    """x1 = max(-g1, 0), t = x1, z = x1 + g1, r = sqrt(t^2 + z^2 + 2 eps); linearising t + z = r gives
    (1 - t/r) dt + (1 - z/r) dz = 0 with dz = dt + dg1."""
    H, g, lb = np.eye(1), [g1], [0.0]
    solution = qc.solve_qp(H, g, lb=lb)
    settings = qc.Settings(weakly_active="smoothed", smoothing=smoothing)
    found = qc.qp_adjoint(H, g, lb=lb, solution=solution, x=[1.0], settings=settings)
    t = max(-g1, 0.0)
    z = t + g1
    r = np.sqrt(t * t + z * z + 2 * smoothing)
    expected = -(1 - z / r) / ((1 - t / r) + (1 - z / r))
    assert found.g[0] == pytest.approx(expected, rel=1e-9)
    assert found.weakly_active == 0


def test_smoothed_approaches_the_plain_derivative_away_from_kinks():
    qp = random_feasible(0, 8, 1, 4, active=0.5, box=True)
    arguments, solution = solved(qp)
    plain = qc.qp_adjoint(**arguments, solution=solution, x=np.ones(8))
    settings = qc.Settings(weakly_active="smoothed", smoothing=1e-10)
    smooth = qc.qp_adjoint(**arguments, solution=solution, x=np.ones(8), settings=settings)
    for name in DATA:  # slacks and multipliers are 0.3 or more: the compliance differs by 1e-10 / 0.3^2
        np.testing.assert_allclose(getattr(smooth, name), getattr(plain, name), rtol=0, atol=1e-6, err_msg=name)


def test_weakly_active_rows_that_depend_on_active_ones_get_the_least_squares_share():
    """x1 >= 0 twice with g = (1): the rows share multiplier and slope; x1 follows the mean of both bounds."""
    H, g, C, l = np.eye(1), [1.0], np.ones((2, 1)), np.zeros(2)
    solution = qc.solve_qp(H, g, C=C, l=l)
    found = qc.qp_adjoint(H, g, C=C, l=l, solution=solution, x=[1.0])
    assert found.rank_deficiency == 1
    np.testing.assert_allclose(found.l, [0.5, 0.5], atol=1e-12)
