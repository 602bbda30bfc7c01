"""Gradients of infeasible problems in both regimes of the contradicting rows E: full column rank, where x = E^+ e
whatever H and g are, and deficient rank, where H, g and further rows decide and the solution jumps under a general
change of E."""

import numpy as np
import pytest
import torch
from adjoint_oracle import OUTPUTS, adjoint
from kkt_oracle import solve
from layer_calls import call, gradients, loss_of, tensors
from problems import random_infeasible_full_rank, random_infeasible_rank_deficient
from qp_data import DATA, QP

import qp_control as qc

CLOSEST = qc.Settings(infeasible="closest")
FULL = [(seed, n) for seed in range(3) for n in (2, 3, 4, 12, 30)]
# With n = 5 and a box the rows leave nothing to H and g.
DEFICIENT = [(seed, n, box) for seed in range(3) for n in (5, 6, 8, 30) for box in (False, True) if n > 5 or not box]


def contradicting_rows(qp):
    """E: the equalities and every row that is shifted."""
    sol = qc.solve_qp(**qp.keywords(), settings=CLOSEST)
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    shift = np.concatenate([np.ones(qp.n_eq), sol.s_lower + sol.s_upper, sol.s_lb + sol.s_ub])
    return qp.rows()[0][shift > 1e-9], sol


def gradients_of_x(qp, sol):
    weight = np.random.default_rng(100).normal(size=qp.n)
    return qc.qp_adjoint(**qp.keywords(), solution=sol, x=weight)


@pytest.mark.parametrize(("seed", "n"), FULL)
def test_full_rank_problems_have_full_column_rank_and_x_does_not_depend_on_the_objective(seed, n):
    """What finite differences of x by H and g say nothing about: the guard of the tests that use this family."""
    qp = random_infeasible_full_rank(seed, n)
    E, sol = contradicting_rows(qp)
    assert np.linalg.matrix_rank(E) == n < len(E)
    found = gradients_of_x(qp, sol)
    assert np.abs(found.H).max() < 1e-12 and np.abs(found.g).max() < 1e-12
    assert np.abs(found.A).max() > 1e-3 and np.abs(found.b).max() > 1e-3


