"""Tangents and higher derivatives of the optimal-control layer, against the dense layer, adjoints and differences."""

import warnings

import numpy as np
import pytest
import torch
from ocp_problems import random_ocp
from test_ocp_layer import FIELDS, KINDS, dense_fields, gradients, loss_of, tensors
from test_ocp_shifted_adjoint import (
    OUT_OF_REACH,
    beside_soft_rows,
    box_out_of_reach,
    crossed_bounds,
    crossed_soft_rows,
    same_row_twice,
)
from test_ocp_soft import KINDS as SOFT_KINDS
from test_ocp_soft import soft_ocp
from torch.autograd import forward_ad

import qp_control as qc

BEYOND_LANES = {"nx": 21, "nu": 5, "N": 2}


def directions(d, seed=0):
    """Changes of all data; of symmetric matrices and of bounds, symmetric and finite ones."""
    rng = np.random.default_rng([seed, 7])
    out = {name: torch.tensor(np.where(np.isfinite(v), rng.normal(size=np.shape(v)), 0.0)) for name, v in d.items()}
    return out | {name: 0.5 * (out[name] + out[name].mT) for name in ("Q", "R", "Q_N") if name in out}


def tangents(call, data, change):
    """Of the differentiable fields, by dual numbers; call(data) returns something with them."""
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value.detach(), change[name]) for name, value in data.items()}
        out = call(dual)
        return {name: forward_ad.unpack_dual(getattr(out, name)) for name in FIELDS}


def assert_same_tangents(found, expected, tolerance):
    """relative to the largest change of any field."""
    moved = {
        name: torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent for name, dual in expected.items()
    }
    size = max(1.0, *(float(value.abs().max()) for value in moved.values() if value.numel()))
    for name, value in moved.items():
        np.testing.assert_allclose(found[name].tangent, value, rtol=0, atol=tolerance * size, err_msg=name)


