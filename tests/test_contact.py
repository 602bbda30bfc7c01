"""Contact, friction, joint limits and dry friction against closed forms."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pinocchio as pin
import pytest
import torch
from contact_robots import STEP, at_rest, ball, block, contact_cases, leg, run
from manifold_robots import moved, normal
from test_ground import TILTED, tilted_field, waves

from qp_control import SolveError
from qp_control.robot.contact import GRAVITY, Contact, ContactDynamics
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.ground import HeightField, Plane
from qp_control.settings import Settings


def test_away_from_the_ground_it_is_free_motion():
    """The semi-implicit step where no body floats; with free-flyers it converges to the motion, of order one."""
    robot = leg()
    plain = RobotDynamics(robot.model, dt=STEP, integrator="semi_implicit", actuated=["hip", "knee"])
    x = torch.tensor([[1.5, 0.4, -0.8, -0.3, 0.5, -0.2]], dtype=torch.float64)
    u = normal(1, 2, seed=1)
    torch.testing.assert_close(robot.step(x, u), plain.step(x, u), rtol=0, atol=1e-12)
    model = block().model
    exact = RobotDynamics(model, dt=0.2, substeps=100, integrator="rk4", actuated=[0, 1, 2])
    x, u = at_rest(block(), 2.0, (1.0, -2.0, 0.5), (3.0, 1.0, -2.0)), normal(1, 3, seed=1)
    errors = []
    for steps in (50, 100, 200):
        got = block(dt=0.2, substeps=steps).step(x, u)
        errors.append(float((got - exact.step(x, u)).abs().max()))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05) and errors[1] / errors[2] == pytest.approx(
        2.0, rel=0.05
    )


@pytest.mark.parametrize("step", [0.001, 0.002, 0.004])
def test_a_block_that_slides_decelerates_by_friction_and_stops(step):
    robot, mu = block(0.5, dt=step), 0.5
    steps = round(0.4 / step)
    path, forces = run(robot, at_rest(robot, 0.05, (3.0, 0.0, 0.0)), steps)
    speed = path[:, 0, 7]
    # The first hundredths of a second are landing: half a millimetre of sinking in.
    begin, end = steps // 4, steps
    slope = float((speed[end] - speed[begin]) / ((end - begin) * step))
    assert slope == pytest.approx(-mu * GRAVITY, rel=1e-3)
    assert float(forces[-1, 0, :, 2].sum()) == pytest.approx(2.0 * GRAVITY, rel=1e-3)
    # Neither lifted nor sunk in by more than a millimetre.
    assert float(path[:, 0, 2].max()) < 0.05 + 1e-4 and float(path[:, 0, 2].min()) > 0.049
    stopped, _ = run(robot, path[-1], round(0.4 / step))
    # By its weight over the four springs.
    static = 2.0 * GRAVITY / (4 * robot.stiffness)
    assert float(0.05 - stopped[-1, 0, 2]) == pytest.approx(static, rel=0.01)
    # What sticks creeps by `slip` of how contacts give way.
    assert stopped[-1, 0, 7:].abs().max() < 1e-4


def test_without_the_correction_sliding_lifts_in_proportion_to_the_step():
    lifts = []
    for step in (0.001, 0.002, 0.004):
        robot, speed = block(0.5, dt=step, lift=True), 3.0
        x = at_rest(robot, 0.05 + step * 0.5 * speed, (speed, 0.0, 0.0))
        path, _ = run(robot, x, round(0.05 / step))
        lift = float(path[-1, 0, 2] - 0.05)
        assert lift == pytest.approx(step * 0.5 * float(path[-1, 0, 7]), rel=0.1)
        lifts.append(lift)
    assert lifts[2] / lifts[0] == pytest.approx(4.0, rel=0.1)


def test_a_block_on_a_slope_sticks_below_the_cone_and_slides_beyond_it():
    for mu, sticks in ((0.5, True), (0.3, False)):
        robot = block(mu)
        angle = math.atan(0.4)  # gravity turned instead of the ground; along one of the directions of friction
        robot.model.gravity.linear = GRAVITY * np.array([math.sin(angle), 0.0, -math.cos(angle)])
        robot = pickle.loads(pickle.dumps(robot))
        path, _ = run(robot, at_rest(robot, 0.05), 500)
        speed = float(path[-1, 0, 7])
        if sticks:
            assert abs(speed) < 1e-4
        else:
            expected = GRAVITY * (math.sin(angle) - mu * math.cos(angle))
            assert speed == pytest.approx(expected * 500 * STEP, rel=5e-3)


def test_a_ball_that_slides_begins_to_roll():
    robot, radius, speed = ball(), 0.1, 2.0
    path, _ = run(robot, at_rest(robot, radius, (speed, 0.0, 0.0)), 600)
    x = path[-1, 0]
    R = pin.Quaternion(x[3:7].numpy()).matrix()
    velocity, spin = R @ x[7:10].numpy(), R @ x[10:13].numpy()
    # 5/7 of the speed, whatever the friction; spinning about y without sliding.
    assert velocity[0] == pytest.approx(5.0 / 7.0 * speed, rel=2e-3)
    assert spin[1] * radius == pytest.approx(velocity[0], rel=1e-3)


def test_a_dropped_block_stays_near_the_ground():
    """Ten times its height: the largest penetration is that of damped springs, and bounded."""
    robot = block()
    path, forces = run(robot, at_rest(robot, 1.0), 1500)
    depth = 0.05 - path[:, 0, 2].min()
    # v sqrt(m / 4 k) / e for a critically damped stop with v = sqrt(2 g 0.95); four contacts share the mass.
    stop = math.sqrt(2 * GRAVITY * 0.95) * math.sqrt(2.0 / (4 * robot.stiffness))
    assert 0.0 < float(depth) < stop
    assert (forces[:, 0, :, 2] >= -1e-9).all()
    assert path[-1, 0, 7:].abs().max() < 1e-3


def kinetic_energy(robot, x):
    v = x[:, robot.nq :]
    return 0.5 * (v * (robot.mass_matrix(x[:, : robot.nq]) @ v[..., None])[..., 0]).sum(1)


def test_a_step_never_has_more_kinetic_energy_than_the_one_without_contact():
    """The velocity is a projection in the metric of M onto a set with zero in it, where nothing is sunk in."""
    for lift in (False, True):
        robot = block(0.7, lift=lift)
        free = block(contacts=[])
        x = at_rest(robot, 0.06).repeat(1000, 1)
        spread = torch.cat([0.05 * normal(1000, 6, seed=1), 3.0 * normal(1000, 6, seed=2)], 1)
        x = moved(robot.model, x, spread)
        u = 20.0 * normal(1000, 3, seed=3)
        next_, found = robot.step_with_forces(x, u)
        touching = (found.gap >= 0.0).all(1) & (found.force[..., 2] > 0.0).any(1)
        assert touching.sum() > 10

        # Its mass matrix is constant: the metric of the step.
        contact, without = (kinetic_energy(robot, after)[touching] for after in (next_, free.step(x, u)))
        assert (contact <= without * (1.0 + 1e-9)).all() and (contact < 0.99 * without).any()


def test_joint_limits_hold_and_push_back():
    robot = leg()
    x = torch.tensor([[1.0, 1.19, -0.3, 0.0, 3.0, 2.0]], dtype=torch.float64)
    path, _ = run(robot, x, 100, torch.tensor([[20.0, 0.0]], dtype=torch.float64))
    # A torque of 20 N m into a limit of 1e5 N m/rad, and half of what remains in each step.
    assert float(path[:, 0, 1].max()) < 1.2 + 1e-3 and float(path[:, 0, 2].max()) < -0.2 + 1e-3
    assert float(path[-1, 0, 1]) == pytest.approx(1.2 + 20.0 / robot.limit_stiffness, abs=2e-3)
    loose = leg(joint_limits=False)
    free, _ = run(loose, x, 100, torch.tensor([[20.0, 0.0]], dtype=torch.float64))
    assert float(free[:, 0, 1].max()) > 1.5


def test_dry_friction_holds_and_slows():
    """One joint without gravity: below the friction it stays, above it accelerates by the rest, and stops in time."""
    model = pin.Model()
    model.gravity.linear[:] = 0.0
    joint = model.addJoint(0, pin.JointModelRZ(), pin.SE3.Identity(), "wheel")
    model.appendBodyToJoint(joint, pin.Inertia(1.0, np.zeros(3), 0.5 * np.eye(3)), pin.SE3.Identity())
    robot = ContactDynamics(model, dt=0.01, dry_friction=[0.3], actuated=["wheel"])
    x, u = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[0.2], [0.5], [0.0]], dtype=torch.float64)
    x[2, 1] = 1.0
    path, _ = run(robot, x, 100, u)
    assert path[:, 0].abs().max() < 1e-9
    assert float(path[-1, 1, 1]) == pytest.approx((0.5 - 0.3) / 0.5 * 1.0, rel=1e-9)
    assert float(path[50, 2, 1]) == pytest.approx(1.0 - 0.3 / 0.5 * 0.5, rel=1e-9)
    run_on, _ = run(robot, path[-1], 100, u)
    assert float(run_on[-1, 2, 1]) == pytest.approx(0.0, abs=1e-9)


def test_a_ball_rolls_on_heights_of_a_plane_as_on_the_plane():
    """A grid of which it leaves the edge, too."""
    paths = []
    for ground in (Plane(tuple(TILTED), 0.03), tilted_field()):
        robot = ball(ground=ground)
        along = np.array([1.0, 0.5, 0.0]) - np.dot([1.0, 0.5, 0.0], TILTED) * TILTED
        x = at_rest(robot, 0.0, along)
        x[0, :3] = torch.from_numpy((0.03 + 0.1) * TILTED)
        paths.append(run(robot, x, 600)[0])
    torch.testing.assert_close(*paths, rtol=0, atol=1e-9)
    sunk = paths[0][:, 0, :3] @ torch.from_numpy(TILTED) - 0.03 - 0.1
    assert sunk.min() > -3e-3 and sunk.max() < 1e-3
    assert paths[0][-1, 0, 0] > 1.0  # out of the grid, which ends at 0.8


def test_points_next_to_the_ground_are_a_gap_away_from_it():
    robot, x, _ = contact_cases()["hill"]
    x = moved(robot.model, x.repeat(20, 1), 0.1 * normal(20, robot.ndx, seed=1))
    _, found = robot.step_with_forces(x, torch.zeros(20, 3))
    points = robot.ground_points(x)
    assert points.shape == (20, 1, 3)
    torch.testing.assert_close(
        torch.from_numpy(waves().at(points[:, 0]).distance)[:, None], found.gap, rtol=0, atol=1e-9
    )
    assert robot.ground_points(x[0].float()).dtype == torch.float32


@pytest.mark.parametrize(("mu", "inertia"), [(0.0, 1.0), (0.8, 1.4)])
def test_a_ball_swings_in_a_bowl(mu, inertia):
    """Its centre moves on a curve of the bowl's radius less its own; rolling counts as 2/5 of its mass more."""
    at = np.linspace(-1.0, 1.0, 41)
    bowl = HeightField(0.3 * (at[:, None] ** 2 + at[None, :] ** 2), 0.05, (-1.0, -1.0))
    robot, amplitude = ball(mu, ground=bowl), 0.05
    x = at_rest(robot, 0.0)
    slope = math.atan(0.6 * amplitude)
    x[0, 0], x[0, 2] = amplitude - 0.1 * math.sin(slope), 0.3 * amplitude**2 + 0.1 * math.cos(slope)
    quarter = 0.5 * math.pi * math.sqrt((1.0 / 0.6 - 0.1) * inertia / GRAVITY)
    path, _ = run(robot, x, round(1.2 * quarter / STEP))
    crossed = int((path[:, 0, 0] < 0.0).nonzero()[0, 0])
    before, after = path[crossed - 1 : crossed + 1, 0, 0]
    # A semi-implicit step is late by half of it; the swing is 1e-3 longer for its amplitude and for sinking in.
    assert (crossed - float(after / (after - before))) * STEP == pytest.approx(quarter, rel=3e-3)
    assert bowl.at(path[:, 0, :3].numpy()).distance.min() - 0.1 > -2e-3


