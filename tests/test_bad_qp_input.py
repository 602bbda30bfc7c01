"""The caller's mistakes raise ValueError that says what was got and what was expected; nothing crashes."""

import contextlib
import re

import numpy as np
import pytest
import torch
from problems import random_feasible
from qp_data import DATA
from verdicts import assert_honest

import qp_control as qc

INF = np.inf
ONE = qc.Settings(threads=1)


def arguments():
    return random_feasible(0, 4, 2, 3, box=True).arguments()


@pytest.mark.parametrize("name", DATA)
def test_nan_is_refused_with_the_name_of_the_array_and_the_index(name):
    bad = arguments()
    bad[name].reshape(-1)[-1] = np.nan
    index = ", ".join(str(size - 1) for size in bad[name].shape)
    with pytest.raises(ValueError, match=rf"\b{name}\b.*{index}"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize("name", ["H", "g", "A", "b", "C"])
@pytest.mark.parametrize("value", [INF, -INF])
def test_infinity_outside_the_bounds_is_refused(name, value):
    bad = arguments()
    bad[name].reshape(-1)[-1] = value
    index = ", ".join(str(size - 1) for size in bad[name].shape)
    with pytest.raises(ValueError, match=rf"\b{name}\[{index}\] is -?inf"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize(("name", "value"), [("l", INF), ("lb", INF), ("u", -INF), ("ub", -INF)])
def test_bound_infinite_on_the_wrong_side_is_refused_with_its_row(name, value):
    bad = arguments()
    bad[name][1] = value
    with pytest.raises(ValueError, match=rf"\b{name}\b.*1"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize(("name", "value"), [("l", 1e20), ("lb", 1e25), ("u", -1e20), ("ub", -1e300)])
def test_bound_that_counts_as_infinite_is_refused_on_the_wrong_side(name, value):
    bad = arguments()
    bad[name][1] = value
    with pytest.raises(ValueError, match=rf"\b{name}\b.*1"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize("size", [1e20, 1e25, 1e300])
@pytest.mark.parametrize("n", [4, 30])
def test_bounds_of_1e20_and_more_are_infinite_to_the_bit(size, n):
    plain = random_feasible(3, n, 2, 6, box=True).arguments()
    infinite = {name: np.where(np.isinf(value), np.sign(value) * size, value) for name, value in plain.items()}
    assert sum(np.isinf(plain[name]).sum() for name in ("l", "u", "lb", "ub")) >= 4
    a, b = qc.solve_qp(**plain), qc.solve_qp(**infinite)
    for name in ("x", "y", "z", "w", "objective", "iterations", "duality_gap"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_nan_in_a_batch_names_the_element():
    bad = arguments()
    bad["g"] = np.stack([bad["g"]] * 5)
    bad["g"][3, 2] = np.nan
    with pytest.raises(ValueError, match=r"\bg\b.*3, 2"):
        qc.solve_qp(**bad)


WRONG_SHAPES = {
    "H": [(4, 5), (5, 5), (4,), (2, 4, 5), (1, 1, 4, 4), ()],
    "g": [(5,), (4, 4, 4), (), (2, 5)],
    "A": [(2, 5), (2,), (4, 2), (1, 2, 2, 4)],
    "b": [(3,), (2, 1), (2, 2, 2)],
    "C": [(3, 5), (3,)],
    "l": [(4,), (2, 4)],
    "u": [(2,), ()],
    "lb": [(3,), (4, 4, 4)],
    "ub": [(5,)],
}


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name, shapes in WRONG_SHAPES.items() for shape in shapes]
)
def test_wrong_shape_is_refused_with_got_and_expected(name, shape):
    bad = arguments() | {name: np.ones(shape)}
    # g decides n, so that a wrong g shows in what does not fit it.
    culprit = r"\w+" if name == "g" else rf"\b{name}\b"
    with pytest.raises(ValueError, match=rf"(?s){culprit} has .*expected"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"g": np.ones((4, 1)), "A": None, "b": None, "C": None, "l": None, "u": None, "lb": None, "ub": None},
            "H has shape (4, 4), expected (n, n) = (1, 1); n = 1 from g of shape (4, 1); a vector is (n,)",
        ),
        ({"g": np.ones((4, 1))}, "g has shape (4, 1), expected (n,) = (4,) or (B, n); n = 4 from H of shape (4, 4)"),
        ({"b": np.ones((2, 1))}, "b has shape (2, 1), expected (n_eq,) = (2,) or (B, n_eq)"),
        ({"H": np.eye(5)}, "H has shape (5, 5), expected (n, n) = (4, 4); n = 4 from g of shape (4,)"),
    ],
)
def test_refused_shape_is_the_one_given_and_says_where_n_is_from(wrong, message):
    given = arguments() | wrong
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        qc.solve_qp(**given)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        qc.QPLayer()(**{name: None if value is None else torch.as_tensor(value) for name, value in given.items()})


