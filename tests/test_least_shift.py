"""Nonlinear problems whose limits cannot be met: the least shift, the cheapest plan among those, and its derivatives.

Oracles: the violation as a function of the inputs alone, by rolling the dynamics out, whose derivatives are torch's;
and for linear plants the closest feasible QP.
"""

from __future__ import annotations

import math

import pytest
import torch

import qp_control as qc
import qp_control.mpc.least_shift
from qp_control.mpc.controller import MPC
from qp_control.mpc.least_shift import least_shift
from qp_control.mpc.merit import violation
from qp_control.mpc.nonlinear_ocp import NonlinearOcp, StageRows, StateRows
from qp_control.mpc.sqp import SqpSettings, solve_sqp
from qp_control.mpc.sqp_steps import iterate
from qp_control.systems import cart_pole, quadrotor

CLOSEST, SOLVED = qc.Status.CLOSEST_FEASIBLE, qc.Status.SOLVED
EXACT = qc.Settings(eps_abs=1e-10, eps_rel=1e-12)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cart_pole_mpc(**options):
    options = {"state_limit": [1.0, 0.5, 1.0, math.inf], "sqp": SqpSettings(eps=1e-8), "settings": EXACT} | options
    mpc = MPC(cart_pole(force_limit=5.0), 10, mode="converged", **options)
    return mpc.set_weights([1.0, 5.0, 0.1, 0.1], [0.05], [10.0, 50.0, 1.0, 1.0])


def cart_pole_starts(count, seed=0):
    return normal(count, 4, seed=seed) * torch.tensor([2.0, 1.0, 3.0, 1.0])


def quadrotor_mpc():
    limits = [math.inf, math.inf, 0.5, 0.4, 0.4, *[math.inf] * 7]
    mpc = MPC(quadrotor(), 20, mode="converged", state_limit=limits, sqp=SqpSettings(eps=1e-6, max_iter=100))
    weights = [10.0] * 3 + [1.0] * 6 + [0.1] * 3
    return mpc.set_weights(weights, [1.0] * 4, weights)


def quadrotor_starts(count, seed=0):
    return normal(count, 12, seed=seed) * torch.tensor([1.0, 1.0, 1.5] + [0.5] * 9)


def rolled_out(mpc, x0, u):
    states = [x0]
    for k in range(len(u)):
        states.append(mpc.dynamics.step(states[-1], u[k], mpc.model().detach()))
    return torch.stack(states)


def squared_violation(mpc, x0, u):
    """1/2 |violation|^2 of the limits as a function of the inputs (N, nu) alone."""
    x = rolled_out(mpc, x0, u)[1:, mpc.limited]
    beyond = [x.abs() - mpc.state_bound().detach(), u.abs() - mpc.input_bound().detach()]
    return 0.5 * sum((part.clamp_min(0.0) ** 2).sum() for part in beyond)


def cost(mpc, x0, u):
    x = rolled_out(mpc, x0, u)
    Q, R, P = (W().detach() for W in (mpc.state_cost, mpc.input_cost, mpc.terminal_cost))
    return 0.5 * (((x[:-1] @ Q) * x[:-1]).sum() + ((u @ R) * u).sum() + x[-1] @ P @ x[-1])


