"""Bodies that touch each other: distances against coal, collisions against closed forms, gradients."""

from __future__ import annotations

import itertools
import math

import coal
import numpy as np
import pinocchio as pin
import pytest
import torch
from manifold_robots import moved, normal

from qp_control.robot.contact import GRAVITY, Contact, ContactDynamics
from qp_control.robot.ground import HeightField
from qp_control.robot.shape_contacts import ground_contacts
from qp_control.robot.shapes import Box, Capsule, CollisionPair, Cylinder, Sphere, collision_pairs
from qp_control.settings import Settings

STEP = 0.002
PLACED = pin.SE3(pin.exp3(np.array([0.3, -0.4, 0.5])), np.array([0.02, -0.01, 0.03]))


def on(frame):
    """A shape of each kind, none of them in the middle of its frame."""
    return {
        "sphere": Sphere(frame, 0.11, (0.01, 0.02, -0.03)),
        "capsule": Capsule(frame, 0.06, (0.02, -0.15, 0.01), (-0.03, 0.1, 0.12)),
        "box": Box(frame, (0.3, 0.2, 0.25), PLACED),
        "point": Sphere(frame, 0.0, (0.01, 0.02, -0.03)),
    }


KINDS = [
    ("sphere", "sphere"),
    ("sphere", "capsule"),
    ("capsule", "capsule"),
    ("sphere", "box"),
    ("capsule", "box"),
    ("box", "capsule"),
    ("point", "box"),
]


def bodies(pairs, count=2, mass=2.0, radius=0.1, gravity=0.0, **options):
    """That float, each a ball by its inertia, with a frame "body k"."""
    model = pin.Model()
    model.gravity.linear = np.array([0.0, 0.0, -gravity])
    for k in range(count):
        joint = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), f"floating {k}")
        model.appendBodyToJoint(joint, pin.Inertia.FromSphere(mass, radius), pin.SE3.Identity())
        model.addFrame(pin.Frame(f"body {k}", joint, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    return ContactDynamics(model, pairs=pairs, **({"dt": STEP, "actuated": []} | options))


def scattered(robot, count, spread=0.2, speed=1.0, seed=1):
    """States at random around each other."""
    x = robot.neutral_state().expand(count, -1).contiguous()
    places = normal(count, robot.nv, seed=seed)
    places[:, [k for k in range(robot.nv) if k % 6 < 3]] *= spread
    return moved(robot.model, x, torch.cat([places, speed * normal(count, robot.nv, seed=seed + 1)], 1))


def step(robot, x):
    return robot.step_with_forces(x, x.new_zeros(len(x), 0))


def coal_shape(shape):
    if isinstance(shape, Sphere):
        return coal.Sphere(shape.radius), pin.SE3(np.eye(3), np.array(shape.offset))
    if isinstance(shape, Box):
        return coal.Box(*shape.size), shape.placement
    start, end = np.array(shape.start), np.array(shape.end)
    turn = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), end - start).matrix()
    return coal.Capsule(shape.radius, float(np.linalg.norm(end - start))), pin.SE3(turn, 0.5 * (start + end))


@pytest.mark.parametrize("kinds", KINDS)
def test_distances_and_normals_are_those_of_coal(kinds):
    """To coal's tolerance, and what the docstring of pairs says of those with two axes or an axis and a box."""
    first, second = on("body 0")[kinds[0]], on("body 1")[kinds[1]]
    robot = bodies([CollisionPair(first, second, 0.0)])
    x = scattered(robot, 600)
    _, found = step(robot, x)
    data, touching = robot.model.createData(), 0
    half = (
        0.0
        if "sphere" in kinds or "point" in kinds
        else 0.5 * math.dist(on("a")["capsule"].start, on("a")["capsule"].end)
    )
    radii = sum(getattr(shape, "radius", 0.0) for shape in (first, second))
    (shape_a, in_a), (shape_b, in_b) = coal_shape(first), coal_shape(second)
    for i in range(len(x)):
        pin.framesForwardKinematics(robot.model, data, x[i, : robot.nq].numpy())
        a, b = (data.oMf[robot.model.getFrameId(f"body {k}")] for k in (0, 1))
        result = coal.DistanceResult()
        request = coal.DistanceRequest()
        request.gjk_tolerance = request.epa_tolerance = 1e-8
        placed = [coal.Transform3s(M.rotation, M.translation) for M in (a * in_a, b * in_b)]
        distance = coal.distance(shape_a, placed[0], shape_b, placed[1], request, result)
        if distance < -0.05:
            continue
        core = distance + radii
        assert float(found.gap[i, 0]) == pytest.approx(distance, abs=1e-6 + 1e-3 * half**2 / (4.0 * max(core, 1e-3)))
        force = found.force[i, 0].numpy()
        if np.linalg.norm(force) > 1e-3:  # coal's normal is out of the first
            turned = 0.5 * math.sqrt(1e-3) * half / core
            np.testing.assert_allclose(force / np.linalg.norm(force), -result.normal, atol=1e-4 + turned)
            touching += 1
    assert touching > 5


