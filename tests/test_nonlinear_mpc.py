"""Nonlinear MPC: optimality, exact gradients, obstacles, limits of speeds and rates, delay, infeasible starts."""

from __future__ import annotations

import math

import pytest
import torch

import qp_control as qc
from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StageRows, StateRows, keep_out, speed_limit
from qp_control.mpc.sqp import SqpSettings
from qp_control.systems import cart_pole, quadrotor, seven_joint_arm

TIGHT = SqpSettings(eps=1e-10)
# Finite differences need the QPs to more digits than a controller does.
EXACT = qc.Settings(eps_abs=1e-11, eps_rel=1e-12)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cart_pole_mpc(**options):
    mpc = MPC(cart_pole(force_limit=5.0), 20, mode="converged", sqp=TIGHT, settings=EXACT, **options)
    return mpc.set_weights([1.0, 5.0, 0.1, 0.1], [0.05], [10.0, 50.0, 1.0, 1.0])


def quadrotor_mpc(**options):
    mpc = MPC(quadrotor(), 12, mode="converged", sqp=TIGHT, settings=EXACT, **options)
    weights = [10.0] * 3 + [1.0] * 6 + [0.1] * 3
    return mpc.set_weights(weights, [1.0] * 4, weights)


def arm_mpc(**options):
    limit = [12.0, 7.0, 12.0, 4.0, 4.0, 2.0, 1.0]
    mpc = MPC(seven_joint_arm(), 8, mode="converged", sqp=TIGHT, settings=EXACT, input_limit=limit, **options)
    return mpc.set_weights([10.0] * 7 + [0.1] * 7, [1e-1] * 7, [50.0] * 7 + [1.0] * 7)


SYSTEMS = {
    "cart-pole": (cart_pole_mpc, lambda: 0.3 * normal(2, 4) * torch.tensor([1.0, 0.7, 1.0, 1.0])),
    "quadrotor": (quadrotor_mpc, lambda: normal(2, 12) * torch.tensor([1.0] * 3 + [0.2] * 9)),
    "arm": (arm_mpc, lambda: 0.4 * normal(2, 14)),
}


def kkt(mpc, x0, plan, **options):
    """Largest entry of the Lagrangian's gradient and of the gaps, by automatic differentiation of the problem."""
    x, u = (v.detach().clone().requires_grad_() for v in (plan.states, plan.inputs))
    Q, R, P = options.get("Q", mpc.state_cost()), mpc.input_cost(), mpc.terminal_cost()
    e = x - mpc.reference
    cost = (
        0.5 * ((e[:, :-1] @ Q) * e[:, :-1]).sum() + 0.5 * ((u @ R) * u).sum() + 0.5 * ((e[:, -1] @ P) * e[:, -1]).sum()
    )
    gap = mpc.dynamics.step(x[:, :-1], u, mpc.model()) - x[:, 1:]
    lagrangian = cost + (plan.y[:, 1:] * gap).sum() + (plan.y[:, 0] * (x0 - x[:, 0])).sum()
    lagrangian = lagrangian + (plan.w_u * u).sum() + (plan.w_x * x).sum()
    slopes = torch.autograd.grad(lagrangian, (x, u))
    return max(float(v.abs().max()) for v in slopes), float(gap.detach().abs().max())


