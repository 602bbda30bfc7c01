"""The layer under torch.compile: the same values and gradients in one graph, and refusals instead of zeros."""

import copy
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from layer_calls import OUTPUTS, call, loss_of, tensors
from problems import random_feasible, random_infeasible_full_rank
from qp_data import DATA
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import qp_control as qc
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp

PROBLEMS = {
    "feasible": lambda: random_feasible(3, 4, 1, 3, active=0.6, box=True),
    "without rows": lambda: random_feasible(3, 4),
    "infeasible": lambda: random_infeasible_full_rank(0, 3),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own
        yield
    torch._dynamo.reset()


class Called(torch.nn.Module):
    """torch.export takes modules."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


def compiled(function):
    """fullgraph raises at a graph break."""
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("batch", [(), ("g",), DATA], ids=["one", "g", "all"])
def test_compiled_values_have_the_eager_bits_and_gradients_its_digits(problem, batch):
    """Operators pass tensors only, so that the compiled adjoint makes a factor of its own."""
    data = tensors(PROBLEMS[problem](), grad=False)
    for name in set(batch) & set(data):
        data[name] = torch.stack([data[name], data[name] + 1e-3 * (name == "g"), data[name]])
    values = [value.requires_grad_() for value in data.values()]

    def run(*values):
        return call(dict(zip(data, values, strict=True)))

    out, found = run(*values), compiled(run)(*values)
    for name, a, b in zip(qc.LayerSolution._fields, found, out, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype and a.requires_grad == b.requires_grad, name
    slopes, expected = (torch.autograd.grad(loss_of(result), values) for result in (found, out))
    for name, a, b in zip(data, slopes, expected, strict=True):
        # Both refine to a few units in the last place of the system's terms.
        assert (a - b).abs().max() <= 1e-11 * max(1.0, float(a.abs().max())), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_layer_keeps_the_dtype(dtype):
    H, lb = torch.eye(2, dtype=dtype), torch.zeros(2, dtype=dtype)
    g = torch.tensor([1.0, -2.0], dtype=dtype, requires_grad=True)
    out = compiled(lambda g: qc.QPLayer()(H, g, lb=lb))(g)
    out.x.sum().backward()
    assert out.x.dtype == g.grad.dtype == dtype
    torch.testing.assert_close(g.grad, torch.tensor([0.0, -1.0], dtype=dtype), rtol=0, atol=1e-15)
    torch.testing.assert_close(out.x.detach(), torch.tensor([0.0, 2.0], dtype=dtype), rtol=0, atol=1e-15)


def test_layer_inside_a_network_is_one_graph_and_learns_like_the_eager_one():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 4, dtype=torch.float64)
            self.layer = qc.QPLayer()
            self.b = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, inputs):
            eye = torch.eye(4, dtype=torch.float64)
            out = self.layer(eye, self.linear(inputs), eye[:1], self.b, lb=torch.zeros(4, dtype=torch.float64))
            return out.x.square().sum()

    torch.manual_seed(0)
    network = Network()
    twin = copy.deepcopy(network)
    inputs = torch.randn(5, 3, dtype=torch.float64)
    explained = torch._dynamo.explain(network)(inputs)
    assert explained.graph_count == 1 and explained.graph_break_count == 0
    fast = compiled(network)
    for model, function in ((network, fast), (twin, twin)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            function(inputs).backward()
            optimizer.step()
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert not torch.equal(network.b.detach(), torch.ones(1, dtype=torch.float64))


def test_another_batch_size_and_other_options_give_their_own_answers():
    H, lb = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    run = compiled(lambda layer, g: layer(H, g, lb=lb).x)
    for layer in (qc.QPLayer(), qc.QPLayer(qc.Settings(eps_abs=1e-6, threads=1))):
        for size in (1, 2, 5, 3):
            g = torch.tensor(np.random.default_rng(size).normal(size=(size, 2)))
            assert torch.equal(run(layer, g), layer(H, g, lb=lb).x)


def test_warm_start_goes_through_the_compiler():
    data = tensors(random_feasible(4, 30, 5, 30), grad=False)
    cold = call(data)
    warm = compiled(lambda data, start: call(data, warm_start=start))(data, cold)
    eager = call(data, warm_start=cold)
    assert torch.equal(warm.x, eager.x)
    assert int(warm.iterations) == int(eager.iterations) < int(cold.iterations)


def test_warm_start_of_arrays_and_lists_goes_through_the_compiler():
    H, g, lb = torch.eye(2).double(), torch.tensor([1.0, 0.2]).double(), torch.full((2,), -0.5).double()
    expected = qc.QPLayer()(H, g, lb=lb).x
    zero = {name: [0.0] * size for name, size in (("x", 2), ("y", 0), ("z", 0), ("w", 2))}
    for start in (qc.solve_qp(H, g, lb=lb), SimpleNamespace(**zero)):
        found = compiled(lambda g, start: qc.QPLayer()(H, g, lb=lb, warm_start=start).x)(g, start)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "option",
    [
        {"eps_abs": np.float32(1e-6)}, {"eps_abs": Fraction(1, 2**27)}, {"eps_abs": torch.tensor(1e-8)},
        {"eps_abs": np.array(1e-8)}, {"max_iter": np.int64(50)}, {"max_iter": 50.0}, {"threads": 1.0},
        {"time_limit": 10}, {"infeasible": np.str_("closest")},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_any_kind_of_number_go_through_the_compiler_and_the_caches(option):
    H, g = torch.eye(2).double(), torch.tensor([1.0, 0.2]).double()
    settings = qc.Settings(**option)
    ((name, value),) = option.items()
    assert getattr(settings, name) == value and type(getattr(settings, name)) in (float, int, str)
    assert settings == qc.Settings(**option) and hash(settings) == hash(qc.Settings(**option))
    layer = qc.QPLayer(settings)
    for run in (layer, compiled(layer)):
        torch.testing.assert_close(run(H, g).x, -g, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", ["QPLayer", "OcpLayer"])
def test_tracing_that_would_take_the_answer_for_a_constant_is_refused(layer):
    one, x = torch.eye(1).double(), torch.ones(1).double()
    qp, ocp = qc.QPLayer(), qc.OcpLayer(horizon=2)
    run = {"QPLayer": lambda g: qp(one, g).x, "OcpLayer": lambda x0: ocp(one, one, x0, Q=one, R=one).u[0]}[layer]
    for trace in (make_fx(run), make_fx(torch.func.grad(lambda x: run(x).sum()))):
        with pytest.raises(NotImplementedError, match=r"make_fx and torch\.func.linearize do not see into C\+\+"):
            trace(x)
    with pytest.raises(NotImplementedError, match=r"take torch.compile .* torch\.func\.jvp"):
        torch.func.linearize(run, x)
    exported = torch.export.export(Called(run), (x,)).module()  # the way out
    torch.testing.assert_close(exported(3.0 * x), run(3.0 * x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", ["step", "forces", "mass", "error", "valid"])
def test_tracing_that_would_take_a_robot_for_a_constant_is_refused(function):
    robot = qc.RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)
    x = torch.full((2, 4), 0.1, dtype=torch.float64)
    run = {
        "step": lambda x: robot.step(x, x[:, : robot.nu]),
        "forces": lambda x: robot.inverse_dynamics(x[:, :2], x[:, 2:], x[:, 2:]),
        "mass": lambda x: robot.mass_matrix(x[:, :2]),
        "error": lambda x: robot.difference(x, x[0]),
        "valid": lambda x: robot.on_manifold(x),
    }[function]
    run(x)
    with pytest.raises(NotImplementedError, match=r"make_fx and torch\.func.linearize do not see into C\+\+"):
        make_fx(run)(x)


def test_policies_hold_under_the_compiler():
    H = torch.eye(2, dtype=torch.float64)
    bad = torch.tensor([[1.0, 2.0], [torch.nan, 0.0]], dtype=torch.float64)

    def slope(settings):
        g = bad.clone().requires_grad_()
        with pytest.warns(RuntimeWarning, match="1 INVALID_INPUT; first: element 1"):
            x = compiled(lambda g: qc.QPLayer(settings)(H, g).x)(g)
        assert torch.all(torch.isnan(x[1])) and torch.equal(x[0], -bad[0])
        x.nansum().backward()
        return g.grad

    assert torch.equal(slope(qc.Settings()), torch.tensor([[-1.0, -1.0], [0.0, 0.0]], dtype=torch.float64))
    assert torch.all(torch.isnan(slope(qc.Settings(on_failure="nan"))[1]))
    with pytest.raises(Exception, match="1 INVALID_INPUT; first: element 1"):
        compiled(lambda g: qc.QPLayer(qc.Settings(on_failure="raise"))(H, g).x)(bad)


def test_wrong_shapes_are_refused_under_the_compiler():
    H = torch.eye(2, dtype=torch.float64)
    with pytest.raises(Exception, match=r"H has shape \(2, 2\), expected \(n, n\) = \(3, 3\)"):
        compiled(lambda g: qc.QPLayer()(H, g).x)(torch.zeros(3, dtype=torch.float64))


def linear_problem(g):
    return qc.QPLayer()(torch.eye(2, dtype=torch.float64), g, lb=torch.zeros(2, dtype=torch.float64)).x


G = torch.tensor([1.0, -2.0], dtype=torch.float64)


def test_vmap_inside_the_compiled_function_equals_eager():
    batch = torch.stack([G, -G, 2 * G])
    found = compiled(lambda g: vmap(linear_problem)(g))(batch)
    assert torch.equal(found, vmap(linear_problem)(batch))


def test_forward_mode_is_refused_instead_of_being_zero():
    with pytest.raises(Exception, match="forward mode"):
        compiled(lambda g: jvp(linear_problem, (g,), (torch.ones_like(g),))[1])(G)
    tangent = jvp(linear_problem, (G,), (torch.ones_like(G),))[1]
    assert torch.equal(tangent, torch.tensor([0.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_dual_numbers_given_to_a_function_compiled_earlier_are_refused(backend):
    run = torch.compile(linear_problem, fullgraph=True, backend=backend)
    run(G)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward mode under torch"):
        run(forward_ad.make_dual(G, torch.ones_like(G)))


def test_transform_of_the_compiled_function_is_right_or_refused():
    """torch decides; a silent zero is what must not come out."""

    def value(g):
        return linear_problem(g).sum()

    expected = grad(value)(G)
    for call_it in (lambda: compiled(lambda g: grad(value)(g))(G), lambda: grad(compiled(value))(G)):
        torch._dynamo.reset()
        try:
            found = call_it()
        except Exception as refused:
            assert "QPLayer" in str(refused) or "torch" in str(refused)
        else:
            torch.testing.assert_close(found, expected)


def test_second_derivative_of_the_compiled_layer_is_refused():
    h = torch.tensor([[1.7]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([0.6], dtype=torch.float64)
    x = compiled(lambda h: qc.QPLayer()(h, g).x[0])(h)
    (first,) = torch.autograd.grad(x, h, create_graph=True)
    np.testing.assert_allclose(first.item(), 0.6 / 1.7**2, rtol=1e-12)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first, h)


@pytest.mark.parametrize("operator", ["solve", "adjoint"])
def test_operators_pass_the_checks_of_torch(operator):
    """torch.library.opcheck: schema, fake kernel against the real one, autograd registration."""
    data = {name: value.double() for name, value in tensors(PROBLEMS["feasible"](), grad=False).items()}
    inputs = [data.get(name) for name in DATA] + [None] * 3
    settings = [getattr(qc.Settings(), name) for name in qc.Settings.__dataclass_fields__]
    solved = torch.ops.qp_control.solve(*inputs, *[None] * 6, *settings, 1e-10)
    if operator == "solve":
        inputs[1] = inputs[1].clone().requires_grad_()
        arguments = (*inputs, *[None] * 6, *settings, 1e-10)
    else:
        loss = [torch.ones_like(field) for field in solved[:10]]
        needed = [True] * 9
        arguments = (*inputs, list(solved[:9]), solved[10], loss, needed, *settings, 1e-10)
    assert len(solved) == len(OUTPUTS) + 7
    torch.library.opcheck(getattr(torch.ops.qp_control, operator).default, arguments)
