"""Costs from the conditions that an expert's plans are optimal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from descent import descend
from torch import Tensor

import qp_control as qc
from qp_control.envs.task import ASSETS
from qp_control.systems import flying_body
from qp_control.training import create
from qp_control.training.expert_imitation import Demonstrations, ExpertImitation, demonstrate
from qp_control.training.expert_optimality import ExpertOptimality, hamiltonian_slopes
from qp_control.training.gauss_newton import jacobian
from qp_control.training.tasks.expert_recovery import COSTS, ExpertRecovery

N = 6


def controller(**options: Any) -> qc.MPC:
    mpc = qc.MPC(qc.RobotDynamics(ASSETS / "cart_pole.urdf", dt=0.05), N, **options)
    return mpc.set_weights(q=[4.0, 10.0, 0.5, 0.5], r=[0.1], terminal=torch.diag(torch.tensor([40.0, 40.0, 4.0, 4.0])))


def draw(*shape: int) -> Tensor:
    return 2.0 * torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1.0


def cost(mpc: qc.MPC, x0: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) what flying with inputs (B, N, nu) costs, and the states on the way."""
    x = [x0]
    for k in range(N):
        x.append(mpc.dynamics.step(x[-1], inputs[:, k], mpc.model()))
    states = torch.stack(x, 1)
    e = states - mpc.reference
    running = torch.einsum("bki,ij,bkj->b", e[:, :-1], mpc.state_cost(), e[:, :-1])
    effort = torch.einsum("bki,ij,bkj->b", inputs, mpc.input_cost(), inputs)
    return 0.5 * (running + effort + torch.einsum("bi,ij,bj->b", e[:, -1], mpc.terminal_cost(), e[:, -1])), states


def recovery(seed: int, **options: Any) -> tuple[ExpertRecovery, qc.MPC]:
    """The cart-pole's task, and its learner with the expert's model."""
    task = create("cart_pole_recovery", demonstrations=10, batch=10, seed=seed, **options)
    assert isinstance(task, ExpertRecovery)
    learner = task.module()
    learner.model.load_state_dict(task.expert.model.state_dict())
    return task, learner


def test_slopes_are_those_of_the_cost_of_a_flight() -> None:
    mpc = controller(reference=[0.3, 0.0, 0.0, 0.0])
    u = (5.0 * draw(3, N, 1)).requires_grad_()
    value, states = cost(mpc, 0.3 * draw(3, 4), u)
    (exact,) = torch.autograd.grad(value.sum(), u)
    found = hamiltonian_slopes(mpc, states.detach(), u.detach())
    assert torch.allclose(found, exact / 0.1, rtol=1e-10, atol=1e-10)


def test_slopes_vanish_along_plans_of_the_expert_and_on_bounds() -> None:
    expert = controller(mode="converged", input_limit=[3.0]).requires_grad_(False)
    shown = demonstrate(expert, 0.3 * draw(20, 4), torch.ones(4, dtype=torch.float64))
    on_bounds = shown.inputs.abs() > 0.999 * float(expert.input_bound())
    assert 5 < int(on_bounds.sum()) < on_bounds.numel() - 5
    # Plans are solved to 1e-8 or so; R is 0.1, and costates pass through unstable dynamics.
    assert float(hamiltonian_slopes(expert, shown.states, shown.inputs).abs().max()) < 1e-5
    freer = controller(input_limit=[30.0])
    slopes = hamiltonian_slopes(freer, shown.states, shown.inputs).detach()
    assert float(slopes[~on_bounds].abs().max()) < 1e-5 and float(slopes[on_bounds].abs().max()) > 1.0


def test_slopes_with_several_inputs_and_weights_that_change_from_stage_to_stage() -> None:
    task = create("lqr_recovery")
    assert isinstance(task, ExpertRecovery)
    draws = torch.Generator().manual_seed(1)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    stages = {"Q": matrix(N, 4, 4), "R": matrix(2, 2), "Q_N": matrix(4, 4)}
    data = {name: root @ root.mT for name, root in stages.items()} | {"S": 0.1 * matrix(N, 2, 4), "r": matrix(N, 2)}
    mpc = qc.MPC(task.dynamics(), N, data=data)
    x0, u = matrix(3, 4), (0.3 * matrix(3, N, 2)).requires_grad_()
    x = [x0]
    for k in range(N):
        x.append(mpc.dynamics.step(x[-1], u[:, k], mpc.model()))
    states = torch.stack(x, 1)
    value = 0.5 * torch.einsum("bki,kij,bkj->", states[:, :-1], data["Q"], states[:, :-1])
    value = value + 0.5 * torch.einsum("bki,ij,bkj->", u, data["R"], u) + torch.einsum("bki,ki->", u, data["r"])
    value = value + torch.einsum("bki,kij,bkj->", u, data["S"], states[:, :-1])
    value = value + 0.5 * torch.einsum("bi,ij,bj->", states[:, -1], data["Q_N"], states[:, -1])
    (exact,) = torch.autograd.grad(value, u)
    found = hamiltonian_slopes(mpc, states.detach(), u.detach())
    # The same sums in another order: rounding of entries of about ten.
    inside = u.abs() < 0.97
    assert torch.allclose(found, torch.where(inside, exact / data["R"].diagonal(), 0.0), rtol=1e-10, atol=1e-10)