def test_elements_do_not_depend_on_threads_order_and_neighbours():
    spread = torch.cat([0.05 * normal(64, 6, seed=1), normal(64, 6, seed=2)], 1)
    results = []
    for threads in (1, 2):
        robot = block(threads=threads)
        x = moved(robot.model, at_rest(robot, 0.06).repeat(64, 1), spread)
        results.append(robot.step(x, normal(64, 3, seed=3)))
    assert torch.equal(*results)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(robot.step(x[order], normal(64, 3, seed=3)[order]), results[0][order])


def test_a_rollout_is_its_steps():
    """Values to the bit; gradients up to rounding, as those of configurations are chained in the tangent space."""
    robot, steps = block(0.5, substeps=2), 5
    x = moved(robot.model, at_rest(robot, 0.0498, (1.0, 0.3, -0.1)).repeat(3, 1), 0.02 * normal(3, 12, seed=1))
    u, weights = normal(3, steps, 3, seed=2), normal(3, steps, robot.nx, seed=3)
    found = []
    for together in (True, False):
        given = [value.clone().requires_grad_() for value in (x, u, robot.parameters, robot.friction)]
        x_, u_, parameters, friction = given
        if together:
            states = robot.rollout(x_, u_, parameters, friction=friction)
        else:
            path = [x_]
            for k in range(steps):
                path.append(robot.step(path[-1], u_[:, k], parameters, friction=friction))
            states = torch.stack(path[1:], 1)
        (states * weights).sum().backward()
        found.append((states.detach(), [value.grad for value in given]))
    assert torch.equal(found[0][0], found[1][0])
    for together, apart in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-10)
    alone = robot.rollout(x[0], u[0])
    assert torch.equal(alone, found[0][0][0])
    with pytest.raises(ValueError, match=r"u has shape \(3,\), expected \(..., T, 3\)"):
        robot.rollout(x, u[0, 0])


