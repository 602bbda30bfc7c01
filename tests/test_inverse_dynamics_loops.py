"""Gradients of a controller by inverse dynamics through closed loops with its robot, against differences."""

from __future__ import annotations

import pytest
import torch
from legged_robots import arm, quadruped, standing
from manifold_robots import move

import qp_control as qc

STEPS = 50


def arm_loop():
    """A tool that goes somewhere, with torques and a velocity at their limits on the way."""
    robot = qc.RobotDynamics(arm().model, dt=0.01)
    tasks = [
        qc.PositionTask("tool", [0.5, 0.2, 0.6], stiffness=40.0),
        qc.PostureTask(weight=0.05),
        qc.TorqueRegularization(weight=1e-3),
    ]
    limits = [qc.TorqueLimit([12.0, 60.0, 24.0, 6.0, 4.0, 1.0]), qc.JointVelocityLimit(0.01, velocity=0.8)]
    controller = qc.InverseDynamics(robot, tasks, limits, settings=qc.Settings(eps_abs=1e-11))
    q = torch.tensor([0.3, 0.2, 0.9, 0.1, 0.4, 0.2], dtype=torch.float64)
    return controller, robot, torch.cat([q, torch.zeros(6, dtype=torch.float64)]), "tool.stiffness"


def quadruped_loop():
    """A floating base on its feet that shifts its centre of mass; the feet stick."""
    still = quadruped()
    feet = ["lf foot", "rf foot", "lh foot", "rh foot"]
    contacts = [qc.Contact(foot, friction=0.8) for foot in feet]
    robot = qc.ContactDynamics(still.model, dt=0.005, contacts=contacts, joint_limits=False)
    q = standing(still)
    # In the ground by as much as it gives way under the weight.
    q[2] -= 2.5e-4
    com = still.centroid(q).position + torch.tensor([0.01, 0.005, 0.0], dtype=torch.float64)
    tasks = [
        qc.CenterOfMassTask(com, weight=10.0, stiffness=30.0),
        qc.OrientationTask("trunk"),
        qc.PostureTask(q, weight=0.1),
        qc.TorqueRegularization(weight=1e-3),
        qc.ForceRegularization(weight=1e-3),
    ]
    supports = [qc.PointContact(foot, weight=100.0) for foot in feet]
    controller = qc.InverseDynamics(robot, tasks, [qc.TorqueLimit(20.0)], supports, settings=qc.Settings(eps_abs=1e-11))
    return controller, robot, torch.cat([q, torch.zeros(still.nv, dtype=torch.float64)]), "com.stiffness"


@pytest.mark.parametrize("loop", [arm_loop, quadruped_loop])
def test_gradient_through_a_closed_loop(loop):
    controller, robot, start, number = loop()
    nq, limited = robot.nq, 0
    weights = torch.linspace(-1.0, 1.0, robot.nx, dtype=torch.float64)

    def loss(x, value):
        nonlocal limited
        total = 0.0
        for _ in range(STEPS):
            found = controller(x[:, :nq], x[:, nq:], {number: value})
            assert (found.status == qc.Status.SOLVED).all()
            limited += int((found.solution.z.abs() > 1e-6).any()) + int((found.solution.w.abs() > 1e-6).any())
            x = robot.step(x, found.torque)
            total = total + (x * weights).sum() + 1e-3 * found.torque.square().sum()
        return total

    x, value = start[None].clone().requires_grad_(), torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
    loss(x, value).backward()
    assert loop is quadruped_loop or limited > STEPS
    d = torch.randn(2 * robot.nv, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def at(t):
        return torch.from_numpy(move(robot.model, start.numpy(), t * d.numpy()))[None]

    with torch.no_grad():
        # Central differences of order four; what they leave is about 1e-16 / h and h^4.
        h = 1e-5
        one, two = (loss(at(k * h), value) - loss(at(-k * h), value) for k in (1, 2))
        by_state = float(8.0 * one - two) / (12.0 * h)
        h = 1e-2
        one, two = (loss(start[None], value + k * h) - loss(start[None], value - k * h) for k in (1, 2))
        by_number = float(8.0 * one - two) / (12.0 * h)
    assert float(value.grad) == pytest.approx(by_number, rel=1e-5)
    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    assert float((x.grad * slope).sum()) == pytest.approx(by_state, rel=1e-5)
