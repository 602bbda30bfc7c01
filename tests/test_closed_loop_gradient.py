"""Gradients of whole closed loops: 100 control periods through controller, carried plans and plant."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

import qp_control as qc
from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.training import closed_loop, create
from qp_control.training.losses import negative_return
from qp_control.training.tasks.cart_pole_swing_up import CartPoleSwingUpTraining

STEPS = 100
# Central differences with step 1e-6: truncation 1e-12 times third derivatives of up to 1e6, rounding 1e-16 / 1e-6.
STEP, TOLERANCE = 1e-6, 1e-4


@pytest.fixture(scope="module")
def task() -> CartPoleSwingUpTraining:
    return CartPoleSwingUpTraining()


def starts() -> Tensor:
    return torch.tensor([[0.3, math.pi - 0.2, 0.0, 0.0], [-0.2, math.pi + 0.1, 0.0, 0.0]], dtype=torch.float64)


def loss_of(task: CartPoleSwingUpTraining, controller: MPC, x0: Tensor) -> Tensor:
    rollout = closed_loop(controller, task.plant.step, x0, STEPS, reward=task.plant.reward)
    assert rollout.failure is None
    return negative_return(rollout, task.barrier(rollout.states))


def random_direction(like: Tensor, seed: int) -> Tensor:
    direction = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return direction / direction.norm()


@pytest.fixture(scope="module")
def analytic(task: CartPoleSwingUpTraining) -> tuple[MPC, dict[str, Tensor], Tensor]:
    """A controller that swings up, and the gradient of its loss with respect to its parameters and the start states."""
    controller = task.hand_tuned()
    with torch.no_grad():
        controller.terminal_cost.lower += 0.1  # so that no entry is special
    x0 = starts().requires_grad_()
    loss_of(task, controller, x0).backward()
    gradient = {name: p.grad for name, p in controller.named_parameters() if p.grad is not None}
    assert x0.grad is not None
    return controller, gradient, x0.grad


def test_the_loop_swings_up_with_saturated_inputs(task: CartPoleSwingUpTraining) -> None:
    with torch.no_grad():
        controller = task.hand_tuned()
        rollout = closed_loop(controller, task.plant.step, starts(), STEPS)
        bound = float(controller.input_bound())
    saturated = (rollout.inputs.abs() - bound).abs() < 1e-9
    assert 0.05 < float(saturated.double().mean()) < 0.95
    assert (rollout.states[:, -1, 1].abs() < 0.2).all()


NAMES = [name for name, _ in create("cart_pole_swing_up").module().named_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences_of_the_closed_loop(
    name: str, task: CartPoleSwingUpTraining, analytic: tuple[MPC, dict[str, Tensor], Tensor]
) -> None:
    controller, gradient, _ = analytic
    parameter = dict(controller.named_parameters())[name]
    if name == "state_fraction":  # the track is long enough: no row is active, and the gradient is zero
        assert not gradient[name].any()
        return
    direction = random_direction(parameter, seed=1)
    values = []
    with torch.no_grad():
        for side in (STEP, -STEP):
            parameter += side * direction
            values.append(float(loss_of(task, controller, starts())))
            parameter -= side * direction
    difference = (values[0] - values[1]) / (2 * STEP)
    assert float((gradient[name] * direction).sum()) == pytest.approx(difference, rel=TOLERANCE, abs=1e-8)


def test_gradient_of_the_start_state_equals_finite_differences(
    task: CartPoleSwingUpTraining, analytic: tuple[MPC, dict[str, Tensor], Tensor]
) -> None:
    controller, _, gradient = analytic
    direction = random_direction(gradient, seed=2)
    with torch.no_grad():
        ahead, behind = (float(loss_of(task, controller, starts() + s * direction)) for s in (STEP, -STEP))
    difference = (ahead - behind) / (2 * STEP)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=TOLERANCE, abs=1e-8)


def test_gradient_of_the_track_bound_where_it_is_active(task: CartPoleSwingUpTraining) -> None:
    """A track so short that the plans touch its end."""
    controller = task.hand_tuned()
    with torch.no_grad():
        controller.state_fraction.fill_(-0.6)
    x0 = starts()

    def loss() -> Tensor:
        return loss_of(task, controller, x0)

    value = loss()
    value.backward()
    gradient = float(controller.state_fraction.grad)  # type: ignore[arg-type]
    assert abs(gradient) > 1e-4
    values = []
    with torch.no_grad():
        for side in (STEP, -STEP):
            controller.state_fraction += side
            values.append(float(loss()))
            controller.state_fraction -= side
    assert gradient == pytest.approx((values[0] - values[1]) / (2 * STEP), rel=TOLERANCE)


class _Detached(torch.nn.Module):
    """The controller with the carried plan cut off from the gradient: what must not be done."""

    def __init__(self, controller: MPC) -> None:
        super().__init__()
        self.controller, self.input_limit = controller, controller.input_limit

    def forward(self, x0: Tensor, plan: Plan | None) -> Plan:
        return self.controller(x0, None if plan is None else plan.detach())


def test_detaching_the_carried_plan_gives_a_wrong_gradient(
    task: CartPoleSwingUpTraining, analytic: tuple[MPC, dict[str, Tensor], Tensor]
) -> None:
    controller, gradient, _ = analytic
    copy = task.hand_tuned()
    copy.load_state_dict(controller.state_dict())
    loss_of(task, _Detached(copy), starts()).backward()  # type: ignore[arg-type]
    for name in ("state_cost.log_diagonal", "input_cost.log_diagonal", "terminal_cost.log_diagonal"):
        wrong, right = dict(copy.named_parameters())[name].grad, gradient[name]
        assert wrong is not None
        # A negative control: hundreds of times what the comparison with finite differences lets pass.
        assert float((wrong - right).norm()) > 300 * TOLERANCE * float(right.norm())


def test_loop_without_converged_qps_has_no_gradient(task: CartPoleSwingUpTraining) -> None:
    controller = task.module(qc.Settings(max_iter=1))
    controller.load_state_dict(task.hand_tuned().state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rollout = closed_loop(controller, task.plant.step, starts(), 20, reward=task.plant.reward)
    unsolved = rollout.status == qc.Status.MAX_ITER
    assert unsolved.all(dim=1).any()
    failure = rollout.failure
    assert failure is not None and failure.status == qc.Status.MAX_ITER
    loss = rollout.rewards[unsolved.all(dim=1)].sum()
    gradients = torch.autograd.grad(loss, list(controller.parameters()), allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)


def test_one_bad_state_leaves_the_other_loops_and_their_gradients(task: CartPoleSwingUpTraining) -> None:
    controller = task.hand_tuned()
    x0 = starts()
    x0[0, 1] = math.nan
    rollout = closed_loop(controller, task.plant.step, x0, 10, reward=task.plant.reward)
    assert (rollout.status[0] == qc.Status.INVALID_INPUT).all() and (rollout.status[1] == qc.Status.SOLVED).all()
    assert rollout.states[0].isnan().any() and rollout.states[1].isfinite().all()
    rollout.rewards[1].sum().backward()
    alone = task.hand_tuned()
    by_itself = closed_loop(alone, task.plant.step, x0[1:], 10, reward=task.plant.reward)
    by_itself.rewards.sum().backward()
    assert torch.allclose(by_itself.states[0], rollout.states[1], rtol=0, atol=1e-9)
    for got, want in zip(controller.parameters(), alone.parameters(), strict=True):
        assert got.grad is not None and want.grad is not None
        assert torch.allclose(got.grad, want.grad, rtol=1e-7, atol=1e-9)
