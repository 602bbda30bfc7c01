"""Second derivatives of the layer: gradgradcheck of every output by every input, and closed forms."""

import numpy as np
import pytest
import torch
from layer_calls import OUTPUTS, call, check_gradients, loss_of, outputs_of, tensors
from problems import (
    FEASIBLE,
    INFEASIBLE,
    crossed_bounds,
    crossed_box,
    lp_vertex,
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
)
from qp_data import DATA, QP
from test_shift_weights import SEEDS, contradicting

import qp_control as qc


def check_second_derivatives(qp, outputs=OUTPUTS, **options):
    # Differences of first derivatives, which are exact to about 1e-12 of multipliers near 10: the bars of gradcheck.
    check_gradients(qp, outputs, check=torch.autograd.gradgradcheck, **options)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("n_eq", "n_in"), [(1, 3), (0, 3), (2, 0), (0, 0)])
def test_second_derivatives_of_a_feasible_problem(n_eq, n_in, box):
    qp = random_feasible(7, 4, n_eq, n_in, active=0.6, box=box)
    check_second_derivatives(qp, outputs_of(qp))


@pytest.mark.parametrize("output", OUTPUTS)
def test_second_derivatives_of_each_output_alone(output):
    check_second_derivatives(random_feasible(3, 3, 1, 3, active=0.6, box=True), (output,))
    check_second_derivatives(random_infeasible_full_rank(0, 2), (output,))


@pytest.mark.parametrize("batch", [("g",), ("H", "A"), ("C", "l"), ("b", "u", "lb"), DATA], ids="".join)
def test_second_derivatives_of_a_batch_with_shared_data(batch):
    check_second_derivatives(random_feasible(11, 3, 1, 2, active=0.5, box=True), batch=batch)


@pytest.mark.parametrize("seed", range(2))
def test_second_derivatives_of_an_infeasible_problem_of_full_rank(seed):
    check_second_derivatives(random_infeasible_full_rank(seed, 3))


@pytest.mark.parametrize("batch", [("b", "C"), DATA[:7]], ids="".join)
def test_second_derivatives_of_an_infeasible_batch_with_shared_data(batch):
    check_second_derivatives(random_infeasible_full_rank(0, 2), batch=batch)


@pytest.mark.parametrize("problem", [crossed_bounds, crossed_box])
def test_both_derivatives_of_rows_with_crossed_bounds(problem):
    """The other rows keep their rank: a crossed row of C alone has full rank whatever changes."""
    qp = problem()
    check_gradients(qp, outputs_of(qp))
    check_second_derivatives(qp, outputs_of(qp))


def test_both_derivatives_at_the_vertex_of_a_linear_program():
    qp = lp_vertex()
    check_gradients(qp, outputs_of(qp))
    check_second_derivatives(qp, outputs_of(qp))


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives_of_a_rank_deficient_infeasible_problem_by_rank_preserving_changes(seed, box, check):
    """E -> E (I + D) keeps the rank of the contradicting rows E, whose general change makes the solution jump."""
    qp = random_infeasible_rank_deficient(seed, 4, box=box)
    names = [name for name in qp.arguments() if name not in "AC"]
    given = tensors(qp, grad=False)
    finite = {name: torch.isfinite(given[name]) for name in names}

    def run(D, *flat):
        data = dict(given)
        for name, values in zip(names, flat, strict=True):
            data[name] = given[name].masked_scatter(finite[name], values)
        data["H"] = 0.5 * (data["H"] + data["H"].mT)
        data["A"], data["C"] = data["A"] + data["A"] @ D, data["C"] + data["C"] @ D
        out = call(data)
        return tuple(getattr(out, name) for name in OUTPUTS)

    D = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    flat = [given[name][finite[name]].clone().requires_grad_() for name in names]
    assert check(run, [D, *flat], eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_second_derivatives_pass_through_weights_and_hard_rows(seed):
    qp = {name: torch.tensor(value, dtype=torch.float64) for name, value in contradicting(seed).items()}
    weights = {name: qp[name] for name in ("weight_eq", "weight_in", "weight_box")}

    def run(M, g, b, u, lb, ub):
        H = 0.5 * (M + M.mT)
        return tuple(qc.QPLayer()(H, g, qp["A"], b, qp["C"], None, u, lb, ub, **weights)[:10])

    inputs = tuple(qp[name].clone().requires_grad_() for name in ("H", "g", "b", "u", "lb", "ub"))
    outputs = run(*inputs)
    differentiable = [k for k, output in enumerate(outputs) if output.requires_grad]
    assert len(differentiable) == 10
    assert torch.autograd.gradgradcheck(run, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_derivatives_up_to_the_third_of_a_scalar_problem_are_those_of_its_closed_form():
    """min 1/2 h x^2 + g x: x = -g/h, so x_hh = -2 g/h^3, x_hg = 1/h^2, x_hhh = 6 g/h^4, x_hhg = -2/h^3."""
    h, g = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.7, 0.6))
    x = qc.QPLayer()(h.reshape(1, 1), g.reshape(1)).x[0]
    x_h, x_g = torch.autograd.grad(x, (h, g), create_graph=True)
    x_hh, x_hg = torch.autograd.grad(x_h, (h, g), create_graph=True)
    (x_gh,) = torch.autograd.grad(x_g, h, retain_graph=True)
    x_hhh, x_hhg = torch.autograd.grad(x_hh, (h, g))
    h, g = h.item(), g.item()
    found = [value.item() for value in (x, x_h, x_g, x_hh, x_hg, x_gh, x_hhh, x_hhg)]
    expected = [-g / h, g / h**2, -1 / h, -2 * g / h**3, 1 / h**2, 1 / h**2, 6 * g / h**4, -2 / h**3]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_hessian_of_the_optimal_value_is_that_of_its_closed_form():
    """min 1/2|x|^2 + g'x, a'x = b: the optimal value is (b + a'g)^2 / (2 a'a) - g'g/2."""
    a, g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)
    b = torch.tensor(0.4, dtype=torch.float64)

    def value(a, g, b):
        return qc.QPLayer()(torch.eye(3, dtype=torch.float64), g, a[None], b[None]).objective

    def closed_form(a, g, b):
        return (b + a @ g) ** 2 / (2 * a @ a) - g @ g / 2

    found = torch.autograd.functional.hessian(value, (a, g, b))
    expected = torch.autograd.functional.hessian(closed_form, (a, g, b))
    for row, expected_row in zip(found, expected, strict=True):
        for block, expected_block in zip(row, expected_row, strict=True):
            torch.testing.assert_close(block, expected_block, rtol=1e-11, atol=1e-11)