def early_violation():
    """Angles that come back within the limits while inputs remain."""
    mpc = cart_pole_mpc(state_limit=[math.inf, 0.5, math.inf, math.inf])
    return mpc, torch.tensor([[0.0, 0.7, 0.0, -2.5], [0.3, 0.7, 0.0, -2.0], [0.0, -0.7, 0.5, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("case", ["cart-pole", "quadrotor", "early"])
def test_shift_is_the_least_one_and_the_plan_the_cheapest_that_has_it(case):
    mpc, x0 = {
        "cart-pole": (cart_pole_mpc(), cart_pole_starts(6)),
        "quadrotor": (quadrotor_mpc(), quadrotor_starts(4)),
        "early": early_violation(),
    }[case]
    plan = mpc(x0).detach()
    shifted = (plan.status == CLOSEST).nonzero()[:, 0].tolist()
    assert len(shifted) >= 2
    choices = 0
    for i in shifted:
        u = plan.inputs[i]
        assert torch.allclose(rolled_out(mpc, x0[i], u), plan.states[i], rtol=0, atol=1e-6)
        flat = u.flatten()

        def value(v, i=i, u=u):
            return squared_violation(mpc, x0[i], v.view_as(u))

        least = float(value(flat))
        assert least > 1e-4
        slope = torch.func.grad(value)(flat)
        # CLOSEST_FEASIBLE promises 1e-5 at each state and input; here those of up to 20 stages are added up.
        assert slope.abs().max() < 1e-4 * max(1.0, math.sqrt(2 * least))
        for seed in range(5):
            step = 1e-3 * normal(*flat.shape, seed=seed)
            assert float(value(flat + step)) >= least - 1e-7
        # The second level: among inputs that are not at their bounds, directions that leave the violation as it is.
        inside = ((u.abs() - mpc.input_bound()).abs() > 1e-6).flatten()
        hessian = torch.func.hessian(value)(flat)[inside][:, inside]
        eigenvalues, vectors = torch.linalg.eigh(hessian)
        free = vectors[:, eigenvalues <= 1e-9 * eigenvalues.max()]
        slope = torch.func.grad(lambda v, i=i, u=u: cost(mpc, x0[i], v.view_as(u)))(flat)[inside]
        # The last step, to the least shift, moves the plan a little along directions that hardly change the violation.
        assert (free.mT @ slope).norm() <= 1e-2 * slope.norm()
        choices += free.shape[1]
    assert case != "early" or choices > 6, "every least shift leaves no choice: the test shows too little"


def linear_problem(batch=3, horizon=6):
    """A double integrator that cannot stay in its limits, with rows of all kinds."""
    A = torch.tensor([[1.0, 0.2], [0.0, 1.0]], dtype=torch.float64)
    B = torch.tensor([[0.02], [0.2]], dtype=torch.float64)
    plant = qc.TorchDynamics(lambda x, u: x @ A.T + u @ B.T, 2, 1)
    eye = torch.eye(2, dtype=torch.float64)
    inf = math.inf
    data = {"Q": eye, "R": 0.5 * eye[:1, :1], "Q_N": 3 * eye, "q": torch.tensor([0.3, -0.2], dtype=torch.float64)}
    data |= {"x_lower": torch.tensor([-0.8, -inf]).double(), "x_upper": torch.tensor([0.8, inf]).double()}
    data |= {"u_lower": torch.tensor([-1.0]).double(), "u_upper": torch.tensor([1.0]).double()}
    data |= {"C": torch.tensor([[0.5, 1.0], [0.0, 1.0]]).double(), "D": torch.tensor([[0.1], [0.2]]).double()}
    data |= {"lower": torch.tensor([-0.6, -0.3]).double(), "upper": torch.tensor([0.6, 0.3]).double()}
    # The second row is soft.
    data |= {"slack_linear": torch.tensor([inf, 0.5]).double(), "slack_quadratic": torch.tensor([0.0, 2.0]).double()}
    data |= {"C_N": torch.tensor([[1.0, 1.0]]).double(), "upper_N": torch.tensor([-0.1]).double()}
    rows = [
        StateRows(lambda x: x[..., 1:], upper=0.7, slack_quadratic=5.0),
        StageRows(lambda x, u: x[..., :1] + 0.5 * u, lower=-0.9),
    ]
    x0 = torch.tensor([[1.6, 0.5], [-1.2, -1.5], [1.1, 0.0]], dtype=torch.float64)[:batch]
    return NonlinearOcp(plant, horizon, x0, data, plant.parameters, rows)


def test_elastic_path_ends_at_the_closest_feasible_qp_of_a_linear_plant():
    ocp = linear_problem()
    x, u = ocp.x0[:, None].expand(-1, 7, -1).contiguous(), torch.zeros(3, 6, 1, dtype=torch.float64)
    layer = qc.OcpLayer(EXACT, horizon=6)
    wanted = layer.solve(ocp.around(x, u))
    assert (wanted.status == CLOSEST).all()
    with torch.no_grad():
        found, shifted = least_shift(ocp, x, u, layer, SqpSettings(eps=1e-8))
    assert (found.status == CLOSEST).all() and shifted.solved.all()
    # The cost's share of 1e-4 moves the plan by about its square; the shift is least to second order of that.
    for name in ("x", "u"):
        assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=1e-4), name
    for name in found._fields:
        if name.startswith("s_"):
            assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=1e-5), name
        elif name.startswith("slack_"):
            assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=1e-4), name
    assert torch.allclose(found.objective, cost_of(ocp, found), rtol=1e-12, atol=0)
    # The ordinary method has this in one step, and leaves it alone: there is no curvature to gain from.
    answers = solve_sqp(ocp, x, u, layer)
    assert answers.shifted is None and (answers.point.status == CLOSEST).all()


def cost_of(ocp, point):
    x, u, d = point.x, point.u, ocp.data
    stage = 0.5 * ((x[:, :-1] @ d["Q"]) * x[:, :-1]).sum((1, 2)) + 0.5 * ((u @ d["R"]) * u).sum((1, 2))
    slope = (x[:, :-1] * d["q"]).sum((1, 2)) + (x[:, -1] * d["q"]).sum(1)
    return stage + slope + 0.5 * ((x[:, -1] @ d["Q_N"]) * x[:, -1]).sum(1)