def test_number_instead_of_a_vector_or_matrix_is_refused_for_one_unknown_too():
    one = {"H": np.eye(1), "g": [1.0], "A": [[1.0]], "b": [1.0], "C": [[1.0]], "l": [0.0], "u": [9.0]}
    assert qc.solve_qp(**one).status == qc.Status.SOLVED
    for name in one:
        with pytest.raises(ValueError, match=rf"\b{name} has shape \(\), expected"):
            qc.solve_qp(**(one | {name: 1.0}))


def test_batch_sizes_that_differ_are_refused():
    bad = arguments()
    bad["g"], bad["b"] = np.stack([bad["g"]] * 2), np.stack([bad["b"]] * 3)
    with pytest.raises(ValueError, match=r"(?s)batch.*(2.*3|3.*2)"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize(("given", "missing"), [("A", "b"), ("b", "A"), ("l", "C"), ("u", "C")])
def test_rows_without_their_other_half_are_refused(given, missing):
    kept = {name: value for name, value in arguments().items() if name in ("H", "g", given)}
    with pytest.raises(ValueError, match=rf"\b{missing}\b"):
        qc.solve_qp(**kept)


@pytest.mark.parametrize(
    "value", ["text", [["a"] * 4] * 4, [[1, 2], [3]], object(), np.array([None] * 4), 1j * np.eye(4)]
)
def test_arrays_of_something_else_than_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"\bH\b"):
        qc.solve_qp(value, np.ones(4))


@pytest.mark.parametrize("name", DATA)
def test_array_of_objects_is_refused_whichever_it_is(name):
    bad = arguments()
    bad[name] = bad[name].astype(object)
    with pytest.raises(ValueError, match=rf"\b{name} has dtype object, expected real numbers"):
        qc.solve_qp(**bad)


@pytest.mark.parametrize("name", DATA)
def test_tensor_that_requires_grad_is_sent_to_the_layers(name):
    """Its gradient would be lost without a word."""
    given = arguments()
    tensor = torch.tensor(given[name], requires_grad=True)
    with pytest.raises(TypeError, match=f"^{name} is a tensor that requires grad.*QPLayer, OcpLayer"):
        qc.solve_qp(**(given | {name: tensor}))
    with pytest.raises(TypeError, match=f"problem 0: {name} is a tensor that requires grad"):
        qc.solve_qps([given | {name: tensor}])
    detached, plain = qc.solve_qp(**(given | {name: tensor.detach()})), qc.solve_qp(**given)
    assert np.array_equal(detached.x, plain.x)


def test_starts_and_optimal_control_problems_that_require_grad_are_refused_too():
    with pytest.raises(TypeError, match=r"^A is a tensor that requires grad"):
        qc.solve_ocp(torch.eye(2, requires_grad=True), np.ones((2, 1)), horizon=3)
    out = qc.QPLayer()(torch.eye(2), torch.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match=r"^warm_start\.x is a tensor that requires grad"):
        qc.solve_qp(np.eye(2), np.ones(2), warm_start=out)


def test_dtypes_that_numpy_lacks_are_converted():
    H, g = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)
    expected = qc.solve_qp(H.double(), g.double())
    assert np.array_equal(qc.solve_qp(H, g).x, expected.x)
    assert torch.equal(qc.QPLayer()(H, g).x, torch.tensor(expected.x).to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"^H is not an array of numbers: "):
        qc.solve_qp(torch.eye(2, device="meta"), g)


def test_missing_g_is_refused():
    with pytest.raises((ValueError, TypeError), match=r"\bg\b"):
        qc.solve_qp(np.eye(2), None)