@pytest.mark.parametrize("kind", ["box", "capsule"])
@pytest.mark.parametrize("distance", [0.05, 0.1, 0.2])
def test_a_capsule_that_is_almost_parallel_is_too_far_by_no_more_than_said(kind, distance):
    """As it tilts: the bound of the docstring is reached, and left for exact distances by 0.01 rad."""
    half = 0.3
    other = {
        "box": Box("universe", (4.0, 4.0, 0.2), pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.1]))),
        "capsule": Capsule("universe", 0.0, (-2.0, 0.0, 0.0), (2.0, 0.0, 0.0)),
    }[kind]
    robot = bodies([CollisionPair(Capsule("body 0", 0.0, (-half, 0.0, 0.0), (half, 0.0, 0.0)), other)], count=1)
    angle = torch.linspace(-0.02, 0.02, 2001, dtype=torch.float64)
    x = robot.neutral_state().repeat(len(angle), 1)
    x[:, 2] = distance + half * angle.sin().abs()  # an end is at the distance
    x[:, 4], x[:, 6] = (0.5 * angle).sin(), (0.5 * angle).cos()
    excess = step(robot, x)[1].gap[:, 0] - distance
    bound = 1e-3 * half**2 / (4.0 * distance)
    assert 0.95 * bound < float(excess.max()) <= bound * (1.0 + 1e-6)
    assert float(excess[angle.abs() >= 0.01].abs().max()) < 1e-12


def test_capsules_that_cross_are_too_far_by_no_more_than_said():
    half, distance = 0.3, 0.1
    axes = [
        Capsule(frame, 0.0, (-end, 0.0, 0.0), (end, 0.0, 0.0)) for frame, end in (("body 0", half), ("universe", 2))
    ]
    robot = bodies([CollisionPair(*axes)], count=1)
    angle, along = (
        t.flatten()
        for t in torch.meshgrid(
            torch.linspace(0.1, 1.5, 50, dtype=torch.float64),
            torch.linspace(-half, half, 51, dtype=torch.float64),
            indexing="ij",
        )
    )
    x = robot.neutral_state().repeat(len(angle), 1)
    x[:, 0], x[:, 1], x[:, 2] = along * angle.cos(), along * angle.sin(), distance  # crosses the other at -along
    x[:, 5], x[:, 6] = (0.5 * angle).sin(), (0.5 * angle).cos()
    excess = step(robot, x)[1].gap[:, 0] - distance
    share = excess * 2.0 * distance * angle.sin() ** 2 / (1e-6 * half**2)
    assert 0.99 < float(share.max()) < 1.001


