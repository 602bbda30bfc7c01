"""Gradients of every output of the layer by every input, and where they are recorded."""

import numpy as np
import pytest
import torch
from adjoint_oracle import adjoint
from kkt_oracle import solve
from layer_calls import OUTPUTS, call, check_gradients, gradients, loss_of, outputs_of, tensors
from problems import random_feasible, random_infeasible_full_rank, random_infeasible_rank_deficient
from qp_data import DATA


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("n_eq", "n_in"), [(1, 3), (0, 3), (2, 0), (0, 0)])
def test_gradcheck_of_a_feasible_problem(n_eq, n_in, box):
    qp = random_feasible(7, 4, n_eq, n_in, active=0.6, box=box)
    check_gradients(qp, outputs_of(qp))


@pytest.mark.parametrize("output", OUTPUTS)
def test_gradcheck_of_each_output_alone(output):
    check_gradients(random_feasible(3, 4, 1, 3, active=0.6, box=True), (output,))


@pytest.mark.parametrize(
    "batch", [("g",), ("H", "A"), ("C", "l"), ("b", "u", "lb"), ("ub", "g"), DATA], ids=lambda b: "".join(b)
)
def test_gradcheck_of_a_batch_with_shared_data(batch):
    check_gradients(random_feasible(11, 3, 1, 2, active=0.5, box=True), batch=batch)


@pytest.mark.parametrize("seed", range(2))
def test_gradcheck_of_an_infeasible_problem_of_full_rank(seed):
    check_gradients(random_infeasible_full_rank(seed, 3))


@pytest.mark.parametrize("batch", [("g",), ("b", "C"), DATA[:7]], ids=lambda b: "".join(b))
def test_gradcheck_of_an_infeasible_batch_with_shared_data(batch):
    check_gradients(random_infeasible_full_rank(0, 3), batch=batch)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gradcheck_of_a_rank_deficient_infeasible_problem_by_its_vectors(seed, box):
    """A and C are left out: the solution jumps when a change makes the rows independent (next test)."""
    check_gradients(random_infeasible_rank_deficient(seed, 5, box=box), skip=("A", "C"))


@pytest.mark.parametrize("seed", range(3))
def test_rank_deficient_infeasible_gradient_by_rank_preserving_changes(seed):
    """E -> E (I + h D) keeps the rank of the contradicting rows."""
    qp = random_infeasible_rank_deficient(seed, 5)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        D = torch.tensor(rng.normal(size=(5, 5)))

        def at(h, D=D):
            data = tensors(qp, grad=False)
            change = torch.eye(5, dtype=torch.float64) + h * D
            data["A"], data["C"] = data["A"] @ change, data["C"] @ change
            return loss_of(call(data))

        h = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(at(h), h)
        difference = (at(1e-6) - at(-1e-6)) / 2e-6
        assert abs(slope - difference) < 1e-6 * (1 + abs(difference))


@pytest.mark.parametrize("problem", [random_feasible(2, 5, 2, 4, box=True), random_infeasible_full_rank(1)])
def test_shared_parameter_gradient_is_the_sum_over_the_batch(problem):
    B = 5
    rng = np.random.default_rng(0)
    shared = tensors(problem)
    shared["g"] = torch.tensor(problem.g + 0.01 * rng.normal(size=(B, problem.n)), requires_grad=True)
    per_element = {
        name: (t if t.dim() > 1 and name == "g" else t.detach().expand(B, *t.shape).clone()).detach().requires_grad_()
        for name, t in shared.items()
    }
    summed = gradients(shared, loss_of(call(shared)))
    each = gradients(per_element, loss_of(call(per_element)))
    for name in shared:
        expected = each[name] if name == "g" else each[name].sum(0)
        torch.testing.assert_close(summed[name], expected, rtol=1e-10, atol=1e-11, msg=name)


FLOAT64 = {
    "in lanes": lambda: random_feasible(2, 8, 2, 6, active=0.4, box=True),
    "beyond lanes": lambda: random_feasible(2, 30, 5, 20, active=0.4, box=True),
    "infeasible": lambda: random_infeasible_full_rank(1, 6),
    "infeasible, large": lambda: random_infeasible_rank_deficient(30, 30, box=True),
}


