"""Matrices that the stages share against copies of them for every stage: the same bits."""

import numpy as np
import pytest
import torch
from ocp_problems import random_ocp

import qp_control as qc

MATRICES = ("Q", "R", "S", "A", "B", "C", "D")
OUTPUTS = ("x", "u", "y", "z", "z_N", "w_x", "w_u", "slack_lower", "slack_upper", "s_lower", "s_u_lower")
KINDS = {
    "all": {},
    "no rows": {"rows": 0, "terminal_rows": 0},
    "costs and rows": {"apart": ("A", "B")},
    "costs": {"apart": ("A", "B", "C", "D")},
    "dynamics": {"apart": ("Q", "R", "S", "C", "D")},
    "free start": {"free": True},
    "one stage": {"N": 1},
    "two stages": {"N": 2},
    "no inputs": {"nu": 0, "rows": 0},
    "slacks": {"slack": 0.3},
    "shifted": {"away": 50.0},
    "alone": {"batch": 1},
    "beyond the lanes": {"nx": 20, "nu": 7, "N": 5},
}


def problems(rows=2, terminal_rows=1, apart=(), slack=0.0, away=0.0, batch=11, **options):
    """A batch twice: with matrices that have no axis of stages, but for those `apart`, and with copies for all."""
    d, N = random_ocp(2, terminal_rows=terminal_rows, varying=False, **options)
    nx, nu = d["B"].shape
    rng = np.random.default_rng(0)
    if rows:  # some of them hold back the solution without them
        free = qc.solve_ocp(**d, horizon=N)
        d |= {"C": rng.normal(size=(rows, nx)), "D": rng.normal(size=(rows, nu))}
        v = free.x[:-1] @ d["C"].T + free.u @ d["D"].T + away
        d |= {"lower": v - 0.02, "upper": v + rng.uniform(size=v.shape)}
    d["q"] = d["q"] + rng.normal(size=(batch, N, nx))
    if slack:
        d["slack_linear"] = np.full((N, rows), slack)
    copies = {name: np.stack([d[name]] * N) for name in MATRICES if name in d}
    return d | {name: copies[name] for name in apart}, d | copies, N


@pytest.mark.parametrize("infeasible", ["certify", "closest"])
@pytest.mark.parametrize("kind", KINDS)
def test_solution_has_the_same_bits(kind, infeasible):
    shared, copies, N = problems(**KINDS[kind])
    settings = qc.Settings(infeasible=infeasible)
    found, expected = (qc.solve_ocp(**d, horizon=N, settings=settings) for d in (shared, copies))
    if kind != "shifted":
        assert np.all(expected.status == qc.Status.SOLVED)
    elif infeasible == "closest":
        assert np.all(expected.status == qc.Status.CLOSEST_FEASIBLE)
    for name in (*OUTPUTS, "status", "iterations", "objective", "primal_residual", "dual_residual", "duality_gap"):
        assert np.array_equal(getattr(found, name), getattr(expected, name), equal_nan=True), name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_have_the_same_bits(kind):
    shared, copies, N = problems(**KINDS[kind])
    layer = qc.OcpLayer(qc.Settings(infeasible="closest"), horizon=N)
    gradients = []
    for d in (shared, copies):
        data = {name: torch.tensor(value, requires_grad=True) for name, value in d.items()}
        out, rng, loss = layer(**data), np.random.default_rng(1), 0.0
        for name in ("x", "u", "y", "z"):
            value = getattr(out, name)
            loss = loss + (torch.tensor(rng.normal(size=tuple(value.shape))) * value).sum()
        gradients.append(dict(zip(data, torch.autograd.grad(loss, list(data.values())), strict=True)))
    found, expected = gradients
    for name, gradient in found.items():
        if gradient.shape == expected[name].shape:
            assert torch.equal(gradient, expected[name]), name
        else:  # the sum in another order
            size = np.abs(expected[name].numpy()).max(initial=1.0)
            torch.testing.assert_close(gradient, expected[name].sum(0), rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("name", ["Q", "A", "C"])
def test_a_bad_number_is_found_in_the_one_copy(name):
    shared, _, N = problems()
    shared[name] = np.stack([[shared[name]]] * 11)
    shared[name][4, 0, 0, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="1 of 11 QPs have no solution"):
        status = qc.OcpLayer(horizon=N)(**{key: torch.tensor(value) for key, value in shared.items()}).status.numpy()
    assert status[4] == qc.Status.INVALID_INPUT and np.all(np.delete(status, 4) == qc.Status.SOLVED)


def test_an_indefinite_cost_is_found_in_the_one_copy():
    shared, _, N = problems()
    shared["R"] = np.stack([[shared["R"]]] * 11)
    shared["R"][4] *= -1
    status = qc.solve_ocp(**shared, horizon=N).status
    assert status[4] == qc.Status.NON_CONVEX and np.all(np.delete(status, 4) == qc.Status.SOLVED)
