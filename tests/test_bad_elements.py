"""Elements of a batch that have no answer, on both sides of the size that is solved in lanes: what they say of
themselves, and the bits of their neighbours."""

import warnings

import numpy as np
import pytest
import torch
from layer_calls import OUTPUTS, call, gradients, loss_of
from problems import random_feasible
from qp_data import DATA

import qp_control as qc

INF = np.inf
SIZES = [5, 30]
BAD = 3  # the element
GOOD = (0, 1, 2, 4, 5, 6, 7)
# One thread: whoever comes after the bad element works in the same memory.
ONE = qc.Settings(threads=1)


def good_batch(n):
    qps = [random_feasible(seed, n, 2, 4, active=0.4, box=True) for seed in range(8)]
    return {name: np.stack([getattr(qp, name) for qp in qps]) for name in DATA}


def as_tensors(batch):
    return {name: torch.tensor(value, requires_grad=True) for name, value in batch.items()}


def contradicting(batch):
    batch["C"][BAD, 1] = batch["C"][BAD, 0]
    batch["l"][BAD, :2], batch["u"][BAD, :2] = [1.0, -INF], [INF, -1.0]


def crossed(batch):
    batch["l"][BAD, 0], batch["u"][BAD, 0] = 2.0, -2.0


def indefinite(batch):
    batch["H"][BAD] *= -1.0


def unbounded(batch):
    for name in ("H", "A", "b", "C"):
        batch[name][BAD] = 0.0
    batch["l"][BAD], batch["u"][BAD], batch["lb"][BAD], batch["ub"][BAD] = -1.0, 1.0, -INF, INF


def enormous(batch):
    batch["H"][BAD] = 0.0
    batch["A"][BAD] *= 1e300
    batch["g"][BAD] *= 1e300


