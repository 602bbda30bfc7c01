"""MPC where configurations form no vector space: optimality, exact gradients, closed loops, references, limits."""

from __future__ import annotations

import dataclasses
import math

import pinocchio as pin
import pytest
import torch
from manifold_robots import changed, moved, normal, random_states, space_arm

import qp_control as qc
from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StageRows, StateRows, keep_out
from qp_control.mpc.sqp import SqpSettings
from qp_control.systems import flying_body
from qp_control.training import closed_loop

TIGHT = SqpSettings(eps=1e-10)
# Finite differences need the QPs to more digits than a controller does.
EXACT = qc.Settings(eps_abs=1e-11, eps_rel=1e-12)
HOVER = 0.5 * 9.81
AXIS = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64) / math.sqrt(1.29)


def quaternion(angle, axis=AXIS):
    """Rotations (..., 4) by angles (...) about an axis."""
    angle = torch.as_tensor(angle, dtype=torch.float64)[..., None]
    return torch.cat([(0.5 * angle).sin() * axis, (0.5 * angle).cos()], -1)


def body_mpc(horizon=12, mode="converged", **options):
    weights = [0.1, 10.0, 10.0, 10.0]
    data = {"r": torch.tensor([-weights[0] * HOVER, 0.0, 0.0, 0.0], dtype=torch.float64)}
    mpc = MPC(flying_body(), horizon, mode=mode, sqp=TIGHT, settings=EXACT, data=data, **options)
    state = [10.0] * 3 + [5.0] * 3 + [1.0] * 3 + [0.1] * 3
    return mpc.set_weights(state, weights, state)


def body_starts(angle=1.0):
    x0 = torch.zeros(2, 13, dtype=torch.float64)
    x0[:, :3] = 0.5 * normal(2, 3)
    x0[:, 3:7] = quaternion(torch.tensor([angle, 0.7 * angle]))
    x0[:, 7:] = 0.3 * normal(2, 6, seed=1)
    return x0


def arm_mpc(horizon=8, mode="converged", **options):
    robot = space_arm()
    limit = [math.inf] * robot.nq + [math.inf] * 9 + [0.8] + [math.inf]
    limit[11] = 0.5  # the elbow
    options = {
        "input_limit": [0.2, 0.2, 0.04, 0.3, 0.01],
        "state_limit": limit,
        "reference": random_states(robot, seed=3, size=0.3),
    } | options
    mpc = MPC(robot, horizon, mode=mode, sqp=TIGHT, settings=EXACT, **options)
    state = [10.0] * 11 + [1.0] * 11
    return mpc.set_weights(state, [0.02] * robot.nu, state)


def arm_starts():
    return random_states(space_arm(), 2, seed=4, size=0.35)


SYSTEMS = {"body": (body_mpc, body_starts), "arm": (arm_mpc, arm_starts)}


def lagrangian(mpc, x0, plan, e, u):
    """Values (K,) at K pairs of errors (K, N + 1, ndx) and inputs (K, N, nu) of one element, in Pinocchio's words."""
    model, r = mpc.dynamics.model, mpc.reference
    Q, R, P = (weight().detach() for weight in (mpc.state_cost, mpc.input_cost, mpc.terminal_cost))
    linear = mpc.data["r"].detach() if "r" in mpc.data else torch.zeros(mpc.nu, dtype=torch.float64)
    x = moved(model, r.expand(*e.shape[:-1], mpc.nx), e)
    x_next = mpc.dynamics.step(x[:, :-1], u, mpc.model().detach())
    gap = changed(model, r, x_next) - e[:, 1:]
    start = changed(model, r, x0) - e[:, 0]
    before, end = e[:, :-1], e[:, -1]
    value = 0.5 * ((before @ Q) * before).sum((1, 2)) + 0.5 * ((end @ P) * end).sum(1)
    value = value + 0.5 * ((u @ R) * u).sum((1, 2)) + (u * linear).sum((1, 2))
    value = value + (plan.y[1:] * gap).sum((1, 2)) + (plan.y[0] * start).sum(1)
    return value + (plan.w_u * u).sum((1, 2)) + (plan.w_x * e).sum((1, 2)), gap


