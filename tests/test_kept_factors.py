"""Derivatives that use the factor of the solve again: the same as those that make their own, whatever was kept."""

import numpy as np
import pytest
from layer_calls import OUTPUTS, call, gradients, loss_of, tensors
from problems import FEASIBLE, random_feasible
from qp_data import DATA
from test_beyond_lanes import padded

import qp_control as qc
from qp_control import _solver
from qp_control.qp.problem import problem_from_arrays

SIZES = [(25, 0, 0), (26, 5, 0), (33, 4, 20), (60, 10, 40)]
IN_LANES = [(1, 0, 1), (3, 0, 2), (10, 0, 10), (24, 5, 20)]
PRESENT = 0  # the first number of what is kept: whether anything is


def batch_of(n, n_eq, n_in, size=5):
    qps = [random_feasible(seed, n, n_eq, n_in, active=0.4, box=True) for seed in range(size)]
    return {name: np.stack([getattr(qp, name) for qp in qps]) for name in qps[0].arguments()}


def solve_and_keep(data, start=None):
    """The problem as the solver takes it, the solution and what it has kept."""
    names = (*DATA, "weight_eq", "weight_in", "weight_box")
    problem = problem_from_arrays({name: data.get(name) for name in names})
    settings = qc.Settings().native("closest")
    fields, _, _, kept = _solver.solve(problem.sizes.native, problem.arrays, settings, start, keep=True)
    return problem, fields, kept


def adjoint_with(problem, fields, kept, seed=0):
    """Gradients of a random loss of x and the multipliers, and their certificate."""
    rng = np.random.default_rng(seed)
    loss = [rng.normal(size=field.shape) if k < 4 else None for k, field in enumerate(fields[:9])] + [None]
    status = fields[-4]
    derivative = qc.Settings().native_derivative()
    sizes, needed = problem.sizes.native, [True] * len(DATA)
    found, *certificate, _ = _solver.adjoint(sizes, problem.arrays, fields[:9], status, loss, needed, derivative, kept)
    return [array for array in found if array is not None], certificate


def assert_close(found, expected, rtol=1e-9):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1.0, np.abs(b).max(initial=0.0)))


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_from_the_kept_factor_equal_those_from_a_new_one(sizes):
    problem, fields, kept = solve_and_keep(batch_of(*sizes))
    assert np.all(kept[:, PRESENT] == 1)
    found, (residual, weakly_active, deficiency) = adjoint_with(problem, fields, kept)
    expected, certificate = adjoint_with(problem, fields, None)
    assert_close(found, expected)
    assert residual.max() < 1e-11
    assert np.array_equal(weakly_active, certificate[1]) and np.array_equal(deficiency, certificate[2])


