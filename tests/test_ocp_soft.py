"""Soft rows of optimal-control QPs, against the dense form with explicit slacks."""

import numpy as np
import pytest
import torch
from adjoint_oracle import adjoint
from ocp_problems import INF, SoftDense, random_ocp
from qp_data import DATA, QP, Answer
from test_ocp_layer import FIELDS, gradients, loss_of, tensors

import qp_control as qc
from qp_control.ocp.solve import POINT, SHIFTS, SLACKS


def soft_ocp(seed, *, weights="both", rows=3, terminal_rows=2, hard=0.0, tight=0.7, **options):
    """Rows moved away from the trajectory for which they were feasible; a share `hard` of them stays as it was."""
    d, N = random_ocp(seed, rows=rows, terminal_rows=terminal_rows, **options)
    rng = np.random.default_rng(1000 + seed)
    for end, shape in (("", (N, rows)), ("_N", (terminal_rows,))):
        if shape[-1] == 0:
            continue
        is_hard = rng.uniform(size=shape) < hard
        move = np.where(is_hard, 0.0, rng.normal(size=shape))
        d["lower" + end], d["upper" + end] = d["lower" + end] + tight * move, d["upper" + end] + tight * move
        w1, w2 = rng.uniform(0.05, 1.5, size=shape), rng.uniform(0.5, 3.0, size=shape)
        d["slack_linear" + end] = np.where(is_hard, INF, w1)
        d["slack_quadratic" + end] = w2
        if weights == "linear":
            del d["slack_quadratic" + end]
        if weights == "quadratic":
            del d["slack_linear" + end]
            d["slack_quadratic" + end] = np.where(is_hard, INF, w2)
    return d, N


DENSE_SHIFTS = ("s_eq", "s_lower", "s_upper", "s_lb", "s_ub")
KINDS = {
    "both weights": {},
    "linear": {"weights": "linear"},
    "quadratic": {"weights": "quadratic"},
    "some rows hard": {"hard": 0.4},
    "some rows hard, quadratic": {"hard": 0.4, "weights": "quadratic"},
    "terminal rows only": {"rows": 0},
    "rows only, no boxes": {"terminal_rows": 0, "box": False},
    "free start": {"free": True},
    "one stage": {"N": 1, "tight": 2.0},
    "long": {"N": 40, "weights": "linear"},
    "beyond the lanes": {"nx": 20, "nu": 7, "N": 5},
    "beyond the lanes, some rows hard": {"nx": 20, "nu": 7, "N": 5, "hard": 0.4, "weights": "linear"},
}