@pytest.mark.parametrize("name", SYSTEMS)
def test_converged_plan_satisfies_the_optimality_conditions(name):
    make, start = SYSTEMS[name]
    mpc, x0 = make(), start()
    batch = mpc(x0).detach()
    assert (batch.status == qc.Status.SOLVED).all() and (batch.iterations <= 20).all()
    assert mpc.dynamics.on_manifold(batch.states).all()
    for k in range(2):
        plan = qc.Plan(*(value[k] for value in vars(batch).values()))
        e = changed(mpc.dynamics.model, mpc.reference, plan.states)
        z, split = torch.cat([e.flatten(), plan.inputs.flatten()]), e.numel()

        def at(z, plan=plan, e=e, k=k, split=split):
            errors, inputs = z[:, :split].reshape(-1, *e.shape), z[:, split:].reshape(-1, *plan.inputs.shape)
            return lagrangian(mpc, x0[k], plan, errors, inputs)

        h = 1e-5 * torch.eye(len(z), dtype=torch.float64)
        slope = (at(z + h)[0] - at(z - h)[0]) / 2e-5
        largest = max(float(v.abs().max()) for v in (plan.y, plan.w_u, plan.w_x))
        # Truncation h^2 = 1e-10 times third derivatives, rounding 1e-16 / h: of the multipliers.
        assert slope.abs().max() < 1e-7 * largest
        assert at(z[None])[1].abs().max() < 1e-9
        torch.testing.assert_close(plan.states[0], x0[k], rtol=0, atol=1e-9)
    bound = mpc.input_bound().detach()
    assert (batch.inputs.abs() <= bound + 1e-9).all()
    assert ((batch.inputs.abs() - bound).abs() < 1e-9).any(), "no input is at its bound: the test shows too little"
    assert ((batch.w_u > 1e-9) <= ((batch.inputs - bound).abs() < 1e-8)).all()
    assert ((batch.w_u < -1e-9) <= ((batch.inputs + bound).abs() < 1e-8)).all()
    if name == "arm":
        for index, limit in zip(mpc.limited, mpc.state_bound().detach(), strict=True):
            assert batch.states[:, 1:, index].abs().max() < limit + 1e-8
        assert (batch.w_x != 0.0).any(), "no state is at its bound"


def compare_with_differences(mpc, x0, run, names, step=1e-5, **tolerance):
    """Gradients of run(x0) by x0 (along the manifold) and parameters against central differences of run."""
    x0 = x0.clone().requires_grad_()
    run(x0).backward()
    model, parameters = mpc.dynamics.model, dict(mpc.named_parameters())
    for k, name in enumerate(("x0", *names)):
        value = x0 if name == "x0" else parameters[name]
        with torch.no_grad():
            if name == "x0":
                direction = normal(len(x0), mpc.dynamics.ndx, seed=3)
                ahead, behind = (moved(model, x0, side * step * direction) for side in (1.0, -1.0))
                along = (ahead - behind) / (2 * step)
                difference = float(run(ahead) - run(behind)) / (2 * step)
            else:
                along, sides = normal(*value.shape, seed=4 + k), []
                for side in (step, -step):
                    value += side * along
                    sides.append(float(run(x0)))
                    value -= side * along
                difference = (sides[0] - sides[1]) / (2 * step)
        assert float((value.grad * along).sum()) == pytest.approx(difference, **tolerance), name


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_of_the_converged_plan_equal_finite_differences(name):
    make, start = SYSTEMS[name]
    mpc, x0 = make(), start()
    found = mpc(x0).detach()

    def run(x):
        plan = mpc(x, found)
        assert plan.solved.all()
        return (plan.states * normal(*plan.states.shape, seed=1)).sum() + (
            plan.inputs * normal(*plan.inputs.shape, seed=2)
        ).sum()

    names = [n for n, p in mpc.named_parameters() if p.requires_grad and n != "state_fraction"]
    assert {"state_cost.log_diagonal", "terminal_cost.lower", "model.log_mass", "input_fraction"} <= set(names)
    names += ["state_fraction"] if name == "arm" else []
    compare_with_differences(mpc, x0, run, names, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"rate_limit": [60.0, 4.0, 4.0, 1.0], "delay": 1}], ids=["plain", "delayed"])