def test_limits_out_of_reach_change_nothing_and_their_neighbours_neither():
    """The QPs without the rows of limits are solved first: an element must not see whose limits push beside it."""
    robot, loose = leg(), leg(joint_limits=False)
    standing = torch.tensor([0.565, 0.4, -0.8, -0.3, 0.5, -0.2], dtype=torch.float64)
    pushing = torch.tensor([1.0, 1.2005, -0.3, 0.0, 3.0, 2.0], dtype=torch.float64)
    x = torch.stack([pushing, standing, standing + 1e-3, pushing]).requires_grad_()
    u = normal(4, 2, seed=1)
    x_next, found = robot.step_with_forces(x, u)
    assert (found.force[1:3, :, 2] > 1e-3).all(), "nothing touches"
    torch.testing.assert_close(x_next[1:3], loose.step(x[1:3], u[1:3]), rtol=0, atol=1e-9)
    assert (x_next[::3, 4] < 0.9 * loose.step(x[::3], u[::3])[:, 4]).all()
    (gradient,) = torch.autograd.grad(x_next.sum(), x)
    for k in range(4):
        alone = x[k : k + 1].detach().requires_grad_()
        after = robot.step(alone, u[k : k + 1])
        assert torch.equal(after[0], x_next[k])
        assert torch.equal(torch.autograd.grad(after.sum(), alone)[0][0], gradient[k])