def test_asymmetric_hessian_is_refused_and_rounding_is_not():
    H = np.eye(4)
    H[0, 1] = 1e-3
    with pytest.raises(ValueError, match="symmetric"):
        qc.solve_qp(H, np.ones(4))
    H[0, 1] = 1e-12
    assert qc.solve_qp(H, np.ones(4)).status == qc.Status.SOLVED
    H32 = np.eye(4, dtype=np.float32)
    H32[0, 1] = 1e-6
    assert qc.solve_qp(H32, np.ones(4, dtype=np.float32)).status == qc.Status.SOLVED
    H32[0, 1] = 1e-3
    with pytest.raises(ValueError, match="symmetric"):
        qc.solve_qp(H32, np.ones(4, dtype=np.float32))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_asymmetry_is_relative_to_the_largest_entry_of_the_element(dtype, tolerance, size):
    """A large neighbour in the batch excuses nothing."""
    for factor, accepted in ((0.4, True), (2.5, False)):
        H = size * np.eye(3, dtype=dtype)
        H[0, 2] = factor * tolerance * size
        for given in (H, np.stack([1e9 * np.eye(3, dtype=dtype), H])):
            if accepted:
                assert np.all(qc.solve_qp(given, np.ones(3)).status == qc.Status.SOLVED)
                continue
            with pytest.raises(ValueError, match=r"H is not symmetric.*0, 2|2, 0"):
                qc.solve_qp(given, np.ones(3))
            with pytest.raises(ValueError, match="H is not symmetric"):
                qc.QPLayer()(torch.tensor(given), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("gap", [1.0, 1e-5, 1e-8, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize("n", [2, 30])
@pytest.mark.parametrize("kind", ["row", "box"])
def test_crossed_bounds_are_never_solved_however_close(kind, n, gap):
    l, u = np.full(n, -5.0), np.full(n, 5.0)
    l[0], u[0] = 0.5 + gap, 0.5
    bounds = {"C": np.eye(n), "l": l, "u": u} if kind == "row" else {"lb": l, "ub": u}
    problem = {"H": np.eye(n), "g": np.ones(n), **bounds}
    assert qc.solve_qp(**problem).status == qc.Status.PRIMAL_INFEASIBLE
    sol = qc.solve_qp(**problem, settings=qc.Settings(infeasible="closest"))
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    lower, upper = (sol.s_lower, sol.s_upper) if kind == "row" else (sol.s_lb, sol.s_ub)
    # Least shifts below 1e-11 of the bound count as rounding.
    np.testing.assert_allclose([lower[0], upper[0]], (l[0] - u[0]) / 2, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(sol.x, np.append((l[0] + u[0]) / 2, -np.ones(n - 1)), atol=1e-9)
    assert not lower[1:].any() and not upper[1:].any()


@pytest.mark.parametrize("box", [False, True])
def test_indefinite_hessian_is_not_called_solved(box):
    bounds = {"lb": -np.ones(2), "ub": np.ones(2)} if box else {}
    for H in (np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1e-3])):
        assert qc.solve_qp(H, np.zeros(2), **bounds).status == qc.Status.NON_CONVEX


def test_indefinite_hessian_that_is_convex_on_the_equalities_is_still_reported():
    """The problem class is H positive semidefinite; equalities do not widen it."""
    sol = qc.solve_qp(np.diag([1.0, -1.0]), np.ones(2), A=[[0.0, 1.0]], b=[0.0])
    assert sol.status == qc.Status.NON_CONVEX


def test_eigenvalue_at_rounding_level_is_accepted():
    sol = qc.solve_qp(np.diag([1.0, -1e-14]), np.array([1.0, 0.0]), lb=-np.ones(2), ub=np.ones(2))
    assert sol.status == qc.Status.SOLVED
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    H = Q[:, :3] @ Q[:, :3].T  # rank 3: eigenvalues of about -1e-17
    assert qc.solve_qp((H + H.T) / 2, H @ np.ones(6)).status == qc.Status.SOLVED


@pytest.mark.parametrize("name", ["H", "g", "A", "C", "b", "l", "u"])
@pytest.mark.parametrize("size", [1e300, -1e300, 1e160, 1e30, 1e-300])
@pytest.mark.parametrize("n", [4, 30])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the check, which overflows too
def test_enormous_entries_give_an_honest_status(name, size, n):
    """One entry, then all of them; a gradient that overflows is flagged."""
    plain = random_feasible(0, n, 2, 3)
    value = getattr(plain, name)
    one, every = value.copy(), value * (abs(size) if name in ("H", "l", "u") else size)
    one.reshape(-1)[0] = {"H": abs(size), "l": -abs(size), "u": abs(size)}.get(name, size)
    for qp in (plain.with_(**{name: one}), plain.with_(**{name: every})):
        if np.any(qp.l >= 1e20) or np.any(qp.u <= -1e20):
            continue  # bounds that count as infinite, on the wrong side
        for infeasible in ("certify", "closest"):
            sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible=infeasible))
            assert_honest(qp, sol)
            found = qc.qp_adjoint(**qp.keywords(), solution=sol, x=np.ones(n))
            finite = all(np.isfinite(getattr(found, data)).all() for data in plain.arguments())
            assert finite or not found.residual <= 1e-6


