"""The controller: its QP, its limits, and what it does when there is no answer."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import qp_control as qc
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StageRows, keep_out
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.torch_dynamics import TorchDynamics

HORIZON = 20


@pytest.fixture(scope="module")
def model() -> RobotDynamics:
    return RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)


@pytest.fixture
def mpc(model: RobotDynamics) -> MPC:
    controller = MPC(model, HORIZON, state_limit=[2.4, math.inf, math.inf, math.inf])
    return controller.set_weights([0.1, 1.0, 0.01, 0.01], [0.01], [10.0, 100.0, 10.0, 10.0])


def hanging(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x0 = 0.3 * torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    x0[:, 1] += math.pi
    return x0


def warmed(mpc: MPC, x0: torch.Tensor, calls: int = 3):
    """A plan along a swing, not at rest, so that every stage has another linearisation."""
    plan = None
    with torch.no_grad():
        for _ in range(calls):
            plan = mpc(x0, None if plan is None else plan.shift())
            x0 = mpc.dynamics.step(x0, plan.input)
    return x0, plan.shift()


def test_plan_equals_the_dense_qp_in_states_and_inputs(mpc: MPC) -> None:
    """Oracle: the same problem written down in (x_1..x_N, u_0..u_{N-1}) with the dynamics as equality rows."""
    x0, plan = warmed(mpc, hanging(1, seed=3))
    got = mpc(x0, plan)
    N, nx = HORIZON, 4
    xbar = torch.cat([x0[:, None], plan.states[:, 1:N]], 1)
    x_next, A, B = (v.detach().numpy()[0] for v in mpc.dynamics.linearize(xbar, plan.inputs, mpc.model()))
    xb, ub = xbar.detach().numpy()[0], plan.inputs.detach().numpy()[0]
    n = N * nx + N
    H = np.zeros((n, n))
    A_eq, b_eq = np.zeros((N * nx, n)), np.zeros(N * nx)
    for k in range(N):
        rows, now = slice(k * nx, (k + 1) * nx), slice(k * nx, (k + 1) * nx)  # x_{k+1} is variable block k
        H[now, now] = np.diag([0.1, 1.0, 0.01, 0.01]) if k < N - 1 else np.diag([10.0, 100.0, 10.0, 10.0])
        H[N * nx + k, N * nx + k] = 0.01
        A_eq[rows, now] = np.eye(nx)
        A_eq[rows, N * nx + k] = -B[k][:, 0]
        b_eq[rows] = x_next[k] - A[k] @ xb[k] - B[k] @ ub[k]
        if k == 0:
            b_eq[rows] += A[0] @ x0.numpy()[0]
        else:
            A_eq[rows, (k - 1) * nx : k * nx] = -A[k]
    bound = np.full(n, np.inf)
    bound[: N * nx : nx] = 0.98 * 2.4
    bound[N * nx :] = 0.98 * 10.0
    reference = qc.solve_qp(H, np.zeros(n), A_eq, b_eq, lb=-bound, ub=bound)
    assert reference.status == qc.Status.SOLVED
    assert np.abs(reference.x[N * nx :]).max() > 9.79  # an input limit is active
    np.testing.assert_allclose(got.inputs[0, :, 0].detach(), reference.x[N * nx :], atol=1e-6)
    np.testing.assert_allclose(got.states[0, 1:].detach().flatten(), reference.x[: N * nx], atol=1e-6)


def test_inputs_and_track_limits_hold_in_the_plan(mpc: MPC) -> None:
    x0 = torch.tensor([[2.0, math.pi, 1.0, 0.0], [-2.0, math.pi, -1.0, 0.0]], dtype=torch.float64)
    plan = mpc(x0)
    assert (plan.status == qc.Status.SOLVED).all()
    assert float(plan.inputs.detach().abs().max()) <= 9.8 + 1e-7
    assert float(plan.states.detach()[..., 0].abs().max()) == pytest.approx(0.98 * 2.4, abs=1e-7)


def test_track_limit_that_cannot_be_met_is_shifted(mpc: MPC) -> None:
    outside = torch.tensor([[3.0, math.pi, 0.0, 0.0]], dtype=torch.float64)
    both = torch.cat([outside, hanging(1)])
    plan = mpc(both)
    assert plan.status.tolist() == [qc.Status.CLOSEST_FEASIBLE, qc.Status.SOLVED]
    assert plan.solved.all()
    assert float(plan.input.detach()[0]) < -1.0  # back to the track
    alone = mpc(both[1:])
    assert torch.allclose(plan.inputs[1], alone.inputs[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_bad_state_keeps_the_passed_plan_and_changes_no_neighbour(mpc: MPC, bad: float) -> None:
    x0, plan = warmed(mpc, hanging(3))
    spoilt = x0.clone()
    spoilt[1, 2] = bad
    out = mpc(spoilt, plan)
    assert out.status[0] == out.status[2] == qc.Status.SOLVED
    assert out.status[1] == qc.Status.INVALID_INPUT
    assert not out.solved[1]
    assert torch.equal(out.inputs[1], plan.inputs[1])
    assert torch.equal(out.states[1], plan.states[1])

    keep = torch.tensor([0, 2])
    alone = mpc(x0[keep], plan[keep])
    assert torch.allclose(out.inputs[keep], alone.inputs, rtol=0, atol=1e-9)
    gradients = torch.autograd.grad(out.inputs.sum(), list(mpc.parameters()), allow_unused=True)
    expected = torch.autograd.grad(alone.inputs.sum(), list(mpc.parameters()), allow_unused=True)
    for got, want in zip(gradients, expected, strict=True):
        assert got is not None and got.isfinite().all()
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-8)


def test_nan_in_the_passed_plan_spoils_only_its_element(mpc: MPC) -> None:
    x0, plan = warmed(mpc, hanging(2))
    plan.inputs[0, 3] = math.nan
    qp = mpc.build(x0, plan)
    for name in ("A", "B", "c", "x0"):
        value = getattr(qp, name).detach()
        assert value[0].isnan().all() and value[1].isfinite().all(), name
    out = mpc(x0, plan)
    assert out.status.tolist() == [qc.Status.INVALID_INPUT, qc.Status.SOLVED]
    assert out.inputs[1].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (qc.Settings(max_iter=1), qc.Status.MAX_ITER),
        (qc.Settings(time_limit=1e-9), qc.Status.TIME_LIMIT),
    ],
)
def test_unconverged_qp_is_flagged_and_gives_no_gradient(
    model: RobotDynamics, settings: qc.Settings, status: qc.Status
) -> None:
    mpc = MPC(model, HORIZON, settings=settings).set_weights(terminal=[100.0] * 4, r=[1e-3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = mpc(hanging(2))
    assert (plan.status == status).all() and not plan.solved.any()
    assert torch.equal(plan.inputs, torch.zeros_like(plan.inputs))  # the plan passed in: at rest
    plan.inputs.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in mpc.parameters())


def test_failure_raises_where_asked_to(mpc: MPC) -> None:
    strict = MPC(mpc.dynamics, HORIZON, settings=qc.Settings(on_failure="raise"))
    x0 = hanging(3)
    assert strict(x0).solved.all()
    x0[1, 0] = math.nan
    with pytest.raises(qc.SolveError, match="element 1 has no answer: INVALID_INPUT") as error:
        strict(x0)
    assert error.value.problem["x0"].isnan().all() and error.value.problem["horizon"] == HORIZON


def test_wrong_shapes_are_refused(mpc: MPC) -> None:
    with pytest.raises(ValueError, match=r"x0 has shape \(4,\), expected \(B, nx\) = \(B, 4\)"):
        mpc(torch.zeros(4))
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 3\)"):
        mpc.build(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x0 is a ndarray"):
        mpc(np.zeros((1, 4)))  # type: ignore[arg-type]
    plan = mpc(hanging(2))
    with pytest.raises(ValueError, match=r"plan.states has shape \(2, 21, 4\), expected \(3, 21, 4\)"):
        mpc(hanging(3), plan)


def test_wrong_options_are_refused(model: RobotDynamics) -> None:
    with pytest.raises(ValueError, match="horizon is 0"):
        MPC(model, 0)
    with pytest.raises(ValueError, match=r"state_limit has shape \(2,\), expected \(4,\)"):
        MPC(model, 5, state_limit=[1.0, 2.0])
    with pytest.raises(ValueError, match="expected positive numbers"):
        MPC(model, 5, input_limit=[-1.0])
    with pytest.raises(ValueError, match="NaN"):
        MPC(model, 5, reference=[math.nan, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="not positive definite"):
        MPC(model, 5).set_weights(terminal=torch.diag(torch.tensor([1.0, 1.0, 1.0, -1.0])))


def test_warm_start_changes_the_effort_and_not_the_answer(mpc: MPC) -> None:
    x0, plan = warmed(mpc, hanging(8))
    warm = mpc(x0, plan)
    cold = mpc(x0, dataclasses.replace(plan, y=plan.y[:, :0, 0]))
    assert not torch.equal(warm.iterations, cold.iterations)
    assert torch.allclose(warm.inputs, cold.inputs, rtol=0, atol=1e-8)
    again = mpc(x0, plan)
    assert torch.equal(again.inputs, warm.inputs)


def test_shifted_plan_is_one_period_later(mpc: MPC) -> None:
    plan = mpc(hanging(2))
    later = plan.shift()
    assert torch.equal(later.states[:, :-1], plan.states[:, 1:])
    assert torch.equal(later.inputs[:, :-1], plan.inputs[:, 1:])
    assert torch.equal(later.inputs[:, -1], plan.inputs[:, -1])
    assert torch.equal(later.w_u[:, :-1], plan.w_u[:, 1:])
    assert torch.equal(later.previous, plan.input)
    assert later.inputs.requires_grad and not plan.detach().inputs.requires_grad


def test_built_problem_can_be_saved_and_solved_again(mpc: MPC, tmp_path: Path) -> None:
    x0, plan = warmed(mpc, hanging(2))
    problem = mpc.build(x0, plan)
    file = qc.save_problem(tmp_path / "qp.npz", **problem.element(1).arguments())
    again = qc.solve_ocp(**qc.load_problem(file))
    found = mpc(x0, plan).detach()
    np.testing.assert_allclose(again.u, found.inputs[1], atol=1e-7)
    np.testing.assert_allclose(again.x, found.states[1], atol=1e-7)


def test_terminal_weight_is_what_was_set(mpc: MPC) -> None:
    M = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    P = M @ M.T + torch.eye(4, dtype=torch.float64)
    assert torch.allclose(mpc.set_weights(terminal=P).terminal_cost(), P, rtol=0, atol=1e-12)


def test_model_scales_are_those_of_a_longer_and_heavier_pole(model: RobotDynamics) -> None:
    mpc = MPC(model, 5)
    with torch.no_grad():
        mpc.model.log_mass[1], mpc.model.log_length[1], mpc.model.log_damping[0] = (
            math.log(2.0),
            math.log(3.0),
            math.log(5.0),
        )
    nominal, scaled = model.parameters, mpc.model()
    assert torch.equal(scaled[:10], nominal[:10])
    assert torch.allclose(scaled[10], 2 * nominal[10])
    assert torch.allclose(scaled[11:14], 2 * 3 * nominal[11:14])
    assert torch.allclose(scaled[14:20], 2 * 9 * nominal[14:20])
    assert torch.allclose(scaled[20:], nominal[20:] * torch.tensor([5.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_frozen_controller_plans_the_same_from_constants(model: RobotDynamics, mode: str) -> None:
    learned = MPC(model, HORIZON, mode=mode, state_limit=[2.4, math.inf, math.inf, math.inf], terminal_cost=2)  # type: ignore[arg-type]
    x0 = 0.1 * hanging(3)
    frozen = learned.frozen()
    with torch.no_grad():
        expected = learned(x0)
    got = frozen(x0)
    assert torch.equal(got.inputs, expected.inputs) and torch.equal(got.states, expected.states)
    assert not got.inputs.requires_grad and not any(p.requires_grad for p in frozen.parameters())
    assert torch.equal(frozen.input_bound(), learned.input_bound().detach())
    # What is learned afterwards does not reach it.
    learned.set_weights(r=[50.0])
    with torch.no_grad():
        learned.model.log_mass += 0.3
        assert not torch.allclose(learned(x0).inputs, got.inputs, rtol=1e-3)
    assert torch.equal(frozen(x0).inputs, got.inputs)
    again = pickle.loads(pickle.dumps(frozen))
    assert torch.equal(again(x0).inputs, got.inputs)


def two_thrusters() -> TorchDynamics:
    """A point that two inputs push, without limits."""

    def acceleration(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., 1], u[..., 0] + 0.5 * u[..., 1]], -1)

    return TorchDynamics(acceleration, 2, 2, dt=0.1, integrator="rk4")


@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("kind", ["robot", "torch"])
def test_plans_of_a_frozen_controller_carry_no_gradient(model: RobotDynamics, kind: str, mode: str) -> None:
    dynamics = model if kind == "robot" else two_thrusters()
    rows = [keep_out(lambda x: x[..., :1], [2.0], 0.1), StageRows(lambda x, u: x[..., 1:2] * u[..., :1], upper=5.0)]
    learned = MPC(dynamics, 5, rows=rows, mode=mode)  # type: ignore[arg-type]
    x0 = torch.full((2, dynamics.nx), 0.1, dtype=torch.float64)
    frozen = learned.frozen()
    for state, plan in ((x0, None), (x0.clone().requires_grad_(), None), (x0, learned(x0).shift())):
        got = frozen(state, plan)
        assert got.solved.all()
        assert not got.inputs.requires_grad and not got.states.requires_grad
        assert torch.equal(got.inputs, learned(state, plan).inputs)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"input_limit": [1.0, math.inf]},
        {"input_limit": [1.0, math.inf], "state_limit": [math.inf, 0.9]},
        {"input_limit": [1.0, math.inf], "state_limit": [math.inf, 0.9], "state_slack": (10.0, 10.0)},
        {"rate_limit": [1.0, math.inf]},
    ],
)
def test_limits_that_are_infinite_contribute_nothing_and_an_optimizer_step_keeps_the_controller(
    limits: dict, mode: str
) -> None:
    mpc = MPC(two_thrusters(), 5, mode=mode, **limits).set_weights([10.0, 1.0], [0.01, 0.1])  # type: ignore[arg-type]
    x0 = torch.tensor([[1.0, 0.0], [-0.5, 0.6]], dtype=torch.float64)
    optimizer = torch.optim.Adam(mpc.parameters(), lr=1e-2)
    plan = mpc(x0)
    (plan.inputs.square().sum() + mpc.violations(plan).square().sum()).backward()
    for name, p in mpc.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name
    assert mpc.input_fraction.grad[1] == 0.0
    # An input that is pushed to its limit tells something of it.
    assert bool(mpc.input_fraction.grad[0] != 0.0) == ("input_limit" in limits)
    optimizer.step()
    assert mpc(x0).solved.all()


def test_copies_and_pickles_give_the_same_plan(mpc: MPC) -> None:
    x0 = hanging(2)
    expected = mpc(x0).inputs
    assert torch.equal(copy.deepcopy(mpc)(x0).inputs, expected)
    assert torch.equal(pickle.loads(pickle.dumps(mpc))(x0).inputs, expected)
    fresh = MPC(mpc.dynamics, HORIZON, state_limit=[2.4, math.inf, math.inf, math.inf])
    assert not torch.equal(fresh(x0).inputs, expected)
    fresh.load_state_dict(mpc.state_dict())
    assert torch.equal(fresh(x0).inputs, expected)


def test_single_precision_state_is_taken(mpc: MPC) -> None:
    plan = mpc(hanging(2).float())
    assert plan.inputs.dtype == torch.float64 and plan.solved.all()
