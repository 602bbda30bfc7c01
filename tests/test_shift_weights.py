"""Weights of the shifts: the least shift is least in them, infinite ones never give way, gradients know it."""

import numpy as np
import pytest
import torch

import qp_control as qc

INFINITY = float("inf")
CLOSEST = qc.Settings(infeasible="closest")


def contradicting(seed):
    """Soft rows that contradict each other while hard rows and hard bounds hold them back."""
    rng = np.random.default_rng(seed)
    n = 4
    M, g, A, b, C = (rng.normal(size=s) for s in ((n, n), n, (3, n), 3, (4, n)))
    A[2] = A[0] + 0.3 * A[1]
    return {
        "H": M @ M.T + 0.1 * np.eye(n),
        "g": g,
        "A": A,
        "b": b,
        "C": C,
        "u": rng.normal(size=4) - 1.0,
        "lb": np.full(n, -1.5),
        "ub": np.full(n, 1.5),
        "weight_eq": np.array([1.0, INFINITY, 2.5]),
        "weight_in": np.array([INFINITY, 1.0, 0.5, 3.0]),
        "weight_box": np.array([INFINITY, INFINITY, 1.0, 1.0]),
    }


SEEDS = [seed for seed in range(12) if qc.solve_qp(**contradicting(seed), settings=CLOSEST).status == 1][:6]


def test_enough_of_the_problems_contradict_themselves():
    assert len(SEEDS) == 6


def weighted_shift(qp, x):
    """Square of the weighted shift that x needs; infinite where a hard row gives way."""
    eq, above = qp["A"] @ x - qp["b"], np.maximum(qp["C"] @ x - qp["u"], 0.0)
    box = np.maximum(x - qp["ub"], 0.0) + np.maximum(qp["lb"] - x, 0.0)
    total = 0.0
    for weight, shift in ((qp["weight_eq"], eq), (qp["weight_in"], above), (qp["weight_box"], box)):
        hard = np.isinf(weight)
        if np.any(np.abs(shift[hard]) > 1e-9):
            return INFINITY
        total += weight[~hard] @ shift[~hard] ** 2
    return total


@pytest.mark.parametrize("seed", SEEDS)
def test_shift_is_least_among_neighbours_that_keep_the_hard_rows(seed):
    qp = contradicting(seed)
    sol = qc.solve_qp(**qp, settings=CLOSEST)
    least = weighted_shift(qp, sol.x)
    reported = (
        qp["weight_eq"][[0, 2]] @ sol.s_eq[[0, 2]] ** 2
        + qp["weight_in"][1:] @ sol.s_upper[1:] ** 2
        + qp["weight_box"][2:] @ (sol.s_lb[2:] + sol.s_ub[2:]) ** 2
    )
    assert np.isclose(least, reported, rtol=1e-9)
    rng = np.random.default_rng(0)
    on_hard_row = np.eye(4) - np.outer(qp["A"][1], qp["A"][1]) / (qp["A"][1] @ qp["A"][1])
    compared = 0
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(1000):
            other = weighted_shift(qp, sol.x + size * on_hard_row @ rng.normal(size=4))
            assert other >= least * (1.0 - 1e-9)
            compared += np.isfinite(other)
    assert compared > 5


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_pass_through_weights_and_hard_rows(seed):
    """Changes of rank-preserving kind in the rows: [A; C] (I + S), with the box away."""
    qp = {name: torch.tensor(value, dtype=torch.float64) for name, value in contradicting(seed).items()}
    layer = qc.QPLayer()
    weights = {name: qp[name] for name in ("weight_eq", "weight_in", "weight_box")}

    def by_vectors(g, b, u, lb, ub):
        out = layer(qp["H"], g, qp["A"], b, qp["C"], None, u, lb, ub, **weights)
        return tuple(out[:10])

    inputs = tuple(qp[name].clone().requires_grad_() for name in ("g", "b", "u", "lb", "ub"))
    assert torch.autograd.gradcheck(by_vectors, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)

    def by_matrices(M, S):
        T = torch.eye(4, dtype=torch.float64) + S
        out = layer(
            0.5 * (M + M.T),
            qp["g"],
            qp["A"] @ T,
            qp["b"],
            qp["C"] @ T,
            None,
            qp["u"],
            **dict(list(weights.items())[:2]),
        )
        assert int(out.status) == qc.Status.CLOSEST_FEASIBLE
        return out.x, out.y, out.z, out.s_eq, out.s_upper, out.objective

    zero = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        by_matrices, (qp["H"].clone().requires_grad_(), zero), eps=1e-6, atol=1e-5, rtol=1e-4
    )