EVERY_KIND = {
    **FEASIBLE,
    **INFEASIBLE,
    "random": lambda: random_feasible(2, 5, 2, 4, box=True),
    "full rank": lambda: random_infeasible_full_rank(1),
    "rank deficient": lambda: random_infeasible_rank_deficient(2, 5, box=True),
}


@pytest.mark.parametrize("weakly_active", ["least_squares", "one_sided", "smoothed"])
@pytest.mark.parametrize("problem", EVERY_KIND)
def test_derivatives_made_of_torch_operations_equal_those_of_one_call(problem, weakly_active):
    """Gradients with create_graph and without, jvp and qp_tangent; also at kinks and dependent rows."""
    qp = EVERY_KIND[problem]()
    settings = qc.Settings(infeasible="closest", weakly_active=weakly_active, smoothing=1e-2)
    data = tensors(qp)
    loss = loss_of(call(data, settings))
    plain = torch.autograd.grad(loss, list(data.values()), retain_graph=True)
    recorded = torch.autograd.grad(loss, list(data.values()), create_graph=True)
    for name, a, b in zip(data, plain, recorded, strict=True):
        assert b.requires_grad
        size = max(1.0, float(a.abs().max()))
        torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-9 * size, msg=name)

    rng = np.random.default_rng(0)
    change = {name: np.where(np.isfinite(v), rng.normal(size=v.shape), 0.0) for name, v in qp.arguments().items()}
    change["g"] = rng.normal(size=qp.n)
    values = tuple(value.detach() for value in data.values())
    run = lambda *values: tuple(call(dict(zip(data, values, strict=True)), settings)[:10])  # noqa: E731
    found = torch.func.jvp(run, values, tuple(torch.tensor(change[name]) for name in data))[1]
    arguments = qp.keywords()
    tangent = qc.qp_tangent(
        **arguments,
        solution=qc.solve_qp(**arguments, settings=settings),
        settings=settings,
        **{f"d{name}": value for name, value in change.items()},
    )
    for name, a in zip(OUTPUTS, found, strict=True):
        b = np.asarray(getattr(tangent, name))
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-9, atol=1e-9 * np.abs(b).max(initial=1.0), err_msg=name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_element_without_an_answer_contributes_nothing_to_second_derivatives():
    qp = random_feasible(2, 4, 1, 3, box=True)
    data = tensors(qp)
    batch = dict(data)
    good, bad = data["g"].detach().clone(), torch.full((4,), torch.nan, dtype=torch.float64)
    batch["g"] = torch.stack([good, bad, good]).requires_grad_()
    data["g"] = good.requires_grad_()

    def second(data, x):
        (first,) = torch.autograd.grad(x.square().sum(), data["C"], create_graph=True)
        return torch.autograd.grad(first.square().sum(), list(data.values()))

    alone = second(data, call(data).x)
    among = second(batch, call(batch).x[[0]])
    everyone = second(batch, torch.nan_to_num(call(batch).x)[[0, 1]])
    for name, a, b, c in zip(data, alone, among, everyone, strict=True):
        torch.testing.assert_close(b[0] if name == "g" else b, a, rtol=1e-9, atol=1e-9, msg=name)
        assert torch.equal(b, c), name
    assert torch.all(among[list(data).index("g")][1:] == 0)