def solve_dense(dense, **options):
    return qc.solve_qp(**dense.keywords(), settings=qc.Settings(eps_abs=1e-10, **options))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_soft_solution_equals_that_of_the_dense_form_with_slacks(kind, seed):
    d, N = soft_ocp(seed, **KINDS[kind])
    sol = qc.solve_ocp(**d, horizon=N)
    dense = SoftDense(d, N)
    exact = solve_dense(dense)
    assert sol.status == exact.status == qc.Status.SOLVED
    point = dense.point(sol)
    # Both are solved far below 1e-8; costates and multipliers of long horizons are as large as 1e2.
    np.testing.assert_allclose(point, exact.x, atol=1e-8)
    np.testing.assert_allclose(dense.rows(sol.z, sol.z_N), exact.z, atol=1e-8 * (1 + np.abs(exact.z).max()))
    assert abs(sol.objective - exact.objective) < 1e-8 * (1 + abs(exact.objective))
    assert sol.duality_gap < 1e-7 and max(sol.primal_residual, sol.dual_residual) <= 1e-8
    slacks = point[-2 * len(dense.soft) :]
    assert (slacks >= 0).all() and (slacks > 1e-3).any() and (slacks == 0).any()
    for name in SHIFTS:
        assert not getattr(sol, name).any()
    hard = np.setdiff1d(np.arange(len(dense.l)), dense.soft)
    for stages, end in ((sol.slack_lower, sol.slack_lower_N), (sol.slack_upper, sol.slack_upper_N)):
        assert not dense.rows(stages, end)[hard].any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_dense_form_with_slacks(kind, seed):
    d, N = soft_ocp(seed, **KINDS[kind] | ({"N": 12} if kind == "long" else {}))
    data = tensors(d)
    out = qc.OcpLayer(horizon=N)(**data)
    assert out.status == qc.Status.SOLVED
    found = gradients(loss_of(out), data)
    dense = SoftDense(d, N)
    exact = solve_dense(dense)
    rng, weights = np.random.default_rng(0), {}
    for name in FIELDS:  # as in loss_of
        weights[name] = rng.normal(size=tuple(getattr(out, name).shape))
    lower, upper = (dense.rows(weights["slack_" + s], weights[f"slack_{s}_N"]) for s in ("lower", "upper"))
    of_outputs = {
        "x": dense.join(weights["x"], weights["u"], lower, upper),
        "y": (weights["y"] if "x0" in d else weights["y"][1:]).ravel(),
        "z": dense.rows(weights["z"], weights["z_N"]),
        "w": dense.join(weights["w_x"], weights["w_u"]),
        "objective": float(weights["objective"]),
    }
    named = {name: value for name, value in dense.keywords().items() if name in DATA}
    answer = Answer("solved", **{name: getattr(exact, name) for name in ("x", "y", "z", "w", *DENSE_SHIFTS)})
    expected = dense.gradients(adjoint(QP(**named), answer, of_outputs), d)
    assert any(name.startswith("slack") and np.abs(value).max() > 1e-2 for name, value in expected.items())
    for name, value in expected.items():
        scale = max(1.0, np.abs(value).max(initial=0.0))
        np.testing.assert_allclose(found[name].numpy(), value, atol=1e-8 * scale, rtol=0, err_msg=name)
    for name in ("slack_linear", "slack_quadratic", "slack_linear_N", "slack_quadratic_N"):
        if name in d:
            assert not found[name].numpy()[np.isinf(d[name])].any()


@pytest.mark.parametrize("kind", ["both weights", "linear", "quadratic", "some rows hard", "free start"])
def test_gradcheck(kind):
    d, N = soft_ocp(3, **KINDS[kind] | {"nx": 2, "nu": 1, "N": 3, "rows": 2})
    if "lower_N" in d:
        d["lower_N"][0] -= 0.5  # moving one of two equal bounds is not differentiable
    names = [name for name in d if np.isfinite(d[name]).all()]
    assert any(name.startswith("slack") for name in names)
    rest = {name: torch.tensor(d[name]) for name in d if name not in names}

    def run(*flat):
        data = dict(zip(names, flat, strict=True))
        for name in ("Q", "R", "Q_N"):
            data[name] = 0.5 * (data[name] + data[name].mT)
        out = qc.OcpLayer(horizon=N)(**data, **rest)
        assert out.status == qc.Status.SOLVED
        return tuple(getattr(out, name) for name in FIELDS if getattr(out, name).numel())

    flat = [torch.tensor(d[name], requires_grad=True) for name in names]
    # The solver polishes to about 1e-13; central differences with step 1e-6 then hold to about 1e-7.
    assert torch.autograd.gradcheck(run, flat, eps=1e-6, atol=1e-5, rtol=1e-5)


def one_row(**weights):
    """x_1 = u, 1/2 u^2, u >= 1: the multiplier of the hard row is one."""
    d = {"A": [[0.0]], "B": [[1.0]], "x0": [0.0], "R": [[1.0]], "D": [[1.0]], "lower": [1.0]}
    return qc.solve_ocp(**d, horizon=1, **{name: [value] for name, value in weights.items()})