def test_contradicting_hard_rows_are_infeasible_in_closest_mode_too():
    qp = {"H": np.eye(1), "g": [0.0], "A": [[1.0], [1.0]], "b": [0.0, 1.0], "weight_eq": [INFINITY, INFINITY]}
    sol = qc.solve_qp(**qp, settings=CLOSEST)
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE
    assert np.isclose(sol.certificate_y.sum(), 0.0) and sol.certificate_y @ [0.0, 1.0] < 0.0


def test_crossed_hard_bounds_are_infeasible_in_closest_mode_too():
    sol = qc.solve_qp(np.eye(1), [0.0], lb=[1.0], ub=[0.0], weight_box=[INFINITY], settings=CLOSEST)
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE


def test_weight_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"weight_in\[0\].*positive"):
        qc.solve_qp(np.eye(1), [0.0], C=[[1.0]], l=[1.0], weight_in=[0.0])


def by_weights(seed):
    """Outputs of a layer as a function of the finite weights, and these."""
    qp = {name: torch.tensor(value, dtype=torch.float64) for name, value in contradicting(seed).items()}
    weights = {name: qp.pop(name) for name in ("weight_eq", "weight_in", "weight_box")}
    soft = {name: weight.isfinite() for name, weight in weights.items()}
    layer = qc.QPLayer(qc.Settings(eps_abs=1e-11))

    def run(*finite):
        given = {name: weights[name].masked_scatter(soft[name], f) for name, f in zip(weights, finite, strict=True)}
        return tuple(layer(**qp, **given)[:10])

    return run, tuple(weights[name][soft[name]].clone().requires_grad_() for name in weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_by_weights_are_differences_backward_and_forward(seed):
    run, weights = by_weights(seed)
    assert torch.autograd.gradcheck(run, weights, eps=1e-6, atol=1e-6, rtol=1e-5, check_forward_ad=True)


def test_weights_matter_in_some_of_these_problems():
    found = [by_weights(seed) for seed in SEEDS]
    slopes = [torch.autograd.grad(run(*weights)[0].square().sum(), weights) for run, weights in found]
    assert sum(max(float(g.abs().max()) for g in slope) > 1e-3 for slope in slopes) >= 3


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_second_derivatives_by_weights_are_differences(seed):
    run, weights = by_weights(seed)
    assert torch.autograd.gradgradcheck(run, weights, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_shared_weights_get_the_sum_and_hard_or_feasible_rows_nothing():
    """x = 1 against x = 0: x = w_1 / (w_1 + w_2), so that dx/dw_1 = w_2 / (w_1 + w_2)^2."""
    A, b = torch.ones(2, 1, dtype=torch.float64), torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([2.0, 6.0], dtype=torch.float64, requires_grad=True)
    H, g = torch.eye(1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    qc.QPLayer()(H, g, A, b, weight_eq=weight).x.sum().backward()
    torch.testing.assert_close(weight.grad, 4.0 * torch.tensor([6.0, -2.0], dtype=torch.float64) / 64.0)
    hard = torch.tensor([INFINITY, 6.0], dtype=torch.float64, requires_grad=True)
    qc.QPLayer()(H, g, A, b, weight_eq=hard).x.sum().backward()
    torch.testing.assert_close(hard.grad, torch.zeros(2, dtype=torch.float64))
    calm = weight.detach().clone().requires_grad_()
    qc.QPLayer()(H, g, A, torch.ones(2, dtype=torch.float64), weight_eq=calm).x.sum().backward()
    torch.testing.assert_close(calm.grad, torch.zeros(2, dtype=torch.float64))


def test_a_row_that_is_shifted_on_both_sides_counts_twice_in_its_weight():
    """1 <= x <= -1 against x = 3: the middle, 0, of twice the weight."""
    A = C = torch.ones(1, 1, dtype=torch.float64)
    args = {"g": torch.zeros(1, dtype=torch.float64), "A": A, "b": torch.full((1,), 3.0).double()}
    args |= {"C": C, "l": torch.ones(1).double(), "u": -torch.ones(1).double()}

    def run(eq, in_):
        return qc.QPLayer(qc.Settings(eps_abs=1e-11))(**args, weight_eq=eq, weight_in=in_).x

    weights = tuple(torch.tensor([w], dtype=torch.float64, requires_grad=True) for w in (1.0, 2.5))
    assert torch.autograd.gradcheck(run, weights, eps=1e-6, atol=1e-7)
    assert torch.autograd.gradgradcheck(run, weights, eps=1e-6, atol=1e-6)
