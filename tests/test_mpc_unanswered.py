"""Elements of a batch of plans without an answer: nothing is raised, and gradients are those of what is returned."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qp_control as qc
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StateRows
from qp_control.mpc.plan import Plan
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.torch_dynamics import TorchDynamics
from qp_control.training import closed_loop

Force = Callable[[Tensor], Tensor]


def pushed(force: Force) -> TorchDynamics:
    """A point with a force that depends on where it is."""

    def acceleration(x: Tensor, u: Tensor) -> Tensor:
        return torch.stack([x[..., 1], force(x[..., 0]) + u[..., 0]], -1)

    return TorchDynamics(acceleration, 2, 1, dt=0.1, integrator="rk4", input_limit=torch.tensor([1.0]))


@pytest.mark.parametrize(("force", "far"), [(lambda p: 20.0 * p**3, 3.0), (torch.zeros_like, 1e160)])
def test_warm_started_batch_goes_on_beside_an_element_whose_qp_has_no_answer(force: Force, far: float) -> None:
    mpc = MPC(pushed(force), 30, mode="converged")
    x0 = torch.tensor([[0.1, 0.0], [far, 0.0]], dtype=torch.float64)
    plan = mpc(x0, mpc(x0).shift())
    assert plan.status[0] == qc.Status.SOLVED and not plan.solved[1]
    alone = mpc(x0[:1], mpc(x0[:1]).shift())
    assert torch.allclose(plan.inputs[0], alone.inputs[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_passed_plan_that_is_given_back_is_all_that_contributes_to_gradients(mode: str) -> None:
    mpc = MPC(pushed(lambda p: p**3), 5, mode=mode)  # type: ignore[arg-type]
    x0 = torch.tensor([[0.3, 0.0], [-0.2, 0.1]], dtype=torch.float64)
    before = mpc(x0).shift()
    lost = x0.clone()
    lost[0, 0] = math.nan
    parameters = list(mpc.parameters())

    def gradient(value: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    plan = mpc(lost, before)
    assert plan.status.tolist() == [qc.Status.INVALID_INPUT, qc.Status.SOLVED]
    got, expected = gradient(plan.input[0].sum()), gradient(before.input[0].sum())
    assert max(float(g.abs().max()) for g in expected if g.numel()) > 1e-3
    assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))
    assert not any(g.any() for g in gradient(mpc(lost, before.detach()).input[0].sum()))


class Wall(torch.nn.Module):
    """A learned factor of a row; its function is not defined everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self) -> StateRows:
        return StateRows(lambda x, w: w * torch.sqrt(x[..., :1] + 0.5), upper=0.8, data=(self.factor,))


@pytest.mark.filterwarnings("ignore:.*QPs have no solution")
@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("far", [math.nan, 1e200, -3.0])
def test_element_whose_rows_are_no_numbers_leaves_the_gradient_of_what_is_learned_in_them(
    far: float, mode: str
) -> None:
    wall = Wall()
    mpc = MPC(pushed(torch.sin), 5, mode=mode, rows=[wall])  # type: ignore[arg-type]
    x0 = torch.tensor([[0.2, 0.3], [far, 0.0], [0.1, 0.0]], dtype=torch.float64)
    neighbours = [0, 2]

    def gradient(plan: Plan, which: list[int]) -> Tensor:
        shifts = mpc.violations(plan)[which].square().sum()
        return torch.autograd.grad(plan.inputs[which].sum() + shifts, wall.factor, retain_graph=True)[0]

    plan, alone = mpc(x0), mpc(x0[neighbours])
    assert plan.status[1] == qc.Status.INVALID_INPUT and alone.solved.all()
    assert mpc.violations(plan)[1].isnan().all() == (far < 1.0 or math.isnan(far))
    assert mpc.violations(plan)[neighbours].isfinite().all()
    expected = gradient(alone, [0, 1])
    assert expected.abs() > 1e-3
    assert torch.allclose(gradient(plan, neighbours), expected, rtol=1e-9, atol=1e-12)
    # The element itself contributes nothing.
    (whole,) = torch.autograd.grad(plan.inputs.sum(), wall.factor, retain_graph=True)
    (theirs,) = torch.autograd.grad(plan.inputs[neighbours].sum(), wall.factor)
    assert torch.equal(whole, theirs)