@pytest.mark.parametrize("name", SYSTEMS)
def test_converged_plan_satisfies_the_optimality_conditions(name):
    make, start = SYSTEMS[name]
    mpc, x0 = make(), start()
    plan = mpc(x0).detach()
    assert (plan.status == qc.Status.SOLVED).all()
    # Quadratic convergence, of both elements together; steps that take the convexified QP's multipliers for the
    # problem's own need 9, 14 and 17.
    assert int(plan.iterations.sum()) <= {"cart-pole": 8, "quadrotor": 12, "arm": 15}[name]
    # The tolerance is relative to the largest multiplier, here below 1e4.
    slope, gap = kkt(mpc, x0, plan)
    assert slope < 1e-6 and gap < 1e-9
    bound = mpc.input_bound().detach()
    assert ((plan.inputs.abs() - bound).abs() < 1e-9).any(), "no input is at its bound: the test shows too little"
    assert (plan.inputs.abs() <= bound + 1e-9).all()
    at_upper, at_lower = plan.w_u > 1e-9, plan.w_u < -1e-9
    assert torch.allclose(plan.inputs[at_upper], bound.expand_as(plan.inputs)[at_upper], rtol=0, atol=1e-9)
    assert torch.allclose(plan.inputs[at_lower], -bound.expand_as(plan.inputs)[at_lower], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_of_the_converged_plan_equal_finite_differences(name):
    make, start = SYSTEMS[name]
    mpc, x0 = make(), start().requires_grad_()
    plan = mpc(x0)
    weights = normal(*plan.states.shape, seed=1), normal(*plan.inputs.shape, seed=2)

    def loss(plan):
        return (plan.states * weights[0]).sum() + (plan.inputs * weights[1]).sum()

    loss(plan).backward()
    found, step = plan.detach(), 1e-5
    arguments = {"x0": x0, **{n: p for n, p in mpc.named_parameters() if p.grad is not None}}
    assert {"state_cost.log_diagonal", "input_cost.log_diagonal", "terminal_cost.lower", "input_fraction"} <= set(
        arguments
    )
    assert any(n.startswith("model.") for n in arguments)
    for k, (argument, value) in enumerate(arguments.items()):
        direction = normal(*value.shape, seed=3 + k)
        sides = []
        with torch.no_grad():
            for side in (step, -step):
                value += side * direction
                sides.append(float(loss(mpc(x0, found))))
                value -= side * direction
        difference = (sides[0] - sides[1]) / (2 * step)
        got = float((value.grad * direction).sum())
        assert got == pytest.approx(difference, rel=1e-5, abs=1e-5), argument


def test_gauss_newton_finds_the_same_plan_with_more_steps():
    mpc, x0 = cart_pole_mpc(), SYSTEMS["cart-pole"][1]()
    exact = mpc(x0).detach()
    mpc.sqp = SqpSettings(eps=1e-10, hessian="gauss_newton", max_iter=100)
    slow = mpc(x0).detach()
    assert slow.solved.all() and slow.iterations.sum() > exact.iterations.sum()
    assert torch.allclose(slow.inputs, exact.inputs, rtol=0, atol=1e-7)


def test_linear_plant_takes_one_step_in_both_modes():
    A, B = (
        torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=torch.float64),
        torch.tensor([[0.0], [0.1]], dtype=torch.float64),
    )
    plant = qc.TorchDynamics(lambda x, u: x @ A.T + u @ B.T, 2, 1)
    x0 = normal(3, 2)
    options = {"input_limit": [1.0]}
    converged = MPC(plant, 15, mode="converged", **options)(x0)
    real_time = MPC(plant, 15, **options)(x0)
    assert converged.solved.all() and (converged.iterations == 1).all()
    assert torch.allclose(converged.inputs, real_time.inputs, rtol=0, atol=1e-8)


def test_obstacle_and_speed_rows_hold_along_the_plan():
    def position(x):
        return x[..., :3]

    rows = [keep_out(position, [1.0, 0.1, 0.0], 0.4), speed_limit(lambda x: x[..., 6:9], 1.5)]
    mpc = MPC(quadrotor(), 25, mode="converged", rows=rows)
    weights = [10.0] * 3 + [1.0] * 6 + [0.1] * 3
    mpc.set_weights(weights, [1.0] * 4, weights)
    x0 = torch.zeros(1, 12, dtype=torch.float64)
    x0[0, 0] = 2.0
    plan = mpc(x0).detach()
    assert plan.solved.all()
    distance = (plan.states[0, 1:, :3] - torch.tensor([1.0, 0.1, 0.0])).norm(dim=-1)
    speed = plan.states[0, 1:, 6:9].norm(dim=-1)
    assert distance.min() == pytest.approx(0.4, abs=1e-7) and speed.max() == pytest.approx(1.5, abs=1e-7)
    free = MPC(quadrotor(), 25, mode="converged").set_weights(weights, [1.0] * 4, weights)(x0).detach()
    assert (free.states[0, 1:, :3] - torch.tensor([1.0, 0.1, 0.0])).norm(dim=-1).min() < 0.3


