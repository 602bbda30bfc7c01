"""Arguments of the adapters: what is refused, by the names of the other package, and what carries gradient."""

import re

import pytest
import torch

from qp_control.compat import mpc, proxsuite, qpth

T, BATCH, NX, NU = 4, 3, 2, 1
N = NX + NU


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qp_data():
    n = 3
    return {
        "Q": torch.eye(n).double().expand(BATCH, n, n), "p": draw(BATCH, n), "A": draw(BATCH, 1, n),
        "b": 0.1 * draw(BATCH, 1), "G": draw(BATCH, 2, n), "h": torch.ones(BATCH, 2).double(),
        "l": -torch.ones(BATCH, 2).double(), "u": torch.ones(BATCH, 2).double(),
    }  # fmt: skip


LAYERS = {
    "qpth": (qpth.QPFunction(), ("Q", "p", "G", "h", "A", "b")),
    "proxsuite": (proxsuite.QPFunction(), ("Q", "p", "A", "b", "G", "l", "u")),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["list", "integers", "wide", "another batch"])
def test_refused_argument_of_a_qp_layer_is_called_by_its_name_there(layer, kind):
    function, names = LAYERS[layer]
    change = {
        "list": lambda value: value.tolist(),
        "integers": lambda value: value.long(),
        "wide": lambda value: torch.cat([value, value[..., :1]], -1),
        "another batch": lambda value: value[:2],
    }[kind]
    for name in names:
        data = qp_data()
        data[name] = change(data[name])
        # The first of the batches counts, whichever is the odd one.
        named = r"[QpAbGhlu]" if kind == "another batch" else rf"(?-i:{name})"
        with pytest.raises((ValueError, TypeError), match=rf"^{named} (is|has) .*expected"):
            function(*(data[key] for key in names))


def test_matrix_of_a_cost_that_is_left_out_is_not_positive_definite():
    data = qp_data()
    rest = [data[name] for name in ("p", "G", "h", "A", "b")]
    for missing in (None, torch.zeros(0)):
        with pytest.raises(RuntimeError, match="SPD"):
            qpth.QPFunction()(missing, *rest)
    assert qpth.QPFunction(check_Q_spd=False)(None, *rest).shape == (BATCH, 3)


def test_asymmetric_cost_is_refused_by_its_name():
    data = qp_data()
    data["Q"] = data["Q"] + torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
    for function, names in LAYERS.values():
        with pytest.raises(ValueError, match=r"^Q is not symmetric: Q - Q' is 0\.1"):
            function(*(data[name] for name in names))


# --- mpc ---


def control_problem():
    M = draw(T, BATCH, N, N)
    C = M @ M.mT + torch.eye(N, dtype=torch.float64)
    return {"x": draw(BATCH, NX), "C": C, "c": draw(T, BATCH, N), "F": 0.5 * draw(NX, N), "f": 0.1 * draw(NX)}


def solve(change=None, dynamics=None, cost=None, nx=NX, nu=NU, **options):
    d = control_problem() | (change or {})
    controller = mpc.MPC(nx, nu, T, **options)
    return controller(d["x"], cost or mpc.QuadCost(d["C"], d["c"]), dynamics or mpc.LinDx(d["F"], d["f"]))


def affine(x, u):
    d = control_problem()
    return x @ d["F"][:, :NX].T + u @ d["F"][:, NX:].T + d["f"] + 0.05 * torch.sin(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"C": None}, "C is NoneType, expected a tensor"),
        ({"C": draw(T - 1, BATCH, N, N)}, "C has shape (3, 3, 3, 3), expected (4, 3, 3, 3) or (3, 3, 3) or (3, 3)"),
        ({"C": draw(T, 2, N, N)}, "C has shape (4, 2, 3, 3), expected (4, 3, 3, 3)"),
        ({"C": draw(T, BATCH, 4, 4)}, "C has shape (4, 3, 4, 4), expected (4, 3, 3, 3)"),
        ({"c": torch.tensor(1.0)}, "c has shape (), expected (4, 3, 3) or (3, 3) or (3,)"),
        ({"F": draw(T - 2, BATCH, NX, N)}, "F has shape (2, 3, 2, 3), expected (3, 3, 2, 3)"),
        ({"f": draw(1, BATCH, NX)}, "f has shape (1, 3, 2), expected (3, 3, 2) or (3, 2) or (2,)"),
        ({"x": [[0.0, 0.0]]}, "x_init is list, expected a tensor"),
    ],
)
def test_data_of_another_shape_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        solve(change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nu": 2}, "F has shape (2, 3), expected"),  # of one input
        ({"nu": -1}, "n_ctrl is -1, expected an integer"),
        ({"nx": 2.5}, "n_state is 2.5, expected an integer"),
        ({"u_lower": -torch.ones(BATCH, NU), "u_upper": 1.0}, "u_lower has shape (3, 1), expected (4, 1)"),
        ({"u_lower": -torch.ones(T, 2, NU), "u_upper": 1.0}, "u_lower has shape (4, 2, 1), expected (4, 3, 1)"),
        ({"u_zero_I": torch.ones(T - 1, BATCH, NU)}, "u_zero_I has shape (3, 3, 1), expected (4, 3, 1)"),
        ({"slew_rate_penalty": 1.0, "prev_ctrl": torch.ones(2, NU)}, "prev_ctrl has shape (2, 1), expected (3, 1)"),
        ({"dynamics": affine, "u_init": torch.ones(T, BATCH, 2)}, "u_init has shape (4, 3, 2), expected (4, 3, 1)"),
        ({"dynamics": affine, "cost": lambda tau: tau**2}, "cost returned shape (12, 3), expected (12,)"),
        ({"dynamics": affine, "cost": lambda tau: tau.sum()}, "cost returned shape (), expected (12,)"),
    ],
)
def test_options_of_another_shape_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(**options)


def test_dynamics_may_be_the_same_at_all_times_and_in_all_elements():
    d = control_problem()
    full = {"F": d["F"].expand(T - 1, BATCH, NX, N), "f": d["f"].expand(T - 1, BATCH, NX)}
    for found, expected in zip(solve(), solve(full), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dynamics", [None, affine])
@pytest.mark.parametrize("shape", [(), (T,), (T, NU), (T, BATCH, NU)])
def test_gradients_of_bounds_and_of_the_previous_input_equal_differences(dynamics, shape):
    weight = draw(T, BATCH, NU, seed=1)

    def loss(bound, previous):
        options = {"slew_rate_penalty": 0.7, "prev_ctrl": previous, "lqr_iter": 50}
        _, u, costs = solve(dynamics=dynamics, u_lower=-bound, u_upper=bound, **options)
        return (weight * u).sum() + costs.sum()

    leaves = [torch.full(shape, 0.3).double().requires_grad_(), torch.full((BATCH, NU), 0.2).double().requires_grad_()]
    found = torch.autograd.grad(loss(*leaves), leaves)
    for k, gradient in enumerate(found):
        step = [1e-6 if k == j else 0.0 for j in range(2)]
        with torch.no_grad():
            up = loss(*(leaf + h for leaf, h in zip(leaves, step, strict=True)))
            down = loss(*(leaf - h for leaf, h in zip(leaves, step, strict=True)))
        # Solutions to 1e-10, divided by the step.
        assert float(gradient.sum()) == pytest.approx(float(up - down) / 2e-6, rel=1e-6, abs=1e-4)
        assert gradient.abs().max() > 1e-3
