"""Contact, friction, joint limits and dry friction against closed forms; gradients against finite differences."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pinocchio as pin
import pytest
import torch
from manifold_robots import moved, normal
from test_ground import TILTED, tilted_field, waves

from qp_control import SolveError
from qp_control.contact import GRAVITY, Contact, ContactDynamics
from qp_control.dynamics import RobotDynamics
from qp_control.ground import HeightField, Plane
from qp_control.settings import Settings
from qp_control.shape_contacts import ground_contacts
from qp_control.shapes import Box, Capsule, CollisionPair, Cylinder, Sphere

STEP = 0.002


def block(mu=0.5, size=(0.2, 0.2, 0.1), mass=2.0, **options):
    """A box that may slide, its corners touching the ground."""
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "block")
    model.appendBodyToJoint(joint, pin.Inertia.FromBox(mass, *size), pin.SE3.Identity())
    contacts = []
    for k, (a, b) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
        corner = 0.5 * np.array([a * size[0], b * size[1], -size[2]])
        model.addFrame(pin.Frame(f"corner {k}", joint, pin.SE3(np.eye(3), corner), pin.FrameType.OP_FRAME))
        contacts.append(Contact(f"corner {k}", friction=mu))
    options = {"dt": STEP, "contacts": contacts, "actuated": [0, 1, 2]} | options
    return ContactDynamics(model, **options)


def ball(mu=0.5, radius=0.1, offset=(0.0, 0.0, 0.0), **options):
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "ball")
    model.appendBodyToJoint(joint, pin.Inertia.FromSphere(1.0, radius), pin.SE3.Identity())
    model.addFrame(pin.Frame("ball", joint, pin.SE3.Identity(), pin.FrameType.BODY))
    contacts = [Contact("ball", radius, mu, offset)]
    return ContactDynamics(model, dt=STEP, contacts=contacts, actuated=[0, 1, 2], **options)


def leg(**options):
    """A body on a rail with a knee: a foot that may touch the ground, limits and dry friction in its joints."""
    model = pin.Model()
    rail = model.addJoint(
        0, pin.JointModelPZ(), pin.SE3.Identity(), "rail", *map(np.array, ([99.0], [9.0], [-1.0], [9.0]))
    )
    model.appendBodyToJoint(rail, pin.Inertia.FromBox(3.0, 0.1, 0.1, 0.1), pin.SE3.Identity())
    limits = [np.array([value]) for value in (50.0, 20.0, -1.2, 1.2)]
    hip = model.addJoint(rail, pin.JointModelRY(), pin.SE3.Identity(), "hip", *limits)
    thigh = pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.15]))
    model.appendBodyToJoint(hip, pin.Inertia.FromBox(0.5, 0.05, 0.05, 0.3), thigh)
    limits = [np.array([value]) for value in (50.0, 20.0, -2.0, -0.2)]
    knee = model.addJoint(hip, pin.JointModelRY(), pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.3])), "knee", *limits)
    model.appendBodyToJoint(knee, pin.Inertia.FromBox(0.3, 0.04, 0.04, 0.3), thigh)
    model.addFrame(pin.Frame("rail", rail, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    foot = pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.3]))
    model.addFrame(pin.Frame("foot", knee, foot, pin.FrameType.OP_FRAME))
    options = {"dt": STEP, "contacts": [Contact("foot", 0.02, 0.7)], "actuated": ["hip", "knee"]} | options
    return ContactDynamics(model, **options)


def at_rest(robot, height, velocity=(0.0, 0.0, 0.0), angular=(0.0, 0.0, 0.0)):
    x = robot.neutral_state()[None].clone()
    x[0, 2], x[0, 7:10], x[0, 10:13] = height, torch.tensor(velocity), torch.tensor(angular)
    return x


def run(robot, x, steps, u=None):
    u = x.new_zeros(len(x), robot.nu) if u is None else u
    path, forces = [x], []
    for _ in range(steps):
        x, found = robot.step_with_forces(x, u)
        path.append(x)
        forces.append(found.force)
    return torch.stack(path), torch.stack(forces)


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
    robot, x, _ = gradient_cases()["hill"]
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


def gradient_cases():
    slide = block(0.5), at_rest(block(), 0.0497, (1.0, 0.4, -0.01), (0.1, 0.2, 0.3)), [3.0, -2.0, 1.0]
    stick = block(0.9), at_rest(block(), 0.0497, (1e-3, 0.0, 0.0)), [0.5, 0.2, -1.0]
    tilted = block(0.5), at_rest(block(), 0.049, (0.3, 0.1, -0.5), (2.0, -1.5, 0.5)), [0.0, 0.0, 0.0]
    roll = ball(0.4), at_rest(ball(), 0.0995, (1.0, 0.3, -0.1), (1.0, 8.0, 2.0)), [0.1, 0.0, 0.0]
    hill = at_rest(ball(), 0.139, (1.0, 0.3, -0.1), (1.0, 8.0, 2.0))  # a millimetre in the ground
    hill[0, :2] = torch.tensor([0.23, -0.31])
    hill = ball(0.4, 0.1, (0.02, -0.01, 0.03), ground=waves()), hill, [0.1, 0.0, 0.0]
    standing = torch.tensor([[0.565, 0.4, -0.8, -0.3, 0.5, -0.2]], dtype=torch.float64)
    push = leg(dry_friction=[0.0, 0.5, 0.5]), standing, [4.0, -3.0]
    shelf = Box("universe", (0.6, 0.6, 0.1), pin.SE3(pin.exp3(np.array([0.0, 0.2, 0.0])), np.array([0.0, 0.0, -0.05])))
    own = CollisionPair(Capsule("foot", 0.03, (0.0, 0.0, 0.0), (0.0, 0.1, 0.05)), Sphere("rail", 0.488), 0.5)
    shelved = leg(contacts=[], pairs=[CollisionPair(shelf, Sphere("foot", 0.012)), own]), standing, [4.0, -3.0]
    limit = leg(dry_friction=[0.0, 0.5, 0.0]), torch.tensor([[1.5, 1.2005, -0.19, 0.0, 1.0, 1.0]]).double(), [9.0, 3.0]
    cases = {"slide": slide, "stick": stick, "tilted": tilted, "roll": roll, "hill": hill}
    return cases | {"push": push, "pairs": shelved, "limit": limit}


@pytest.mark.parametrize("lift", [False, True])
@pytest.mark.parametrize("name", gradient_cases())
def test_gradients_equal_finite_differences(name, lift):
    robot, x, u = gradient_cases()[name]
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
    with pytest.raises(SolveError, match="1 of 3 elements"):
        strict.rollout(x.detach(), u)


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
    with pytest.raises(ValueError, match="1 directions, expected at least 2"):
        block(directions=1)
    with pytest.raises(ValueError, match=r"stiffness is 0\.0"):
        block(stiffness=0.0)
    with pytest.raises(ValueError, match="ground is a tuple, expected a Plane or a HeightField"):
        block(ground=(0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"offset of the contact of 'corner 0' is .*nan.*, expected 3 finite numbers"):
        block(contacts=[Contact("corner 0", offset=(0.0, 0.0, math.nan))])
    with pytest.raises(ValueError, match="dry_friction is"):
        leg(dry_friction=[1.0])
    robot = block()
    x, u = at_rest(robot, 0.1), torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"friction has shape \(3,\), expected \(4,\)"):
        robot.step(x, u, friction=torch.ones(3))
    with pytest.raises(ValueError, match="x has the entry nan"):
        robot.step(x * torch.nan, u)
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.step(2.0 * x, u)


def tall(**options):
    """A box 0.2 m wide and 0.6 m high by its shape, its bottom at the origin of its frame."""
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "box")
    model.appendBodyToJoint(joint, pin.Inertia.FromBox(3.0, 0.2, 0.2, 0.6), pin.SE3(np.eye(3), np.array([0, 0, 0.3])))
    model.addFrame(pin.Frame("bottom", joint, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    box = Box("bottom", (0.2, 0.2, 0.6), pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.3])))
    options = {"dt": STEP, "contacts": ground_contacts([box], friction=1.0), "actuated": []} | options
    return ContactDynamics(model, **options)


def on_slope(slope):
    """The plane that falls by this slope along x, and a state of what stands on it upright, a millimetre in it."""
    angle = math.atan(slope)
    plane = Plane((math.sin(angle), 0.0, math.cos(angle)))
    turn = pin.Quaternion(pin.exp3(np.array([0.0, angle, 0.0])))
    place = -1e-3 * np.array(plane.normal)
    return plane, torch.tensor([[*place, *turn.coeffs(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def test_a_box_has_eight_corners():
    robot = tall()
    assert len(robot.contacts) == 8 and {c.radius for c in robot.contacts} == {0.0}
    offsets = np.array([c.offset for c in robot.contacts])
    np.testing.assert_allclose(np.abs(offsets[:, :2]), 0.1, atol=1e-15)
    assert sorted(set(offsets[:, 2].round(12).tolist())) == [0.0, 0.6]


@pytest.mark.parametrize("as_heights", [False, True])
def test_a_box_slides_down_a_slope(as_heights):
    """Low enough not to tip: a = g (sin - mu cos)."""
    mu, slope = 0.3, 0.5
    plane, x = on_slope(slope)
    ground = plane
    if as_heights:
        at = np.array([-1.0, 0.0, 1.0, 2.0])
        ground = HeightField(np.repeat(-slope * at[:, None], 4, 1), 1.0, (-1.0, -1.5))
    model = block().model
    contacts = ground_contacts([Box("corner 0", (0.2, 0.2, 0.1), pin.SE3(np.eye(3), np.array([-0.1, -0.1, 0.05])))])
    robot = ContactDynamics(model, dt=STEP, contacts=contacts, ground=ground, actuated=[])
    x[0, :3] += torch.from_numpy(0.05 * np.array(plane.normal))
    steps = 500
    for _ in range(steps):
        x = robot.step(x, torch.zeros(1, 0), friction=torch.full((8,), mu))
    angle = math.atan(slope)
    expected = GRAVITY * (math.sin(angle) - mu * math.cos(angle)) * steps * STEP
    assert float(x[0, 7]) == pytest.approx(expected, rel=5e-3)  # along its own x axis, which is the slope's
    assert x[0, 8:].abs().max() < 1e-2


def test_a_box_on_a_slope_rests_and_does_not_sink():
    plane, x = on_slope(0.25)
    robot = tall(ground=plane)
    path, forces = run(robot, x, 2000)
    gaps = []
    for k in (500, 1000, 2000):
        _, found = robot.step_with_forces(path[k], torch.zeros(1, 0))
        gaps.append(found.gap.min())
    # A millimetre under its weight on one contact; here four share it, the lower two the most.
    assert min(gaps) > -1e-3 and max(gaps) < 0.0 and abs(gaps[2] - gaps[1]) < 1e-5
    assert path[-1, 0, 7:].abs().max() < 1e-3
    np.testing.assert_allclose(forces[-1, 0].sum(0).numpy(), [0.0, 0.0, 3.0 * GRAVITY], atol=0.05)


@pytest.mark.parametrize(("slope", "tips"), [(0.30, False), (0.37, True)])
def test_a_tall_box_tips_where_its_centre_leaves_its_foot(slope, tips):
    """Width over height is a third."""
    plane, x = on_slope(slope)
    path, _ = run(tall(ground=plane), x, 1000)
    upright = torch.stack([pin_z(p) for p in path[:, 0, 3:7]]) @ torch.tensor(plane.normal, dtype=torch.float64)
    if tips:
        assert upright[-1] < 0.1  # it lies on its side
        assert path[-1, 0, 7:].abs().max() < 1e-2 and path[-1, 0, :3] @ torch.tensor(plane.normal).double() > 0.09
    else:
        assert upright.min() > 0.999


def pin_z(quaternion):
    """The z axis of a body."""
    return torch.from_numpy(pin.Quaternion(quaternion.numpy()).matrix()[:, 2].copy())


def test_a_capsule_lies_on_the_ground_by_its_ends():
    (start, end) = ground_contacts([Capsule("a", 0.05, (0.0, 0.0, -0.1), (0.0, 0.0, 0.2))], friction=0.4)
    assert start == Contact("a", 0.05, 0.4, (0.0, 0.0, -0.1)) and end == Contact("a", 0.05, 0.4, (0.0, 0.0, 0.2))
    rims = ground_contacts([Cylinder("a", 0.05, (0.0, 0.1, 0.0), (0.0, 0.4, 0.0))])
    assert len(rims) == 16
    offsets = np.array([c.offset for c in rims])
    np.testing.assert_allclose(np.hypot(offsets[:, 0], offsets[:, 2]), 0.05, atol=1e-15)
    assert sorted(set(offsets[:, 1].round(12).tolist())) == [0.1, 0.4]