@pytest.mark.parametrize(
    ("weights", "u"),
    [
        ({"slack_linear": 0.25}, 0.25),
        ({"slack_linear": 0.25, "slack_quadratic": 0.5}, 0.5),
        ({"slack_linear": 1.0}, 1.0),  # the kink
        ({"slack_linear": 3.0}, 1.0),
        ({"slack_linear": 1e6}, 1.0),
        ({"slack_linear": INF, "slack_quadratic": 1.0}, 1.0),
        ({"slack_linear": 1.0, "slack_quadratic": INF}, 1.0),
        ({"slack_quadratic": 1.0}, 0.5),
        ({"slack_quadratic": 1e6}, 1e6 / (1e6 + 1)),
        ({"slack_quadratic": 0.0}, 0.0),
        ({"slack_linear": 0.0}, 0.0),
    ],
)
def test_one_soft_row_has_the_solution_by_hand(weights, u):
    sol = one_row(**weights)
    assert sol.status == qc.Status.SOLVED
    np.testing.assert_allclose(sol.u, [[u]], atol=1e-8)
    np.testing.assert_allclose(sol.z, [[-u]], atol=1e-8)
    if any(weights.values()):  # without weights any slack that is large enough will do
        np.testing.assert_allclose(sol.slack_lower, [[1 - u]], atol=1e-8)
        assert not sol.slack_upper.any()


@pytest.mark.parametrize(("weight", "of_bound", "of_weight"), [(0.5, 0.0, 1.0), (1.0, 1.0, 0.0), (2.0, 1.0, 0.0)])
def test_gradient_at_the_kink_is_that_of_the_hard_row(weight, of_bound, of_weight):
    """Weakly active rows, here the slack's bound, count as active."""
    one = torch.ones(1, 1, dtype=torch.float64)
    lower = torch.ones(1, dtype=torch.float64, requires_grad=True)
    w1 = torch.full((1,), weight, dtype=torch.float64, requires_grad=True)
    x0 = torch.zeros(1, dtype=torch.float64)
    out = qc.OcpLayer(horizon=1)(0 * one, one, x0, R=one, D=one, lower=lower, slack_linear=w1)
    found = torch.autograd.grad(out.u.sum(), [lower, w1])
    np.testing.assert_allclose([g.item() for g in found], [of_bound, of_weight], atol=1e-9)


def test_linear_weights_beyond_the_multipliers_are_exact_penalties():
    d, _ = random_ocp(3, rows=3, terminal_rows=2)
    hard = qc.solve_ocp(**d)
    largest = max(np.abs(hard.z).max(), np.abs(hard.z_N).max())
    assert largest > 0.1
    ends = {"slack_linear": np.full(3, 1.01 * largest), "slack_linear_N": np.full(2, 1.01 * largest)}
    soft = qc.solve_ocp(**d, **ends)
    assert soft.status == qc.Status.SOLVED
    np.testing.assert_allclose(soft.u, hard.u, atol=1e-8)
    np.testing.assert_allclose(soft.z, hard.z, atol=1e-7)
    assert not any(getattr(soft, name).any() for name in SLACKS)
    below = qc.solve_ocp(**d, **{name: 0.5 * value for name, value in ends.items()})
    assert max(getattr(below, name).max() for name in SLACKS) > 1e-3
    assert below.objective < hard.objective


def test_infinite_weights_make_hard_rows():
    d, N = random_ocp(4, rows=3, terminal_rows=2)
    hard = qc.solve_ocp(**d)
    for kind in ("linear", "quadratic"):
        infinite = {f"slack_{kind}": np.full((N, 3), INF), f"slack_{kind}_N": np.full(2, INF)}
        sol = qc.solve_ocp(**d, **infinite)
        np.testing.assert_allclose(sol.u, hard.u, atol=1e-9)
        assert not any(getattr(sol, name).any() for name in SLACKS)


