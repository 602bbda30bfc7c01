"""Strict hierarchies of a controller by inverse dynamics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from legged_robots import arm, around, quadruped, standing
from manifold_robots import moved, normal

import qp_control as qc

FEET = ["lf foot", "rf foot", "lh foot", "rh foot"]
PRECISE = qc.Settings(eps_abs=1e-9)


def reach(limits=(), weights=(1.0, 1.0, 1.0), levels=(1, 2, 3), settings=PRECISE):
    tasks = [
        qc.PositionTask("tool", [0.4, 0.1, 0.7], weight=weights[0], level=levels[0]),
        qc.OrientationTask("elbow", [0.1, 0.2, 0.1, 1.0], mask=[1, 1, 0], weight=weights[1], level=levels[1]),
        qc.PostureTask(weight=weights[2], level=levels[2]),
    ]
    controller = qc.InverseDynamics(arm(), tasks, limits, settings=settings)
    q = torch.tensor([0.2, 0.4, 0.5, -0.1, 0.3, 0.2], dtype=torch.float64)
    return controller, *around(controller.model, q, 4, seed=1, size=0.2)


def residuals(controller, q, v, found):
    x = torch.cat([found.acceleration, found.force.flatten(1)], 1).detach().numpy()
    return residuals_at(controller, q, v, x)


def residuals_at(controller, q, v, x):
    packed = controller.assembly.pack(controller.numbers(), len(q)).detach().numpy()
    return controller.assembly.native.residuals(q.numpy(), v.numpy(), packed, None, np.atleast_2d(x))[0]


def test_levels_are_least_squares_in_null_spaces():
    """Without limits: against pseudoinverses of the rows."""
    controller, q, v = reach()
    found = controller(q, v)
    assert (found.status == qc.Status.SOLVED).all()
    zero = torch.zeros_like(found.acceleration)
    still = residuals(controller, q, v, found._replace(acceleration=zero))
    rows = [
        residuals(controller, q, v, found._replace(acceleration=zero + torch.eye(6, dtype=zero.dtype)[i])) - still
        for i in range(6)
    ]
    J = np.stack(rows, -1)
    for i in range(len(q)):
        x, N = np.zeros(6), np.eye(6)
        for part in (slice(0, 3), slice(3, 5), slice(5, 11)):
            Jk, c = J[i, part], still[i, part]
            x = x - N @ np.linalg.pinv(Jk @ N, rcond=1e-6) @ (Jk @ x + c)
            N = N @ (np.eye(6) - np.linalg.pinv(Jk @ N, rcond=1e-6) @ (Jk @ N))
        np.testing.assert_allclose(found.acceleration[i].detach(), x, rtol=0, atol=1e-6 * np.abs(x).max())


ARM_TORQUES = [8.0, 14.0, 6.0, 3.0, 1.0, 0.3]  # largest [N m]


def limit(kind):
    return qc.TorqueLimit(ARM_TORQUES if kind == "arm" else 9.0)


@pytest.mark.parametrize("kind", ["arm", "quadruped"])
def test_lower_levels_change_nothing_above_and_large_weights_come_near(kind):
    make, first = (reach, 3) if kind == "arm" else (walk, 6)
    controller, q, v = make([limit(kind)])
    found = controller(q, v)
    assert (found.status == qc.Status.SOLVED).all()
    assert bool((found.torque.abs() > ARM_TORQUES[0] - 1e-7).any() if kind == "arm" else True)
    alone = make([limit(kind)], weights=(1.0, 0.0, 0.0))[0]
    costs = [np.square(residuals(c, q, v, c(q, v)))[:, :first].sum(1) for c in (controller, alone)]
    np.testing.assert_allclose(*costs, rtol=1e-6, atol=1e-6)
    if kind == "quadruped":
        return  # its first level sees some directions so little that weights of any use do not come near
    away = []
    for ratio in (1e2, 1e3):
        near = make([limit(kind)], (ratio**2, ratio, 1.0), (1, 1, 1), qc.Settings(eps_abs=1e-6))[0](q, v)
        assert (near.status == qc.Status.SOLVED).all()
        away.append(float((found.torque - near.torque).detach().abs().max()))
    assert away[1] < 0.3 * away[0], away


def walk(limits, weights=(1.0, 1.0, 1.0), levels=(1, 2, 3), settings=PRECISE):
    robot = quadruped()
    q = standing(robot)
    com = robot.centroid(q).position
    tasks = [
        qc.CenterOfMassTask(com, weight=weights[0], level=levels[0]),
        qc.OrientationTask("trunk", weight=weights[0], level=levels[0]),
        qc.PositionTask("rh foot", [-0.2, -0.2, 0.05], weight=weights[1], level=levels[1]),
        qc.PostureTask(q, weight=weights[2], level=levels[2]),
        qc.TorqueRegularization(weight=1e-2 * weights[2]),
        qc.ForceRegularization(weight=1e-2 * weights[2]),
    ]
    contacts = [qc.PointContact(foot, weight=100.0 * weights[0]) for foot in FEET[:3]]
    controller = qc.InverseDynamics(robot, tasks, limits, contacts, settings=settings)
    return controller, *around(robot, q, 3, seed=2, size=0.02)


@pytest.mark.parametrize("kind", ["arm", "quadruped"])
def test_gradients_of_a_hierarchy(kind):
    controller, q, v = (reach if kind == "arm" else walk)([limit(kind)])
    robot = controller.model
    numbers = {name: value.detach().clone() for name, value in controller.numbers().items()}

    def loss(q, v, numbers):
        torque = controller(q, v, numbers).torque
        return (torque * normal(*torque.shape, seed=3)).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in numbers.items()}
    at_q, at_v = q.clone().requires_grad_(), v.clone().requires_grad_()
    loss(at_q, at_v, leaves).backward()

    def slope(along, h):
        with torch.no_grad():
            one, two = (float(along(k * h) - along(-k * h)) for k in (1, 2))
        return (8.0 * one - two) / (12.0 * h)

    states, d = torch.cat([q, v], 1), normal(len(q), 2 * robot.nv, seed=5)
    h = 1e-5

    def state(t):
        return moved(robot.model, states, t * d).split([robot.nq, robot.nv], 1)

    expected = slope(lambda t: loss(*state(t), numbers), h)
    ahead, behind = (torch.cat(state(t), 1) for t in (h, -h))
    found = (torch.cat([at_q.grad, at_v.grad], 1) * (ahead - behind) / (2.0 * h)).sum()
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for name in numbers:
        # Feet without load are at the tip of the pyramid and at their least force at once: a kink.
        if name.endswith("min_force"):
            continue
        d_number = numbers[name].abs().clamp(min=0.1) * normal(*numbers[name].shape, seed=8)
        expected = slope(lambda t, n=name, d=d_number: loss(q, v, numbers | {n: numbers[n] + t * d}), 2e-4)
        # The torques have errors of about 1e-8.
        assert float((leaves[name].grad * d_number).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-4), name


@pytest.mark.parametrize("kind", ["arm", "quadruped"])
def test_ticks_of_a_hierarchy_are_those_of_the_batch_and_start_from_the_tick_before(kind):
    """NumPy in coordinates of null spaces against torch with projections."""
    controller, q, v = (reach if kind == "arm" else walk)([limit(kind)])
    steps = torch.linspace(0.0, 1.0, 6, dtype=torch.float64).unsqueeze(1)
    q, v = q[:1] + 0.03 * steps * (q[1:2] - q[:1]), v[:1] + 0.03 * steps * (v[1:2] - v[:1])
    found = controller(q, v)
    assert (found.status == qc.Status.SOLVED).all()
    iterations = []
    for i in range(len(q)):
        tick = controller.compute(q[i].numpy(), v[i].numpy())
        assert tick.status == qc.Status.SOLVED
        # Of each level the tolerance is left, 1e-9, over the smallest curvature that its tasks have.
        np.testing.assert_allclose(tick.torque, found.torque[i].detach(), rtol=0, atol=1e-5)
        iterations.append(tick.iterations)
    assert max(iterations[1:]) < iterations[0]
    broken = controller.compute(np.full(len(q[0]), np.nan), v[0].numpy())
    assert broken.status == qc.Status.INVALID_INPUT
    np.testing.assert_array_equal(broken.torque, tick.torque)
    assert controller.compute(q[0].numpy(), v[0].numpy()).iterations == iterations[0]


def test_levels_without_freedom_are_left_out():
    """The first level sees all that there is: what stands below changes nothing."""
    q, v = reach()[1:]
    torques = []
    for weight in (1.0, 0.0):
        tasks = [qc.PostureTask(level=1), qc.PositionTask("tool", [0.4, 0.1, 0.7], weight=weight, level=2)]
        controller = qc.InverseDynamics(arm(), tasks, [limit("arm")], settings=PRECISE)
        torques.append(controller.compute(q[0].numpy(), v[0].numpy()).torque)
    np.testing.assert_array_equal(*torques)