def test_the_cost_is_found_in_steps_that_lead_imitation_alone_nowhere() -> None:
    task, learner = recovery(seed=2)
    alone = copy.deepcopy(learner)
    # Quadratic convergence ends at rounding: slopes are sums of terms of about one, and their squares are left.
    assert descend(ExpertOptimality(task.shown, 15, learned=COSTS), learner) < 1e-24
    assert task.cost_error(learner) < 1e-10
    descend(ExpertImitation("cost", task.shown, 15, batch=10, learned=COSTS), alone)
    assert task.cost_error(alone) > 0.5


def test_the_whole_jacobian_is_that_of_forward_differences() -> None:
    task, learner = recovery(seed=0)
    phase = ExpertOptimality(task.shown, 1, learned=COSTS)
    parameters, everything = phase.parameters(learner), torch.arange(10)

    def residuals() -> Tensor:
        found = phase.part(learner, everything).residuals
        assert found is not None
        return found

    J, before, h = jacobian(residuals(), parameters), residuals().detach(), 1e-7
    entries = [(p, i) for p in parameters for i in range(p.numel())]
    assert J.shape == (len(before), len(entries)) == (100, 8)
    for column, (p, i) in zip(J.T, entries, strict=True):
        with torch.no_grad():
            p[i] += h
            differences = (residuals() - before) / h
            p[i] -= h
        assert torch.allclose(column, differences, atol=1e-6)  # h times second derivatives of about one


def test_gradient_and_curvature_of_parts_add_up() -> None:
    task, learner = recovery(seed=0)
    phase = ExpertOptimality(task.shown, 1, learned=COSTS)
    parameters, generator = phase.parameters(learner), torch.Generator()
    whole = phase.gradients(phase.part(learner, torch.arange(10)), parameters, generator)
    parts = [
        phase.gradients(phase.part(learner, rows).scaled(len(rows) / 10), parameters, generator)
        for rows in (torch.arange(4), torch.arange(4, 10))
    ]
    assert torch.allclose(whole, torch.stack(parts).sum(0), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 1}, "a delay"),
        ({"rate_limit": [10.0]}, "a rate limit"),
        ({"state_limit": [1.0] + 3 * [float("inf")]}, "x_lower, x_upper"),
        ({"rows": [qc.StateRows(lambda x: x[..., :1], torch.zeros(1), torch.ones(1))]}, "C, "),
    ],
)
def test_controllers_whose_multipliers_plans_do_not_tell_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hamiltonian_slopes(controller(**options), draw(2, N + 1, 4), draw(2, N, 1))


def test_a_bound_on_one_side_and_inputs_without_limits() -> None:
    x, u = 0.3 * draw(3, N + 1, 4), 5.0 * draw(3, N, 1)
    free = hamiltonian_slopes(controller(input_limit=[float("inf")]), x, u)
    upper = torch.ones(1, dtype=torch.float64)
    found = hamiltonian_slopes(controller(data={"u_upper": upper}), x, u.clamp(max=1.0))
    assert 0 < int((u >= 1.0).sum()) < u.numel() and bool((found[u >= 1.0] == 0.0).all())
    assert bool((found[u < 1.0] != 0.0).all()) and bool((free != 0.0).all())
    shown = Demonstrations(x, u, torch.ones(4, dtype=torch.float64), torch.ones(3, dtype=torch.bool))
    phase = ExpertOptimality(shown, 1, learned=COSTS)
    with pytest.raises(ValueError, match="no input limits"):
        phase.part(controller(input_limit=[float("inf")]), torch.arange(3))


def test_states_that_form_no_vector_space_are_refused() -> None:
    mpc = qc.MPC(flying_body(), N)
    with pytest.raises(ValueError, match="no vector space"):
        hamiltonian_slopes(mpc, mpc.cold_plan(mpc.reference[None]).states, torch.zeros(1, N, mpc.nu))