@pytest.mark.parametrize("case", ["sharp least shifts", "least shifts that leave a choice"])
def test_gradients_of_shifted_plans_equal_finite_differences(case):
    mpc, x0 = (cart_pole_mpc(), cart_pole_starts(4)) if case.startswith("sharp") else early_violation()
    x0.requires_grad_()
    plan = mpc(x0)
    shifted = plan.status == CLOSEST
    assert shifted.sum() >= 2
    weights = normal(*plan.states.shape, seed=1), normal(*plan.inputs.shape, seed=2)

    def losses(plan):
        return (plan.states * weights[0]).sum((1, 2)) + (plan.inputs * weights[1]).sum((1, 2))

    losses(plan)[shifted].sum().backward()
    h = 1e-5
    arguments = {"x0": x0, **{n: p for n, p in mpc.named_parameters() if p.grad is not None}}
    assert {"state_cost.log_diagonal", "input_fraction", "state_fraction", "model.value"} <= set(arguments)
    for k, (name, value) in enumerate(arguments.items()):
        direction, sides = normal(*value.shape, seed=3 + k), []
        with torch.no_grad():
            for side in (h, -h):
                value += side * direction
                moved = mpc(x0)
                value -= side * direction
                assert torch.equal(moved.status, plan.status)
                sides.append(losses(moved)[shifted].sum())
        difference = float(sides[0] - sides[1]) / (2 * h)
        got = float((value.grad * direction).sum())
        # Third derivatives times h^2, and 1e-8 of the problems' tolerance over h.
        assert got == pytest.approx(difference, rel=2e-4, abs=2e-3), name


@pytest.mark.parametrize("case", ["cart-pole", "quadrotor"])
def test_starts_outside_the_limits_converge(case):
    mpc, x0 = {
        "cart-pole": (cart_pole_mpc(sqp=SqpSettings(eps=1e-6)), cart_pole_starts(40, seed=5)),
        "quadrotor": (quadrotor_mpc(), quadrotor_starts(20, seed=5)),
    }[case]
    x0.requires_grad_()
    plan = mpc(x0)
    # Of 1000 quadrotors in the benchmark 4 do not, most of them close to a pitch of 90 degrees.
    assert plan.solved.sum() >= len(x0) - 1
    assert (plan.status == CLOSEST).sum() > 0.5 * len(x0)
    assert plan.states.isfinite().all() and plan.inputs.isfinite().all()
    plan.inputs.sum().backward()
    assert x0.grad.isfinite().all()
    assert x0.grad[plan.status == CLOSEST].abs().amax(1).min() > 0.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in mpc.parameters())


def test_starts_whose_elastic_problems_are_far_from_convex_converge(monkeypatch):
    starts = [
        [1.58, 0.47, -1.54, 0.65, -1.33, 0.05, 0.24, -0.24, 0.8, 0.0, 0.52, 0.11],
        [-1.83, 0.63, -1.53, 0.78, 0.9, -0.53, 0.08, 0.62, -0.12, 0.54, 0.18, -0.23],
        [-0.6, 1.09, -3.28, 0.13, 0.8, -0.15, 0.95, 0.64, 0.59, -1.29, -0.53, -0.3],
    ]
    mpc, x0 = quadrotor_mpc(), torch.tensor(starts, dtype=torch.float64)
    with torch.no_grad():
        plan = mpc(x0)
        assert (plan.status == CLOSEST).all() and plan.iterations.max() < 60
        # Without repaired stages they do not.
        monkeypatch.setattr(qp_control.mpc.least_shift, "iterate", lambda *a, **k: iterate(*a, **k | {"repair": False}))
        assert (mpc(x0).status == qc.Status.MAX_ITER).any()


def test_shifted_neighbour_changes_nothing():
    mpc = cart_pole_mpc()
    x0 = cart_pole_starts(6)
    x0[::2] *= 0.1
    plan = mpc(x0).detach()
    assert {int(s) for s in plan.status} == {int(SOLVED), int(CLOSEST)}
    for i in range(len(x0)):
        alone = mpc(x0[i : i + 1]).detach()
        assert alone.status[0] == plan.status[i]
        assert torch.allclose(alone.inputs[0], plan.inputs[i], rtol=0, atol=1e-6)


def test_feasible_problem_behind_infeasible_qps_is_solved_unshifted():
    """tanh(4 u) >= 0.5 from u = -2, where its slope says that nothing helps."""
    plant = qc.TorchDynamics(lambda x, u: x + u, 1, 1)
    one = torch.eye(1, dtype=torch.float64)
    rows = [StageRows(lambda x, u: (4.0 * u).tanh() + 0.05 * x * x, lower=0.5)]
    data = {"Q": one, "R": one, "u_lower": -3 * one[0], "u_upper": 3 * one[0]}
    ocp = NonlinearOcp(plant, 2, 0.1 * one, data, plant.parameters, rows)
    x, u = torch.tensor([[[0.1], [-1.9], [-3.9]]]).double(), torch.full((1, 2, 1), -2.0, dtype=torch.float64)
    answers = solve_sqp(ocp, x, u, qc.OcpLayer(EXACT, horizon=2))
    assert len(answers.which) == 1, "the ordinary method does it: the test shows too little"
    assert answers.point.status.tolist() == [SOLVED]
    assert violation(ocp, answers.point.x, answers.point.u).max() < 1e-7
    assert (answers.point.u > 0.0).all()