def test_start_outside_soft_state_bounds_is_solved_with_a_slack():
    d = {"A": [[1.0, 0.1], [0.0, 1.0]], "B": [[0.005], [0.1]], "Q": np.eye(2), "R": [[0.1]], "C": np.eye(2)}
    d |= {"lower": [-1.0, -1.0], "upper": [1.0, 1.0], "x0": [[2.0, 0.0], [0.5, 0.0], [-3.0, 2.0]]}
    hard = qc.solve_ocp(**d, horizon=20)
    assert list(hard.status) == [qc.Status.PRIMAL_INFEASIBLE, qc.Status.SOLVED, qc.Status.PRIMAL_INFEASIBLE]
    sol = qc.solve_ocp(**d, horizon=20, slack_linear=[10.0, 10.0], slack_quadratic=[1.0, 1.0])
    assert (sol.status == qc.Status.SOLVED).all()
    np.testing.assert_allclose(sol.slack_upper[:, 0], [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], atol=1e-9)
    np.testing.assert_allclose(sol.slack_lower[:, 0], [[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(sol.u[1], hard.u[1], atol=1e-9)  # the penalty is exact


@pytest.mark.parametrize("nx", [4, 26])
def test_element_has_the_same_bits_whatever_its_neighbours_threads_and_order(nx):
    problems = [soft_ocp(seed, nx=nx, hard=0.2 * (seed % 3))[0] for seed in range(11)]
    batch = {name: np.stack([d[name] for d in problems]) for name in problems[0]}
    sols = [qc.solve_ocp(**batch, settings=qc.Settings(threads=threads)) for threads in (1, 2, 3)]
    assert np.all(sols[0].status == qc.Status.SOLVED)
    order = np.random.default_rng(0).permutation(11)
    shuffled = qc.solve_ocp(**{name: array[order] for name, array in batch.items()})
    alone = {k: qc.solve_ocp(**problems[k]) for k in (0, 5, 10)}
    pairs = {k: qc.solve_ocp(**{name: array[[k, k]] for name, array in batch.items()}) for k in alone}
    for name in (*POINT, *SLACKS, "objective"):
        expected = getattr(sols[0], name)
        for sol in sols[1:]:
            assert np.array_equal(getattr(sol, name), expected)
        assert np.array_equal(getattr(shuffled, name), expected[order])
        for k in (0, 5, 10):
            assert np.array_equal(getattr(pairs[k], name)[0], expected[k])
            # A batch of one fills the register by itself: the same to rounding.
            np.testing.assert_allclose(getattr(alone[k], name), expected[k], atol=1e-8)


@pytest.mark.parametrize("nx", [4, 26])
def test_warm_start_from_the_solution_takes_two_steps(nx):
    d, _ = soft_ocp(2, nx=nx)
    cold = qc.solve_ocp(**d)
    warm = qc.solve_ocp(**d, warm_start=cold)
    assert warm.status == qc.Status.SOLVED and warm.iterations <= 3 < cold.iterations
    for name in (*POINT, *SLACKS):
        np.testing.assert_allclose(getattr(warm, name), getattr(cold, name), atol=1e-8)


def test_shared_weights_get_the_sum_of_the_gradients():
    d, N = soft_ocp(1, varying=False)
    x0 = d["x0"] + 0.1 * np.random.default_rng(0).normal(size=(5, 4))
    shared = {"slack_linear": np.array([0.3, 0.5, 1.0]), "slack_quadratic": np.array([1.0, 0.4, 2.0])}
    d |= {"x0": x0, **shared}
    names = ("slack_linear", "slack_quadratic", "slack_linear_N", "slack_quadratic_N")
    data = {name: torch.tensor(value, requires_grad=name in names) for name, value in d.items()}
    wanted = [data[name] for name in names]
    found = torch.autograd.grad(loss_of(qc.OcpLayer(horizon=N)(**data)), wanted)
    apart = dict(data)
    for name in names:
        shape = (5, N, 3) if not name.endswith("_N") else (5, 2)
        apart[name] = data[name].detach().expand(shape).clone().requires_grad_()
    expected = torch.autograd.grad(loss_of(qc.OcpLayer(horizon=N)(**apart)), [apart[name] for name in names])
    for name, total, one in zip(names, found, expected, strict=True):
        assert total.abs().max() > 1e-3
        np.testing.assert_allclose(total, one.sum((0,) if name.endswith("_N") else (0, 1)), atol=1e-10, err_msg=name)


@pytest.mark.parametrize("value", [np.nan, -1.0, -INF])
@pytest.mark.parametrize("name", ["slack_linear", "slack_quadratic", "slack_linear_N", "slack_quadratic_N"])
def test_bad_weights_are_refused_and_touch_no_neighbour(name, value):
    d, _ = soft_ocp(0)
    bad = d[name].copy()
    bad.flat[1] = value
    index = r"\[0, 1\]" if bad.ndim == 2 else r"\[1\]"
    with pytest.raises(ValueError, match=f"{name}{index} is .*, expected a weight of at least zero"):
        qc.solve_ocp(**d | {name: bad})
    batch = {key: torch.tensor(np.stack([array] * 3)) for key, array in d.items()}
    good = qc.OcpLayer()(**batch)
    batch[name][1] = torch.tensor(bad)
    batch[name].requires_grad_()
    with pytest.warns(RuntimeWarning, match="1 of 3 QPs have no solution"):
        out = qc.OcpLayer()(**batch)
    assert list(out.status) == [0, qc.Status.INVALID_INPUT, 0]
    assert out.u[1].isnan().all() and out.slack_lower[1].isnan().all()
    np.testing.assert_array_equal(out.u[0].detach(), good.u[0])
    (found,) = torch.autograd.grad(torch.nan_to_num(out.objective).sum(), batch[name])
    assert not found[1].any() and found[0].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slack_linear": np.ones(2)}, r"slack_linear has shape \(2,\), expected \(rows\) = \(3,\)"),
        ({"slack_linear": np.ones((7, 3))}, "slack_linear has 7 stages, expected 8"),
        ({"slack_quadratic_N": np.ones(3)}, "slack_quadratic_N has shape"),
        ({"C_N": None, "lower_N": None, "upper_N": None}, "slack_linear_N is given without C_N"),
    ],
)
def test_weights_of_another_shape_are_refused(change, message):
    d, _ = soft_ocp(0)
    with pytest.raises(ValueError, match=message):
        qc.solve_ocp(**{**d, **change})


def test_soft_problem_is_saved_loaded_and_taken_apart(tmp_path):
    d, _ = soft_ocp(0, hard=0.3)
    qp = qc.OcpQP(**d | {"slack_linear": np.stack([d["slack_linear"], 2 * d["slack_linear"]])})
    both = qc.solve_ocp(**qp.arguments())
    file = qc.save_problem(tmp_path / "soft.npz", **qp.element(1).arguments())
    again = qc.solve_ocp(**qc.load_problem(file))
    for name in ("u", *SLACKS):
        # A batch of one fills the register by itself: the same to rounding.
        np.testing.assert_allclose(getattr(again, name), getattr(both, name)[1], atol=1e-9)


def contradicting(seed, **options):
    """A state's last bounds out of reach beside soft rows."""
    d, N = soft_ocp(seed, **options)
    d["x_lower"][-1, 1] = d["x_upper"][-1, 1] + 10.0
    d["x_upper"][-1, 1] = d["x_lower"][-1, 1] + 1.0
    return d, N


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{}, {"hard": 0.4}, {"weights": "linear", "N": 20}, {"nx": 26, "N": 4}], ids=str)
def test_contradicting_hard_constraints_are_shifted_and_soft_rows_are_not(options, seed):
    d, N = contradicting(seed, **options)
    assert qc.solve_ocp(**d).status == qc.Status.PRIMAL_INFEASIBLE
    sol = qc.solve_ocp(**d, settings=qc.Settings(infeasible="closest"))
    dense = SoftDense(d, N)
    exact = solve_dense(dense, infeasible="closest")
    assert sol.status == exact.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(dense.point(sol), exact.x, atol=1e-6)
    for side in ("lower", "upper"):
        shift = dense.rows(getattr(sol, f"s_{side}"), getattr(sol, f"s_{side}_N"))
        assert not shift[dense.soft].any()
        np.testing.assert_allclose(shift, getattr(exact, f"s_{side}"), atol=1e-7)
    np.testing.assert_allclose(dense.join(sol.s_x_lower, sol.s_u_lower), exact.s_lb, atol=1e-7)
    assert max(getattr(sol, name).max() for name in SLACKS) > 1e-3


