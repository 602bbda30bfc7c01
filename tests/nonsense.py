"""Arguments of random ranks, sizes, dtypes, layouts and values, most of them nearly a QP.

test_nonsense.py runs them in a process of its own.
"""

from __future__ import annotations

import collections
import warnings

import numpy as np
import torch

import qp_control as qc

# Axes of each argument: n unknowns, e equalities, i inequalities.
AXES = {"H": "nn", "g": "n", "A": "en", "b": "e", "C": "in", "l": "i", "u": "i", "lb": "n", "ub": "n"}
AXES |= {"weight_eq": "e", "weight_in": "i", "weight_box": "n"}


def shape_of(rng, name, sizes):
    if rng.random() < 0.02:
        return tuple(int(size) for size in rng.integers(0, 4, size=rng.integers(0, 4)))
    fitting = tuple(sizes[letter] for letter in AXES[name])
    return (sizes["B"], *fitting) if rng.random() < 0.3 else fitting


def array(rng, name, sizes):
    shape = shape_of(rng, name, sizes)
    value = np.array(rng.integers(-3, 4, size=shape), dtype=float)
    if name == "H" and value.ndim >= 2 and shape[-1] == shape[-2]:
        value = value @ np.swapaxes(value, -1, -2)
    if name.startswith("weight"):
        value = np.abs(value) + 1.0
    value = np.array(value + {"l": -3.0, "lb": -3.0, "u": 3.0, "ub": 3.0}.get(name, 0.0))
    if value.size and rng.random() < 0.03:
        value.reshape(-1)[rng.integers(value.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300, 1e20])
    return value


def disguised(rng, value):
    kind = rng.integers(12)
    if kind == 0:
        return np.asfortranarray(value)
    if kind == 1 and value.ndim:
        return value[..., ::-1]
    if kind == 2:
        return value.tolist()
    if kind == 3:
        small = np.where(np.isfinite(value), value, 0).clip(-9, 9)
        return small.astype(rng.choice([np.int8, np.int64, np.uint8]))
    if kind == 4:
        return value.astype(rng.choice([np.float32, np.float16, np.longdouble]))
    if kind == 5 and rng.random() < 0.2:
        return value.astype(rng.choice([object, complex, "U8", bool]))
    return value


def problem(rng):
    sizes = dict(zip("neiB", (int(k) for k in rng.integers((0, 0, 0, 0), (5, 3, 4, 4))), strict=True))
    if rng.random() < 0.1:
        sizes["n"] = 27  # beyond lanes
    likely = {"g": 0.98, "A": 0.9, "b": 0.9, "C": 0.9}
    return {name: array(rng, name, sizes) for name in AXES if rng.random() < likely.get(name, 0.6)}


def numpy_front(rng, arguments, settings):
    given = {name: disguised(rng, value) for name, value in arguments.items()}
    solution = qc.solve_qp(**given, settings=settings)
    status = np.asarray(solution.status)
    assert np.all((status >= 0) & (status <= 8))
    if np.isfinite(solution.x).all() and np.isfinite(solution.w).all():
        qc.solve_qp(**given, settings=settings, warm_start=solution)
    gradients = qc.qp_adjoint(**given, solution=solution, x=np.ones_like(solution.x))
    tangent = qc.qp_tangent(**given, solution=solution, dg=np.ones(np.shape(given["g"])))
    assert gradients.g.shape == np.shape(given["g"]) and tangent.x.shape == solution.x.shape


def layer(rng, arguments, settings):
    given = {name: torch.tensor(v, requires_grad=not name.startswith("weight")) for name, v in arguments.items()}
    out = qc.QPLayer(settings)(**given)
    loss = sum(torch.nan_to_num(output).sum() for output in out[:10])
    wanted = [tensor for tensor in given.values() if tensor.requires_grad]
    for tensor, gradient in zip(wanted, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
        assert gradient is None or gradient.shape == tensor.shape


FRONTS = {"solve_qp": numpy_front, "QPLayer": layer}


def run(front, seed, count):
    """Answered or refused with ValueError, and both happen."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    outcomes = collections.Counter()
    for _ in range(count):
        arguments = problem(rng)
        settings = qc.Settings(
            infeasible=str(rng.choice(["certify", "closest"])),
            threads=int(rng.integers(1, 3)),
            max_iter=int(rng.choice([3, 300])),
        )
        try:
            FRONTS[front](rng, arguments, settings)
            outcomes["answered"] += 1
        except ValueError as error:
            assert len(str(error)) > 10
            outcomes["refused"] += 1
    assert min(outcomes["answered"], outcomes["refused"]) > count / 20, outcomes
    print("done", dict(outcomes))
