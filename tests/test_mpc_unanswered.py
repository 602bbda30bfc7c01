"""Elements of a batch of plans without an answer: nothing is raised, and gradients are those of what is returned."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qp_control as qc
from qp_control.mpc.controller import MPC
from qp_control.robot.torch_dynamics import TorchDynamics

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