@pytest.mark.parametrize("lift", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_gradients_equal_finite_differences(kinds, lift):
    """On the manifold, by state and friction, where cores are apart and bodies touch."""
    pair = CollisionPair(on("body 0")[kinds[0]], on("body 1")[kinds[1]], 0.6)
    robot = bodies([pair], lift=lift, settings=Settings(eps_abs=1e-12))
    x = scattered(robot, 400, seed=3)
    _, found = step(robot, x)
    near = (found.gap[:, 0] > -0.05) & (found.gap[:, 0] < 0.01) & (found.force[:, 0].norm(dim=1) > 1e-3)
    x = x[near][:12]
    assert len(x) > 4
    weights, h = normal(1, robot.nx, seed=1), 1e-6

    def loss(x, friction):
        return (robot.step(x, x.new_zeros(len(x), 0), friction=friction) * weights).sum(1)

    leaf, mu = x.clone().requires_grad_(), robot.friction.expand(len(x), 1).clone().requires_grad_()
    loss(leaf, mu).sum().backward()
    with torch.no_grad():
        for seed in (2, 3):
            d = normal(len(x), robot.ndx, seed=seed)
            ahead, behind = (moved(robot.model, x, side * h * d) for side in (1.0, -1.0))
            numeric = (loss(ahead, mu) - loss(behind, mu)) / (2 * h)
            along = (leaf.grad * (ahead - behind)).sum(1) / (2 * h)
            torch.testing.assert_close(along, numeric, rtol=1e-6, atol=1e-5)
        numeric = (loss(x, mu + h) - loss(x, mu - h)) / (2 * h)
        torch.testing.assert_close(mu.grad[:, 0], numeric, rtol=1e-6, atol=1e-6)


def momentum(robot, x):
    found = robot.centroid(x[:, : robot.nq], x[:, robot.nq :])
    return torch.cat([found.momentum, found.position], 1)


@pytest.mark.parametrize("kinds", KINDS)
def test_momentum_stays(kinds):
    """Linear and angular: the forces on both bodies are opposite and along one line."""
    robot = bodies([CollisionPair(on("body 0")[kinds[0]], on("body 1")[kinds[1]], 0.6)], dt=1e-5)
    x = scattered(robot, 600)
    next_, found = step(robot, x)
    hit = found.force[:, 0].norm(dim=1) > 1e-3
    assert hit.sum() > 5 and (next_ - x)[hit][:, robot.nq :].abs().max() > 0.1
    before, after = momentum(robot, x), momentum(robot, next_)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=1e-10)
    # The part of a step that is left out: configurations move by the new velocity, of order dt^2 in x cross m v.
    torch.testing.assert_close(after[:, 3:6], before[:, 3:6], rtol=0, atol=1e-6)


def test_balls_that_collide_go_on_together():
    """What is left is the velocity of the centre of mass, up to that with which damped springs come out again."""
    robot = bodies([CollisionPair(Sphere("body 0", 0.1), Sphere("body 1", 0.1), 0.0)])
    x = robot.neutral_state()[None].clone()
    x[0, 0], x[0, 7], x[0, robot.nq], x[0, robot.nq + 6] = -0.15, 0.1, 2.0, -1.0
    deepest = 0.0
    for _ in range(200):
        x, found = step(robot, x)
        deepest = min(deepest, float(found.gap.min()))
    v = x[0, robot.nq :]
    assert float(v[0] + v[6]) == pytest.approx(1.0, abs=1e-10)
    assert 0.0 <= float(v[6] - v[0]) <= -deepest * robot.stiffness / robot.damping * 1.05
    # A reduced mass of 1 with a speed of 3 into a spring and a damper that is critical for more: v m / d, and no more.
    assert -3.0 / robot.damping < deepest < 0.0


def test_a_step_never_has_more_kinetic_energy_than_the_one_without_contact():
    pairs = [CollisionPair(on("body 0")[a], on("body 1")[b], 0.7) for a, b in KINDS]
    robot, free = bodies(pairs), bodies([])
    x = scattered(robot, 1500, spread=0.3, speed=3.0)
    next_, found = step(robot, x)
    touching = (found.gap >= 0.0).all(1) & (found.force.norm(dim=2) > 1e-6).any(1)
    assert touching.sum() > 5

    def energy(x):
        M = robot.mass_matrix(x[:, : robot.nq])  # constant, up to how bodies are turned, of which balls know nothing
        v = x[:, robot.nq :]
        return 0.5 * (v * (M @ v[..., None])[..., 0]).sum(1)[touching]

    without = energy(step(free, x)[0])
    assert (energy(next_) <= without * (1.0 + 1e-9)).all() and (energy(next_) < 0.99 * without).any()


@pytest.mark.parametrize("kind", ["sphere", "capsule"])
def test_what_lies_on_a_box_stays_there(kind):
    """Dropped on a box that is fixed in the world; a capsule lies on its side, parallel to the face."""
    table = Box("universe", (1.0, 1.0, 0.2), pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.1])))
    shape = Sphere("body 0", 0.1) if kind == "sphere" else Capsule("body 0", 0.1, (-0.2, 0.0, 0.0), (0.2, 0.0, 0.0))
    robot = bodies([CollisionPair(shape, table)], count=1, gravity=GRAVITY)
    x = robot.neutral_state()[None].clone()
    x[0, 2] = 0.3
    lowest = 1.0
    for _ in range(1000):
        x, found = step(robot, x)
        lowest = min(lowest, float(found.gap.min()))
    assert -2.0 * math.sqrt(2 * GRAVITY * 0.2) * math.sqrt(2.0 / robot.stiffness) < lowest < 0.0
    assert float(x[0, 2]) == pytest.approx(0.1 - 1e-3, abs=1e-4) and x[0, 7:].abs().max() < 1e-3
    assert float(found.force[0, 0, 2]) == pytest.approx(2.0 * GRAVITY, rel=1e-3)


