"""The torch layer: gradients of every output by every input, batches, failures, dtypes, copies."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from problems import (
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
    unbounded_lp,
    unbounded_qp,
)
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


def check_gradients(qp, outputs=OUTPUTS, batch=None, skip=()):
    """gradcheck of the layer by its finite data, H through (M + M')/2; batch: names given per element."""
    given = {name: torch.tensor(value) for name, value in qp.arguments().items()}
    for name in batch or ():
        # Two elements that differ a little, so that no gradient can be credited to the wrong one.
        given[name] = torch.stack([given[name], given[name] + 1e-3 * (name == "g")])
    names = [name for name in given if name not in skip]
    finite = {name: torch.isfinite(given[name]) for name in names}

    def run(*flat):
        data = {name: torch.tensor(value) if not torch.is_tensor(value) else value for name, value in given.items()}
        for name, values in zip(names, flat, strict=True):
            data[name] = given[name].masked_scatter(finite[name], values)
        data["H"] = 0.5 * (data["H"] + data["H"].transpose(-1, -2))
        out = call(data)
        return tuple(getattr(out, name) for name in outputs)

    flat = [given[name][finite[name]].clone().requires_grad_() for name in names]
    # The solver polishes to about 1e-13; central differences with step 1e-6 then hold to about 1e-7.
    assert torch.autograd.gradcheck(run, flat, eps=1e-6, atol=1e-5, rtol=1e-5)


def outputs_of(qp):
    """gradcheck rejects outputs of length zero."""
    empty = {"y": qp.n_eq, "s_eq": qp.n_eq, "z": qp.n_in, "s_lower": qp.n_in, "s_upper": qp.n_in}
    return tuple(name for name in OUTPUTS if empty.get(name, 1))


# --- gradients ---


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


# --- batches and neighbours ---


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
    with pytest.warns(RuntimeWarning):
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


def test_policy_nan_lets_nan_into_the_gradients_of_the_failed_element_only():
    _, batch = poisoned("nan")
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


def test_batch_of_one_against_batch_of_many_broadcasts():
    qp = random_feasible(1, 4, 1, 3)
    data = tensors(qp)
    data["H"] = torch.tensor(qp.H[None], requires_grad=True)
    data["g"] = torch.tensor(np.stack([qp.g] * 3), requires_grad=True)
    out = call(data)
    assert out.x.shape == (3, 4)
    loss_of(out).backward()
    assert data["H"].grad.shape == (1, 4, 4)
    assert data["g"].grad.shape == (3, 4)


def test_empty_batch_has_empty_outputs_and_zero_gradients():
    H = torch.eye(3, dtype=torch.float64, requires_grad=True)
    g = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    out = qc.QPLayer()(H, g)
    assert out.x.shape == (0, 3)
    out.x.sum().backward()
    assert torch.all(H.grad == 0)


# --- dtypes, copies, options ---


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
