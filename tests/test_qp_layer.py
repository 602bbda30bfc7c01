"""The torch layer in use: broadcasting, dtypes, copies, options, warm starts."""

import copy
import pickle

import numpy as np
import pytest
import torch
from layer_calls import OUTPUTS, call, gradients, loss_of, tensors
from problems import random_feasible, random_infeasible_full_rank
from qp_data import DATA

import qp_control as qc


def test_batch_of_one_against_batch_of_many_broadcasts():
    qp = random_feasible(1, 4, 1, 3)
    data = tensors(qp)
    data["H"] = torch.tensor(qp.H[None], requires_grad=True)
    data["g"] = torch.tensor(np.stack([qp.g] * 3), requires_grad=True)
    out = call(data)
    assert out.x.shape == (3, 4)
    found = gradients(data, loss_of(out))
    shared = tensors(qp) | {"g": data["g"]}
    expected = gradients(shared, loss_of(call(shared)))
    assert torch.equal(found["H"], expected["H"][None])
    for name in ("g", "A", "b", "C", "l", "u"):
        assert torch.equal(found[name], expected[name]), name


def test_empty_batch_has_empty_outputs_and_zero_gradients():
    H = torch.eye(3, dtype=torch.float64, requires_grad=True)
    g = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    out = qc.QPLayer()(H, g)
    assert out.x.shape == (0, 3)
    out.x.sum().backward()
    assert torch.all(H.grad == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_results_and_gradients_have_the_dtype_of_the_input(dtype):
    qp = random_feasible(2, 3, 1, 2)
    data = tensors(qp, grad=False)
    data = {name: t.to(dtype).requires_grad_() for name, t in data.items()}
    with torch.no_grad():
        data["H"].copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    out = call(data)
    for name in OUTPUTS:
        assert getattr(out, name).dtype == dtype, name
    out.x.sum().backward()
    for name, tensor in data.items():
        assert tensor.grad.dtype == dtype, name
        assert torch.all(torch.isfinite(tensor.grad)), name


def test_float32_gradient_equals_the_float64_gradient_of_the_same_data():
    qp = random_feasible(2, 5, 2, 4)
    single = tensors(qp, dtype=torch.float32)
    with torch.no_grad():
        single["H"].copy_(0.5 * (single["H"] + single["H"].T))
    double = {name: t.detach().double().requires_grad_() for name, t in single.items()}
    a, b = call(single), call(double)
    torch.testing.assert_close(a.x, b.x.float(), rtol=1e-6, atol=1e-6)
    a.x.sum().backward()
    b.x.sum().backward()
    for name in single:
        torch.testing.assert_close(single[name].grad, double[name].grad.float(), rtol=1e-5, atol=1e-6)


def test_non_contiguous_and_expanded_tensors_give_the_same_answer():
    qp = random_feasible(2, 5, 2, 4)
    data = tensors(qp, grad=False)
    plain = call(data)
    strange = dict(data)
    strange["H"] = data["H"].T
    strange["A"] = torch.stack([data["A"], data["A"]], -1)[..., 0]
    strange["g"] = data["g"].expand(3, 5)
    out = call(strange)
    assert torch.equal(out.x[1], plain.x)


def test_copies_and_pickles_behave_like_the_original():
    settings = qc.Settings(eps_abs=1e-9, infeasible="closest")
    layer = qc.QPLayer(settings)
    data = tensors(random_infeasible_full_rank(0), grad=False)
    arguments = [data.get(name) for name in DATA]
    expected = layer(*arguments).x
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)):
        assert torch.equal(other(*arguments).x, expected)
    assert isinstance(layer, torch.nn.Module)
    assert list(layer.parameters()) == []
    assert "1e-09" in repr(layer)  # the options are visible


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_two_layers_keep_their_own_options():
    infeasible = tensors(random_infeasible_full_rank(0), grad=False)
    arguments = [infeasible.get(name) for name in DATA]
    closest, strict = qc.QPLayer(), qc.QPLayer(qc.Settings(infeasible="certify", on_failure="nan"))
    for _ in range(2):
        assert int(closest(*arguments).status) == qc.Status.CLOSEST_FEASIBLE
        assert int(strict(*arguments).status) == qc.Status.PRIMAL_INFEASIBLE


def test_layer_equals_the_numpy_front():
    qp = random_feasible(6, 10, 3, 10, box=True)
    sol = qc.solve_qp(**qp.keywords())
    out = call(tensors(qp))
    for name in ("x", "y", "z", "w", "objective", "primal_residual", "dual_residual"):
        assert np.array_equal(getattr(out, name).detach().numpy(), getattr(sol, name)), name


def test_warm_start_is_passed_in_and_out():
    data = tensors(random_feasible(4, 30, 5, 30))
    cold = call(data)
    warm = call(data, warm_start=cold)
    assert int(warm.iterations) < int(cold.iterations)
    torch.testing.assert_close(warm.x, cold.x, rtol=0, atol=1e-8)
    a, b = gradients(data, loss_of(warm)), gradients(data, loss_of(cold))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-7, atol=1e-7)


def test_layer_learns_a_constraint():
    """Descent through the layer recovers the right-hand side that produced the observed solutions."""
    rng = np.random.default_rng(0)
    A = torch.tensor(rng.normal(size=(2, 5)))
    g = torch.tensor(rng.normal(size=(16, 5)))
    H, target = torch.eye(5, dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    layer = qc.QPLayer()
    seen = layer(H, g, A, target).x
    b = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([b], max_iter=50, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        loss = (layer(H, g, A, b).x - seen).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(b.detach(), target, rtol=0, atol=1e-6)