def test_the_first_body_of_a_pair_gets_the_force_however_it_is_written():
    table = Box("universe", (1.0, 1.0, 0.2), pin.SE3(np.eye(3), np.array([0.0, 0.0, -0.1])))
    shape = Sphere("body 0", 0.1)
    x, forces = None, []
    for pair in (CollisionPair(shape, table), CollisionPair(table, shape)):
        robot = bodies([pair], count=1, gravity=GRAVITY)
        x = robot.neutral_state()[None].clone()
        x[0, 2] = 0.099
        forces.append(step(robot, x)[1].force)
    assert float(forces[0][0, 0, 2]) > 1.0
    torch.testing.assert_close(forces[0], -forces[1])


def test_ground_and_pairs_share_a_step():
    """A ball on a ball on the ground: below is the weight of both."""
    pairs, contacts = [CollisionPair(Sphere("body 0", 0.1), Sphere("body 1", 0.1))], [Contact("body 0", 0.1)]
    robot = bodies(pairs, contacts=contacts, gravity=GRAVITY)
    x = robot.neutral_state()[None].clone()
    x[0, 2], x[0, 9] = 0.1, 0.3
    for _ in range(500):
        x, found = step(robot, x)
    assert found.force[0, :, 2].tolist() == pytest.approx([4.0 * GRAVITY, -2.0 * GRAVITY], rel=1e-3)
    assert robot.friction.shape == (2,)


def test_a_heap_falls_into_a_bowl():
    """Balls and capsules onto each other: nothing sinks in by more than landing does, nor gets energy from it."""
    at = np.linspace(-1.5, 1.5, 61)
    bowl = HeightField(0.4 * (at[:, None] ** 2 + at[None, :] ** 2), 0.05, (-1.5, -1.5))
    shapes = [Sphere(f"body {k}", 0.1) for k in range(3)]
    shapes += [Capsule(f"body {k}", 0.08, (-0.1, 0.0, 0.0), (0.1, 0.0, 0.0)) for k in (3, 4)]
    pairs, contacts = collision_pairs(bodies([], count=5).model, shapes), ground_contacts(shapes)
    assert len(pairs) == 10 and len(contacts) == 7
    robot = bodies(pairs, count=5, gravity=GRAVITY, contacts=contacts, ground=bowl)
    x = robot.neutral_state().repeat(2, 1)
    x[:, 2 : robot.nq : 7] = 0.3 + 0.4 * torch.arange(5)
    x = moved(robot.model, x, 0.05 * normal(2, robot.ndx, seed=1))

    def energy(x):
        q, v = x[:, : robot.nq], x[:, robot.nq :]
        kinetic = 0.5 * (v * (robot.mass_matrix(q) @ v[..., None])[..., 0]).sum(1)
        return kinetic + 2.0 * GRAVITY * q[:, 2::7].sum(1)

    lowest, energies = 0.0, [energy(x)]
    for _ in range(1000):
        x, found = step(robot, x)
        lowest = min(lowest, float(found.gap.min()))
        energies.append(energy(x))
    energies = torch.stack(energies)
    # From 2 m with 6 m/s: v m / d, m the mass of all, for which the damping is critical
    assert lowest > -6.0 * 10.0 / robot.damping
    # A part of what springs hold comes back, in each step less than 1e-3 of all.
    assert (energies.diff(dim=0) < 1e-3 * energies[0]).all() and (energies[-1] < 0.3 * energies[0]).all()


def test_parallel_capsules_and_shapes_in_each_other_have_an_answer():
    pairs = [CollisionPair(on("body 0")[a], on("body 1")[b]) for a, b in KINDS]
    lying = Capsule("body 0", 0.05, (-0.2, 0.0, 0.0), (0.2, 0.0, 0.0))
    pairs += [CollisionPair(lying, Capsule("body 1", 0.05, (-0.1, 0.0, 0.0), (0.3, 0.0, 0.0)))]
    robot = bodies(pairs)
    x = robot.neutral_state().repeat(3, 1)
    x[1, 9], x[2, 7], x[2, 9] = 0.09, 0.01, 0.09
    x.requires_grad_()
    next_, found = step(robot, x)
    next_.sum().backward()
    for value in (next_, found.gap, found.force, x.grad):
        assert value.isfinite().all()
    assert float(found.gap[1, -1]) == pytest.approx(-0.01, abs=1e-9)


