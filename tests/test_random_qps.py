"""Random QPs up to n = 50 against the independent oracle: solution error below 1e-7, gradient error below
1e-6.

Both bars are the project's; the oracle's own error is near 1e-13 (tests/test_oracles.py).
"""

import numpy as np
import pytest
import torch
from adjoint_oracle import OUTPUTS, adjoint
from kkt_oracle import residuals, solve
from problems import (
    badly_scaled_rows,
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
)
from qp_data import DATA

import qp_control as qc

SIZES = [(2, 0, 3), (5, 2, 4), (10, 3, 10), (10, 0, 10), (20, 5, 20), (30, 5, 30), (50, 10, 25), (50, 25, 50)]


def layer_output(qp, settings=None):
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in qp.arguments().items()}
    return tensors, qc.QPLayer(settings)(*(tensors.get(name) for name in DATA))


def gradient_error(qp, exact, outputs=OUTPUTS, seed=0):
    """Largest difference to the exact adjoint, relative to the largest entry of each gradient."""
    rng = np.random.default_rng(seed)
    tensors, out = layer_output(qp)
    weight = {
        name: float(rng.normal()) if name == "objective" else rng.normal(size=getattr(exact, name).shape)
        for name in outputs
    }
    loss = sum(
        (getattr(out, name).reshape(np.shape(weight[name])) * torch.tensor(weight[name], dtype=torch.float64)).sum()
        for name in outputs
    )
    loss.backward()
    expected = adjoint(qp, exact, weight)
    error = 0.0
    for name, tensor in tensors.items():
        scale = max(1.0, np.abs(expected[name]).max())
        error = max(error, np.abs(tensor.grad.numpy() - expected[name]).max() / scale)
    return error


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("n", "n_eq", "n_in"), SIZES)
def test_solution_equals_the_independent_oracle(n, n_eq, n_in, box):
    for seed in range(3):
        qp = random_feasible(seed, n, n_eq, n_in, active=0.4, box=box)
        exact = solve(qp, "interior point")
        sol = qc.solve_qp(**qp.keywords())
        assert sol.status == qc.Status.SOLVED
        for name in ("x", "y", "z", "w"):
            np.testing.assert_allclose(getattr(sol, name), getattr(exact, name), atol=1e-7)
        assert abs(sol.objective - exact.objective) < 1e-7 * (1 + abs(exact.objective))


@pytest.mark.parametrize("seed", range(6))
def test_semidefinite_solution_equals_the_independent_oracle(seed):
    qp = random_feasible(seed, 30, 5, 25, active=0.9, rank=15)
    exact = solve(qp, "interior point")
    sol = qc.solve_qp(**qp.keywords())
    assert sol.status == qc.Status.SOLVED
    assert abs(sol.objective - exact.objective) < 1e-7 * (1 + abs(exact.objective))
    left = residuals(qp, sol.x, sol.y, sol.z, sol.w)
    assert max(left.primal, left.dual, left.complementarity) < 1e-7
    if exact.unique:
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("n", "n_eq", "n_in"), SIZES)
def test_gradient_equals_the_exact_adjoint(n, n_eq, n_in, box):
    for seed in range(2):
        qp = random_feasible(seed, n, n_eq, n_in, active=0.4, box=box)
        exact = solve(qp, "interior point")
        assert gradient_error(qp, exact) < 1e-6
        assert gradient_error(qp, exact, outputs=("x",)) < 1e-6
        if n_in:
            assert gradient_error(qp, exact, outputs=("z",)) < 1e-6


def test_badly_scaled_rows_are_solved():
    qp = badly_scaled_rows()
    exact = solve(qp)
    sol = qc.solve_qp(**qp.keywords())
    assert exact.status == "solved"
    assert sol.status == qc.Status.SOLVED
    np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)
    assert gradient_error(qp, exact, outputs=("x",)) < 1e-6