def test_gradient_of_a_closed_loop_that_recovers_from_two_radians(options):
    mpc, x0 = body_mpc(20, "real_time", **options), body_starts(2.0)
    x0[:, :3], x0[:, 7:] = 0.2 * x0[:, :3], 0.0
    robot = mpc.dynamics
    last, statuses = [], []

    def run(x):
        plan, loss, pending = None, 0.0, [torch.zeros(2, 4, dtype=torch.float64)] * mpc.delay
        for k in range(30):
            plan = mpc(x, None if plan is None else plan.shift())
            statuses.append(plan.status)
            pending.append(plan.input)
            x = robot.step(x, pending.pop(0))
            loss = loss + (x * normal(13, seed=k)).sum() + 0.1 * plan.input.square().sum()
        last.append(x.detach())
        return loss

    first = robot.difference(mpc.reference, x0)[:, 3:6].norm(dim=-1)
    names = ["state_cost.log_diagonal", "terminal_cost.lower", "input_fraction", "model.log_mass", "model.log_length"]
    compare_with_differences(mpc, x0, run, names, step=1e-6, rel=1e-4, abs=1e-6)
    assert all((s == qc.Status.SOLVED).all() for s in statuses)
    attitude = robot.difference(mpc.reference, last[0])[:, 3:6].norm(dim=-1)
    assert float(first.max()) == pytest.approx(2.0) and attitude.max() < 0.15