def test_gradients_of_shifted_soft_problems_equal_those_of_differences():
    d, N = contradicting(1, nx=2, nu=1, N=3, rows=2)
    names = ("slack_linear", "slack_quadratic", "slack_linear_N", "slack_quadratic_N", "q", "upper", "x0")
    rest = {name: torch.tensor(value) for name, value in d.items() if name not in names}

    def run(*flat):
        out = qc.OcpLayer(horizon=N)(**dict(zip(names, flat, strict=True)), **rest)
        assert out.status == qc.Status.CLOSEST_FEASIBLE
        return out.u, out.slack_lower, out.slack_upper, out.s_x_lower, out.objective

    flat = [torch.tensor(d[name], requires_grad=True) for name in names]
    assert torch.autograd.gradcheck(run, flat, eps=1e-6, atol=1e-4, rtol=1e-4)


def test_no_slack_brings_crossed_bounds_together():
    d = {"A": [[0.0]], "B": [[1.0]], "x0": [0.0], "R": [[1.0]], "D": [[1.0]], "lower": [3.0], "upper": [1.0]}
    d |= {"slack_linear": [0.25], "horizon": 1}
    assert qc.solve_ocp(**d).status == qc.Status.PRIMAL_INFEASIBLE
    sol = qc.solve_ocp(**d, settings=qc.Settings(infeasible="closest"))
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    # Both bounds move to the middle, two, and the slack does the rest.
    np.testing.assert_allclose([sol.s_lower, sol.s_upper], 1.0, atol=1e-9)
    np.testing.assert_allclose([sol.u, sol.slack_lower, sol.slack_upper], [[[0.25]], [[1.75]], [[0.0]]], atol=1e-8)