def assert_equals_dense(d, N, status, tolerance=1e-8):
    data, change = tensors(d, grad=False), directions(d)
    layer = qc.OcpLayer(horizon=N)
    assert layer(**data).status == status
    found = tangents(lambda dual: layer(**dual), data, change)
    expected = tangents(lambda dual: dense_fields(dual, d, N), data, change)
    assert max(dual.tangent.abs().max() for dual in found.values() if dual.tangent.numel()) > 0.1
    assert_same_tangents(found, expected, tolerance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_tangents_equal_those_of_the_dense_layer(kind, seed):
    assert_equals_dense(*random_ocp(seed, **KINDS[kind]), qc.Status.SOLVED)


@pytest.mark.parametrize("kind", SOFT_KINDS)
def test_tangents_with_soft_rows_equal_those_of_the_dense_layer(kind):
    assert_equals_dense(*soft_ocp(1, **SOFT_KINDS[kind]), qc.Status.SOLVED)


@pytest.mark.parametrize("beyond_lanes", [False, True])
@pytest.mark.parametrize("make", OUT_OF_REACH)
def test_tangents_of_shifted_solutions_equal_those_of_the_dense_layer(make, beyond_lanes):
    kind = BEYOND_LANES if beyond_lanes else {}
    if beyond_lanes and "terminal" in make.__name__:
        kind = kind | {"terminal_rows": 12}
    # Dependent rows have multipliers that are open; the least ones are found to about 1e-9 of the others.
    assert_equals_dense(*make(0, **kind), qc.Status.CLOSEST_FEASIBLE, 1e-7 if make is same_row_twice else 1e-8)


@pytest.mark.parametrize("make", [beside_soft_rows, crossed_bounds, crossed_soft_rows])
def test_tangents_beside_soft_rows_and_crossed_bounds_equal_those_of_the_dense_layer(make):
    assert_equals_dense(*make(1), qc.Status.CLOSEST_FEASIBLE)


def spread(d, N, axes, size=5):
    """The data with other axes: of one argument after the other one of stages, of elements, both or none."""
    out, rng = {}, np.random.default_rng(0)
    for k, (name, value) in enumerate(d.items()):
        how, no_stages = axes[k % len(axes)], name == "x0" or name.endswith("_N")
        lead = () if no_stages else (N,) if how in ("stages", "both") else (1,)
        if how in ("elements", "both"):
            scales = 1 + 0.01 * rng.normal(size=(size, *[1] * (len(lead) + value.ndim)))
            out[name] = scales * np.broadcast_to(value, (*lead, *value.shape))
        else:
            out[name] = value if how == "shared" or no_stages else np.tile(value, (*lead, *[1] * value.ndim))
    return out


@pytest.mark.parametrize("axes", [("shared", "elements"), ("stages", "both", "shared"), ("elements", "stages")])
@pytest.mark.parametrize("kind", ["plain", "soft", "beyond the lanes"])
def test_adjoint_and_tangent_agree_whatever_stages_and_elements_share(kind, axes):
    size = {"nx": 22, "nu": 4, "N": 3} if kind == "beyond the lanes" else {}
    d, N = random_ocp(3, varying=False, box=False, **size)
    nx, nu = d["B"].shape
    d |= {"u_lower": np.full(nu, -0.4), "u_upper": np.full(nu, 0.3), "x_lower": np.full(nx, -40.0)}
    if kind == "soft":
        rng = np.random.default_rng(1)
        d |= {"C": rng.normal(size=(2, nx)), "upper": np.array([0.1, 30.0])}
        d |= {"C_N": rng.normal(size=(1, nx)), "upper_N": np.zeros(1)}
        d |= {"slack_linear": np.array([0.3, np.inf]), "slack_quadratic": np.full(2, 2.0), "slack_linear_N": np.ones(1)}
    d = spread(d, N, axes)
    d["x0"] = np.random.default_rng(4).normal(size=(5, nx))
    data, change = tensors(d), directions(d)
    layer = qc.OcpLayer(horizon=N)
    out = layer(**data)
    assert set(out.status.tolist()) <= {qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE}
    slope = gradients(loss_of(out), data)
    moved = tangents(lambda dual: layer(**dual), data, change)
    of_tangent = loss_of(type("Out", (), {name: dual.tangent for name, dual in moved.items()}))
    of_adjoint = sum((g * change[name]).sum() for name, g in slope.items() if g is not None)
    scale = sum(float((g * change[name]).abs().sum()) for name, g in slope.items() if g is not None)
    assert scale > 1.0
    # Both solve their systems to about 1e-15 times the condition.
    np.testing.assert_allclose(of_tangent, of_adjoint, rtol=0, atol=1e-10 * scale)


def small(make=random_ocp, **options):
    return make(1, nx=2, nu=1, N=3, **options)


@pytest.mark.parametrize("kind", ["boxes and rows", "free start", "soft", "shifted"])
def test_tangents_and_second_derivatives_equal_differences(kind):
    if kind == "soft":
        d, N = soft_ocp(1, nx=2, nu=1, N=3, rows=2, terminal_rows=1, hard=0.3)
    elif kind == "shifted":
        d, N = small(box_out_of_reach)
    else:
        d, N = small(rows=1, free=kind == "free start")
    # A change of E that gives it rank moves a shifted solution by a jump.
    fixed = {"A", "B", "C", "D"} if kind == "shifted" else {"lower_N", "upper_N"}  # equal bounds, which move together
    names = [name for name in d if np.isfinite(d[name]).all() and name not in fixed]
    rest = {name: torch.tensor(d[name]) for name in d if name not in names}

    def run(*flat):
        data = dict(zip(names, flat, strict=True))
        for name in ("Q", "R", "Q_N"):
            data[name] = 0.5 * (data[name] + data[name].mT)
        out = qc.OcpLayer(horizon=N)(**data, **rest)
        return tuple(getattr(out, name) for name in FIELDS if getattr(out, name).numel())

    flat = [torch.tensor(d[name], requires_grad=True) for name in names]
    # The solver polishes to about 1e-13; central differences with step 1e-6 then hold to about 1e-7.
    options = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-5, "fast_mode": True}
    assert torch.autograd.gradcheck(run, flat, check_forward_ad=True, **options)
    weights = [torch.tensor(np.random.default_rng(k).normal(size=o.shape)) for k, o in enumerate(run(*flat))]
    some = [k for k, name in enumerate(names) if name in ("Q", "B", "q", "x0", "C_N", "upper", "slack_quadratic")]

    def scalar(*values):
        all_of_them = list(flat)
        for k, value in zip(some, values, strict=True):
            all_of_them[k] = value
        return sum((w * o).sum() for w, o in zip(weights, run(*all_of_them), strict=True))

    options |= {"atol": 1e-4, "rtol": 1e-4, "check_fwd_over_rev": True}
    assert torch.autograd.gradgradcheck(scalar, [flat[k] for k in some], **options)


