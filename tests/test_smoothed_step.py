"""Means of steps over samples: gradients of contacts that are open, sums of single steps, sameness."""

from __future__ import annotations

import math

import pinocchio as pin
import pytest
import torch
from contact_robots import at_rest, ball, leg
from manifold_robots import changed, moved, normal
from torch.distributions import Normal

from qp_control.robot.contact import GRAVITY, ContactDynamics
from qp_control.robot.smoothed_step import SmoothedStep


def foot_above(gap):
    """Of the leg of the contact tests, just above the ground."""
    robot = leg(joint_limits=False)
    x = torch.tensor([[0.6, 0.3, -0.6, -0.3, 0.2, -0.1]], dtype=torch.float64)
    _, found = robot.step_with_forces(x, torch.zeros(1, 2))
    x[0, 0] += gap - float(found.gap)
    return robot, x


def test_it_is_the_mean_of_single_steps_and_so_is_its_gradient():
    robot, x = foot_above(2e-4)
    smoothed = SmoothedStep(robot, samples=7, noise=torch.tensor([3.0, 1.0]), state_noise=1e-3, seed=1)
    u = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    weights = normal(1, robot.nx, seed=2)

    def gradients(step):
        leaves = [value.clone().requires_grad_() for value in (x, u, robot.parameters, robot.friction)]
        next_ = step(*leaves)
        (next_ * weights).sum().backward()
        return [next_.detach(), *[leaf.grad for leaf in leaves]]

    def single(xi, eps):
        return gradients(
            lambda x, u, p, mu: robot.step(x + 1e-3 * xi, u + torch.tensor([3.0, 1.0]) * eps, p, friction=mu)
        )

    got = gradients(lambda x, u, p, mu: smoothed.step(x, u, p, friction=mu))
    each = [single(draw[robot.nu :], draw[: robot.nu]) for draw in smoothed.draws]
    for value, of_each in zip(got, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(value, torch.stack(of_each).mean(0), rtol=1e-9, atol=1e-12)


def test_gradients_see_a_contact_that_is_open():
    """Friction and the ground have no say in a step that ends above it, but in its mean over pushes that reach it."""
    robot, x = foot_above(1e-3)
    u = torch.zeros(1, 2, dtype=torch.float64)

    def by_friction(step):
        mu = robot.friction.clone().requires_grad_()
        step(x, u, friction=mu)[0, robot.nq :].sum().backward()
        return float(mu.grad)

    assert abs(by_friction(robot.step)) < 1e-12
    smoothed = SmoothedStep(robot, samples=20, noise=60.0, seed=0)
    assert abs(by_friction(smoothed.step)) > 1e-4
    # Of what the inputs do to the height of the foot, the ground takes the part that it stops.
    exact, mean = (
        torch.autograd.functional.jacobian(lambda u, s=s: s.step(x, u)[0, robot.nq], u) for s in (robot, smoothed)
    )
    assert (exact - mean).abs().max() > 0.05 * exact.abs().max()


def test_it_converges_to_the_expectation():
    """A ball above the ground, pushed up and down by chance: the ground takes a part of what its velocity X is below
    c = -gap / h. E max(c - X, 0) = (c - m) P(X < c) + s^2 p(c) for a Gaussian X of mean m and deviation s."""
    robot = ball(mu=0.0)
    x, gap, h, push = at_rest(robot, 0.1), 1e-4, 0.002, 40.0
    x[0, 2] += gap
    smoothed = SmoothedStep(robot, samples=20000, noise=torch.tensor([0.0, 0.0, push]), seed=3)
    u = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    velocity = smoothed.step(x, u)[0, robot.nq + 2]
    velocity.backward()
    mean, spread, floor = -h * GRAVITY, h * push, -gap / h
    z = torch.tensor((floor - mean) / spread, dtype=torch.float64)
    below, density = Normal(0.0, 1.0).cdf(z), Normal(0.0, 1.0).log_prob(z).exp()
    # The ground gives way by R = 1 / (h (h k + d)), against the inverse of the mass, 1; `slip` adds a part of 1e-3 / 4.
    taken = 1.0 / (1.0 + (1.0 + 0.25e-3) / (h * (h * robot.stiffness + robot.damping)))
    expected = mean + taken * ((floor - mean) * below + spread * density)
    # 20000 samples: a deviation of s / sqrt(20000) without the mean's part, which is exact
    assert velocity.item() == pytest.approx(float(expected), abs=2e-4)
    assert float(u.grad[0, 2]) == pytest.approx(float(h * (1.0 - taken * below)), rel=3e-3)


def test_means_of_turned_bodies_are_bodies():
    """Against Pinocchio's sums and differences, one by one."""
    robot = ball(mu=0.5)
    smoothed = SmoothedStep(robot, samples=4, noise=5.0, state_noise=0.05, seed=2)
    x, u = at_rest(robot, 0.1, (1.0, 0.0, -0.5), (2.0, -3.0, 1.0)).requires_grad_(), normal(1, 3, seed=1)
    found = smoothed.step(x, u)
    assert robot.on_manifold(found).all()
    steps = []
    for draw in smoothed.draws:
        start = moved(robot.model, x.detach(), 0.05 * draw[None, 3:])
        steps.append(robot.step(start, u + 5.0 * draw[None, :3]))
    errors = torch.stack([changed(robot.model, steps[0], step) for step in steps]).mean(0)
    torch.testing.assert_close(found, moved(robot.model, steps[0], errors), rtol=0, atol=1e-10)
    weights, h, d = normal(1, robot.nx, seed=3), 1e-6, normal(1, robot.ndx, seed=4)
    (found * weights).sum().backward()
    ahead, behind = (moved(robot.model, x.detach(), side * h * d) for side in (1.0, -1.0))
    numeric = float(((smoothed.step(ahead, u) - smoothed.step(behind, u)) * weights).sum()) / (2 * h)
    assert float((x.grad * (ahead - behind)).sum()) / (2 * h) == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_a_step_is_a_function_of_its_arguments():
    robot, x = foot_above(1e-3)
    x, u = x.expand(6, -1), normal(6, 2, seed=1)
    smoothed, again = (SmoothedStep(robot, noise=10.0, seed=5) for _ in range(2))
    expected = smoothed.step(x, u)
    for step in (smoothed, again):
        assert torch.equal(step.step(x, u), expected)
    torch.testing.assert_close(torch.stack([smoothed.step(x[k], u[k]) for k in range(6)]), expected, rtol=0, atol=1e-9)
    other = SmoothedStep(robot, noise=10.0, seed=6)
    assert not torch.equal(other.step(x, u), expected)
    assert torch.equal(other.step(x, u, draws=smoothed.draws), expected)
    each = smoothed.draws[:, None].expand(-1, 6, -1)
    assert torch.equal(other.step(x, u, draws=each), expected)
    # Drawn for every element anew
    assert not torch.equal(other.step(x, u, draws=normal(*each.shape, seed=1)), expected)


def test_where_a_step_is_linear_noise_changes_nothing():
    model = pin.Model()
    model.gravity.linear[:] = 0.0
    joint = model.addJoint(0, pin.JointModelPX(), pin.SE3.Identity(), "slide")
    model.appendBodyToJoint(joint, pin.Inertia.FromSphere(1.0, 0.1), pin.SE3.Identity())
    robot = ContactDynamics(model, dt=0.01, actuated=["slide"])
    x, u = normal(3, 2, seed=1), normal(3, 1, seed=2)
    smoothed = SmoothedStep(robot, samples=3, noise=5.0, state_noise=1.0)
    torch.testing.assert_close(smoothed.step(x, u), robot.step(x, u), rtol=0, atol=1e-12)
    torch.testing.assert_close(smoothed.draws.square().mean(0), torch.ones(3, dtype=torch.float64))


def test_bad_arguments_are_told():
    robot, x = foot_above(1e-3)
    with pytest.raises(ValueError, match="samples is 1, expected at least 2"):
        SmoothedStep(robot, samples=1)
    with pytest.raises(ValueError, match=r"noise is -0\.1"):
        SmoothedStep(robot, noise=-0.1)
    with pytest.raises(ValueError, match="state_noise is nan"):
        SmoothedStep(robot, state_noise=math.nan)
    with pytest.raises(ValueError, match="expected a number of at least 0 or 2 of them"):
        SmoothedStep(robot, noise=torch.ones(3))
    with pytest.raises(ValueError, match=r"draws has shape \(5, 3\), expected \(samples, 8\)"):
        SmoothedStep(robot).step(x, torch.zeros(1, 2), draws=torch.zeros(5, 3))