@pytest.mark.filterwarnings("ignore:.*QPs have no solution")
@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("name", ["reference", "Q", "Q_N"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_element_with_data_that_are_no_numbers_leaves_the_gradients_of_what_is_shared(
    name: str, bad: float, mode: str
) -> None:
    """q = -Q r: the one is a gradient of the other."""
    mpc = MPC(pushed(torch.sin), 5, mode=mode)  # type: ignore[arg-type]
    x0 = torch.tensor([[0.2, 0.3], [0.3, 0.0], [0.1, 0.0]], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    eye = torch.eye(2, dtype=torch.float64)
    data = {"reference": reference.expand(3, 2), "Q": eye.expand(3, 1, 2, 2), "Q_N": eye.expand(3, 2, 2)}[name].clone()
    neighbours = [0, 2]

    def gradients(which: list[int]) -> list[Tensor]:
        given = {"reference": reference, name: data[which]}
        plan = mpc(x0[which], **given)
        rest = plan.inputs[[0, -1]].sum()
        shared = [reference, *mpc.parameters()]
        found = torch.autograd.grad(rest, shared, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(shared, found, strict=True)]

    expected = gradients(neighbours)
    with torch.no_grad():
        data.view(3, -1)[1, 0] = bad
    for got, wanted in zip(gradients([0, 1, 2]), expected, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*QPs have no solution")
@pytest.mark.parametrize("failed", [None, lambda x: x.abs().amax(1) > 1e3])
def test_robot_that_runs_away_in_a_closed_loop_leaves_the_gradients_of_the_others(failed: Force | None) -> None:
    """Its plan still carries gradient when its numbers overflow, and so does its last finite state."""
    mpc = MPC(pushed(lambda p: p**3), 5)

    def gradient(kick: float, which: list[int]) -> list[Tensor]:
        calls = 0

        def step(x: Tensor, u: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            x_next: Tensor = mpc.dynamics.step(x, u)
            return x_next + (kick if calls == 2 else 0.0) * (torch.arange(len(x)) == 1).double()[:, None]

        x0 = torch.tensor([[0.2, 0.3], [0.3, 0.0], [0.1, 0.0]], dtype=torch.float64)[which]
        found = closed_loop(mpc, step, x0, 5, reward=lambda x, u: -x.square().sum(1), failed=failed)
        assert found.states[[0, -1]].isfinite().all()
        assert kick == 0.0 or found.status[1].tolist()[2:] == 3 * [qc.Status.INVALID_INPUT]
        return list(torch.autograd.grad(found.rewards[[0, -1]].sum(), [mpc.state_cost.log_diagonal]))

    for got, expected in zip(gradient(1e150, [0, 1, 2]), gradient(0.0, [0, 2]), strict=True):
        assert expected.any() and torch.allclose(got, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*QPs have no solution")
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("spoilt", ["q", "R", "upper", "slack_linear", "pending"])
def test_robots_plan_on_beside_an_element_without_an_answer(spoilt: str, mode: str, grad: bool) -> None:
    """Their dynamics refuse what is no number, such as the multipliers of a problem without an answer."""
    robot = RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)
    mpc = MPC(robot, 5, mode=mode, delay=2)  # type: ignore[arg-type]
    x0 = torch.tensor([[0.2, 0.3, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]], dtype=torch.float64)
    one = torch.ones(3, 1, 1, dtype=torch.float64)
    data = {"q": {"q": one.expand(3, 1, 4).clone()}, "R": {"R": one[..., None].clone()}}.get(spoilt, {})
    if spoilt in ("upper", "slack_linear"):
        data = {"C": torch.ones(1, 4, dtype=torch.float64), "upper": one, "slack_linear": one}
        data[spoilt] = one.clone()
    neighbours = [0, 2]
    with torch.set_grad_enabled(grad):
        plan = mpc(x0).shift().detach()
        own = {name: value[neighbours] if len(value) == 3 else value for name, value in data.items()}
        expected = mpc(x0[neighbours], plan[torch.tensor(neighbours)], **own)
        if spoilt == "pending":
            plan.pending[1, 0] = 1e300  # leads to infinity
        else:
            data[spoilt][1] = math.nan
        found = mpc(x0, plan, **data)
    assert found.status.tolist() == [qc.Status.SOLVED, qc.Status.INVALID_INPUT, qc.Status.SOLVED]
    assert torch.allclose(found.inputs[neighbours], expected.inputs, rtol=0, atol=1e-9)
    if grad:
        parameters = [mpc.state_cost.log_diagonal, mpc.input_fraction, mpc.model.log_mass]
        got, wanted = (
            torch.autograd.grad(p.inputs[neighbours if p is found else [0, 1]].sum(), parameters)
            for p in (found, expected)
        )
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(got, wanted, strict=True))


def test_limits_that_are_no_numbers_leave_the_gradients_of_the_violations_of_others() -> None:
    mpc = MPC(pushed(torch.sin), 5)
    C = torch.ones(3, 1, 1, 2, dtype=torch.float64)
    C[1] = math.nan
    x0 = torch.tensor([[0.2, 0.3], [0.3, 0.0], [0.1, 0.0]], dtype=torch.float64)
    upper = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    plan = mpc(x0)
    found = mpc.violations(plan, C=scale * C, upper=upper)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()
    alone = mpc.violations(plan[torch.tensor([0, 2])], C=scale * C[[0, 2]], upper=upper)
    got, expected = (
        torch.autograd.grad(value.square().sum(), (upper, *mpc.parameters()), allow_unused=True, retain_graph=True)
        for value in (found[[0, 2]], alone)
    )
    assert expected[0].any()
    for a, b in zip(got, expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-9, atol=1e-12)