@pytest.mark.parametrize("infeasible", ["certify", "closest"])
@pytest.mark.parametrize(("n", "n_eq", "n_in"), [(5, 2, 4), (12, 3, 10), (30, 5, 30), (50, 10, 50)])
def test_rows_scaled_by_1e_3_to_1e3_are_solved_with_their_multipliers_and_gradients(n, n_eq, n_in, infeasible):
    """A row times c has its multiplier divided by c, and its bound's gradient too; x is the same."""
    for seed in range(3):
        qp = random_feasible(seed, n, n_eq, n_in, active=0.4, box=True)
        rng = np.random.default_rng(seed)
        a, c = 10.0 ** rng.uniform(-3, 3, n_eq), 10.0 ** rng.uniform(-3, 3, n_in)
        scaled = qp.with_(A=a[:, None] * qp.A, b=a * qp.b, C=c[:, None] * qp.C, l=c * qp.l, u=c * qp.u)
        exact = solve(qp, "interior point")
        sol = qc.solve_qp(**scaled.keywords(), settings=qc.Settings(infeasible=infeasible))
        assert sol.status == qc.Status.SOLVED
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)
        np.testing.assert_allclose(a * sol.y, exact.y, atol=1e-6)
        np.testing.assert_allclose(c * sol.z, exact.z, atol=1e-6)
        weight = rng.normal(size=n)
        found = qc.qp_adjoint(**scaled.keywords(), solution=sol, x=weight)
        expected = adjoint(qp, exact, {"x": weight})
        factors = {"A": a[:, None], "b": a, "C": c[:, None], "l": c, "u": c}
        for name, value in expected.items():
            given = getattr(found, name) * factors.get(name, 1.0)
            assert np.abs(given - value).max() < 1e-8 * max(1.0, np.abs(value).max()), name


@pytest.mark.parametrize(
    "qp",
    [random_infeasible_full_rank(seed, n) for seed, n in ((0, 3), (1, 6), (2, 12))]
    + [random_infeasible_rank_deficient(seed, 6, box=seed % 2 == 0) for seed in range(4)],
    ids=lambda qp: f"n{qp.n}_eq{qp.n_eq}",
)
def test_closest_feasible_solution_and_gradient_are_exact(qp):
    exact = solve(qp, "interior point")
    assert exact.status == "closest"
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible="closest"))
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    for name in ("x", "y", "z", "w", "s_eq", "s_lower", "s_upper", "s_lb", "s_ub"):
        np.testing.assert_allclose(getattr(sol, name), getattr(exact, name), atol=1e-7, err_msg=name)
    assert gradient_error(qp, exact) < 1e-6
    assert gradient_error(qp, exact, outputs=("x", "s_eq", "s_lower", "s_upper")) < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_shift_weights_move_the_closest_feasible_point(seed):
    qp = random_infeasible_full_rank(seed, 4)
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.2, 5.0, qp.n_eq)
    exact = solve(qp, "interior point", weights=np.concatenate([weight, np.ones(qp.n_in + qp.n)]))
    plain = solve(qp, "interior point")
    assert np.abs(exact.x - plain.x).max() > 1e-3
    sol = qc.solve_qp(**qp.keywords(), weight_eq=weight, settings=qc.Settings(infeasible="closest"))
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(sol.x, exact.x, atol=1e-7)
    np.testing.assert_allclose(sol.s_eq, exact.s_eq, atol=1e-7)


def test_a_batch_of_different_problems_equals_its_elements():
    qps = [random_feasible(seed, 10, 3, 10, active=0.4, box=True) for seed in range(16)]
    batch = {name: np.stack([getattr(qp, name) for qp in qps]) for name in DATA}
    sol = qc.solve_qp(**batch)
    assert np.all(sol.status == qc.Status.SOLVED)
    for k, qp in enumerate(qps):
        np.testing.assert_allclose(sol.x[k], solve(qp, "interior point").x, atol=1e-7)