def test_a_state_that_overflows_ends_its_own_path_only():
    robot, good = block(), at_rest(block(), 0.0499, (1.0, 0.0, 0.0))
    bad = good.clone()
    bad[0, [7, 11]] = 1e200  # whose products overflow
    x = torch.cat([good, bad, good]).requires_grad_()
    u = torch.zeros(3, 4, 3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="contact steps of 1 of 3 elements failed"):
        states = robot.rollout(x, u)
    assert states[1].isnan().all() and torch.equal(states[0], states[2])
    assert torch.equal(states[0], robot.rollout(good, u[:1])[0])
    (gradient,) = torch.autograd.grad(states[::2].sum(), x)
    assert (gradient[1] == 0.0).all() and gradient.isfinite().all() and (gradient[0] != 0.0).any()
    strict = block(settings=Settings(on_failure="raise"))
    with pytest.raises(SolveError, match="1 of 3 elements") as caught:
        strict.rollout(x.detach(), u)
    assert caught.value.solution.shape == (3, 4) and list(caught.value.problem) == [
        "x", "u", "parameters", "friction", "dry_friction"
    ]  # fmt: skip


def test_substeps_are_steps_and_copies_the_same():
    robot, fine = block(), block(dt=3 * STEP, substeps=3)
    x, u = at_rest(robot, 0.0499, (1.0, 0.0, 0.0)), normal(1, 3, seed=1)
    expected = robot.step(robot.step(robot.step(x, u), u), u)
    assert torch.equal(fine.step(x, u), expected)
    again = pickle.loads(pickle.dumps(fine))
    assert torch.equal(again.step(x, u), expected)


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match="no frame 'heel'"):
        block(contacts=[Contact("heel")])
    with pytest.raises(ValueError, match=r"radius of the contact of 'ball' is -0\.1"):
        ball(radius=-0.1)
    with pytest.raises(ValueError, match=r"friction of 'corner 0' is -0\.5"):
        block(-0.5)
    with pytest.raises(ValueError, match="directions is 1, expected an integer of at least 2"):
        block(directions=1)
    with pytest.raises(ValueError, match=r"stiffness is 0\.0"):
        block(stiffness=0.0)
    with pytest.raises(ValueError, match="ground is a tuple, expected a Plane or a HeightField"):
        block(ground=(0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"offset of the contact of 'corner 0' is .*nan.*, expected 3 finite numbers"):
        block(contacts=[Contact("corner 0", offset=(0.0, 0.0, math.nan))])
    with pytest.raises(ValueError, match="dry_friction is"):
        leg(dry_friction=[1.0])
    with pytest.raises(ValueError, match=r"stiffness is -1\.0, expected a positive number"):
        block(stiffness=-1.0)
    with pytest.raises(ValueError, match="contacts has a str, expected a Contact"):
        block(contacts=["corner 0"])
    with pytest.raises(ValueError, match="pairs has a Contact, expected a CollisionPair"):
        block(pairs=[Contact("corner 0")])
    robot = block()
    x, u = at_rest(robot, 0.1), torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"friction has shape \(3,\), expected \(4,\)"):
        robot.step(x, u, friction=torch.ones(3))
    with pytest.raises(ValueError, match=r"friction has -0\.5, expected at least 0"):
        robot.step(x, u, friction=torch.tensor([[1.0, 0.0, -0.5, 1.0]]))
    with pytest.raises(ValueError, match=r"dry_friction has -1\.0, expected at least 0"):
        leg().step(torch.zeros(1, 6), torch.zeros(1, 2), dry_friction=torch.tensor([0.0, -1.0, 0.0]))
    with pytest.raises(ValueError, match=r"friction is a list, expected a torch\.Tensor"):
        robot.step(x, u, friction=[0.5] * 4)
    for arguments, options in (((x.long(), u), {}), ((x, u), {"friction": torch.ones(4, dtype=torch.int64)})):
        with pytest.raises(TypeError, match=r"is a tensor of dtype torch\.int64, expected a floating-point tensor"):
            robot.step(*arguments, **options)
    with pytest.raises(ValueError, match="x has the entry nan"):
        robot.step(x * torch.nan, u)
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.step(2.0 * x, u)