def test_kept_factor_is_what_the_gradients_come_from():
    """Another factor leaves other rounding behind."""
    problem, fields, kept = solve_and_keep(batch_of(*SIZES[-1]))
    n = problem.sizes.n
    found, _ = adjoint_with(problem, fields, kept)
    other = kept.copy()
    other[:, -n * (n - 1) // 2 :] *= 1 + 1e-4  # refinement makes up for that
    disturbed, _ = adjoint_with(problem, fields, other)
    assert any(not np.array_equal(a, b) for a, b in zip(found, disturbed, strict=True))
    assert_close(disturbed, found)


def in_lanes(sizes, size=11):
    """The same of a size that is solved in lanes, and what is kept as (registers, numbers, lanes), a view."""
    problem, fields, kept = solve_and_keep(batch_of(*sizes, size=size))
    alone = solve_and_keep(batch_of(*sizes, size=1))[2]
    lanes = len(alone)
    return problem, fields, kept, kept.reshape(len(kept) // lanes, -1, lanes)


@pytest.mark.parametrize("sizes", IN_LANES)
def test_gradients_from_factors_kept_in_lanes_equal_those_from_new_ones(sizes):
    problem, fields, kept, registers = in_lanes(sizes)
    assert np.all(registers[:, PRESENT].reshape(-1)[:11] > 0)
    found, (residual, weakly_active, deficiency) = adjoint_with(problem, fields, kept)
    expected, certificate = adjoint_with(problem, fields, None)
    assert_close(found, expected)
    assert residual.max() < 1e-11
    assert np.array_equal(weakly_active, certificate[1]) and np.array_equal(deficiency, certificate[2])


@pytest.mark.parametrize("factor", [1 + 1e-4, 30.0, np.nan])
def test_factor_kept_in_lanes_is_used_but_not_trusted(factor):
    problem, fields, kept, registers = in_lanes((10, 0, 10))
    found, _ = adjoint_with(problem, fields, kept)
    n, rows = problem.sizes.n, problem.sizes.n_in
    first = 3 + n + rows + rows + n + n  # the head, D, E, the weights of rows and box, the inverse diagonal
    registers[:, first : first + n * (n - 1) // 2] *= factor
    disturbed, (residual, _, _) = adjoint_with(problem, fields, kept)
    assert any(not np.array_equal(a, b) for a, b in zip(found, disturbed, strict=True))
    assert_close(disturbed, found)
    assert residual.max() < 1e-11


def test_solve_that_makes_no_factor_keeps_none():
    """A start that is the solution needs no step."""
    data = {"H": np.eye(3)[None], "g": np.array([[1.0, -2.0, 0.5]]), "ub": np.array([[5.0, 1.0, 5.0]])}
    _, fields, _ = solve_and_keep(data)
    problem, fields, kept = solve_and_keep(data, [*fields[:4], *(active.astype(float) for active in fields[-2:])])
    assert fields[-3][0] == 0  # iterations
    found, _ = adjoint_with(problem, fields, kept)
    expected, _ = adjoint_with(problem, fields, None)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_neighbour_whose_kept_factor_does_not_fit_changes_nothing():
    """Its rows are met without a multiplier: they are active in the derivative, and were not in the solve."""
    ordinary = batch_of(6, 0, 8, size=1)
    point = np.linspace(-1, 1, 6)
    touching = ordinary | {"H": np.eye(6)[None], "g": -point[None], "u": ordinary["C"] @ point}
    touching |= {name: np.full_like(value, np.inf) for name, value in ordinary.items() if name == "ub"}
    touching |= {name: np.full_like(ordinary[name], -np.inf) for name in ("lb", "l")}
    problem, fields, kept = solve_and_keep(touching)
    new, _ = adjoint_with(problem, fields, None)
    found, (_, weakly_active, _) = adjoint_with(problem, fields, kept)
    assert weakly_active[0] > 0 and all(np.array_equal(a, b) for a, b in zip(found, new, strict=True))

    def gradients_of_first(*elements):
        data = {name: np.concatenate([element[name] for element in elements]) for name in ordinary}
        problem, fields, kept = solve_and_keep(data)
        loss = [np.ones_like(field) if k < 4 else None for k, field in enumerate(fields[:9])] + [None]
        derivative, needed = qc.Settings().native_derivative(), [True] * len(DATA)
        arguments = problem.sizes.native, problem.arrays, fields[:9], fields[-4], loss, needed, derivative, kept
        return [array[0] for array in _solver.adjoint(*arguments)[0] if array is not None]

    alone = gradients_of_first(ordinary)
    for found, expected in zip(gradients_of_first(ordinary, touching), alone, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("spoil", ["noise", "nan", "zero", "weights"])
def test_spoiled_factor_is_not_believed(spoil):
    problem, fields, kept = solve_and_keep(batch_of(*SIZES[-1]))
    expected, _ = adjoint_with(problem, fields, None)
    spoiled = kept.copy()
    n, rows = problem.sizes.n, problem.sizes.n_eq + problem.sizes.n_in
    lower = spoiled[:, 2 + 3 * n + 2 * rows :]
    if spoil == "noise":
        lower += np.random.default_rng(0).normal(size=lower.shape)
    elif spoil == "nan":
        lower[:] = np.nan
    elif spoil == "zero":
        lower[:] = 0.0
    else:
        spoiled[:, 2 + n + rows : 2 + 2 * n + 2 * rows] = 1e6  # every row is said to be in it
    found, (residual, _, _) = adjoint_with(problem, fields, spoiled)
    assert_close(found, expected)
    assert residual.max() < 1e-11


def test_only_solutions_of_feasible_problems_keep_something():
    good = random_feasible(0, 30, active=0.4, box=True)
    one = {name: getattr(good, name) for name in ("H", "g", "lb", "ub")}
    elements = [one, one | {"lb": good.ub + 1.0}, one | {"H": -np.eye(30)}, one]
    data = {name: np.stack([element[name] for element in elements]) for name in one}
    _, fields, kept = solve_and_keep(data)
    status = fields[-4]
    assert list(kept[:, PRESENT]) == [float(s == qc.Status.SOLVED) for s in status]
    assert set(status) == {qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE, qc.Status.NON_CONVEX}


@pytest.mark.parametrize("name", FEASIBLE)
def test_layer_beyond_the_lanes_has_the_exact_gradients_of_named_problems(name):
    """Degenerate ones too, where the kept factor cannot be used."""
    qp = padded(FEASIBLE[name]())
    data = tensors(qp)
    found = gradients(data, loss_of(call(data)))
    solution = qc.solve_qp(**qp.keywords())
    rng = np.random.default_rng(0)
    loss = {field: rng.normal(size=np.shape(getattr(solution, field))) for field in OUTPUTS}
    expected = qc.qp_adjoint(**qp.keywords(), solution=solution, **loss)
    for key, gradient in found.items():
        # Singular systems have least-squares solutions, which may lose half of the digits.
        np.testing.assert_allclose(gradient.numpy(), getattr(expected, key), rtol=1e-6, atol=1e-7, err_msg=key)


def test_nothing_is_kept_without_gradients_or_of_large_problems(monkeypatch):
    kept = []
    solve = _solver.solve

    def watch(*arguments):
        result = solve(*arguments)
        kept.append(result[-1])
        return result

    monkeypatch.setattr(_solver, "solve", watch)
    call(tensors(random_feasible(0, 30, 0, 5, active=0.4), grad=False))
    assert kept.pop() is None
    call(tensors(random_feasible(0, 30, 0, 5, active=0.4)))
    assert kept.pop().shape[0] == 1
    call(tensors(random_feasible(0, 5, 0, 5, active=0.4)), settings=qc.Settings(max_iter=50))  # not in lanes
    assert kept.pop() is None
    call(tensors(random_feasible(0, 257, 0, 1, active=0.4)))
    assert kept.pop() is None