SMOOTHED_PROBLEMS = {
    "rows and box": lambda: random_feasible(7, 4, 1, 3, active=0.6, box=True),
    "rows": lambda: random_feasible(5, 3, 0, 4, active=0.5),
    "shifted": lambda: random_infeasible_full_rank(0, 2),
    "crossed": lambda: QP(np.eye(2), [0.0, 0.3], C=np.eye(2), l=[3.0, -1.0], u=[1.0, 1.5]),
}


@pytest.mark.parametrize("smoothing", [1e-2, 1e-4])
@pytest.mark.parametrize("problem", SMOOTHED_PROBLEMS)
def test_second_derivatives_of_smoothed_rows_are_those_of_the_smoothed_first_derivative(problem, smoothing):
    qp = SMOOTHED_PROBLEMS[problem]()
    settings = qc.Settings(infeasible="closest", weakly_active="smoothed", smoothing=smoothing)
    check_second_derivatives(qp, outputs_of(qp), settings=settings)


def test_second_derivatives_of_a_smoothed_batch_with_shared_data():
    settings = qc.Settings(infeasible="closest", weakly_active="smoothed", smoothing=1e-2)
    qp = random_feasible(11, 3, 1, 2, active=0.5, box=True)
    for batch in (("C", "l"), ("g", "ub", "H")):
        check_second_derivatives(qp, batch=batch, settings=settings)


@pytest.mark.parametrize("g", [-2.0, -0.01, 0.0, 0.01, 2.0])
def test_second_and_third_derivative_of_a_smoothed_kink_are_those_of_its_closed_form(g):
    """min 1/2 x^2 + g x, x >= 0: x_g = -delta/(1 + delta), delta the compliance at t = max(-g, 0), z = max(g, 0).

    delta has the same slope on both sides of g = 0, where the row is weakly active, but not the same curvature.
    """
    smoothing = 1e-4
    layer = qc.QPLayer(qc.Settings(weakly_active="smoothed", smoothing=smoothing))
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def by_layer(g):
        x = layer(one, g.reshape(1), lb=zero).x[0]
        return torch.autograd.grad(x, g, create_graph=True)[0]

    def by_closed_form(g):
        t, z = (-g, 0.0 * g) if g < 0 else (0.0 * g, g)
        r = torch.sqrt(t * t + z * z + 2 * smoothing)
        delta = (t * t + 2 * smoothing) * (r + t) / ((z * z + 2 * smoothing) * (r + z))
        return -delta / (1 + delta)

    found, expected = [], []
    for function, values in ((by_layer, found), (by_closed_form, expected)):
        at = torch.tensor(g, dtype=torch.float64, requires_grad=True)
        value = function(at)
        for _ in range(3):
            values.append(value.item())
            (value,) = torch.autograd.grad(value, at, create_graph=True)
    assert abs(expected[1]) > 1e-7  # far from the kink too, there is something to find
    # Slack and multiplier are exact to rounding, beside sqrt(smoothing).
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_smoothed_hessians_are_the_same_forward_and_backward():
    settings = qc.Settings(weakly_active="smoothed", smoothing=1e-2)
    qp = random_feasible(7, 4, 1, 3, active=0.6, box=True)
    data = tensors(qp, grad=False)

    def loss(g):
        return loss_of(call(data | {"g": g}, settings))

    def flow(g):
        return torch.func.jvp(loss, (g,), (torch.linspace(-1.0, 1.0, len(g), dtype=torch.float64),))[1]

    backward = torch.func.jacrev(torch.func.jacrev(loss))(data["g"])
    for transform in (torch.func.jacfwd(torch.func.jacrev(loss)), torch.autograd.functional.hessian):
        found = transform(loss, data["g"]) if transform is torch.autograd.functional.hessian else transform(data["g"])
        torch.testing.assert_close(found, backward, rtol=1e-9, atol=1e-9)
    along = torch.linspace(-1.0, 1.0, len(data["g"]), dtype=torch.float64) @ backward
    torch.testing.assert_close(torch.func.grad(flow)(data["g"]), along, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.func.jacfwd(flow)(data["g"]), along, rtol=1e-9, atol=1e-9)
    assert float(backward.abs().max()) > 1e-2


def test_problem_without_constraints_has_second_derivatives():
    """Absent arguments stay absent at every order."""
    qp = QP(np.diag([1.0, 2.0]), [0.3, -0.5])
    check_second_derivatives(qp, ("x", "objective"))
