"""Legged robots: gaits, foot placement, the plan of a single rigid body, standing and trotting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import qp_control as qc
from qp_control.envs.pushed_quadruped import PushedQuadruped
from qp_control.legged import Gait, SingleRigidBody, Standing, Trotting, WholeBody, landing, swing, trot
from qp_control.legged.single_rigid_body import BodyPlan
from qp_control.training.rollout import closed_loop

UPRIGHT = math.cos(0.2)


def tensor(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def plant() -> PushedQuadruped:
    return PushedQuadruped((0.0, 0.0))


def body_of(plant: PushedQuadruped, **values: Any) -> WholeBody:
    return WholeBody(plant.dynamics, plant.feet, **values)


def loop(plant: PushedQuadruped, controller: Any, x: torch.Tensor, begin: Any, ticks: int, friction: float) -> Any:
    """States (B, ticks + 1, nx), statuses and forces on the feet."""
    force: list[torch.Tensor] = []
    mu = torch.full((4,), friction, dtype=torch.float64)
    found = closed_loop(
        controller,
        lambda x, u: plant.dynamics.step(x, u, friction=mu),
        x,
        ticks,
        plan=begin,
        see=lambda decision: force.append(decision.force),
    )
    return found.states, found.status, torch.stack(force, 1)


def test_gait_lifts_and_loads_every_foot_once_a_cycle() -> None:
    gait = Gait(20, 0.6, (0.0, 0.5, 0.25, 0.75), ramp=3)
    clock = torch.arange(40)
    on, activation, over = gait.on_ground(clock), gait.activation(clock), gait.swing(clock)
    assert on.shape == (40, 4) and (on[:20].sum(0) == 12).all() and torch.equal(on[:20], on[20:])
    assert bool(on[0, 0]) and not bool(on[12, 0]) and bool(on[10, 1]) and not bool(on[9, 1])
    assert ((activation > 0.0) == on).all() and (over[on] == 0.0).all() and (over[~on] > 0.0).all()
    assert activation[:4, 0].tolist() == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert over[19, 0] == 1.0 and activation[9:12, 0].tolist() == pytest.approx([1.0, 2 / 3, 1 / 3])
    with pytest.raises(ValueError, match="period is 1, expected an integer of at least 2"):
        Gait(1, 0.5, (0.0,))
    # A stance or a swing of no control periods would divide zero by zero.
    for duty in (0.0, 0.1, 0.9, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"duty is {duty} of a period of 4"):
            Gait(4, duty, (0.0,))
    with pytest.raises(ValueError, match="ramp is 0, expected an integer of at least 1"):
        Gait(4, 0.5, (0.0,), ramp=0)


def test_two_feet_of_a_trot_are_on_the_ground_at_any_time() -> None:
    on = trot().on_ground(torch.arange(72))
    assert (on.sum(1) == 2).all() and torch.equal(on[:, 0], on[:, 3]) and torch.equal(on[:, 1], ~on[:, 0])


def test_swing_is_smooth_and_ends_where_the_foot_lands() -> None:
    start, end = tensor([[0.1, 0.2, 0.02]]), tensor([[0.3, 0.1]])  # one robot, one foot
    share = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
    seconds, h = 0.2, 0.2 / 200
    course = [swing(start, end, s.reshape(1, 1), seconds, 0.02, 0.06) for s in share]
    place, speed, change = (torch.stack([part[k][0, 0] for part in course]) for k in range(3))
    assert torch.allclose(place[0], start[0, 0]) and torch.allclose(place[-1], tensor(0.3, 0.1, 0.02))
    assert float(place[100, 2]) == pytest.approx(0.08)
    # Central differences of a curve whose third derivative is below 1e3: an error of 1e3 h^2 / 6.
    assert torch.allclose((place[2:] - place[:-2]) / (2 * h), speed[1:-1], rtol=0, atol=1e3 * h * h)
    assert torch.allclose((speed[2:] - speed[:-2]) / (2 * h), change[1:-1], rtol=0, atol=3e4 * h * h)


def test_feet_land_where_the_hips_will_be() -> None:
    under, none = tensor([[0.2, 0.1], [-0.2, -0.1]])[None], torch.zeros(1, dtype=torch.float64)
    velocity, left = tensor([0.5, 0.0]), torch.full((1, 2), 0.1, dtype=torch.float64)
    land = landing(tensor([1.0, 0.0]), under, none, velocity, velocity, left, 0.2, tensor(0.12))
    assert torch.allclose(land[0], under[0] + tensor(1.0 + 0.5 * (0.1 + 0.1), 0.0))
    faster = landing(tensor([1.0, 0.0]), under, none, velocity, tensor([0.0, 0.0]), left, 0.2, tensor(0.12))
    assert torch.allclose(faster[0] - land[0], tensor(0.12 * 0.5 - 0.1 * 0.5, 0.0).expand(2, 2))


def body_problem(batch: int = 2) -> tuple[SingleRigidBody, dict[str, Any]]:
    """A body over four feet of which two are in the air half of the time, off its reference."""
    body = SingleRigidBody(10.0, torch.diag(tensor(0.1, 0.3, 0.35)), horizon=6, settings=qc.Settings(eps_abs=1e-10))
    generator = torch.Generator().manual_seed(0)
    x0 = 0.05 * torch.randn(batch, 12, generator=generator, dtype=torch.float64)
    x0[:, 5] += 0.3
    reference = torch.zeros(batch, 7, 12, dtype=torch.float64)
    reference[..., 5] = 0.3
    feet = tensor([0.2, 0.1, -0.3], [0.2, -0.1, -0.3], [-0.2, 0.1, -0.3], [-0.2, -0.1, -0.3])
    on = trot(6).on_ground(torch.arange(6))
    given = {
        "reference": reference,
        "yaw": tensor(0.3, -0.2)[:batch],
        "arms": feet.expand(batch, 6, 4, 3),
        "on_ground": on,
        "Q": tensor(10, 10, 10, 1, 1, 50, 0.1, 0.1, 0.3, 1, 1, 1),
        "r": tensor(1e-6),
        "friction": tensor(0.5),
    }
    return body, {"x0": x0} | given


def test_planned_forces_obey_gait_and_friction_and_move_the_body_as_rigid_bodies_move() -> None:
    body, given = body_problem()
    plan: BodyPlan = body(**given)
    assert (plan.status == qc.Status.SOLVED).all()
    force, on = plan.forces, given["on_ground"]
    assert float(force[:, ~on].abs().max()) < 1e-8 and float(force[:, on][..., 2].min()) > 4.99
    along, up = force[..., :2].norm(dim=-1), force[..., 2]
    assert bool((along <= 0.5 * up + 1e-6).all())
    # Newton and Euler, stage by stage, written out: nothing of the module's matrices.
    x, I0, dt = plan.states.numpy(), np.diag([0.1, 0.3, 0.35]), body.dt
    for b, yaw in enumerate(given["yaw"].tolist()):
        R = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        for k in range(6):
            f, r = force[b, k].numpy(), given["arms"][b, k].numpy()
            a = f.sum(0) / 10.0 - np.array([0, 0, 9.81])
            alpha = np.linalg.solve(R @ I0 @ R.T, np.cross(r, f).sum(0))
            np.testing.assert_allclose(x[b, k + 1, 9:], x[b, k, 9:] + dt * a, atol=1e-7)
            np.testing.assert_allclose(x[b, k + 1, 6:9], x[b, k, 6:9] + dt * alpha, atol=1e-7)
            np.testing.assert_allclose(x[b, k + 1, 3:6], x[b, k, 3:6] + dt * x[b, k, 9:] + dt**2 / 2 * a, atol=1e-7)


def test_gradient_of_a_plan_equals_differences() -> None:
    body, given = body_problem(1)
    weights = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).view(4, 3)

    def loss(x0: torch.Tensor, Q: torch.Tensor, friction: torch.Tensor, arms: torch.Tensor) -> torch.Tensor:
        changed = given | {"x0": x0, "Q": Q, "friction": friction, "arms": arms}
        value: torch.Tensor = (body(**changed).forces[:, 0] * weights).sum()
        return value

    inputs = [given[name].clone().requires_grad_() for name in ("x0", "Q", "friction", "arms")]
    # Forces are of 1e2 and their rounding of 1e-9: central differences with 1e-5 are good to 1e-4 or so.
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-5, atol=1e-2, rtol=1e-4, fast_mode=True)


def test_centre_of_mass_is_shifted_over_feet_that_stay(plant: PushedQuadruped) -> None:
    controller = Standing(body_of(plant, com_weight=30.0, posture_weight=1e-3, friction=0.5), plant.stand)
    x = plant.stand[None].clone()
    way = tensor(0.04, 0.03, -0.02)
    with torch.no_grad():
        states, status, _ = loop(plant, controller, x, controller.start(x, way), 200, 0.6)
    assert (status == qc.Status.SOLVED).all()
    robot = plant.dynamics
    feet = robot.frame_positions(plant.feet, states[:, [0, -1], :19].flatten(0, 1))
    over = robot.centroid(states[:, -1, :19]).position - feet[1].mean(0)
    # What the ground gives way, and the other tasks: millimetres.
    assert torch.allclose(over - tensor(0.0, 0.0, controller.height), way, atol=4e-3)
    assert float((feet[0] - feet[1]).abs().max()) < 4e-3


@pytest.mark.parametrize("friction", [0.6, 0.15])
def test_a_push_is_survived_whether_feet_stick_or_slip(plant: PushedQuadruped, friction: float) -> None:
    """The controller counts on 0.7. On slippery ground the feet slide, and it keeps the robot over them."""
    controller, x = Standing(body_of(plant), plant.stand), plant.stand[None].repeat(2, 1)
    x[0, 19], x[1, 20] = 0.9, 0.6
    with torch.no_grad():
        states, status, _ = loop(plant, controller, x, controller.start(x), 240, friction)
    assert (status <= qc.Status.CLOSEST_FEASIBLE).all()
    robot = plant.dynamics
    feet = robot.frame_positions(plant.feet, states[:, [0, -1], :19].flatten(0, 1)).view(2, 2, 4, 3)
    slipped = (feet[:, 1] - feet[:, 0]).norm(dim=-1).mean(1)
    assert bool((slipped > 0.03).all()) if friction == 0.15 else bool((slipped < 0.03).all())
    end = states[:, -1]
    assert bool((plant.upward(end)[:, 2] > UPRIGHT).all()) and bool((end[:, 2] > 0.85 * plant.height).all())
    assert float(end[:, 19:25].norm(dim=1).max()) < 0.1


def test_a_robot_trots_on_the_spot_and_as_commanded(plant: PushedQuadruped) -> None:
    body = body_of(plant, com_weight=10.0, trunk_weight=10.0)
    controller = Trotting(body, plant.stand, period=plant.control_period)
    command = tensor([0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.15, 0.0], [0.2, 0.0, 0.4])
    x = plant.stand[None].repeat(4, 1)
    with torch.no_grad():
        begin = controller.start(x, command, torch.tensor([0, 0, 36, 36]))
        states, status, force = loop(plant, controller, x, begin, 288, 0.6)
    assert (status == qc.Status.SOLVED).all()
    last = states[:, -144:]  # two cycles
    seen = torch.cat([last[..., 19:21], last[..., 24:25]], -1).mean(1)
    assert torch.allclose(seen, command, atol=0.05)
    assert float(plant.upward(last)[..., 2].min()) > 0.995
    assert float((last[..., 2] / plant.height - 1.0).abs().max()) < 0.05
    # Feet in the air carry nothing, and rise.
    on = torch.stack([trot().on_ground(torch.arange(288) + start) for start in (0, 0, 36, 36)])
    assert float(force[~on].norm(dim=-1).max()) < 1e-3
    feet = plant.dynamics.frame_positions(plant.feet, last[..., :19].flatten(0, 1))[..., 2]
    assert bool((feet.view(4, 144, 4).amax(1) > 0.05).all())


def test_gradient_through_a_trotting_loop_equals_differences(plant: PushedQuadruped) -> None:
    """Through plan, foot placement, inverse dynamics and contact, to numbers of each, over two plans."""
    body = body_of(plant, settings=qc.Settings(eps_abs=1e-11))
    controller = Trotting(body, plant.stand, period=plant.control_period, settings=qc.Settings(eps_abs=1e-11))
    x0 = plant.stand[None].clone()
    x0[0, 19], x0[0, 20] = 0.2, 0.1
    logs = [
        controller.numbers.log["velocity_weight"],
        controller.numbers.log["placement_gain"],
        body.numbers.log["com_stiffness"],
        body.numbers.log["swing_stiffness"],
    ]
    weights = torch.linspace(-1.0, 1.0, 37, dtype=torch.float64)

    def loss() -> torch.Tensor:
        states, status, _ = loop(plant, controller, x0, controller.start(x0), 8, 0.6)
        assert (status == qc.Status.SOLVED).all()
        value: torch.Tensor = (states[:, -1] * weights).sum()
        return value

    gradients = torch.autograd.grad(loss(), logs)
    for log, gradient in zip(logs, gradients, strict=True):
        h = 1e-3
        with torch.no_grad():
            values = []
            for k in (2, 1, -1, -2):
                log += k * h
                values.append(float(loss()))
                log -= k * h
        difference = (8.0 * (values[1] - values[2]) - (values[0] - values[3])) / (12.0 * h)
        assert float(gradient.sum()) == pytest.approx(difference, rel=1e-4, abs=1e-8)


def controllers(plant: PushedQuadruped) -> list[Any]:
    body = body_of(plant)
    return [Standing(body, plant.stand), Trotting(body, plant.stand, period=plant.control_period)]


@pytest.mark.filterwarnings("ignore:.*QPs have no solution")
def test_a_state_that_is_none_raises_nothing_and_changes_no_neighbour(plant: PushedQuadruped) -> None:
    x = plant.sample_starts(3, 0)
    neighbours = [0, 2]
    for controller in controllers(plant):
        before = controller(x)
        expected = controller(x, before)
        numbers = [p for p in controller.parameters() if p.requires_grad]
        for column, bad in ((0, math.nan), (25, math.inf), (slice(3, 7), 0.0)):  # the last one no rotation
            spoilt = x.clone()
            spoilt[1, column] = bad
            found = controller(spoilt, before)
            assert found.status.tolist() == [qc.Status.SOLVED, qc.Status.INVALID_INPUT, qc.Status.SOLVED]
            assert torch.allclose(found.input[neighbours], expected.input[neighbours], rtol=0, atol=1e-6)
            grads = torch.autograd.grad(found.input[neighbours].sum(), numbers, allow_unused=True, retain_graph=True)
            assert all(g is None or g.isfinite().all() for g in grads)


def test_states_of_another_kind_are_refused_or_taken_in_double_precision(plant: PushedQuadruped) -> None:
    x = plant.sample_starts(2, 0)
    for controller in controllers(plant):
        assert torch.allclose(controller(x.float()).input, controller(x).input, rtol=0, atol=1e-2)
        for wrong, message in ((x[0], "x has shape"), (x[:, :5], "x has shape"), (x.numpy(), "x is a ndarray")):
            for call in (controller, controller.build, controller.start):
                with pytest.raises(ValueError, match=message):
                    call(wrong)
        stretched = x.clone()
        stretched[:, 3:7] *= 1.5  # a rotation all the same
        assert torch.allclose(controller(stretched).input, controller(x).input, rtol=0, atol=1e-6)
    gait = Gait(8, 0.5, (0.0, 0.5))
    with pytest.raises(ValueError, match="the gait is one of 2 feet, expected 4"):
        Trotting(body_of(plant), plant.stand, period=plant.control_period, gait=gait)
