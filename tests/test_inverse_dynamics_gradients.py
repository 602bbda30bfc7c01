"""Gradients of a controller by inverse dynamics against differences, by every number there is, with limits active."""

from __future__ import annotations

import math

import pytest
import torch
from control_setups import BATCH, SETUPS
from legged_robots import arm
from manifold_robots import moved, normal

from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.inverse_dynamics.limits import JointAccelerationLimit
from qp_control.inverse_dynamics.tasks import PostureTask
from qp_control.settings import Status


def outputs(found):
    return torch.cat([found.torque, found.acceleration, found.force.flatten(1)], 1)


ACTIVE = {
    "arm": {"torque", "joints", "tool sphere", "elbow plane"},
    "quadruped": {"torque", "joints", "lf foot contact", "rh foot contact", "rh foot contact normal force"},
    "biped": {"torque", "joints", "left sole contact", "right sole contact", "left sole from right sole", "head plane"},
}


class Case:
    """A controller at its states, with a loss of what it decides."""

    def __init__(self, kind):
        self.kind = kind
        self.controller, self.q, self.v = SETUPS[kind]()
        self.robot = self.controller.model
        self.numbers = {name: value.detach().clone() for name, value in self.controller.numbers().items()}
        self.parameters = self.robot.parameters
        with torch.no_grad():
            self.found = self.controller(self.q, self.v)
        # Accelerations are large numbers; each counts with its size.
        at = outputs(self.found)
        self.weights = normal(*at.shape, seed=8) / (1.0 + at.abs())

    def loss(self, q, v, numbers, parameters):
        return (self.weights * outputs(self.controller(q, v, numbers, parameters=parameters))).sum()

    def slope(self, loss, h):
        """d/dt loss(t) at zero, by differences of order six."""
        with torch.no_grad():
            one, two, three = (loss(k * h) - loss(-k * h) for k in (1, 2, 3))
        return float(45.0 * one - 9.0 * two + three) / (60.0 * h)


@pytest.fixture(scope="module", params=SETUPS)
def case(request):
    return Case(request.param)


def test_limits_of_all_kinds_are_active(case):
    """Otherwise the gradients that follow would say little."""
    controller, found = case.controller, case.found
    assert (found.status == Status.SOLVED).all()
    first = found.solution.y.shape[1]
    names = controller.row_names[first : first + found.solution.z.shape[1]]
    used = (found.solution.z.abs() > 1e-6).any(0)
    active = {name.split(" point")[0].split(" of ")[0] for name, on in zip(names, used, strict=True) if on}
    active |= {"joints"} if bool((found.solution.w.abs() > 1e-6).any()) else set()
    assert active >= ACTIVE[case.kind]


def test_gradients_by_all_numbers(case):
    leaves = {name: value.clone().requires_grad_() for name, value in case.numbers.items()}
    case.loss(case.q, case.v, leaves, case.parameters).backward()
    generator = torch.Generator().manual_seed(3)
    for name, leaf in leaves.items():
        at = case.numbers[name]
        scale = torch.where(at.isfinite(), at.abs().clamp(min=0.1), 0.0)
        direction = scale * torch.randn(at.shape, generator=generator, dtype=torch.float64)
        if not bool(direction.any()):
            continue

        def along(t, name=name, at=at, direction=direction):
            return case.loss(case.q, case.v, case.numbers | {name: at + t * direction}, case.parameters)

        expected = case.slope(along, 1e-4)
        assert float((leaf.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_gradients_by_state_and_inertial_parameters(case):
    robot, q, v = case.robot, case.q, case.v
    leaves = [q.clone().requires_grad_(), v.clone().requires_grad_(), case.parameters.clone().requires_grad_()]
    case.loss(leaves[0], leaves[1], case.numbers, leaves[2]).backward()
    # Farther away other limits become active.
    states, h = torch.cat([q, v], 1), 1e-5
    for k, part in enumerate(("q", "v")):
        d = torch.zeros(BATCH, 2 * robot.nv, dtype=torch.float64)
        d[:, k * robot.nv : (k + 1) * robot.nv] = normal(BATCH, robot.nv, seed=k)

        def at(t, d=d):
            return moved(robot.model, states, t * d)

        expected = case.slope(lambda t: case.loss(at(t)[:, : robot.nq], at(t)[:, robot.nq :], case.numbers, None), h)
        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        found = (torch.cat([leaves[0].grad, leaves[1].grad], 1) * slope).sum()
        assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6), part

    d = 0.1 * case.parameters * normal(len(case.parameters), seed=6)
    expected = case.slope(lambda t: case.loss(q, v, case.numbers, case.parameters + t * d), h)
    assert float((leaves[2].grad * d).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_shared_numbers_get_the_sum_and_elements_their_own(case):
    name = next(iter(case.numbers))
    shared = case.numbers[name].clone().requires_grad_()
    each = case.numbers[name].expand(BATCH, -1).clone().requires_grad_()
    case.loss(case.q, case.v, {name: shared}, None).backward()
    case.loss(case.q, case.v, {name: each}, None).backward()
    # The same QPs up to the order of additions.
    torch.testing.assert_close(each.grad.sum(0), shared.grad, rtol=1e-8, atol=1e-8)


def test_gradients_by_the_weights_of_shifts():
    """A joint is to accelerate by 4 and by at most 1: x = 1 + 3 / (1 + ratio), the ratio of the two weights."""
    task = PostureTask(weight=math.inf, acceleration=4.0)
    controller = InverseDynamics(arm(), [task], [JointAccelerationLimit(1.0)])
    eq, ineq, box = controller.shift_weights
    ratio = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(6, dtype=torch.float64)
    found = controller(zero, zero, shift_weights=(eq, ineq, ratio * box))
    assert found.status == Status.CLOSEST_FEASIBLE
    torch.testing.assert_close(found.acceleration, (1.0 + 3.0 / (1.0 + ratio)).expand(6), rtol=0, atol=1e-7)
    (slope,) = torch.autograd.grad(found.acceleration.sum(), ratio)
    assert float(slope) == pytest.approx(-6.0 * 3.0 / 9.0, rel=1e-7)