def test_pairs_of_a_robot_leave_out_bodies_that_are_joined():
    model, joint = pin.Model(), 0
    for k in range(4):
        joint = model.addJoint(joint, pin.JointModelRY(), pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.3])), f"joint {k}")
        model.appendBodyToJoint(joint, pin.Inertia.FromSphere(1.0, 0.1), pin.SE3.Identity())
        model.addFrame(pin.Frame(f"link {k}", joint, pin.SE3.Identity(), pin.FrameType.OP_FRAME))
    shapes = [Sphere(f"link {k}", 0.05) for k in range(4)]
    found = {(p.first.frame, p.second.frame) for p in collision_pairs(model, shapes)}
    assert found == {(f"link {a}", f"link {b}") for a, b in itertools.combinations(range(4), 2) if b > a + 1}
    assert len(collision_pairs(model, shapes, ignore=[("link 3", "link 0")])) == 2
    boxes = [Box("link 0", (0.1, 0.1, 0.1)), Box("link 2", (0.1, 0.2, 0.1))]
    assert len(collision_pairs(model, boxes)) == 16
    (pair,) = collision_pairs(model, [Cylinder("link 0", 0.05, (0, 0, 0), (0, 0, 0.3)), shapes[3]])
    assert pair.first == Capsule("link 0", 0.05, (0.0, 0.0, 0.05), (0.0, 0.0, 0.25))
    # Folded back by the joints until it hits itself.
    robot = ContactDynamics(model, dt=STEP, pairs=collision_pairs(model, shapes), actuated=[])
    x = torch.zeros(1, 8, dtype=torch.float64)
    x[0, 1], x[0, 2], x[0, 5], x[0, 6] = 1.5, 1.5, 3.0, 3.0
    gaps = []
    for _ in range(300):
        x, found = step(robot, x)
        gaps.append(float(found.gap.min()))
    # Its end hits at some 3 m/s, and sinks in by no more than v m / d = 3 * 4 / damping.
    assert -12.0 / robot.damping < min(gaps) < 0.0


def test_bad_pairs_are_told():
    box = Box("body 0", (0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="'body 0' and 'body 1' are a pair, expected a Sphere or a Capsule"):
        CollisionPair(box, Box("body 1", (0.1, 0.1, 0.1)))
    with pytest.raises(ValueError, match=r"a pair has a Cylinder.*take its capsule"):
        CollisionPair(box, Cylinder("body 1", 0.1, (0, 0, 0), (0, 0, 1)))
    with pytest.raises(ValueError, match="no frame 'tail'"):
        bodies([CollisionPair(box, Sphere("tail", 0.1))])
    with pytest.raises(ValueError, match="both of a pair, body 0 and body 0, are on one body"):
        bodies([CollisionPair(box, Sphere("body 0", 0.1))])
    with pytest.raises(ValueError, match=r"radius of a sphere of 'body 1' is -0\.1"):
        Sphere("body 1", -0.1)
    with pytest.raises(ValueError, match=r"offset of a sphere of 'body 1' is .*nan.*, expected 3 finite numbers"):
        Sphere("body 1", 0.1, (0.0, math.nan, 0.0))
    with pytest.raises(ValueError, match=r"end of a capsule of 'body 1' is \(1\.0, 2\.0\)"):
        Capsule("body 1", 0.1, (0.0, 0.0, 0.0), (1.0, 2.0))
    with pytest.raises(ValueError, match=r"size of a box of 'body 1' is -1\.0"):
        Box("body 1", (1.0, -1.0, 1.0))
    with pytest.raises(ValueError, match=r"placement of a box of 'body 1' is None, expected a pinocchio\.SE3"):
        Box("body 1", (1.0, 1.0, 1.0), None)
    with pytest.raises(ValueError, match=r"shape's rotation is not orthogonal"):
        bodies([CollisionPair(Box("body 0", (1, 1, 1), pin.SE3(2.0 * np.eye(3), np.zeros(3))), Sphere("body 1", 0.1))])
    with pytest.raises(ValueError, match=r"friction of 'body 0 and body 1' is -1\.0"):
        bodies([CollisionPair(box, Sphere("body 1", 0.1), -1.0)])
    robot = bodies([CollisionPair(box, Sphere("body 1", 0.1))])
    with pytest.raises(ValueError, match=r"friction has shape \(2,\), expected \(1,\)"):
        robot.step(robot.neutral_state()[None], torch.zeros(1, 0), friction=torch.ones(2))
