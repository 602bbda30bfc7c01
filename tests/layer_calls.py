"""Calls of the torch layer on the tests' problems, and gradients of all its outputs."""

from __future__ import annotations

import numpy as np
import torch
from qp_data import DATA

import qp_control as qc

OUTPUTS = ("x", "y", "z", "w", "s_eq", "s_lower", "s_upper", "s_lb", "s_ub", "objective")


def tensors(qp, *, grad=True, dtype=torch.float64):
    return {name: torch.tensor(v, dtype=dtype, requires_grad=grad) for name, v in qp.arguments().items()}


def call(data, settings=None, **options):
    return qc.QPLayer(settings)(*(data.get(name) for name in DATA), **options)


def loss_of(out, seed=0):
    """A fixed random combination of all outputs."""
    rng = np.random.default_rng(seed)
    total = 0.0
    for name in OUTPUTS:
        value = getattr(out, name)
        total = total + (value * torch.tensor(rng.normal(size=value.shape), dtype=value.dtype)).sum()
    return total


def gradients(data, loss):
    names = [name for name, tensor in data.items() if tensor.requires_grad]
    found = torch.autograd.grad(loss, [data[name] for name in names], allow_unused=True)
    return dict(zip(names, found, strict=True))


def check_gradients(qp, outputs=OUTPUTS, batch=None, skip=(), check=torch.autograd.gradcheck, settings=None):
    """gradcheck of the layer by its finite data, H through (M + M')/2; batch: names given per element."""
    given = {name: torch.tensor(value) for name, value in qp.arguments().items()}
    for name in batch or ():
        # Two elements that differ a little, so that no gradient can be credited to the wrong one.
        given[name] = torch.stack([given[name], given[name] + 1e-3 * (name == "g")])
    names = [name for name in given if name not in skip]
    finite = {name: torch.isfinite(given[name]).nonzero(as_tuple=True) for name in names}

    def run(*flat):
        data = dict(given)
        for name, values in zip(names, flat, strict=True):
            data[name] = given[name].index_put(finite[name], values)
        if "H" in data:
            data["H"] = 0.5 * (data["H"] + data["H"].mT)
        out = call(data, settings)
        return tuple(getattr(out, name) for name in outputs)

    flat = [given[name][finite[name]].clone().requires_grad_() for name in names]
    # The solver polishes to about 1e-13; central differences with step 1e-6 then hold to about 1e-7.
    assert check(run, flat, eps=1e-6, atol=1e-5, rtol=1e-5)


def outputs_of(qp):
    """gradcheck rejects outputs of length zero."""
    empty = {"y": qp.n_eq, "s_eq": qp.n_eq, "z": qp.n_in, "s_lower": qp.n_in, "s_upper": qp.n_in}
    return tuple(name for name in OUTPUTS if empty.get(name, 1))
