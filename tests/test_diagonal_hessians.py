"""A diagonal H takes a way of its own through the solver and the derivatives, with the results of any other H.

An entry of 1e-300 beside the diagonal changes nothing in any solution, but the matrix is not diagonal any more.
"""

import numpy as np
import pytest
from layer_calls import call, gradients, loss_of
from qp_data import QP
from verdicts import assert_honest

import qp_control as qc

torch = pytest.importorskip("torch")
CLOSEST = qc.Settings(infeasible="closest")


def as_full_matrix(H):
    """The same to every solution, but not diagonal."""
    out = np.array(H)
    out[..., 0, -1] = out[..., -1, 0] = 1e-300
    return out


def diagonal_problem(seed, n, n_eq, n_in, *, box=True, spread=0.5):
    """H between 10^-spread and 10^spread; feasible, with active rows and variables."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    A, C = rng.normal(size=(n_eq, n)), rng.normal(size=(n_in, n))
    data = {
        "H": np.diag(10.0 ** rng.uniform(-spread, spread, size=n)),
        "g": 3.0 * rng.normal(size=n),
        "A": A,
        "b": A @ x,
        "C": C,
        "l": C @ x - rng.uniform(0.1, 1.0, size=n_in),
        "u": C @ x + rng.uniform(0.1, 1.0, size=n_in),
    }
    if box:
        data |= {"lb": x - rng.uniform(0.1, 1.0, size=n), "ub": x + rng.uniform(0.1, 1.0, size=n)}
    return data


def stacked(problems):
    return {name: np.stack([problem[name] for problem in problems]) for name in problems[0]}


SIZES = [
    (9, 0, 0),
    (20, 3, 12),
    (30, 0, 0),
    (30, 0, 10),
    (45, 5, 20),
    (60, 20, 40),
    (26, 26, 0),
    (30, 0, 50),
    (120, 10, 20),
]


@pytest.mark.parametrize("spread", [0.5, 4.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_solution_is_that_of_the_same_problem_with_a_full_matrix(sizes, spread):
    for seed in range(4):
        data = diagonal_problem(seed, *sizes, box=seed % 2 == 0 or sizes[1:] == (0, 0), spread=spread)
        found, truth = (qc.solve_qp(**data | {"H": H}) for H in (data["H"], as_full_matrix(data["H"])))
        assert found.status == truth.status == qc.Status.SOLVED
        assert_honest(QP(**data), found)
        np.testing.assert_allclose(found.x, truth.x, atol=1e-8)
        assert abs(found.objective - truth.objective) <= 1e-9 * (1.0 + abs(truth.objective))


def test_box_alone_is_a_clipped_minimiser():
    rng = np.random.default_rng(0)
    h, g = 10.0 ** rng.uniform(-6, 6, size=(2, 50, 100))
    lb, ub = -rng.uniform(0, 2, size=(50, 100)), rng.uniform(0, 2, size=(50, 100))
    g *= rng.choice([-1.0, 1.0], size=g.shape)
    solution = qc.solve_qp(h[..., None] * np.eye(100), g, lb=lb, ub=ub)
    assert np.all(solution.status == qc.Status.SOLVED)
    np.testing.assert_allclose(solution.x, np.clip(-g / h, lb, ub), rtol=1e-8, atol=1e-8 / h.min())


@pytest.mark.parametrize("sizes", [(30, 0, 0), (30, 5, 10), (60, 20, 30)])
def test_gradients_are_those_of_the_same_problem_with_a_full_matrix(sizes):
    for seed in range(3):
        data = diagonal_problem(seed, *sizes)
        found = []
        for H in (data["H"], as_full_matrix(data["H"])):
            tensors = {name: torch.tensor(v, requires_grad=True) for name, v in (data | {"H": H}).items()}
            found.append(gradients(tensors, loss_of(call(tensors))))
        for name in data:
            torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("sizes", [(9, 0, 0), (14, 3, 6), (30, 3, 12)])  # the first two in lanes
def test_elements_have_the_same_bits_whatever_the_matrices_of_their_neighbours(sizes):
    problems = [diagonal_problem(seed, *sizes) for seed in range(9)]
    for k in (1, 2, 5):
        problems[k] = problems[k] | {"H": as_full_matrix(problems[k]["H"])}
    problems[7] = problems[7] | {"H": np.zeros_like(problems[7]["H"])}
    for order in (np.arange(9), np.arange(9)[::-1]):
        for threads in (1, 3):
            together = qc.solve_qp(**stacked([problems[k] for k in order]), settings=qc.Settings(threads=threads))
            for place, k in enumerate(order):
                alone = qc.solve_qp(**problems[k])
                for name in ("x", "y", "z", "w", "iterations"):
                    assert np.array_equal(getattr(together, name)[place], getattr(alone, name)), (name, k)


def test_shared_diagonal_matrix_gives_the_bits_of_matrices_of_their_own():
    data, rng = diagonal_problem(0, 40, 4, 15), np.random.default_rng(0)
    # The scale of the objective differs too, and with it the way: beside some of these g the diagonal is small.
    data["g"] = data["g"] * 10.0 ** rng.uniform(-3, 6, size=(30, 1))
    shared = qc.solve_qp(**data, settings=qc.Settings(threads=2))
    own = {name: np.broadcast_to(data[name], (30, *data[name].shape)).copy() for name in ("H", "A", "C")}
    for name in ("x", "y", "z", "w"):
        assert np.array_equal(getattr(qc.solve_qp(**data | own), name), getattr(shared, name)), name


@pytest.mark.parametrize("zero", [1, 15, 29])
def test_diagonal_with_zeros_is_semidefinite(zero):
    data = diagonal_problem(3, 30, 2, 10)
    data["H"][np.arange(zero), np.arange(zero)] = 0.0
    found, truth = (qc.solve_qp(**data | {"H": H}) for H in (data["H"], as_full_matrix(data["H"])))
    assert found.status == truth.status == qc.Status.SOLVED
    assert abs(found.objective - truth.objective) <= 1e-8


def test_negative_and_invalid_entries_of_the_diagonal_are_seen():
    problems = [diagonal_problem(seed, 30, 2, 5) for seed in range(4)]
    problems[1]["H"][4, 4] = -1.0
    problems[3]["H"][5, 5] = -1e-14  # rounding
    solution = qc.solve_qp(**stacked(problems))
    assert [qc.Status(s).name for s in solution.status] == ["SOLVED", "NON_CONVEX", "SOLVED", "SOLVED"]
    for value in (np.nan, np.inf):
        problems[2]["H"][0, 0] = value
        with pytest.raises(ValueError, match=r"H\[2, 0, 0\]"):
            qc.solve_qp(**stacked(problems))


def test_unbounded_and_contradicting_problems_keep_their_answers():
    data = diagonal_problem(1, 30, 0, 5, box=False)
    data["H"][3, 3] = 0.0
    data["C"][:, 3] = 0.0
    data["g"][3] = 1.0
    solution = qc.solve_qp(**data)
    assert solution.status == qc.Status.DUAL_INFEASIBLE
    assert solution.certificate_x[3] < 0
    data = diagonal_problem(2, 30, 0, 5)
    data["C"][1] = data["C"][0]
    data["l"][0], data["u"][1] = 1.0, -1.0
    data["u"][0], data["l"][1] = 2.0, -2.0
    assert qc.solve_qp(**data).status == qc.Status.PRIMAL_INFEASIBLE
    found, truth = (qc.solve_qp(**data | {"H": H}, settings=CLOSEST) for H in (data["H"], as_full_matrix(data["H"])))
    assert found.status == truth.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(found.x, truth.x, atol=1e-7)


def test_warm_start_of_a_diagonal_problem_takes_a_step_or_two():
    data = stacked([diagonal_problem(seed, 60, 5, 20) for seed in range(8)])
    cold = qc.solve_qp(**data)
    warm = qc.solve_qp(**data, warm_start=cold)
    assert np.all(warm.iterations <= 2) and np.all(warm.status == qc.Status.SOLVED)
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-9)
