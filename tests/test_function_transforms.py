"""The layer under torch.func and forward mode: tangents by value, vmap against a loop, Jacobians and Hessians."""

import itertools

import numpy as np
import pytest
import torch
from layer_calls import OUTPUTS, call, check_gradients, outputs_of, tensors
from problems import random_feasible, random_infeasible_full_rank, random_infeasible_rank_deficient
from qp_data import DATA
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import qp_control as qc

# torch's own forward-mode decompositions are compiled with it.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

PROBLEMS = {
    "feasible": lambda: random_feasible(3, 4, 1, 3, active=0.6, box=True),
    "infeasible, full rank": lambda: random_infeasible_full_rank(0, 3),
}


def function_of(names):
    """The ten outputs as a function of these arguments, H through (M + M')/2."""

    def run(*values):
        data = dict(zip(names, values, strict=True))
        if "H" in data:
            data["H"] = 0.5 * (data["H"] + data["H"].mT)
        return tuple(getattr(call(data), name) for name in OUTPUTS)

    return run


def directions(values, seed=0):
    """Random tangents, zero where the value is infinite."""
    rng = np.random.default_rng(seed)
    return tuple(torch.where(torch.isfinite(v), torch.tensor(rng.normal(size=v.shape)), 0.0) for v in values)


def product(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_jvp_equals_finite_differences_and_the_transpose_of_vjp(problem):
    data = tensors(PROBLEMS[problem](), grad=False)
    run, values = function_of(data), tuple(data.values())
    for seed in range(3):
        change = directions(values, seed)
        out, tangent = jvp(run, values, change)
        up, down = (run(*(v + h * d for v, d in zip(values, change, strict=True))) for h in (1e-6, -1e-6))
        for name, t, a, b in zip(OUTPUTS, tangent, up, down, strict=True):
            # Central differences of solutions exact to 1e-13: about 1e-7, times multipliers near 10.
            torch.testing.assert_close(t, (a - b) / 2e-6, rtol=1e-6, atol=1e-6, msg=name)
        assert all(t.abs().max() > 1e-3 for t in tangent[:2])
        cotangent = directions(out, seed + 10)
        left, right = product(tangent, cotangent), product(change, vjp(run, *values)[1](cotangent))
        assert abs(left - right) < 1e-10 * (1 + abs(left))


@pytest.mark.parametrize("box", [False, True])
def test_jvp_of_a_rank_deficient_infeasible_problem_equals_finite_differences(box):
    data = tensors(random_infeasible_rank_deficient(0, 5, box=box), grad=False)
    names = [name for name in data if name not in "AC"]

    def run(D, *values):
        changed = data | dict(zip(names, values, strict=True))
        rows = {name: data[name] + data[name] @ D for name in "AC"}
        return function_of([*changed, *rows])(*changed.values(), *rows.values())

    values = (torch.zeros(5, 5, dtype=torch.float64), *(data[name] for name in names))
    change = directions(values)
    _, tangent = jvp(run, values, change)
    up, down = (run(*(v + h * d for v, d in zip(values, change, strict=True))) for h in (1e-6, -1e-6))
    for name, t, a, b in zip(OUTPUTS, tangent, up, down, strict=True):
        torch.testing.assert_close(t, (a - b) / 2e-6, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_dual_numbers_carry_the_tangent_of_jvp(problem):
    data = tensors(PROBLEMS[problem](), grad=False)
    run, values = function_of(data), tuple(data.values())
    change = directions(values)
    expected = jvp(run, values, change)[1]
    with forward_ad.dual_level():
        out = run(*(forward_ad.make_dual(v, d) for v, d in zip(values, change, strict=True)))
        for name, dual, tangent in zip(OUTPUTS, out, expected, strict=True):
            assert torch.equal(forward_ad.unpack_dual(dual).tangent, tangent), name


@pytest.mark.parametrize("wanted", DATA)
def test_a_tangent_of_one_argument_alone_equals_its_part_of_the_sum(wanted):
    data = tensors(random_feasible(0, 8, 1, 4, active=0.5, box=True), grad=False)  # every kind of bound is active
    run, values = function_of(data), tuple(data.values())
    change = dict(zip(data, directions(values), strict=True))
    alone = tuple(d if name == wanted else torch.zeros_like(d) for name, d in change.items())

    def by_one(value):
        return run(*(data | {wanted: value}).values())

    expected = jvp(run, values, alone)[1]
    for a, b in zip(jvp(by_one, (data[wanted],), (change[wanted],))[1], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert any(t.abs().max() > 1e-3 for t in expected)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gradcheck_in_forward_mode_and_of_forward_over_reverse(problem):
    def first(run, flat, **bars):
        return torch.autograd.gradcheck(run, flat, check_forward_ad=True, **bars)

    def second(run, flat, **bars):
        return torch.autograd.gradgradcheck(run, flat, check_fwd_over_rev=True, **bars)

    qp = PROBLEMS[problem]()
    check_gradients(qp, outputs_of(qp), check=first)
    check_gradients(qp, ("x", "z", "objective"), check=second)


def stacked(names, count, seed=0):
    """Data of a feasible problem, where the arguments in `names` have `count` slightly different versions."""
    data = tensors(random_feasible(3, 4, 1, 3, active=0.6, box=True), grad=False)
    rng = np.random.default_rng(seed)
    for name in names:
        noise = torch.tensor(0.01 * rng.normal(size=(count, *data[name].shape)))
        data[name] = data[name] + (noise + noise.mT if name == "H" else noise)
    return data


SUBSETS = [subset for size in (1, 2, 5, 9) for subset in itertools.combinations(DATA, size)][::9]


@pytest.mark.parametrize("subset", [("g",), ("H",), ("ub",), *SUBSETS, DATA], ids="".join)
def test_vmap_over_any_arguments_equals_a_loop(subset):
    data = stacked(subset, 3)
    axes = {name: 0 if name in subset else None for name in data}

    def run(data):
        return tuple(call(data))

    out = vmap(run, in_dims=(axes,))(data)
    for k in range(3):
        alone = run({name: value[k] if name in subset else value for name, value in data.items()})
        for a, b in zip(out, alone, strict=True):
            torch.testing.assert_close(a[k], b, rtol=1e-9, atol=1e-9)


def test_vmap_over_any_axis_with_a_batch_inside_equals_a_loop():
    """The mapped axis may stand anywhere, also behind the batch axis."""
    data = stacked(("H", "g", "C"), 3)
    per_element = stacked(("g", "u"), 2, seed=1)
    g = data["g"][:, None] + 0.1 * per_element["g"]  # (3, 2, 4): mapped, batch
    u = per_element["u"]  # a batch, not mapped
    H, C = data["H"].movedim(0, 2), data["C"].movedim(0, 1)

    def run(H, g, C):
        return tuple(call(data | {"H": H, "g": g, "C": C, "u": u}))

    out = vmap(run, in_dims=(2, -1, 1))(H, g.movedim(0, -1), C)
    for k in range(3):
        for a, b in zip(out, run(data["H"][k], g[k], data["C"][k]), strict=True):
            torch.testing.assert_close(a[k], b, rtol=1e-9, atol=1e-9)


def test_nested_vmap_equals_two_loops():
    data = stacked(("g",), 3)
    l = stacked(("l",), 2, seed=1)["l"]

    def run(g, l):
        return tuple(call(data | {"g": g, "l": l}))

    out = vmap(vmap(run, in_dims=(None, 0)), in_dims=(0, None))(data["g"], l)
    for i, j in itertools.product(range(3), range(2)):
        for a, b in zip(out, run(data["g"][i], l[j]), strict=True):
            torch.testing.assert_close(a[i, j], b, rtol=1e-9, atol=1e-9)


def test_vmapped_warm_start_is_taken_per_element():
    data = stacked(("g",), 3)
    cold = call(data)
    warm = vmap(lambda g, *xyzw: call(data | {"g": g}, warm_start=Start(*xyzw)))(data["g"], *cold[:4])
    assert torch.all(warm.iterations < cold.iterations)
    torch.testing.assert_close(warm.x, cold.x, rtol=0, atol=1e-8)


class Start:
    def __init__(self, x, y, z, w):
        self.x, self.y, self.z, self.w = x, y, z, w


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_element_without_an_answer_stays_alone_under_vmap():
    data = stacked(("g",), 3)
    data["g"][1] = torch.nan

    def run(g):
        return call(data | {"g": g}).x.nansum()

    slopes = vmap(grad(run))(data["g"])
    assert torch.all(slopes[1] == 0)
    for k in (0, 2):
        torch.testing.assert_close(slopes[k], grad(run)(data["g"][k]), rtol=1e-10, atol=1e-10)
    tangent = jvp(run, (data["g"][1],), (torch.ones(4, dtype=torch.float64),))[1]
    assert float(tangent) == 0.0


@pytest.mark.parametrize("problem", PROBLEMS)
def test_jacobians_of_both_modes_equal_rows_of_gradients(problem):
    data = tensors(PROBLEMS[problem](), grad=False)
    name = "b" if problem.startswith("infeasible") else "g"

    def run(value):
        return torch.cat([t.reshape(-1) for t in function_of(data)(*(data | {name: value}).values())])

    value = data[name].clone().requires_grad_()
    out = run(value)
    expected = torch.stack([torch.autograd.grad(entry, value, retain_graph=True)[0] for entry in out])
    assert expected.abs().max() > 0.1
    for jacobian in (jacrev, jacfwd):
        torch.testing.assert_close(jacobian(run)(data[name]), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_hessian_is_the_same_by_every_pair_of_modes(problem, outer, inner):
    data = tensors(PROBLEMS[problem](), grad=False)
    names = ("g", "A")

    def run(*values):
        out = function_of(data)(*(data | dict(zip(names, values, strict=True))).values())
        return sum((t * torch.arange(1.0, t.numel() + 1).reshape(t.shape)).square().sum() for t in out)

    values = tuple(data[name] for name in names)
    expected = torch.autograd.functional.hessian(run, values)
    found = outer(inner(run, argnums=(0, 1)), argnums=(0, 1))(*values)
    size = max(float(block.abs().max()) for row in expected for block in row)
    assert size > 1.0
    for row, expected_row in zip(found, expected, strict=True):
        for block, expected_block in zip(row, expected_row, strict=True):
            torch.testing.assert_close(block, expected_block, rtol=1e-9, atol=1e-10 * size)


def test_hessian_under_vmap_equals_a_loop_and_finite_differences():
    data = stacked(("g",), 2)

    def run(g, C):
        return call(data | {"g": g, "C": C}).z.square().sum()

    C = data["C"]
    found = vmap(hessian(run, argnums=1), in_dims=(0, None))(data["g"], C)
    for k in range(2):
        torch.testing.assert_close(found[k], hessian(run, argnums=1)(data["g"][k], C), rtol=1e-9, atol=1e-9)
    (D,) = directions((C,))
    slope = grad(run, argnums=1)
    difference = (slope(data["g"][0], C + 1e-6 * D) - slope(data["g"][0], C - 1e-6 * D)) / 2e-6
    product = torch.einsum("ijkl,kl->ij", found[0], D)
    torch.testing.assert_close(product, difference, rtol=1e-5, atol=1e-5 * float(difference.abs().max()))
    assert difference.abs().max() > 0.1


def test_jvp_of_jvp_and_jvp_of_grad_are_second_derivatives():
    """min 1/2 h x^2 + g x: x_hh = -2 g/h^3 and x_hg = 1/h^2; forward levels must not lose each other's tangents."""

    def x(h, g):
        return qc.QPLayer()(h.reshape(1, 1), g.reshape(1)).x[0]

    h, g, one, none = (torch.tensor(v, dtype=torch.float64) for v in (1.7, 0.6, 1.0, 0.0))
    in_h = lambda h, g: jvp(x, (h, g), (one, none))[1]  # noqa: E731
    np.testing.assert_allclose(jvp(in_h, (h, g), (one, none))[1].item(), -2 * 0.6 / 1.7**3, rtol=1e-12)
    np.testing.assert_allclose(jvp(in_h, (h, g), (none, one))[1].item(), 1 / 1.7**2, rtol=1e-12)
    np.testing.assert_allclose(jvp(grad(x), (h, g), (none, one))[1].item(), 1 / 1.7**2, rtol=1e-12)
    np.testing.assert_allclose(grad(in_h)(h, g).item(), -2 * 0.6 / 1.7**3, rtol=1e-12)
    thrice = lambda h: jvp(lambda h: in_h(h, g), (h,), (one,))[1]  # noqa: E731
    np.testing.assert_allclose(jvp(thrice, (h,), (one,))[1].item(), 6 * 0.6 / 1.7**4, rtol=1e-11)


def test_tangents_of_shift_weights_are_those_of_a_closed_form():
    """x = 0 against x = 1: x = w_2 / (w_1 + w_2)."""
    H, g = torch.eye(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    A, b = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    weight, way = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    run = lambda weight: qc.QPLayer()(H, g, A, b, weight_eq=weight).x  # noqa: E731
    moved = jvp(run, (weight,), (way,))[1]
    assert moved.item() == pytest.approx((2.0 * 1.0 - 3.0 * 1.0) / 16.0, abs=1e-12)
    weights = torch.stack([weight, way])
    torch.testing.assert_close(vmap(jacrev(run))(weights)[0, 0], torch.tensor([-3.0, 1.0], dtype=torch.float64) / 16.0)
    moved = jvp(lambda b: qc.QPLayer()(H, g, A, b, weight_eq=3.0 * one).x, (b,), (one,))[1]
    assert moved.item() == pytest.approx(1.0, abs=1e-12)


def test_empty_batches_and_problems_have_empty_derivatives():
    H, g = torch.eye(3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)

    def run(H, g):
        return qc.QPLayer()(H, g, lb=torch.zeros(g.shape[-1], dtype=torch.float64)).x

    assert jvp(run, (H, g), (H, g))[1].shape == (0, 3)
    slope = lambda H, g: grad(lambda H: run(H, g).square().sum())(H)  # noqa: E731
    assert torch.equal(slope(H, g), torch.zeros(3, 3, dtype=torch.float64))
    assert not jacrev(slope)(H, g).any() and not jacfwd(slope)(H, g).any()
    assert vmap(run, in_dims=(None, 0))(H, g[None].expand(2, 0, 3)).shape == (2, 0, 3)
    none = torch.zeros(4, 0, dtype=torch.float64)
    assert jvp(run, (H[:0, :0], none), (H[:0, :0], none))[1].shape == (4, 0)


def test_old_batched_gradients_are_refused_with_the_way_out():
    """is_grads_batched and vectorize=True batch the tensors in a way that no autograd.Function can see."""
    g = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    H = torch.eye(2, dtype=torch.float64)

    def run(g):
        return qc.QPLayer()(H, g).x

    for strategy in ("reverse-mode", "forward-mode"):
        with pytest.raises(NotImplementedError, match=r"of torch\.func"):
            torch.autograd.functional.jacobian(run, g, vectorize=True, strategy=strategy)
    with pytest.raises(NotImplementedError, match=r"of torch\.func"):
        torch.autograd.grad(run(g), g, H, is_grads_batched=True, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transforms_keep_the_dtype(dtype):
    H, g = torch.diag(torch.tensor([1.0, 2.0], dtype=dtype)), torch.tensor([[1.0, -1.0]] * 3, dtype=dtype)
    lb = torch.zeros(2, dtype=dtype)

    def run(g):
        return qc.QPLayer()(H, g, lb=lb).x

    out, tangent = jvp(run, (g,), (torch.ones_like(g),))
    slopes = vmap(jacrev(run))(g)
    assert out.dtype == tangent.dtype == slopes.dtype == dtype
    expected = torch.tensor([[0.0, 0.0], [0.0, -0.5]], dtype=dtype)
    assert torch.equal(slopes, expected.expand(3, 2, 2))
    assert torch.equal(tangent, torch.tensor([0.0, -0.5], dtype=dtype).expand(3, 2))
