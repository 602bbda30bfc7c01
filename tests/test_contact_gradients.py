"""Gradients of steps with contact equal finite differences."""

from __future__ import annotations

import pytest
import torch
from contact_robots import block, contact_cases, run
from manifold_robots import moved, normal

from qp_control.robot.contact import ContactDynamics
from qp_control.settings import Settings


@pytest.mark.parametrize("lift", [False, True])
@pytest.mark.parametrize("name", contact_cases())
def test_gradients_equal_finite_differences(name, lift):
    robot, x, u = contact_cases()[name]
    options = {**robot._options(), "lift": lift, "settings": Settings(eps_abs=1e-12)}
    robot = ContactDynamics(robot.model, **options)
    u = torch.tensor([u], dtype=torch.float64)
    values = {"u": u, "parameters": robot.parameters, "friction": robot.friction, "dry_friction": robot.dry_friction}
    values = {key: value.clone().requires_grad_() for key, value in values.items()}
    x = x.clone().requires_grad_()
    weights = normal(1, robot.nx, seed=1)

    def loss(x, u, parameters, friction, dry_friction):
        options = {"friction": friction, "dry_friction": dry_friction}
        return (robot.step(x, u, parameters, **options) * weights).sum()

    _, found = robot.step_with_forces(x, u)
    assert name == "limit" or (found.force.norm(dim=2) > 1e-3).any(), "nothing touches"
    assert name != "pairs" or (found.force.norm(dim=2) > 1e-3).all()
    loss(x, **values).backward()
    h = 1e-6
    with torch.no_grad():
        d = normal(1, robot.ndx, seed=2)
        ahead, behind = (moved(robot.model, x, side * h * d) for side in (1.0, -1.0))
        numeric = float(loss(ahead, **values) - loss(behind, **values)) / (2 * h)
        along = float((x.grad * (ahead - behind)).sum()) / (2 * h)
        assert along == pytest.approx(numeric, rel=1e-5, abs=1e-6)
        for key, value in values.items():
            d = normal(*value.shape, seed=3) * (value.abs() if key == "parameters" else 1.0)
            if key == "dry_friction":  # those that are none in the model stay none
                d = d * (value > 0.0)
            sides = [float(loss(x, **values | {key: value + side * h * d})) for side in (1.0, -1.0)]
            expected = (sides[0] - sides[1]) / (2 * h)
            grad = torch.zeros_like(value) if value.grad is None else value.grad
            assert float((grad * d).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-6), key


def test_gradient_through_a_landing_and_a_slide():
    robot = block(0.5, settings=Settings(eps_abs=1e-12))

    def loss(speed):
        x = torch.cat([torch.tensor([[0.0, 0.0, 0.052, 0.0, 0.0, 0.0, 1.0]]).double(), speed, torch.zeros(1, 3)], 1)
        return run(robot, x, 40)[0][-1, 0, :3].sum()

    speed = torch.tensor([[2.0, 0.3, -0.4]], dtype=torch.float64, requires_grad=True)
    loss(speed).backward()
    d, h = normal(1, 3, seed=4), 1e-6
    numeric = float(loss(speed.detach() + h * d) - loss(speed.detach() - h * d)) / (2 * h)
    assert float((speed.grad * d).sum()) == pytest.approx(numeric, rel=1e-5)
