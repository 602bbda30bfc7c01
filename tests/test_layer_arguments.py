"""The layer refuses what a problem cannot be made of with what was got and what was expected."""

import numpy as np
import pytest
import torch
from layer_calls import call, tensors
from problems import random_feasible
from qp_data import DATA

import qp_control as qc


def arguments():
    return tensors(random_feasible(0, 4, 2, 3, box=True), grad=False)


def test_layer_refuses_batch_sizes_that_differ():
    bad = arguments()
    bad["g"], bad["b"] = torch.stack([bad["g"]] * 2), torch.stack([bad["b"]] * 3)
    with pytest.raises(ValueError, match=r"(?s)batch.*(2.*3|3.*2)"):
        call(bad)


def test_layer_refuses_a_warm_start_of_another_size_and_survives_one_that_is_not_finite():
    """An element that failed last time hands on NaN: it starts cold."""
    good = call(arguments())
    other = qc.QPLayer()(torch.eye(5), torch.ones(5))
    with pytest.raises(ValueError, match=r"warm_start.x has shape \(5,\), expected \(4,\)"):
        call(arguments(), warm_start=other)
    for value in (np.nan, np.inf, -np.inf):
        start = good._replace(x=torch.full_like(good.x, value), z=torch.full_like(good.z, value))
        again = call(arguments(), warm_start=start)
        assert int(again.status) == qc.Status.SOLVED
        torch.testing.assert_close(again.x, good.x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "shape"), [("H", (4, 5)), ("g", (5,)), ("A", (2, 5)), ("l", (4,)), ("ub", (3,))])
def test_layer_refuses_wrong_shapes_with_got_and_expected(name, shape):
    bad = arguments() | {name: torch.ones(shape, dtype=torch.float64)}
    culprit = r"\w+" if name == "g" else rf"\b{name}\b"
    with pytest.raises(ValueError, match=rf"(?s){culprit} has .*expected"):
        call(bad)


def test_layer_refuses_an_asymmetric_hessian():
    bad = arguments()
    bad["H"] = bad["H"].clone()
    bad["H"][0, 1] += 0.1
    with pytest.raises(ValueError, match="symmetric"):
        call(bad)


@pytest.mark.parametrize("name", DATA)
def test_layer_refuses_sparse_tensors_by_name_and_takes_negated_views(name):
    good = arguments()
    expected = call(good).x
    with pytest.raises(TypeError, match=rf"^{name} is a tensor of layout torch.sparse_coo, expected a dense one"):
        call(good | {name: good[name].to_sparse()})
    view = torch.complex(torch.zeros_like(good[name]), -good[name]).conj().imag
    assert view.is_neg()
    assert torch.equal(call(good | {name: view}).x, expected)


def test_layer_refuses_what_is_not_a_float_tensor():
    with pytest.raises((ValueError, TypeError), match=r"\bg\b"):
        qc.QPLayer()(torch.eye(2), "text")
    with pytest.raises((ValueError, TypeError)):
        qc.QPLayer()(torch.eye(2, dtype=torch.complex64), torch.ones(2))