def test_gradient_of_an_obstacle_equals_finite_differences():
    x0 = torch.zeros(1, 12, dtype=torch.float64)
    x0[0, 0] = 2.0
    weights = [10.0] * 3 + [1.0] * 6 + [0.1] * 3

    def last_height(centre, radius):
        rows = [keep_out(lambda x: x[..., :3], centre, radius)]
        mpc = MPC(quadrotor(), 20, mode="converged", rows=rows, sqp=TIGHT).set_weights(weights, [1.0] * 4, weights)
        plan = mpc(x0)
        assert plan.solved.all()
        return (plan.states[0, :, :3] * normal(21, 3)).sum()

    centre = torch.tensor([1.0, 0.1, 0.05], dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    last_height(centre, radius).backward()
    h = 1e-6
    with torch.no_grad():
        for k in range(3):
            d = h * torch.eye(3, dtype=torch.float64)[k]
            difference = float(last_height(centre + d, radius) - last_height(centre - d, radius)) / (2 * h)
            assert float(centre.grad[k]) == pytest.approx(difference, rel=1e-5, abs=1e-6)
        difference = float(last_height(centre, radius + h) - last_height(centre, radius - h)) / (2 * h)
        assert float(radius.grad) == pytest.approx(difference, rel=1e-5)


def test_rows_of_a_module_are_those_it_returns_and_their_gradients_reach_it():
    class Ball(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.radius = torch.nn.Parameter(torch.tensor([0.4], dtype=torch.float64))

        def forward(self):
            return keep_out(lambda x: x[..., :3], [1.0, 0.1, 0.05], self.radius)

    x0 = torch.zeros(1, 12, dtype=torch.float64)
    x0[0, 0] = 2.0
    weights, ball = [10.0] * 3 + [1.0] * 6 + [0.1] * 3, Ball()
    radius = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    slopes = []
    for rows, leaf in (([ball], ball.radius), ([keep_out(lambda x: x[..., :3], [1.0, 0.1, 0.05], radius)], radius)):
        mpc = MPC(quadrotor(), 12, mode="converged", rows=rows, sqp=TIGHT).set_weights(weights, [1.0] * 4, weights)
        assert (leaf is ball.radius) == any(p is leaf for p in mpc.parameters())
        plan = mpc(x0)
        assert plan.solved.all()
        slopes.append((plan.states.detach(), torch.autograd.grad((plan.states * normal(1, 13, 12)).sum(), leaf)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True)) and slopes[0][1].abs() > 1e-3


def test_rate_limit_holds_between_calls_too():
    mpc = cart_pole_mpc(rate_limit=[20.0])
    x = torch.tensor([[0.0, 0.3, 0.0, 0.0]], dtype=torch.float64)
    sent, plan = [torch.zeros(1, 1, dtype=torch.float64)], None
    for _ in range(6):
        plan = mpc(x, None if plan is None else plan.shift()).detach()
        assert plan.solved.all()
        changes = torch.cat([sent[-1][:, None], plan.inputs], 1).diff(dim=1)
        assert changes.abs().max() <= 20.0 * 0.05 + 1e-7
        sent.append(plan.input)
        x = mpc.dynamics.step(x, plan.input)
    assert torch.cat(sent, 0).diff(dim=0).abs().max() == pytest.approx(1.0, abs=1e-7)
    assert plan.states.shape == (1, 21, 4)


def test_gradient_of_a_rate_limited_loop_equals_finite_differences():
    """The states of the problem remember inputs: what the plan's inputs do as such must not count twice."""
    mpc = MPC(cart_pole(force_limit=5.0), 20, rate_limit=[20.0], settings=EXACT)
    mpc.set_weights([1.0, 5.0, 0.1, 0.1], [0.05], [10.0, 50.0, 1.0, 1.0])
    x0 = SYSTEMS["cart-pole"][1]().requires_grad_()

    def run(x):
        plan, loss = None, 0.0
        for k in range(5):
            plan = mpc(x, None if plan is None else plan.shift())
            assert plan.solved.all()
            x = mpc.dynamics.step(x, plan.input)
            loss = loss + (x * normal(4, seed=k)).sum()
        return loss, plan

    loss, plan = run(x0)
    assert (plan.z != 0.0).any(), "no rate is at its limit"
    loss.backward()
    direction, h = normal(2, 4, seed=9), 1e-6
    with torch.no_grad():
        # torch may sum in another order where it keeps a graph.
        assert float(run(x0)[0]) == pytest.approx(float(loss), rel=1e-12)
        difference = float(run(x0 + h * direction)[0] - run(x0 - h * direction)[0]) / (2 * h)
    assert float((x0.grad * direction).sum()) == pytest.approx(difference, rel=1e-6)


def test_delay_is_planned_for():
    plant = cart_pole()

    def run(delay_known):
        mpc = MPC(plant, 20, delay=2 if delay_known else 0).set_weights(
            [1.0, 5.0, 0.1, 0.1], [0.01], [10.0, 50.0, 1.0, 1.0]
        )
        x, queue, plan = torch.tensor([[0.0, 0.3, 0.0, 0.0]], dtype=torch.float64), [torch.zeros(1, 1)] * 2, None
        largest = 0.0
        for _ in range(60):
            with torch.no_grad():
                plan = mpc(x, None if plan is None else plan.shift())
                if delay_known:
                    assert torch.allclose(plan.pending, torch.stack([q.double() for q in queue], 1))
                queue.append(plan.input)
                x = plant.step(x, queue.pop(0).double())
            largest = max(largest, float(x[0, 1].abs()))
        return float(x.abs().max()), largest

    known, _ = run(True)
    unknown, _ = run(False)
    assert known < 0.1 < unknown or not math.isfinite(unknown)


def test_soft_rows_and_stage_rows_reach_the_problem():
    rows = [
        StateRows(lambda x: x[..., :1], -0.2, 0.2),
        StageRows(lambda x, u: u * x[..., 2:3], upper=1.0, slack_linear=1e3),
    ]
    mpc = cart_pole_mpc(rows=rows)
    x0 = torch.tensor([[0.1, 0.1, 0.0, 0.0]], dtype=torch.float64)
    qp = mpc.build(x0)
    assert qp.C.shape == (1, 20, 2, 4) and qp.C_N.shape == (1, 1, 4)
    assert qp.lower[0, 0, 0] == -math.inf  # x_0 is given
    plan = mpc(x0).detach()
    assert plan.solved.all()
    power = plan.inputs[0, :, 0] * plan.states[0, :-1, 2]
    assert plan.states[0, 1:, 0].abs().max() <= 0.2 + 1e-8 and power.max() <= 1.0 + 1e-8


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_every_infeasible_start_gets_a_plan_and_finite_gradients(mode):
    mpc = MPC(cart_pole(), 10, mode=mode, state_limit=[1.0, 0.5, 1.0, math.inf])
    mpc.set_weights([1.0, 5.0, 0.1, 0.1], [0.05], [10.0, 50.0, 1.0, 1.0])
    x0 = (normal(40, 4) * torch.tensor([2.0, 1.0, 3.0, 1.0])).requires_grad_()
    plan = mpc(x0)
    assert plan.inputs.isfinite().all() and plan.states.isfinite().all()
    assert (plan.status == qc.Status.CLOSEST_FEASIBLE).sum() > 20
    assert plan.solved.all()
    plan.inputs.sum().backward()
    assert x0.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in mpc.parameters())


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_soft_state_limits_cost_their_price_outside_and_nothing_inside(mode):
    limits = {"state_limit": [math.inf, 0.3, math.inf, math.inf]}
    soft = cart_pole_mpc(**limits, state_slack=(3.0, 20.0))
    hard = cart_pole_mpc(**limits)
    soft.mode = hard.mode = mode
    inside = torch.tensor([[0.2, 0.1, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(soft(inside).inputs, hard(inside).inputs, rtol=0, atol=1e-7)
    outside = torch.tensor([[0.0, 0.6, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    plan = soft(outside)
    assert plan.status.tolist() == [qc.Status.SOLVED]
    assert hard(outside).status.tolist() == [qc.Status.CLOSEST_FEASIBLE]
    assert plan.states[0, 1, 1] > 0.3
    plan.inputs.sum().backward()
    difference = []
    with torch.no_grad():
        for h in (1e-5, -1e-5):
            moved = outside + torch.tensor([0.0, h, 0.0, 0.0])
            start = plan.detach() if mode == "converged" else None
            difference.append(float(soft(moved, start).inputs.sum()))
    assert float(outside.grad[0, 1]) == pytest.approx((difference[0] - difference[1]) / 2e-5, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_learned_bounds_that_cross_keep_training_going(mode):
    """Lower above upper: closest feasible, a plan midway, and a gradient that uncrosses them."""
    mpc = MPC(cart_pole(), 10, mode=mode).set_weights([1.0, 5.0, 0.1, 0.1], [0.05], [10.0, 50.0, 1.0, 1.0])
    lower = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    plan = mpc(0.1 * normal(2, 4), u_lower=lower, u_upper=upper)
    assert (plan.status == qc.Status.CLOSEST_FEASIBLE).all()
    assert torch.allclose(plan.inputs, torch.full_like(plan.inputs, 0.75), rtol=0, atol=1e-7)
    plan.inputs.sum().backward()
    # Each of the 20 inputs lies midway.
    assert float(lower.grad) == pytest.approx(10.0, rel=1e-6) and float(upper.grad) == pytest.approx(10.0, rel=1e-6)


def test_few_steps_are_flagged_and_give_no_gradient():
    mpc, x0 = quadrotor_mpc(), SYSTEMS["quadrotor"][1]()
    mpc.sqp = SqpSettings(max_iter=1)
    plan = mpc(x0)
    assert (plan.status == qc.Status.MAX_ITER).all() and not plan.solved.any()
    assert (plan.primal_residual > 1e-6).all()
    plan.inputs.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in mpc.parameters())


def test_bad_state_keeps_the_passed_plan_and_changes_no_neighbour():
    mpc, x0 = cart_pole_mpc(), SYSTEMS["cart-pole"][1]()
    plan = mpc(x0).detach().shift()
    spoilt = x0.clone()
    spoilt[0, 1] = math.nan
    out = mpc(spoilt, plan)
    assert out.status.tolist() == [qc.Status.INVALID_INPUT, qc.Status.SOLVED]
    assert torch.equal(out.inputs[0], plan.inputs[0])
    alone = mpc(x0[1:], plan[1:])
    assert torch.allclose(out.inputs[1], alone.inputs[0], rtol=0, atol=1e-9)
    gradients = torch.autograd.grad(out.inputs.sum(), list(mpc.parameters()), allow_unused=True)
    expected = torch.autograd.grad(alone.inputs.sum(), list(mpc.parameters()), allow_unused=True)
    for got, want in zip(gradients, expected, strict=True):
        if want is not None:
            assert torch.allclose(got, want, rtol=1e-6, atol=1e-8)


def test_data_per_sample_are_those_of_each_controller_alone():
    mpc = cart_pole_mpc()
    x0 = SYSTEMS["cart-pole"][1]()
    Q = torch.diag_embed(torch.tensor([[1.0, 5.0, 0.1, 0.1], [4.0, 2.0, 0.5, 0.2]], dtype=torch.float64))[:, None]
    Q.requires_grad_()
    reference = 0.1 * normal(2, 21, 4, seed=9)
    both = mpc(x0, Q=Q, reference=reference)
    assert both.solved.all()
    for i in range(2):
        alone = mpc(x0[i : i + 1], Q=Q[i, 0], reference=reference[i : i + 1])
        assert torch.allclose(alone.inputs[0], both.inputs[i], rtol=0, atol=1e-8)
    both.inputs[1].sum().backward()
    assert not Q.grad[0].any() and Q.grad[1].any()


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="mode is 'fast'"):
        cart_pole_mpc().__class__(cart_pole(), 5, mode="fast")
    with pytest.raises(ValueError, match="'speed' is no argument of the problem"):
        cart_pole_mpc()(torch.zeros(1, 4), speed=torch.zeros(1))
    with pytest.raises(ValueError, match="reference has shape"):
        cart_pole_mpc()(torch.zeros(1, 4), reference=torch.zeros(3))
    with pytest.raises(ValueError, match="max_iter is 0"):
        SqpSettings(max_iter=0)
    with pytest.raises(ValueError, match="hessian is 'bfgs'"):
        SqpSettings(hessian="bfgs")
    with pytest.raises(ValueError, match="the cost is 'dense'"):
        MPC(cart_pole(), 5, state_cost="dense")