@pytest.mark.parametrize("kind", ["one", "per element", "per stage"])
@pytest.mark.parametrize("mode", ["converged", "real_time"])
def test_gradients_by_the_reference_equal_finite_differences(mode, kind):
    """With limits around the reference and rows of the full state, both active."""
    robot, x0, N = space_arm(), arm_starts(), 16
    shape = {"one": (), "per element": (2,), "per stage": (2, N + 1)}[kind]
    r = random_states(robot, *shape, seed=8, size=0.3)
    free = arm_mpc(N, mode="converged")(x0, reference=r).detach()
    # A component of the shoulder's quaternion, held off where it would be half-way.
    least = free.states[:, 1:, 7:8] - 0.1
    least[:, N // 2] += 0.12
    mpc = arm_mpc(N, mode=mode, rows=[StateRows(lambda x: x[..., 7:8], lower=least)])
    with torch.no_grad():
        plan = mpc(x0, dataclasses.replace(free, y=free.y.new_zeros(2, 0)), reference=r)
    assert (plan.status == qc.Status.SOLVED).all() and (plan.w_x.any() or plan.w_u.any())
    assert (plan.z != 0.0).any(2).any(1).all(), "the rows are not active"

    def run(r):
        found = mpc(x0, plan, reference=r)
        assert found.solved.all()
        states, inputs = found.states, found.inputs
        return (states * normal(*states.shape, seed=1)).sum() + (inputs * normal(*inputs.shape, seed=2)).sum()

    r.requires_grad_()
    run(r).backward()
    step, direction = 1e-5, normal(*shape, robot.ndx, seed=3)
    with torch.no_grad():
        ahead, behind = (moved(robot.model, r, side * step * direction) for side in (1.0, -1.0))
        difference = float(run(ahead) - run(behind)) / (2 * step)
        along = (ahead - behind) / (2 * step)
    assert float((r.grad * along).sum()) == pytest.approx(difference, rel=1e-5, abs=1e-5)
    # Nothing across the manifold.
    assert (r.grad[..., 3:7] * r.detach()[..., 3:7]).sum(-1).abs().max() < 1e-9 * r.grad.abs().max()


def turning_reference(N, rate=1.5, start=0.0):
    """(1, N + 1, 13): hovering at the origin while turning about the vertical axis [rad/s]."""
    r = torch.zeros(1, N + 1, 13, dtype=torch.float64)
    r[..., 3:7] = quaternion(start + rate * 0.05 * torch.arange(N + 1), torch.tensor([0.0, 0.0, 1.0]).double())
    r[..., 12] = rate
    return r


def test_turning_reference_is_tracked_beyond_half_a_turn():
    mpc, N = body_mpc(12, "real_time"), 12
    x, plan = body_starts(0.5), None
    with torch.no_grad():
        for k in range(60):
            r = turning_reference(N, start=k * 0.05 * 1.5)
            plan = mpc(x, None if plan is None else plan.shift(), reference=r)
            assert plan.solved.all()
            x = mpc.dynamics.step(x, plan.input)
    error = mpc.dynamics.difference(turning_reference(0, start=60 * 0.05 * 1.5)[:, 0], x)
    assert error[:, 3:6].norm(dim=-1).max() < 2e-2  # after 4.5 rad


def test_references_per_element_and_stage_are_those_of_the_elements_alone():
    """Elements leave the SQP method at different steps; their references and rows leave with them."""
    tilt = StateRows(lambda x: 1.0 - 2.0 * (x[..., 3:4] ** 2 + x[..., 4:5] ** 2), lower=0.5)
    mpc, N = body_mpc(rows=[tilt]), 12
    x0 = body_starts(0.9)
    x0[1, :7] = torch.tensor([0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    r = torch.cat([turning_reference(N), turning_reference(N, rate=-0.5, start=0.3)])
    both = mpc(x0, reference=r).detach()
    assert both.solved.all() and both.iterations[0] != both.iterations[1]
    for k in range(2):
        alone = mpc(x0[k : k + 1], reference=r[k : k + 1]).detach()
        torch.testing.assert_close(both.states[k], alone.states[0], rtol=0, atol=1e-8)


def test_rows_are_functions_of_the_full_state():
    """A tilt limit on the quaternion, an obstacle and a power limit: they hold, and their gradients are exact."""
    x0 = torch.zeros(1, 13, dtype=torch.float64)
    x0[0, 0], x0[0, 3:7] = 1.5, quaternion(0.3)
    centre = torch.tensor([0.7, 0.05, 0.0], dtype=torch.float64, requires_grad=True)
    least = torch.tensor(0.85, dtype=torch.float64, requires_grad=True)

    def tilt(x):
        return 1.0 - 2.0 * (x[..., 3:4].square() + x[..., 4:5].square())

    def solve(centre, least):
        power = StageRows(lambda x, u: u[..., 1:2] * x[..., 10:11], upper=0.3)
        rows = [StateRows(tilt, lower=least), keep_out(lambda x: x[..., :3], centre, 0.3), power]
        plan = body_mpc(25, rows=rows)(x0)
        assert plan.solved.all()
        return plan

    def loss(plan):
        return (plan.states * normal(26, 13, seed=1)).sum()

    plan = solve(centre, least)
    states = plan.states.detach()[0, 1:]
    assert tilt(states).min() == pytest.approx(0.85, abs=1e-7)
    assert (states[:, :3] - centre.detach()).norm(dim=-1).min() == pytest.approx(0.3, abs=1e-7)
    loss(plan).backward()
    h = 1e-5
    with torch.no_grad():
        d = normal(3, seed=2)
        difference = float(loss(solve(centre + h * d, least)) - loss(solve(centre - h * d, least))) / (2 * h)
        assert float(centre.grad @ d) == pytest.approx(difference, rel=1e-5)
        difference = float(loss(solve(centre, least + h)) - loss(solve(centre, least - h))) / (2 * h)
        assert float(least.grad) == pytest.approx(difference, rel=1e-5)


def test_state_limits_hold_around_references_of_their_own():
    robot = space_arm()
    x0 = arm_starts()
    r = random_states(robot, 2, seed=8, size=0.3)
    r[:, 11] = torch.tensor([0.7, -0.7])  # beyond the limit of the elbow
    hard = arm_mpc(16)(x0, reference=r).detach()
    assert hard.solved.all()
    assert hard.states[:, 1:, 11].abs().max() == pytest.approx(0.5 * 0.98, abs=1e-8)
    (rows,) = arm_mpc(16, state_slack=(1.0, 2.0)).problem(x0, reference=r).rows
    errors = changed(robot.model, r[:, None], x0[:, None].expand(-1, 16, -1))
    inside = rows.values(errors, hard.inputs) - rows.lower
    # The elbow and its velocity, as far as they are above -limit.
    expected = torch.stack([x0[:, 11] + 0.5 * 0.98, x0[:, 23] + 0.8 * 0.98], -1)[:, None].expand(inside.shape)
    torch.testing.assert_close(inside.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_bad_states_are_marked_and_their_neighbours_do_not_notice(mode):
    mpc = body_mpc(mode=mode)
    x0 = torch.cat([body_starts(), body_starts(), body_starts()])[:5]
    alone = mpc(x0[:1]).detach()
    x0[1, 3:7] *= 2.0
    x0[2, 3:7] = 0.0
    x0[3, 4] = torch.nan
    x0[4, 9] = 1e300
    x0.requires_grad_()
    plan = mpc(x0)
    assert [qc.Status(int(s)).name for s in plan.status] == ["SOLVED", *["INVALID_INPUT"] * 4]
    torch.testing.assert_close(plan.states[:1], alone.states, rtol=0, atol=1e-8)
    # What was passed in comes back: the plan that rests where the state is.
    assert torch.equal(plan.states[1].detach(), x0[1].detach().expand(13, 13))
    plan.inputs.square().sum().backward()
    assert x0.grad[0].abs().max() > 0.0 and not x0.grad[1:].any() and x0.grad.isfinite().all()
    bad = mpc(body_starts()).detach()
    bad.states[1, 3, 3:7] = 0.0
    assert [qc.Status(int(s)).name for s in mpc(body_starts(), bad).status] == ["SOLVED", "INVALID_INPUT"]
    qp = mpc.build(x0.detach())
    assert qp.x0[0].isfinite().all() and qp.x0[1:].isnan().all()


def test_rollout_with_a_failed_element_goes_on():
    controller, x0 = body_mpc(mode="real_time"), body_starts()
    x0[1, 0] = torch.nan
    with torch.no_grad():
        rollout = closed_loop(controller, controller.dynamics.step, x0, 5)
        alone = closed_loop(controller, controller.dynamics.step, x0[:1], 5)
    assert rollout.failure is not None and rollout.states[1, 1:].isnan().all()
    torch.testing.assert_close(rollout.states[:1], alone.states, rtol=0, atol=1e-8)


def test_bad_arguments_are_told():
    robot = flying_body()
    with pytest.raises(ValueError, match="state_limit limits coordinate 4"):
        MPC(robot, 5, state_limit=[math.inf] * 4 + [0.5] + [math.inf] * 8)
    bad = robot.neutral_state()
    bad[6] = 0.9
    with pytest.raises(ValueError, match="not on the manifold"):
        MPC(robot, 5, reference=bad)
    with pytest.raises(ValueError, match="not on the manifold"):
        body_mpc()(body_starts(), reference=bad)
    with pytest.raises(ValueError, match=r"reference has shape \(2, 5, 13\)"):
        body_mpc()(body_starts(), reference=robot.neutral_state().expand(2, 5, 13))
    with pytest.raises(ValueError, match=r"expected \(12,\)"):
        body_mpc().set_weights([1.0] * 13)


def test_neutral_state_is_the_default_reference():
    mpc = MPC(space_arm(), 5)
    model = mpc.dynamics.model
    assert torch.equal(mpc.reference[: model.nq], torch.from_numpy(pin.neutral(model)))
    plan = mpc(mpc.reference[None]).detach()
    assert plan.solved.all() and plan.inputs.abs().max() < 1e-9