@pytest.mark.parametrize("problem", FLOAT64)
def test_gradients_of_float64_data_are_float64_and_have_its_digits(problem):
    """The oracle is exact to 1e-12 of multipliers near 10; a float32 number anywhere on the way costs 1e-8."""
    qp = FLOAT64[problem]()
    data = tensors(qp)
    out = call(data)
    rng = np.random.default_rng(0)
    weight = {name: rng.normal(size=getattr(out, name).shape) for name in OUTPUTS}
    loss = sum((getattr(out, name) * torch.tensor(value)).sum() for name, value in weight.items())
    assert all(getattr(out, name).dtype == torch.float64 for name in OUTPUTS) and loss.dtype == torch.float64
    expected = adjoint(qp, solve(qp, "interior point"), weight)
    rounded = 0.0
    for name, gradient in gradients(data, loss).items():
        assert gradient.dtype == torch.float64
        scale = max(1.0, np.abs(expected[name]).max())
        assert np.abs(gradient.numpy() - expected[name]).max() < 1e-10 * scale, name
        rounded = max(rounded, np.abs(gradient.float().numpy() - expected[name]).max() / scale)
    assert rounded > 1e-9  # the negative control


@pytest.mark.parametrize("n", [5, 30])
def test_callers_tensors_and_warm_start_never_change(n):
    for qp in (random_feasible(2, n, 2, 4, box=True), random_infeasible_rank_deficient(1, n, box=True)):
        data = tensors(qp)
        start = call(data)
        before = [tensor.detach().clone() for tensor in (*data.values(), *start)]
        loss_of(call(data, warm_start=start)).backward()
        for tensor, value in zip((*data.values(), *start), before, strict=True):
            assert torch.equal(tensor, value)


def test_hessian_gradient_is_symmetric():
    data = tensors(random_feasible(2, 5, 2, 4))
    H = gradients(data, loss_of(call(data)))["H"]
    torch.testing.assert_close(H, H.T, rtol=1e-14, atol=1e-15)


def test_infinite_bounds_get_no_gradient():
    data = tensors(random_feasible(5, 6, 1, 6, box=True))
    found = gradients(data, loss_of(call(data)))
    seen = 0
    for name in ("l", "u", "lb", "ub"):
        infinite = ~torch.isfinite(data[name])
        seen += int(infinite.sum())
        assert torch.all(found[name][infinite] == 0)
    assert seen > 0


@pytest.mark.parametrize("wanted", DATA)
def test_a_single_argument_may_ask_for_a_gradient(wanted):
    qp = random_feasible(2, 5, 2, 4, box=True)
    everything = tensors(qp)
    full = gradients(everything, loss_of(call(everything)))
    data = tensors(qp, grad=False)
    data[wanted].requires_grad_()
    found = gradients(data, loss_of(call(data)))
    torch.testing.assert_close(found[wanted], full[wanted], rtol=1e-12, atol=1e-13)


def test_without_grad_nothing_is_recorded():
    data = tensors(random_feasible(2, 5, 2, 4))
    with torch.no_grad():
        out = call(data)
    assert not out.x.requires_grad
    plain = call(tensors(random_feasible(2, 5, 2, 4), grad=False))
    assert not plain.x.requires_grad
    assert torch.equal(plain.x, out.x)


def test_status_and_residuals_carry_no_gradient():
    out = call(tensors(random_feasible(2, 5, 2, 4)))
    assert out.status.dtype == torch.int64
    assert not out.status.requires_grad
    assert not out.primal_residual.requires_grad


def test_backward_twice_with_retain_graph_gives_the_same_gradient():
    data = tensors(random_feasible(2, 5, 2, 4))
    loss = loss_of(call(data))
    first = torch.autograd.grad(loss, data["g"], retain_graph=True)[0]
    second = torch.autograd.grad(loss, data["g"])[0]
    assert torch.equal(first, second)


def test_changing_the_result_after_the_forward_pass_does_not_change_the_gradient():
    data = tensors(random_feasible(2, 5, 2, 4))
    out = call(data)
    loss = loss_of(out)
    expected = torch.autograd.grad(loss, data["g"], retain_graph=True)[0]
    other = tensors(random_feasible(3, 5, 2, 4))
    loss_of(call(other)).backward()
    assert torch.equal(torch.autograd.grad(loss, data["g"])[0], expected)