@pytest.mark.parametrize("problem", ["nan", "size", "batch"])
def test_bad_warm_start_is_refused(problem):
    kept = arguments()
    warm = qc.solve_qp(**kept)
    if problem == "nan":
        warm.x[1] = np.nan
    elif problem == "size":
        warm = qc.solve_qp(np.eye(5), np.ones(5))
    else:
        warm = qc.solve_qp(np.eye(4), np.ones((3, 4)))
        kept["g"] = np.stack([kept["g"]] * 2)
    with pytest.raises(ValueError, match=r"(?i)warm"):
        qc.solve_qp(**kept, warm_start=warm)


@pytest.mark.parametrize("value", [-1.0, np.nan, 0.0])
def test_bad_shift_weight_is_refused(value):
    with pytest.raises(ValueError, match="weight_eq"):
        qc.solve_qp(**arguments(), weight_eq=[1.0, value])


def spoil_bounds(element):
    element["l"][:], element["u"][:] = 2.0, -2.0


def spoil_rows(element):
    element["C"][1] = element["C"][0]
    element["l"][:2], element["u"][:2] = [1.0, -INF], [INF, -1.0]


def spoil_everything(element):
    for name in ("H", "g", "A", "C"):
        element[name] *= 1e300


# What is done to an element in place.
SPOILED = {
    "indefinite": lambda element: element["H"].__imul__(-1.0),
    "crossed": spoil_bounds,
    "contradicting": spoil_rows,
    "enormous": spoil_everything,
}


def test_bad_problem_then_good_problem_gives_the_right_answer():
    good = qc.solve_qp(**arguments())
    for bad in ({"g": np.full(4, np.nan)}, {"H": np.ones((3, 3))}, {"H": -np.eye(4)}):
        with contextlib.suppress(ValueError):
            qc.solve_qp(**(arguments() | bad))
        assert np.array_equal(qc.solve_qp(**arguments()).x, good.x)


@pytest.mark.parametrize("n", [4, 30])
def test_bad_problem_leaves_no_trace_in_the_memory_of_the_next(n):
    """In one batch on one thread, and from call to call."""
    qps = [random_feasible(seed, n, 2, 3, box=True) for seed in range(2)]
    alone = [qc.solve_qp(**qp.keywords(), settings=ONE) for qp in qps]
    for spoil in SPOILED.values():
        batch = {name: np.stack([getattr(qps[k], name) for k in (0, 0, 1, 1, 0, 1)]) for name in DATA}
        for k in (1, 2, 4):
            spoil({name: value[k] for name, value in batch.items()})
        sol = qc.solve_qp(**batch, settings=ONE)
        for k, seed in ((0, 0), (3, 1), (5, 1)):
            assert sol.status[k] == qc.Status.SOLVED and sol.status[4] != qc.Status.SOLVED
            for name in ("x", "y", "z", "w", "objective", "iterations"):
                assert np.array_equal(getattr(sol, name)[k], getattr(alone[seed], name)), name
        qc.solve_qp(**{name: value[1] for name, value in batch.items()}, settings=ONE)
        assert np.array_equal(qc.solve_qp(**qps[0].keywords(), settings=ONE).x, alone[0].x)
