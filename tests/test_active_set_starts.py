"""The active set in a warm start: what it saves, and that nonsense in it changes the effort and not the answer."""

import types

import numpy as np
import pytest
from problems import random_feasible

import qp_control as qc


def start_from(solution, **changed):
    fields = {name: np.array(getattr(solution, name)) for name in ("x", "y", "z", "w")}
    return types.SimpleNamespace(**(fields | changed))


def degenerate_batch(n, m, weak, batch=32):
    """Two-sided rows, n/3 active at each solution and `weak` more on their bound with a multiplier of zero."""
    rng = np.random.default_rng(n)
    F, C = rng.normal(size=(batch, n, n)), rng.normal(size=(batch, m, n))
    H = F @ F.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    x = rng.normal(size=(batch, n))
    Cx, Hx = (np.einsum("bij,bj->bi", matrix, x) for matrix in (C, H))
    order = rng.permuted(np.tile(np.arange(m), (batch, 1)), axis=1)
    z = np.where(order < n // 3, rng.uniform(0.5, 1.5, size=Cx.shape), 0.0)
    u = Cx + np.where(order < n // 3 + weak, 0.0, rng.uniform(0.5, 1.0, size=Cx.shape))
    l = u - rng.uniform(1.0, 2.0, size=u.shape)
    return {"H": H, "g": -Hx - np.einsum("bij,bi->bj", C, z), "C": C, "l": l, "u": u}


@pytest.mark.parametrize(("n", "m"), [(12, 15), (40, 50)])  # in lanes, one by one
def test_solution_of_a_degenerate_problem_carries_its_active_set(n, m):
    """Rows that were held have multipliers of either sign within rounding: signs send some to the other bound."""
    qp = degenerate_batch(n, m, n // 4)
    cold = qc.solve_qp(**qp)
    assert np.all(cold.status == qc.Status.SOLVED)
    assert np.any((cold.z < 0) & (cold.active_in == 1))
    again, signs = (qc.solve_qp(**qp, warm_start=start) for start in (cold, start_from(cold)))
    for warm in (again, signs):
        assert np.all(warm.status == qc.Status.SOLVED)
        np.testing.assert_allclose(warm.x, cold.x, atol=1e-8)
    assert np.all(again.iterations <= 1) and signs.iterations.mean() > 1.5
    # Nor does it lose anything where the problem has changed and some weakly active rows leave their bounds.
    moved = qp | {"g": qp["g"] + 1e-3 * np.random.default_rng(0).normal(size=qp["g"].shape)}
    counts = [qc.solve_qp(**moved, warm_start=start).iterations.sum() for start in (cold, start_from(cold))]
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("n", [12, 40])
def test_active_set_alone_leads_to_the_solution(n):
    """Without a point: the first step solves the KKT system of that set, the next ones refine it."""
    qp = random_feasible(5, n, 3, n, box=True)
    cold = qc.solve_qp(**qp.keywords())
    assert np.count_nonzero(cold.active_in) + np.count_nonzero(cold.active_box) > 3
    nothing = {name: np.zeros_like(getattr(cold, name)) for name in ("x", "y", "z", "w")}
    start = start_from(cold, **nothing, active_in=cold.active_in, active_box=cold.active_box)
    warm = qc.solve_qp(**qp.keywords(), warm_start=start)
    without = qc.solve_qp(**qp.keywords(), warm_start=start_from(cold, **nothing))
    assert warm.status == qc.Status.SOLVED
    assert 2 * warm.iterations < without.iterations
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-8)


def test_weakly_active_row_that_is_named_is_held_in_the_first_step():
    """min 1/2 (x1^2 + x2^2) - x1, x1 <= 1: the row's multiplier is zero, so that without the name it is not held."""
    qp = {"H": np.eye(2), "g": np.array([-1.0, 0.0]), "C": np.array([[1.0, 0.0]]), "u": np.array([1.0])}
    start = types.SimpleNamespace(x=np.zeros(2), y=np.zeros(0), z=np.zeros(1), w=np.zeros(2), active_in=[1])
    pushed = qp | {"g": np.array([-2.0, 0.0])}  # now its multiplier is one
    named, unnamed = (
        qc.solve_qp(**pushed, warm_start=types.SimpleNamespace(**vars(start) | {"active_in": sides}))
        for sides in ([1], [0])
    )
    assert named.active_in.tolist() == unnamed.active_in.tolist() == [1]
    assert named.iterations < unnamed.iterations
    for solution in (named, unnamed, qc.solve_qp(**qp, warm_start=start)):
        np.testing.assert_allclose(solution.x, [1.0, 0.0], atol=1e-10)


@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize("nonsense", ["opposite", "all upper", "all lower", "none", "random", "huge"])
def test_wrong_sides_change_the_effort_and_not_the_answer(n, nonsense):
    """Also where a named bound is infinite, and where all rows together are far more than n."""
    qp = random_feasible(7, n, 3, 2 * n, box=True)
    cold = qc.solve_qp(**qp.keywords())
    rng = np.random.default_rng(0)
    sides = {
        "opposite": lambda a: -a,
        "all upper": np.ones_like,
        "all lower": lambda a: -np.ones_like(a),
        "none": np.zeros_like,
        "random": lambda a: rng.integers(-1, 2, size=a.shape),
        "huge": lambda a: 1e300 * rng.normal(size=a.shape),
    }[nonsense]
    for point in ({}, {name: rng.normal(size=getattr(cold, name).shape) for name in ("x", "y", "z", "w")}):
        start = start_from(cold, **point, active_in=sides(cold.active_in), active_box=sides(cold.active_box))
        for keywords in (qp.keywords(), qp.keywords() | {"u": None}):
            warm, truth = qc.solve_qp(**keywords, warm_start=start), qc.solve_qp(**keywords)
            assert warm.status == truth.status == qc.Status.SOLVED
            np.testing.assert_allclose(warm.x, truth.x, atol=1e-7)


def test_contradicting_rows_keep_their_answer_whatever_set_is_named():
    qp = {"H": np.eye(2), "g": np.zeros(2), "C": np.array([[1.0, 1.0]]), "l": [3.0], "ub": [0.7, 0.7]}
    settings = qc.Settings(infeasible="closest")
    cold = qc.solve_qp(**qp, settings=settings)
    assert cold.active_in.tolist() == [-1] and cold.active_box.tolist() == [1, 1]
    for sides in (-1, 0, 1):
        start = start_from(cold, active_in=[sides], active_box=[sides, -sides])
        warm = qc.solve_qp(**qp, settings=settings, warm_start=start)
        assert warm.status == qc.Status.CLOSEST_FEASIBLE
        np.testing.assert_allclose(warm.x, cold.x, atol=1e-8)


def test_bad_active_set_is_refused():
    qp = random_feasible(1, 4, 1, 3)
    cold = qc.solve_qp(**qp.keywords())
    for changed, message in (
        ({"active_in": np.zeros(4)}, r"warm_start.active_in has shape \(4,\), expected \(3,\)"),
        ({"active_box": np.zeros((2, 4))}, r"warm_start.active_box has shape \(2, 4\), expected \(4,\)"),
        ({"active_in": [0.0, np.nan, 0.0]}, "warm_start.active_in has an entry that is not finite"),
        ({"active_in": ["up"] * 3}, "warm_start.active_in"),
    ):
        with pytest.raises(ValueError, match=message):
            qc.solve_qp(**qp.keywords(), warm_start=start_from(cold, **changed))


def test_elements_of_a_batch_have_sets_of_their_own_and_the_same_bits_in_any_batch():
    for n in (8, 30):
        qps = [random_feasible(seed, n, 2, n) for seed in range(11)]
        batch = {name: np.stack([getattr(qp, name) for qp in qps]) for name in qps[0].arguments()}
        cold = qc.solve_qp(**batch)
        sides = np.random.default_rng(n).integers(-1, 2, size=cold.active_in.shape)
        together = qc.solve_qp(**batch, warm_start=start_from(cold, active_in=sides))
        for k, qp in enumerate(qps):
            own = {name: getattr(cold, name)[k] for name in ("x", "y", "z", "w")}
            start = types.SimpleNamespace(**own, active_in=sides[k])
            alone = qc.solve_qp(**qp.keywords(), warm_start=start)
            for name in ("x", "y", "z", "iterations", "active_in"):
                assert np.array_equal(getattr(alone, name), getattr(together, name)[k]), name


def test_layer_takes_and_returns_the_active_set():
    torch = pytest.importorskip("torch")
    layer = qc.QPLayer()
    qp = {name: torch.tensor(value) for name, value in degenerate_batch(12, 15, 3).items()}
    cold = layer(**qp)
    assert cold.active_in.dtype == cold.active_box.dtype == torch.int8
    assert cold.active_in.shape == (32, 15) and cold.active_box.shape == (32, 12)
    warm = layer(**qp, warm_start=cold)
    assert torch.all(warm.iterations <= 1)
    wrong = layer(**qp, warm_start=cold._replace(active_in=-cold.active_in, active_box=cold.active_box + 1))
    assert wrong.iterations.sum() > warm.iterations.sum()
    torch.testing.assert_close(wrong.x, cold.x, rtol=0, atol=1e-8)
    nan = layer(**qp, warm_start=cold._replace(active_in=torch.full((32, 15), torch.nan)))
    torch.testing.assert_close(nan.x, cold.x, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match=r"warm_start.active_in has shape \(2,\), expected \(32, 15\)"):
        layer(**qp, warm_start=cold._replace(active_in=torch.zeros(2)))
    compiled = torch.compile(lambda start: layer(**qp, warm_start=start), fullgraph=True)(cold)
    for a, b in zip(compiled, warm, strict=True):
        assert torch.equal(a, b)