@pytest.mark.parametrize("make", [*OUT_OF_REACH, beside_soft_rows, crossed_bounds, crossed_soft_rows])
def test_second_derivatives_of_shifted_solutions_equal_those_of_the_dense_layer(make):
    d, N = make(0)
    data, weights = tensors(d), directions(d, 1)

    def second(out):
        first = gradients(loss_of(out), data, create_graph=True)
        total = sum((weights[name] * g).sum() for name, g in first.items() if g is not None)
        return gradients(total, data)

    found, expected = second(qc.OcpLayer(horizon=N)(**data)), second(dense_fields(data, d, N))
    size = max(float(g.abs().max()) for g in expected.values() if g is not None and g.numel())
    assert size > 0.1
    for name, gradient in expected.items():
        if gradient is not None:
            # Second derivatives hold the square of the system's condition.
            np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-6 * size, err_msg=name)


def test_transforms_nest():
    d, N = small(rows=1)
    data = tensors(d, grad=False)
    layer = qc.OcpLayer(horizon=N)

    def cost(x0, c):
        out = layer(**data | {"x0": x0, "c": c})
        return (out.u**2).sum() + out.objective

    arguments = data["x0"], data["c"]
    jacobians = torch.func.jacrev(cost, (0, 1))(*arguments), torch.func.jacfwd(cost, (0, 1))(*arguments)
    for a, b in zip(*jacobians, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    hessian = torch.autograd.functional.hessian(cost, arguments)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            found = outer(inner(cost, (0, 1)), (0, 1))(*arguments)
            for k in range(2):
                for j in range(2):
                    np.testing.assert_allclose(found[k][j], hessian[k][j], atol=1e-8)
    points = torch.stack([data["x0"], data["x0"] + 0.01, data["x0"] - 0.01])
    together = torch.func.vmap(torch.func.jacfwd(cost), (0, None))(points, data["c"])
    for point, jacobian in zip(points, together, strict=True):
        np.testing.assert_allclose(jacobian, torch.func.jacrev(cost)(point, data["c"]), atol=1e-9)
    third = torch.func.jvp(
        lambda x0: torch.func.hessian(cost)(x0, data["c"]), (data["x0"],), (torch.ones(2).double(),)
    )[1]
    step = 1e-4
    ends = [torch.func.hessian(cost)(data["x0"] + sign * step, data["c"]) for sign in (1.0, -1.0)]
    np.testing.assert_allclose(third, (ends[0] - ends[1]) / (2 * step), atol=1e-5)


def test_tangent_of_one_call_equals_the_composed_one():
    """jvp is one call; under vmap it is composed of torch operations."""
    d, _ = random_ocp(2, rows=2, terminal_rows=1)
    data, change = tensors(d, grad=False), directions(d)
    names, layer = list(d), qc.OcpLayer()

    def run(*values):
        out = layer(**dict(zip(names, values, strict=True)))
        return tuple(getattr(out, name) for name in FIELDS)

    def tangent(scale):
        return torch.func.jvp(run, tuple(data.values()), tuple(scale * change[name] for name in names))[1]

    at_once = torch.func.vmap(tangent)(torch.tensor([1.0, -2.0], dtype=torch.float64))
    for one, other in zip(tangent(1.0), at_once, strict=True):
        np.testing.assert_allclose(other, torch.stack([one, -2.0 * one]), atol=1e-10)


@pytest.mark.parametrize("threads", [2, 3])
def test_tangents_have_the_same_bits_for_any_number_of_threads(threads):
    d, N = random_ocp(3, varying=False, box=False)
    d |= {"x0": np.random.default_rng(0).normal(size=(37, 4)), "u_upper": np.full(2, 0.3)}
    data, change = tensors(d, grad=False), directions(d)
    found = [
        tangents(lambda dual, t=t: qc.OcpLayer(qc.Settings(threads=t), horizon=N)(**dual), data, change)
        for t in (1, threads)
    ]
    for name in FIELDS:
        assert torch.equal(found[0][name].tangent, found[1][name].tangent)


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("policy", ["zero", "nan"])
def test_elements_without_an_answer_have_the_tangents_of_the_policy(policy, composed):
    d, _ = random_ocp(5, N=4, rows=1)
    bad = {name: np.stack([value] * 3) for name, value in d.items()}
    bad["c"][1] = np.nan
    data, change = tensors(bad, grad=composed), directions(bad)
    layer = qc.OcpLayer(qc.Settings(on_failure=policy))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(value, change[name]) for name, value in data.items()}
            out = layer(**dual)
            moved = {name: forward_ad.unpack_dual(getattr(out, name)).tangent.detach() for name in FIELDS}
    assert list(out.status) == [0, qc.Status.INVALID_INPUT, 0]
    alone = {name: value[:1] for name, value in data.items()}
    expected = tangents(lambda dual: layer(**dual), alone, {name: value[:1] for name, value in change.items()})
    for name, value in moved.items():
        np.testing.assert_allclose(value[0], expected[name].tangent[0], atol=1e-9, err_msg=name)
        if policy == "zero":
            assert not value[1].any()
    if policy == "nan":
        assert all(moved[name][1].isnan().all() for name in ("x", "u", "y", "z", "objective"))