@pytest.mark.parametrize(("seed", "n", "box"), DEFICIENT)
def test_rank_deficient_problems_lack_rank_and_x_depends_on_everything(seed, n, box):
    qp = random_infeasible_rank_deficient(seed, n, box=box)
    E, sol = contradicting_rows(qp)
    assert np.linalg.matrix_rank(E) < len(E) <= n
    found = gradients_of_x(qp, sol)
    for name in ("H", "g", "A", "b", "C"):
        assert np.abs(getattr(found, name)).max() > 1e-3, name
    # Contradicting and active rows both move x.
    assert np.abs(found.l).max() > 1e-3
    assert np.abs(found.u).max() > 1e-3 or (box and np.abs(found.ub).max() > 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_solution_of_a_rank_deficient_problem_jumps_where_its_rows_become_independent(seed):
    """Why A and C are moved by E -> E (I + h D) alone: differences of a general change measure the jump."""
    qp = random_infeasible_rank_deficient(seed, 6)
    x = qc.solve_qp(**qp.keywords(), settings=CLOSEST).x
    rng = np.random.default_rng(100 + seed)
    D = rng.normal(size=qp.A.shape)
    moved = qc.solve_qp(**qp.with_(A=qp.A + 1e-4 * D).keywords(), settings=CLOSEST)
    assert np.abs(moved.x - x).max() > 1e2
    turn = np.eye(6) + 1e-4 * rng.normal(size=(6, 6))
    kept = qc.solve_qp(**qp.with_(A=qp.A @ turn, C=qp.C @ turn).keywords(), settings=CLOSEST)
    assert np.abs(kept.x - x).max() < 1e-2


@pytest.mark.parametrize("n", [4, 30])
@pytest.mark.parametrize("shared", [(), ("H", "g"), ("C",), ("l", "u"), ("H", "C")], ids="".join)
def test_infeasible_batch_without_equalities_has_exact_gradients(shared, n):
    """Batched and shared C, l, u; rows violated at their lower and at their upper bound."""
    rng = np.random.default_rng(n)
    elements = []
    for _ in range(4):
        C, g = rng.normal(size=(5, n)), rng.normal(size=n)
        C[1], C[3] = C[0], -2.0 * C[2]
        l, u = np.array([1.0, -np.inf, 0.5, 0.3, -9.0]), np.array([9.0, 0.2, np.inf, np.inf, 9.0])
        M = rng.normal(size=(n, n))
        elements.append(QP(M @ M.T / n + np.eye(n), g, C=C, l=l + 0.1 * rng.random(5), u=u))
    for qp in elements:
        for name in shared:
            setattr(qp, name, getattr(elements[0], name))
    data = {
        name: torch.tensor(
            getattr(elements[0], name) if name in shared else np.stack([getattr(qp, name) for qp in elements]),
            requires_grad=True,
        )
        for name in ("H", "g", "C", "l", "u")
    }
    out = call(data)
    assert out.status.tolist() == [qc.Status.CLOSEST_FEASIBLE] * 4
    weight = {name: rng.normal(size=getattr(out, name).shape) for name in OUTPUTS}
    found = gradients(data, sum((getattr(out, name) * torch.tensor(weight[name])).sum() for name in OUTPUTS))
    total = {name: 0.0 for name in shared}
    for k, qp in enumerate(elements):
        exact = solve(qp, "interior point")
        assert exact.status == "closest" and np.any(exact.s_lower) and np.any(exact.s_upper)
        expected = adjoint(qp, exact, {name: value[k] for name, value in weight.items()})
        for name in data:
            if name in shared:
                total[name] = total[name] + expected[name]
                continue
            scale = max(1.0, np.abs(expected[name]).max())
            assert np.abs(found[name][k].numpy() - expected[name]).max() < 1e-8 * scale, name
    for name, value in total.items():
        assert np.abs(found[name].numpy() - value).max() < 1e-8 * max(1.0, np.abs(value).max()), name


@pytest.mark.parametrize("n", [5, 30])
def test_shared_data_of_an_infeasible_batch_gets_the_sum(n):
    """All arguments, rank-deficient, box active."""
    qp = random_infeasible_rank_deficient(0, n, box=True)
    g = qp.g + 0.01 * np.random.default_rng(0).normal(size=(5, n))
    shared = tensors(qp) | {"g": torch.tensor(g, requires_grad=True)}
    out = call(shared)
    assert out.status.tolist() == [qc.Status.CLOSEST_FEASIBLE] * 5
    summed = gradients(shared, loss_of(out))
    each = {name: torch.stack([shared[name].detach()] * 5).requires_grad_() for name in DATA if name != "g"}
    found = gradients(each | {"g": shared["g"]}, loss_of(call(each | {"g": shared["g"]})))
    for name in DATA:
        expected = found[name] if name == "g" else found[name].sum(0)
        torch.testing.assert_close(summed[name], expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("gap", [1.0, 1e-6, 1e-10, 1e-12, 1e-14])
@pytest.mark.parametrize("n", [2, 30])
def test_crossed_bounds_share_the_gradient_however_close_they_are(n, gap):
    """The row ends in the middle of its bounds, and half of the gradient goes to each."""
    I = torch.eye(n, dtype=torch.float64)
    l, u = torch.full((n,), -5.0, dtype=torch.float64), torch.full((n,), 5.0, dtype=torch.float64)
    l[0], u[0] = 0.5 + gap, 0.5
    l.requires_grad_(), u.requires_grad_()
    out = qc.QPLayer()(I, torch.ones(n, dtype=torch.float64), C=I, l=l, u=u)
    assert qc.Status(int(out.status)) is qc.Status.CLOSEST_FEASIBLE
    assert out.s_lower[0] > 0 and out.s_upper[0] > 0
    out.x[0].backward()
    expected = torch.zeros(n, dtype=torch.float64)
    expected[0] = 0.5
    torch.testing.assert_close(l.grad, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(u.grad, expected, rtol=0, atol=1e-12)