# What is done to the element, and its status without and with closest-feasible mode; None: any.
KINDS = {
    "NaN": (lambda batch: batch["C"].__setitem__((BAD, 1, 0), np.nan), "INVALID_INPUT", "INVALID_INPUT"),
    "infinite": (lambda batch: batch["g"].__setitem__((BAD, 0), INF), "INVALID_INPUT", "INVALID_INPUT"),
    "indefinite": (indefinite, "NON_CONVEX", "NON_CONVEX"),
    "unbounded": (unbounded, "DUAL_INFEASIBLE", "DUAL_INFEASIBLE"),
    "crossed": (crossed, "PRIMAL_INFEASIBLE", "CLOSEST_FEASIBLE"),
    "contradicting": (contradicting, "PRIMAL_INFEASIBLE", "CLOSEST_FEASIBLE"),
    "enormous": (enormous, None, None),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("infeasible", ["certify", "closest"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_element_changes_no_bit_of_its_neighbours(kind, infeasible, n):
    """Outputs, gradients, and the sum over the batch that shared data gets."""
    spoil, strict_status, closest_status = KINDS[kind]
    settings = qc.Settings(threads=1, infeasible=infeasible)
    batch = good_batch(n)
    spoil(batch)
    data = as_tensors(batch)
    out = call(data, settings)
    status = {"certify": strict_status, "closest": closest_status}[infeasible]
    if status is not None:
        assert qc.Status(int(out.status[BAD])).name == status
    rng = np.random.default_rng(0)
    weight = {name: torch.tensor(rng.normal(size=getattr(out, name).shape)) for name in OUTPUTS}
    loss = sum((getattr(out, name)[list(GOOD)] * weight[name][list(GOOD)]).sum() for name in OUTPUTS)
    found = gradients(data, loss)
    for k in GOOD:
        lone = as_tensors({name: value[k] for name, value in batch.items()})
        alone = call(lone, settings)
        assert int(out.status[k]) == int(alone.status) == qc.Status.SOLVED
        for name in (*OUTPUTS, "iterations", "primal_residual", "dual_residual", "duality_gap"):
            assert torch.equal(getattr(out, name)[k], getattr(alone, name)), name
        expected = gradients(lone, sum((getattr(alone, name) * weight[name][k]).sum() for name in OUTPUTS))
        for name in DATA:
            assert torch.equal(found[name][k], expected[name]), name
    assert all(torch.all(found[name][BAD] == 0) for name in DATA)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["NaN", "infinite", "indefinite", "unbounded"])
@pytest.mark.parametrize("policy", ["zero", "nan"])
def test_element_without_an_answer_has_nan_in_every_output_and_the_gradients_of_its_policy(policy, kind, n):
    batch = good_batch(n)
    KINDS[kind][0](batch)
    data = as_tensors(batch)
    with pytest.warns(RuntimeWarning, match=f"1 of 8 QPs have no solution .*first: element {BAD}"):
        out = call(data, qc.Settings(threads=1, on_failure=policy))
    for name in OUTPUTS:
        assert torch.all(torch.isnan(getattr(out, name)[BAD])), name
        assert torch.all(torch.isfinite(getattr(out, name)[list(GOOD)])), name
    loss = sum(torch.nansum(getattr(out, name)) for name in OUTPUTS)
    for name, gradient in gradients(data, loss).items():
        assert torch.all(torch.isfinite(gradient[list(GOOD)])), name
        assert torch.all(gradient[BAD] == 0 if policy == "zero" else torch.isnan(gradient[BAD])), name


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_shared_data_gets_the_sum_over_the_elements_with_an_answer(n):
    """Without an answer: nothing; closest feasible: its own share."""
    qp = random_feasible(1, n, 2, 4, active=0.4, box=True)
    g = np.stack([qp.g + 0.01 * np.random.default_rng(0).normal(size=n) for _ in range(5)])
    b = np.stack([qp.b] * 5)
    g[1, 0] = np.nan
    u = np.stack([qp.u] * 5)
    u[3, 0], qp.l[0] = -1.0, 1.0
    u[[0, 1, 2, 4], 0] = 50.0
    data = as_tensors(qp.arguments() | {"g": g, "b": b, "u": u})
    out = call(data, ONE)
    assert out.status.tolist() == [0, qc.Status.INVALID_INPUT, 0, qc.Status.CLOSEST_FEASIBLE, 0]
    found = gradients(data, torch.nansum(out.x * out.x) + torch.nansum(out.z))
    total = dict.fromkeys(("H", "A", "C", "l", "lb", "ub"), 0.0)
    for k in (0, 2, 3, 4):
        lone = as_tensors(qp.arguments() | {"g": g[k], "b": b[k], "u": u[k]})
        alone = call(lone, ONE)
        each = gradients(lone, (alone.x * alone.x).sum() + alone.z.sum())
        total = {name: value + each[name] for name, value in total.items()}
    for name, value in total.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", ["H", "g", "A", "C", "l", "weight_in"])
@pytest.mark.parametrize("shared", ["weight_eq", "weight_in", "g", "H", None])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_of_one_element_reaches_no_gradient_by_weights_nor_a_second_one(name, shared):
    """Zeros of the element times its NaN are no zeros."""
    batch = {key: value[:4].copy() for key, value in good_batch(5).items()}
    contradicting(batch)
    for k in (0, 1, 2):  # the others are shifted too, so that weights have gradients
        batch["l"][k, 0], batch["u"][k, 0] = 2.0 + k, -2.0
    batch |= {"weight_eq": np.full((4, 2), 1.5), "weight_in": np.full((4, 4), 0.7), "weight_box": np.full((4, 5), 2.0)}
    batch[name][BAD].reshape(-1)[0] = np.nan
    rows = [0, 1, 2]

    def derivatives(elements):
        data = {
            key: torch.tensor(value[0] if key == shared else value[elements], requires_grad=True)
            for key, value in batch.items()
        }
        out = qc.QPLayer(ONE)(**data)
        assert out.status[rows].tolist() == [qc.Status.CLOSEST_FEASIBLE] * 3
        loss = sum((getattr(out, field)[rows] ** 2).sum() for field in OUTPUTS)
        plain = torch.autograd.grad(loss, list(data.values()), retain_graph=True)
        first = torch.autograd.grad(loss, list(data.values()), create_graph=True)
        parts = (gradient if key == shared else gradient[rows] for key, gradient in zip(data, first, strict=True))
        second = torch.autograd.grad(sum((part**2).sum() for part in parts), list(data.values()))
        return data, (plain, first, second)

    if shared == name:
        pytest.skip("then every element has it")
    data, found = derivatives([0, 1, 2, 3])
    _, expected = derivatives(rows)
    for order in range(3):
        for key, gradient, other in zip(data, found[order], expected[order], strict=True):
            scale = max(1.0, float(other.abs().max()))
            mine = gradient if key == shared else gradient[rows]
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-9 * scale, msg=f"{key}, {order}")
            assert key == shared or not gradient[BAD].any(), (key, order)


POISON = [(name, np.nan) for name in DATA]
POISON += [(name, value) for name in ("H", "g", "A", "b", "C") for value in (INF, -INF)]
POISON += [("l", INF), ("lb", INF), ("u", -INF), ("ub", -INF)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize(("name", "value"), POISON)
def test_layer_calls_the_element_with_a_bad_value_invalid_input_and_no_other(name, value, place, n):
    """The last place of H has no mirror image with the same value: what is not finite says nothing of symmetry."""
    batch = good_batch(n)
    batch[name][BAD].reshape(-1)[place if name != "H" or place == 0 else -2] = value
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        out = call(as_tensors(batch), ONE)
    assert out.status.tolist() == [qc.Status.INVALID_INPUT if k == BAD else 0 for k in range(8)]
    assert [str(w.message).split(" (")[0] for w in seen] == ["1 of 8 QPs have no solution"]


@pytest.mark.parametrize("name", ["weight_eq", "weight_in", "weight_box"])
@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, -INF])
def test_layer_calls_the_element_with_a_bad_shift_weight_invalid_input(name, value):
    batch = good_batch(5)
    weight = torch.ones(8, {"weight_eq": 2, "weight_in": 4, "weight_box": 5}[name], dtype=torch.float64)
    weight[BAD, 1] = value
    with pytest.warns(RuntimeWarning, match="1 of 8 QPs have no solution"):
        out = call(as_tensors(batch), ONE, **{name: weight})
    assert out.status.tolist() == [qc.Status.INVALID_INPUT if k == BAD else 0 for k in range(8)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_element_may_be_without_an_answer(n):
    batch = good_batch(n)
    batch["g"][:] = np.nan
    data = as_tensors(batch)
    out = call(data)
    assert out.status.tolist() == [qc.Status.INVALID_INPUT] * 8
    loss = loss_of(out)
    assert torch.isnan(loss)
    assert all(torch.all(value == 0) for value in gradients(data, loss).values())
