"""Gradients of the optimal-control layer: against the dense layer on the uncondensed form, and against differences."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from ocp_dense_form import DenseForm
from ocp_problems import INF, Dense, random_ocp
from test_ocp import infeasible
from torch.autograd import forward_ad

import qp_control as qc
from qp_control.ocp.problem import OCP_NAMES, base_rank, ocp_sizes
from qp_control.ocp.solve import POINT, SHIFTS, SLACKS

FIELDS = (*POINT, *SHIFTS, *SLACKS, "objective")
KINDS = {
    "boxes": {},
    "rows": {"rows": 3, "box": False},
    "everything": {"rows": 2, "terminal_rows": 2},
    "free start": {"free": True, "rows": 1},
    "one stage": {"N": 1, "rows": 2, "terminal_rows": 1},
    "the same in every stage": {"varying": False, "box": False},
    "no inputs": {"nu": 0},
    "beyond the lanes": {"nx": 20, "nu": 7, "N": 3, "rows": 3, "terminal_rows": 2},
    "beyond the lanes, free start": {"nx": 25, "nu": 3, "N": 2, "free": True},
}


def tensors(d, grad=True, dtype=torch.float64):
    return {name: torch.tensor(value, dtype=dtype, requires_grad=grad) for name, value in d.items()}


def loss_of(out, seed=0, skip=()):
    """A fixed random combination of all outputs."""
    rng = np.random.default_rng(seed)
    total = 0.0
    for name in FIELDS:
        weight = torch.tensor(rng.normal(size=tuple(getattr(out, name).shape)), dtype=getattr(out, name).dtype)
        if name not in skip:
            total = total + (weight * getattr(out, name)).sum()
    return total


def gradients(loss, data, **options):
    found = torch.autograd.grad(loss, list(data.values()), allow_unused=True, **options)
    return dict(zip(data, found, strict=True))


def form_of(d, N):
    sizes = ocp_sizes({name: np.shape(value) for name, value in d.items()}, N)
    stages = []
    for name in OCP_NAMES:
        value, rank = d.get(name), base_rank(name)
        stages.append(None if value is None else 1 if np.ndim(value) == rank else np.shape(value)[0])
    return DenseForm(sizes, tuple(stages))


def dense_fields(data, d, N):
    """What the dense layer makes of tensors, through the assembly of its data; d: the same as arrays."""
    form = form_of(d, N)
    H, g, A, b, C, l, u, lb, ub, weight_eq, _, _ = form.assemble([data.get(name) for name in OCP_NAMES])
    out = qc.QPLayer()(H, g, A, b, C, l, u, lb, ub, weight_eq=weight_eq)
    named = dict(zip((*POINT, *SHIFTS, *SLACKS), form.split(out[:9]), strict=True)) | {"objective": out.objective}
    return type("Out", (), named)


def dense_gradients(d, N, seed=0, skip=()):
    data = tensors(d)
    return gradients(loss_of(dense_fields(data, d, N), seed, skip), data)


def assert_same(found, expected, tolerance=1e-8):
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()) if gradient.numel() else 1.0)
        np.testing.assert_allclose(found[name].numpy(), gradient.numpy(), rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_form_in_torch_is_the_oracle_s(kind):
    d, N = random_ocp(0, **KINDS[kind])
    form, dense = form_of(d, N), Dense(d, N)
    H, g, A, b, C, l, u, lb, ub, *_ = form.assemble([torch.tensor(d[k]) if k in d else None for k in OCP_NAMES])
    names = {"H": H, "g": g, "E": A, "e": b, "C": C, "l": l, "u": u, "lb": lb, "ub": ub}
    for name, value in names.items():
        expected = getattr(dense, name)
        assert (value is None) == (expected is None)
        if value is not None:
            np.testing.assert_array_equal(value.numpy(), expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_all_data_equal_those_of_the_dense_layer(kind, seed):
    d, N = random_ocp(seed, **KINDS[kind])
    data = tensors(d)
    out = qc.OcpLayer(horizon=N)(**data)
    assert out.status == qc.Status.SOLVED
    assert_same(gradients(loss_of(out), data), dense_gradients(d, N))


@pytest.mark.parametrize("kind", ["everything", "free start"])
def test_gradcheck(kind):
    d, N = random_ocp(1, nx=2, nu=1, N=3, **{k: v for k, v in KINDS[kind].items() if k not in ("nx", "nu", "N")})
    if "lower_N" in d:
        d["lower_N"][0] -= 0.5  # moving one of two equal bounds is not differentiable
    names = [name for name in d if np.isfinite(d[name]).all()]
    rest = {name: torch.tensor(d[name]) for name in d if name not in names}

    def run(*flat):
        data = dict(zip(names, flat, strict=True))
        for name in ("Q", "R", "Q_N"):
            data[name] = 0.5 * (data[name] + data[name].mT)
        out = qc.OcpLayer(horizon=N)(**data, **rest)
        return tuple(getattr(out, name) for name in FIELDS if getattr(out, name).numel())

    flat = [torch.tensor(d[name], requires_grad=True) for name in names]
    # The solver polishes to about 1e-13; central differences with step 1e-6 then hold to about 1e-7.
    assert torch.autograd.gradcheck(run, flat, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_what_stages_and_elements_share_has_the_sum_as_its_gradient():
    d, N = random_ocp(3, varying=False, box=False)
    x0 = np.random.default_rng(0).normal(size=(5, 4))
    bound = np.full(2, 0.3)
    d |= {"x0": x0, "u_lower": -bound, "u_upper": bound}
    data = tensors(d)
    found = gradients(loss_of(qc.OcpLayer(horizon=N)(**data)), data)
    spread = {}
    for name, value in d.items():
        if name == "x0":
            spread[name] = value
        elif name in ("Q_N", "q_N"):
            spread[name] = np.broadcast_to(value, (5, *value.shape))
        else:
            spread[name] = np.broadcast_to(value, (5, N, *value.shape))
    apart = tensors(spread)
    expected = gradients(loss_of(qc.OcpLayer()(**apart)), apart)
    for name, gradient in found.items():
        total = expected[name] if name == "x0" else expected[name].sum((0,) if name in ("Q_N", "q_N") else (0, 1))
        np.testing.assert_allclose(gradient, total, rtol=1e-10, atol=1e-10, err_msg=name)


def test_infeasible_gradients_equal_those_of_the_dense_layer():
    d, N = infeasible()
    data = tensors(d)
    out = qc.OcpLayer()(**data)
    assert out.status == qc.Status.CLOSEST_FEASIBLE
    assert_same(gradients(loss_of(out), data), dense_gradients(d, N), 1e-7)


def test_mixed_batch_gives_each_element_the_gradients_it_has_alone():
    good, _ = random_ocp(5, N=4, rows=1)
    bad, _ = infeasible()
    broken = good | {"c": np.full_like(good["c"], np.nan)}
    batch = {name: np.stack([good[name], bad[name], broken[name], good[name]]) for name in good}
    data = tensors(batch)
    with pytest.warns(RuntimeWarning, match="1 of 4 QPs have no solution"):
        out = qc.OcpLayer()(**data)
    assert list(out.status) == [0, 1, qc.Status.INVALID_INPUT, 0]
    assert out.u[2].isnan().all()
    total = loss_of(type("Out", (), {name: torch.nan_to_num(getattr(out, name)) for name in FIELDS}))
    found = gradients(total, data)
    for k, alone in ((0, good), (1, bad)):
        one = tensors(alone)
        weights = np.random.default_rng(0)
        loss = 0.0
        for name in FIELDS:
            weight = weights.normal(size=tuple(getattr(out, name).shape))[k]
            loss = loss + (torch.tensor(weight) * getattr(qc.OcpLayer()(**one), name)).sum()
        for name, gradient in gradients(loss, one).items():
            np.testing.assert_allclose(found[name][k], gradient, atol=1e-9, rtol=1e-9, err_msg=name)
    for gradient in found.values():
        assert not gradient[2].any()


@pytest.mark.parametrize("threads", [2, 3])
def test_shared_gradients_have_the_same_bits_for_any_number_of_threads(threads):
    d, N = random_ocp(3, varying=False, box=False)
    d |= {"x0": np.random.default_rng(0).normal(size=(37, 4)), "u_upper": np.full(2, 0.3)}
    data = tensors(d)
    found = [gradients(loss_of(qc.OcpLayer(qc.Settings(threads=t), horizon=N)(**data)), data) for t in (1, threads)]
    for name in data:
        assert torch.equal(found[0][name], found[1][name])


def test_box_without_a_first_stage_leaves_a_free_start_alone():
    d, N = random_ocp(2, free=True, N=5, rows=1)
    short = d | {name: d[name][1:] for name in ("x_lower", "x_upper")}
    full = d | {"x_lower": d["x_lower"].copy(), "x_upper": d["x_upper"].copy()}
    full["x_lower"][0], full["x_upper"][0] = -INF, INF
    found, expected = [], []
    for target, data in ((found, tensors(short)), (expected, tensors(full))):
        out = qc.OcpLayer(horizon=N)(**data)
        assert out.status == qc.Status.SOLVED
        target += [out.x, gradients(loss_of(out), data)]
    assert torch.equal(found[0], expected[0])
    for name, gradient in expected[1].items():
        rows = gradient[1:] if name in ("x_lower", "x_upper") else gradient
        assert torch.equal(found[1][name], rows), name


def small():
    return random_ocp(1, nx=2, nu=1, N=2, rows=1)


def test_second_derivatives_equal_those_of_the_dense_layer():
    d, N = small()
    direction = np.random.default_rng(3)
    data = tensors(d)
    weights = {name: torch.tensor(direction.normal(size=np.shape(d[name]))) for name in d}

    def second(first):
        total = sum((weights[name] * g).sum() for name, g in first.items() if g is not None)
        return gradients(total, data)

    found = second(gradients(loss_of(qc.OcpLayer(horizon=N)(**data)), data, create_graph=True))
    expected = second(gradients(loss_of(dense_fields(data, d, N)), data, create_graph=True))
    assert any(g.abs().max() > 0.1 for g in expected.values())
    assert_same(found, expected, 1e-7)


def test_function_transforms_give_the_jacobian_of_the_first_input():
    d, N = small()
    data = tensors(d, grad=False)
    layer = qc.OcpLayer(horizon=N)

    def first_input(x0):
        return layer(**data | {"x0": x0}).u[0]

    expected = torch.autograd.functional.jacobian(first_input, data["x0"])
    np.testing.assert_allclose(torch.func.jacrev(first_input)(data["x0"]), expected, atol=1e-9)
    np.testing.assert_allclose(torch.func.jacfwd(first_input)(data["x0"]), expected, atol=1e-9)
    tangent = torch.tensor([0.3, -0.5], dtype=torch.float64)
    value, moved = torch.func.jvp(first_input, (data["x0"],), (tangent,))
    np.testing.assert_allclose(moved, expected @ tangent, atol=1e-9)
    np.testing.assert_allclose(value, first_input(data["x0"]), atol=1e-9)
    points = torch.stack([data["x0"], data["x0"] + 0.01])
    np.testing.assert_allclose(
        torch.func.vmap(first_input)(points), torch.stack([first_input(p) for p in points]), atol=1e-9
    )


def test_layer_casts_to_and_from_float32():
    d, N = small()
    data = tensors(d, dtype=torch.float32)
    out = qc.OcpLayer(qc.Settings(eps_abs=1e-6), horizon=N)(**data)
    assert out.u.dtype == torch.float32 and out.status.dtype == torch.int64
    exact = qc.OcpLayer(horizon=N)(**tensors(d))
    np.testing.assert_allclose(out.u.detach(), exact.u.detach(), atol=1e-5)
    found = gradients(out.u.sum(), data)
    assert all(g is None or g.dtype == torch.float32 for g in found.values())


@pytest.mark.parametrize("policy", ["zero", "nan", "raise"])
def test_failure_policy(policy):
    layer = qc.OcpLayer(qc.Settings(on_failure=policy), horizon=2)
    one = torch.ones(1, 1, dtype=torch.float64)
    r = torch.ones(1, dtype=torch.float64, requires_grad=True)  # u falls for ever
    arguments = {"A": one, "B": one, "x0": torch.zeros(1, dtype=torch.float64), "r": r}
    if policy == "raise":
        with pytest.raises(qc.SolveError, match="1 DUAL_INFEASIBLE") as caught:
            layer(**arguments)
        assert isinstance(caught.value.solution, qc.OcpLayerSolution) and caught.value.solution.u.isnan().all()
        assert qc.solve_ocp(**caught.value.problem).status == caught.value.solution.status == qc.Status.DUAL_INFEASIBLE
        return
    with pytest.warns(RuntimeWarning, match="1 DUAL_INFEASIBLE"):
        out = layer(**arguments)
    (gradient,) = torch.autograd.grad(out.u.sum(), r)
    assert gradient.isnan().all() if policy == "nan" else not gradient.any()


def test_warm_start_goes_in_and_out():
    d, _ = random_ocp(2, rows=2)
    data = tensors(d)
    layer = qc.OcpLayer()
    cold = layer(**data)
    warm = layer(**data, warm_start=cold)
    assert warm.iterations <= 3 < cold.iterations
    assert_same(gradients(loss_of(warm), data), gradients(loss_of(layer(**data)), data), 1e-8)


def test_layer_survives_pickle_and_deepcopy_and_says_what_it_is():
    layer = qc.OcpLayer(qc.Settings(eps_abs=1e-7), horizon=5)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other.settings == layer.settings and other.horizon == 5
    assert "horizon=5" in repr(layer)


def test_stopped_solve_has_no_gradient_and_says_so():
    d, _ = random_ocp(0)
    data = tensors(d)
    with pytest.warns(RuntimeWarning, match="MAX_ITER"):
        out = qc.OcpLayer(qc.Settings(max_iter=3))(**data)
    assert out.status == qc.Status.MAX_ITER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gradient in gradients(torch.nan_to_num(out.u).sum(), data).values():
            assert gradient is None or not gradient.any()


def test_arguments_of_another_type_are_refused():
    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(TypeError, match="B is ndarray"):
        qc.OcpLayer(horizon=2)(one, np.ones((1, 1)))
    with pytest.raises(TypeError, match=r"Q is a tensor of dtype torch\.int64"):
        qc.OcpLayer(horizon=2)(one, one, Q=torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="u_lower has 3 stages"):
        qc.OcpLayer(horizon=2)(one, one, u_lower=torch.full((3, 1), -INF, dtype=torch.float64))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_compiled_layer_is_one_graph_with_the_bits_of_the_eager_one(batched, soft):
    d, N = small()
    if soft:
        d["slack_linear"], d["slack_quadratic"] = np.full(d["C"].shape[-2], 0.3), np.full(d["C"].shape[-2], 1.0)
    if batched:
        d["x0"] = np.stack([d["x0"], d["x0"] + 0.01])
    data = tensors(d)
    names, layer = list(data), qc.OcpLayer(horizon=N)

    def run(*values):
        return layer(**dict(zip(names, values, strict=True)))

    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        found, out = compiled(*data.values()), run(*data.values())
        for name, a, b in zip(out._fields, found, out, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype and a.requires_grad == b.requires_grad, name
        slopes, expected = gradients(loss_of(found), data), gradients(loss_of(out), data)
        for name in data:
            assert torch.equal(slopes[name], expected[name]), name
        with forward_ad.dual_level(), pytest.raises(Exception, match="no forward mode under torch"):
            compiled(*(forward_ad.make_dual(v.detach(), torch.ones_like(v)) for v in data.values()))
    torch._dynamo.reset()
