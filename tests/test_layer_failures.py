"""The layer where elements have no answer: neighbours, policies, warnings."""

import warnings

import numpy as np
import pytest
import torch
from layer_calls import call, gradients, loss_of, tensors
from problems import random_feasible, random_infeasible_full_rank, unbounded_lp, unbounded_qp
from qp_data import DATA

import qp_control as qc


def batch_of(qps, grad=True):
    return {name: torch.tensor(np.stack([getattr(qp, name) for qp in qps]), requires_grad=grad) for name in DATA}


def poisoned(bad):
    good = [random_feasible(seed, 5, 2, 4, box=True) for seed in range(8)]
    batch = batch_of(good, grad=False)
    if bad == "nan":
        batch["g"][3, 1] = np.nan
    elif bad == "inf":
        batch["A"][3, 0, 0] = np.inf
    elif bad == "infeasible":
        batch["l"][3, 0], batch["u"][3, 0] = 3.0, -3.0
    elif bad == "indefinite":
        batch["H"][3] *= -1
    elif bad == "wrong infinity":
        batch["lb"][3, 0] = np.inf
    for tensor in batch.values():
        tensor.requires_grad_()
    return good, batch


@pytest.mark.parametrize("bad", ["nan", "inf", "infeasible", "indefinite", "wrong infinity"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_neighbour_changes_nothing(bad):
    good, batch = poisoned(bad)
    out = call(batch)
    weight = torch.tensor(np.random.default_rng(0).normal(size=(8, 5)))
    keep = torch.ones(8, dtype=torch.bool)
    keep[3] = bad == "infeasible"
    found = gradients(batch, (out.x[keep] * weight[keep]).sum())
    for k in (0, 1, 2, 4, 5, 6, 7):
        data = tensors(good[k])
        alone = call(data)
        torch.testing.assert_close(out.x[k], alone.x, rtol=0, atol=1e-9)
        expected = gradients(data, (alone.x * weight[k]).sum())
        for name in DATA:
            torch.testing.assert_close(found[name][k], expected[name], rtol=1e-9, atol=1e-9, msg=name)
    statuses = {
        "nan": qc.Status.INVALID_INPUT,
        "inf": qc.Status.INVALID_INPUT,
        "wrong infinity": qc.Status.INVALID_INPUT,
        "infeasible": qc.Status.CLOSEST_FEASIBLE,
        "indefinite": qc.Status.NON_CONVEX,
    }
    assert int(out.status[3]) == statuses[bad]


@pytest.mark.parametrize("bad", ["nan", "indefinite"])
def test_element_without_an_answer_is_nan_and_adds_zero_to_gradients(bad):
    _, batch = poisoned(bad)
    shared = torch.eye(5, dtype=torch.float64, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="contribute nothing to gradients"):
        out = call(batch | {"A": batch["A"] @ shared})
    assert torch.all(torch.isnan(out.x[3]))
    assert torch.all(torch.isfinite(out.x[[0, 1, 2, 4, 5, 6, 7]]))
    # The whole output enters the loss, bad element included: masked sums are how training loops treat it.
    loss = torch.nansum(out.x)
    loss.backward()
    for name, tensor in batch.items():
        assert torch.all(tensor.grad[3] == 0), name
        assert torch.all(torch.isfinite(tensor.grad)), name
    assert torch.all(torch.isfinite(shared.grad))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_gradient_from_a_failed_element_does_not_reach_shared_data():
    """A loss over all elements without a mask sends NaN into the failed element's backward pass."""
    _, batch = poisoned("nan")
    out = call(batch)
    sent = torch.ones_like(out.x)
    sent[3] = np.nan
    out.x.backward(sent)
    for name, tensor in batch.items():
        assert torch.all(torch.isfinite(tensor.grad)), name


def test_policy_raise_stops_and_names_the_element():
    _, batch = poisoned("nan")
    with pytest.raises(Exception, match="3") as caught:
        call(batch, qc.Settings(on_failure="raise"))
    assert "INVALID_INPUT" in str(caught.value)


@pytest.mark.parametrize("compiled", [False, True])
def test_policy_raise_carries_the_problem_and_the_solution_by_their_names(compiled, tmp_path):
    _, batch = poisoned("nan")
    strict = qc.QPLayer(qc.Settings(on_failure="raise"))
    layer = torch.compile(strict, fullgraph=True) if compiled else strict
    with pytest.raises(qc.SolveError) as caught:
        layer(**batch)
    with pytest.warns(RuntimeWarning, match="1 INVALID_INPUT"):
        expected = call(batch)
    found = caught.value.solution
    assert isinstance(found, qc.LayerSolution)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=0, atol=0, equal_nan=True, msg=name)
    loaded = qc.load_problem(qc.save_problem(tmp_path / "failed.npz", **caught.value.problem))
    assert set(loaded) == set(DATA) and np.isnan(loaded["g"][3, 1])
    with pytest.raises(ValueError, match=r"g\[3, 1\] is nan"):
        qc.solve_qp(**loaded)


def test_policy_raise_has_a_single_problem_without_the_axis_of_a_batch():
    with pytest.raises(qc.SolveError) as caught:
        call(tensors(unbounded_lp()), qc.Settings(on_failure="raise"))
    assert caught.value.solution.status.shape == () and caught.value.solution.x.isnan().all()
    assert qc.solve_qp(**caught.value.problem).status == qc.Status.DUAL_INFEASIBLE


def test_policy_nan_lets_nan_into_the_gradients_of_the_failed_element_only():
    _, batch = poisoned("nan")
    with pytest.warns(RuntimeWarning, match="1 INVALID_INPUT; first: element 3.*gradients are NaN"):
        out = call(batch, qc.Settings(on_failure="nan"))
    torch.nansum(out.x).backward()
    assert torch.all(torch.isnan(batch["b"].grad[3]))
    keep = [0, 1, 2, 4, 5, 6, 7]
    assert torch.all(torch.isfinite(batch["b"].grad[keep]))


@pytest.mark.parametrize("problem", [unbounded_lp, unbounded_qp])
def test_unbounded_element_has_no_answer(problem):
    data = tensors(problem())
    with pytest.warns(RuntimeWarning):
        out = call(data)
    assert int(out.status) == qc.Status.DUAL_INFEASIBLE
    assert torch.all(torch.isnan(out.x))
    torch.nansum(out.x).backward()
    assert torch.all(data["g"].grad == 0)


def test_strict_mode_reports_infeasibility_without_an_answer():
    data = tensors(random_infeasible_full_rank(0))
    with pytest.warns(RuntimeWarning):
        out = call(data, qc.Settings(infeasible="certify"))
    assert int(out.status) == qc.Status.PRIMAL_INFEASIBLE
    torch.nansum(out.x).backward()
    assert torch.all(data["b"].grad == 0)


def test_infeasible_element_gives_no_warning_in_closest_mode():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = call(tensors(random_infeasible_full_rank(0)))
        loss_of(out).backward()
    assert int(out.status) == qc.Status.CLOSEST_FEASIBLE


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_element_stopped_at_max_iter_is_flagged_and_stays_finite():
    data = tensors(random_feasible(0, 30, 5, 30))
    out = call(data, qc.Settings(max_iter=1))
    assert int(out.status) == qc.Status.MAX_ITER
    assert torch.all(torch.isfinite(out.x))