def test_cheap_slacks_let_an_unbounded_cost_run_away():
    d = {"A": [[1.0]], "B": [[1.0]], "x0": [0.0], "r": [1.0], "D": [[1.0]], "lower": [0.0], "horizon": 3}
    assert qc.solve_ocp(**d, slack_linear=[0.5]).status == qc.Status.DUAL_INFEASIBLE
    for weights in ({"slack_linear": [1.5]}, {"slack_quadratic": [1.0]}, {"slack_linear": [INF]}):
        assert qc.solve_ocp(**d, **weights).status == qc.Status.SOLVED


def test_hard_rows_have_slacks_of_zero_where_limits_contradict_each_other():
    Q_N = [[943340.3, -413412.0, -696820.1], [-413412.0, 181840.0, 347045.8], [-696820.1, 347045.8, 3125083.5]]
    sol = qc.solve_ocp(
        np.eye(3), [[1.0, 0.0], [2.0, -1.0], [-1.0, 1.0]], [1.0, 1.0, 2.0], horizon=1, Q_N=Q_N,
        C_N=[[2.0, 0.0, -1.0], [0.0, -1.0, 1.0]], u_lower=[-1.0, 0.0], x_upper=[[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]],
        settings=qc.Settings(infeasible="closest"),
    )  # fmt: skip
    assert sol.status is qc.Status.CLOSEST_FEASIBLE
    assert not any(np.any(slack) for slack in (sol.slack_lower_N, sol.slack_upper_N))  # NaN is not zero