def test_smoothed_solutions_have_first_derivatives_backward_only():
    d, _ = small(rows=1)
    data = tensors(d, grad=False)
    layer = qc.OcpLayer(qc.Settings(weakly_active="smoothed"))
    with pytest.raises(NotImplementedError, match="first derivatives backward only"):
        tangents(lambda dual: layer(**dual), data, directions(d))


def long_problem(N):
    rng = np.random.default_rng(0)
    A = np.linalg.qr(rng.normal(size=(4, 4)))[0] * 0.98
    return {
        "A": A, "B": rng.normal(size=(4, 2)), "x0": rng.normal(size=4), "Q": np.eye(4), "R": 0.1 * np.eye(2),
        "q": 0.1 * rng.normal(size=(N, 4)), "Q_N": np.eye(4), "q_N": np.zeros(4),
        "u_lower": np.full(2, -0.05), "u_upper": np.full(2, 0.05),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["feasible", "shifted", "shifted beside soft rows", "shifted with crossed bounds"])
def test_long_horizons_have_tangents_and_second_derivatives(kind):
    """With 500 stages the dense form has 3004 variables: one factorisation of its system takes a minute, so
    this test could not be run with it."""
    N = 500
    d = long_problem(N)
    if "shifted" in kind:
        d["x_lower"] = np.full((N, 4), -np.inf)
        d["x_lower"][N // 2] = 20.0
    if "soft" in kind:
        d |= {"C": np.ones((1, 4)), "upper": np.full(1, 0.1), "slack_linear": np.ones(1), "slack_quadratic": np.ones(1)}
    if "crossed" in kind:
        d["x_upper"] = np.full((N, 4), np.inf)
        d["x_upper"][N // 2, 1] = 15.0
    data, change = tensors(d), directions(d)
    layer = qc.OcpLayer(qc.Settings(threads=1), horizon=N)
    out = layer(**data)
    assert out.status == (qc.Status.SOLVED if kind == "feasible" else qc.Status.CLOSEST_FEASIBLE)
    first = gradients(loss_of(out), data, create_graph=True)
    moved = tangents(lambda dual: layer(**dual), data, change)
    of_tangent = loss_of(type("Out", (), {name: dual.tangent for name, dual in moved.items()}))
    of_adjoint = sum((g * change[name]).sum() for name, g in first.items() if g is not None)
    assert of_adjoint.item() == pytest.approx(of_tangent.item(), rel=1e-8)
    # The Hessian is symmetric: <a, H b> = <b, H a>.
    other = directions(d, 1)
    products = []
    for one, two in ((change, other), (other, change)):
        total = sum((one[name] * g).sum() for name, g in first.items() if g is not None)
        second = gradients(total, data, retain_graph=True)
        products.append(sum((two[name] * g).sum().item() for name, g in second.items() if g is not None))
    assert products[0] == pytest.approx(products[1], rel=1e-7)
    assert abs(products[0]) > 1e-3
