"""What a controller by inverse dynamics promises, against an assembly of its own in NumPy and against mechanics."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pinocchio as pin
import pytest
import torch
from control_setups import FEET, SETUPS, stand
from legged_robots import SOLE, arm, around, biped, standing

import qp_control as qc
from qp_control.inverse_dynamics.contacts import PointContact, SurfaceContact
from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.inverse_dynamics.limits import (
    JointAccelerationLimit,
    JointPositionLimit,
    JointVelocityLimit,
    PlaneBarrier,
    TorqueLimit,
)
from qp_control.inverse_dynamics.tasks import (
    CenterOfMassTask,
    ForceRegularization,
    PositionTask,
    PostureTask,
    TorqueRegularization,
)
from qp_control.settings import Status


def test_arm_equals_an_assembly_in_numpy_by_an_enumeration_of_active_sets():
    """Nothing shared but Pinocchio: the QP in accelerations alone, its active torque limits found by trying all."""
    robot = arm()
    model, data = robot.model, robot.model.createData()
    target, gains, weight, limit = np.array([0.4, 0.1, 0.7]), 50.0, 3.0, np.array([8.0, 14.0, 6.0, 3.0, 1.0, 0.3])
    tasks = [
        PositionTask("tool", target, weight=weight, stiffness=gains),
        PostureTask(weight=0.2, stiffness=20.0),
        TorqueRegularization(weight=1e-3),
    ]
    controller = InverseDynamics(robot, tasks, [TorqueLimit(limit)])
    states = around(robot, torch.tensor([0.2, 0.4, 0.5, -0.1, 0.3, 0.2], dtype=torch.float64), 5, seed=1, size=0.3)
    found = controller(*states)
    assert (found.status == Status.SOLVED).all()
    limited = 0
    for i, (q, v) in enumerate(zip(*(s.numpy() for s in states), strict=True)):
        frame = model.getFrameId("tool")
        M = pin.crba(model, data, q)
        M = np.triu(M) + np.triu(M, 1).T
        h = pin.rnea(model, data, q, v, np.zeros(6)) + model.damping * v
        pin.forwardKinematics(model, data, q, v, np.zeros(6))
        axes = pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        J = pin.computeFrameJacobian(model, data, q, frame, axes)[:3]
        place = pin.updateFramePlacement(model, data, frame).translation
        speed = pin.getFrameVelocity(model, data, frame, axes).linear
        drift = pin.getFrameClassicalAcceleration(model, data, frame, axes).linear
        wanted = gains * (target - place) - 2.0 * math.sqrt(gains) * speed - drift
        calm = 20.0 * -q - 2.0 * math.sqrt(20.0) * v
        H = weight * J.T @ J + 0.2 * np.eye(6) + 1e-3 * M.T @ M
        g = -weight * J.T @ wanted - 0.2 * calm + 1e-3 * M.T @ h
        best, torque = np.inf, None
        for code in np.ndindex(*[3] * 6):  # each torque free, at its lower or at its upper limit
            side = np.array(code) - 1
            rows = np.flatnonzero(side)
            A, b = M[rows], side[rows] * limit[rows] - h[rows]
            K = np.block([[H, A.T], [A, np.zeros((len(rows), len(rows)))]])
            a = np.linalg.solve(K, np.concatenate([-g, b]))[:6]
            cost = 0.5 * a @ H @ a + g @ a
            if np.all(np.abs(M @ a + h) <= limit + 1e-9) and cost < best:
                best, torque = cost, M @ a + h
                at_limit = len(rows)
        limited += at_limit
        np.testing.assert_allclose(found.torque[i].detach(), torque, rtol=0, atol=1e-7)
    assert limited > 0


def test_a_quadruped_at_rest_carries_its_weight():
    controller, q = stand()
    with torch.no_grad():
        found = controller(q, torch.zeros(18, dtype=torch.float64))
    assert found.status == Status.SOLVED
    # Up to what regularisation trades for smaller torques.
    mass = controller.model.parameters[::10][: controller.model.bodies].sum()
    torch.testing.assert_close(found.force.sum(0), torch.tensor([0.0, 0.0, 9.81 * mass]), rtol=0, atol=0.2)
    assert float(found.acceleration.abs().max()) < 1e-1
    # The torques are those of inverse dynamics with the contact forces.
    J = controller.model.frame_jacobians(FEET, q)[:, :3]
    tau = controller.model.inverse_dynamics(q, torch.zeros_like(found.acceleration), found.acceleration)
    tau = tau - torch.einsum("kin,ki->n", J, found.force)
    torch.testing.assert_close(tau[6:], found.torque, rtol=0, atol=1e-8)
    assert float(tau[:6].abs().max()) < 1e-8


def test_forces_stay_in_the_cone_and_follow_the_activation():
    contacts = [PointContact(foot, friction=0.3, facets=8, min_force=3.0, max_force=80.0) for foot in FEET]
    controller, q = stand(contacts=contacts)
    q, v = around(controller.model, q, 20, seed=1, size=0.1)
    activation = torch.rand(20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    activation[0], activation[1] = 0.0, 1.0
    found = controller(q, v, {"rh foot contact.activation": activation})
    assert (found.status <= Status.CLOSEST_FEASIBLE).all()
    assert (found.status == Status.SOLVED).sum() > 10
    solved = found.status == Status.SOLVED
    force = found.force[solved]
    assert bool((force[..., :2].norm(dim=-1) <= 0.3 * force[..., 2] + 1e-6).all())
    scale = torch.cat([torch.ones(20, 3, dtype=torch.float64), activation], 1)[solved]
    assert bool((force[..., 2] >= 3.0 * scale - 1e-6).all()) and bool((force[..., 2] <= 80.0 * scale + 1e-6).all())
    assert float(found.force[0, 3].detach().norm()) < 1e-6


def test_centre_of_pressure_of_a_surface_is_on_it():
    robot = biped()
    q = standing(robot)
    tasks = [CenterOfMassTask([0.3, 0.0, 0.6], weight=10.0), PostureTask(q, weight=1.0), ForceRegularization()]
    contacts = [SurfaceContact(f"{side} sole", SOLE, friction=0.6) for side in ("left", "right")]
    controller = InverseDynamics(robot, tasks, [TorqueLimit()], contacts)
    with torch.no_grad():
        found = controller(q, torch.zeros(robot.nv, dtype=torch.float64))
    assert found.status == Status.SOLVED
    for force in found.force.view(2, 4, 3):
        assert bool((force[:, 2] > -1e-6).all()) and float(force[:, 2].sum()) > 1.0
        centre = (force[:, 2:] * torch.tensor(SOLE)).sum(0) / force[:, 2].sum()
        assert abs(float(centre[0])) <= 0.1 + 1e-6 and abs(float(centre[1])) <= 0.05 + 1e-6


def test_contradicting_limits_give_the_closest_and_say_which_gave_way():
    """Each foot is to stay and carry more than the torques allow: these hold exactly, and so do the dynamics."""
    options = {"min_force": 400.0, "max_force": 500.0, "weight": math.inf}
    contacts = [PointContact(foot, **options) for foot in FEET]
    controller, q = stand(contacts=contacts, limits=[TorqueLimit(12.0)])
    found = controller(q, torch.zeros(18, dtype=torch.float64))
    assert found.status == Status.CLOSEST_FEASIBLE
    assert bool((found.torque.abs() <= 12.0).all())
    gave_way = {name for name, s in zip(controller.row_names, found.shift, strict=True) if s > 1e-6}
    assert any("normal force" in name for name in gave_way)
    assert not any(name.startswith(("dynamics", "torque")) for name in gave_way)
    J = controller.model.frame_jacobians(FEET, q)[:, :3]
    tau = controller.model.inverse_dynamics(q, torch.zeros_like(found.acceleration), found.acceleration)
    tau = tau - torch.einsum("kin,ki->n", J, found.force)
    assert float(tau[:6].abs().max()) < 1e-6
    text = controller.describe(q, np.zeros(18))
    assert "CLOSEST_FEASIBLE" in text and "lf foot contact normal force" in text


def test_shift_weights_share_what_does_not_fit():
    """A joint is to accelerate by 4 and by at most 1: shifts sum up to 3, in inverse proportion to their weights."""
    state = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for weight in (1.0, 9.0):
        task = PostureTask(weight=math.inf, acceleration=4.0)
        controller = InverseDynamics(arm(), [task], [JointAccelerationLimit(1.0, shift_weight=weight)])
        found = controller(*state)
        assert found.status == Status.CLOSEST_FEASIBLE
        expected = torch.full((6,), 1.0 + 3.0 / (1.0 + weight), dtype=torch.float64)
        torch.testing.assert_close(found.acceleration, expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(found.shift[6:], expected - 1.0, rtol=0, atol=1e-7)
        torch.testing.assert_close(found.shift[:6], 4.0 - expected, rtol=0, atol=1e-7)


def test_joint_limits_hold_in_closed_loop():
    """A joint is driven against its limits: positions hardly pass them, velocities not at all."""
    robot = qc.RobotDynamics(arm().model, dt=0.005, integrator="semi_implicit")
    a = 30.0
    limits = [
        JointPositionLimit(0.005, acceleration=a, lower=-0.3, upper=0.4),
        JointVelocityLimit(0.005, velocity=1.2),
    ]
    controller = InverseDynamics(robot, [PostureTask(torch.full((6,), 2.0), stiffness=400.0)], limits)
    x = torch.zeros(12, dtype=torch.float64)
    most, fastest = -1.0, 0.0
    with torch.no_grad():
        for k in range(300):
            goal = 2.0 if k < 150 else -2.0
            found = controller(x[:6], x[6:], {"posture.reference": torch.full((6,), goal)})
            assert found.status == Status.SOLVED
            x = robot.step(x[None], found.torque[None])[0]
            most = max(most, float(x[:6].max()) - 0.4, -0.3 - float(x[:6].min()))
            fastest = max(fastest, float(x[6:].abs().max()))
    # The semi-implicit step goes further than dt v + dt^2/2 a, by dt^2/2 a.
    assert -1e-3 < most < a * 0.005**2
    assert 1.1 < fastest < 1.2 + 1e-6


def test_outside_of_its_limits_a_joint_comes_back():
    robot = qc.RobotDynamics(arm().model, dt=0.005)
    limit = JointPositionLimit(0.005, acceleration=30.0, lower=-0.3, upper=0.4)
    controller = InverseDynamics(robot, [PostureTask(torch.full((6,), 2.0), stiffness=400.0)], [limit])
    x = torch.cat([torch.full((6,), 0.6), torch.full((6,), 1.0)]).double()
    with torch.no_grad():
        for _ in range(250):
            found = controller(x[:6], x[6:])
            x = robot.step(x[None], found.torque[None])[0]
    assert bool((x[:6] < 0.4 + 1e-3).all())


def test_a_barrier_keeps_its_distance():
    robot = qc.RobotDynamics(arm().model, dt=0.005)
    target = torch.tensor([0.4, 0.3, 0.5], dtype=torch.float64)
    barrier = PlaneBarrier("tool", [0, 0, 1.0], 0.8)
    controller = InverseDynamics(robot, [PositionTask("tool", target), PostureTask(weight=0.01)], [barrier])
    x = torch.tensor([0.1, 0.5, 0.4, 0.0, 0.2, 0.0] + [0.0] * 6, dtype=torch.float64)
    lowest = 9.0
    with torch.no_grad():
        for _ in range(400):
            x = robot.step(x[None], controller(x[:6], x[6:]).torque[None])[0]
            lowest = min(lowest, float(robot.frame_motions(["tool"], x[:6]).position[0, 2]))
    assert 0.8 - 1e-3 < lowest < 0.81


@pytest.mark.parametrize("kind", SETUPS)
def test_one_robot_in_numpy_is_the_batch_in_torch(kind):
    controller, q, v = SETUPS[kind]()
    found = controller(q, v)
    for i in range(len(q)):
        tick = controller.compute(q[i].numpy(), v[i].numpy())
        assert tick.status == Status(int(found.status[i]))
        scale = float(found.acceleration.abs().max())
        np.testing.assert_allclose(tick.torque, found.torque[i].detach(), rtol=0, atol=1e-8 * scale)
        np.testing.assert_allclose(tick.force, found.force[i].detach(), rtol=0, atol=1e-7 * scale)
    name = next(iter(controller.numbers()))
    other = controller(q[0], v[0], {name: 2.0 * controller.numbers()[name]})
    tick = controller.compute(q[0].numpy(), v[0].numpy(), {name: 2.0 * controller.numbers()[name].detach().numpy()})
    np.testing.assert_allclose(tick.torque, other.torque.detach(), rtol=0, atol=1e-6)


def test_ticks_follow_numbers_that_are_learned_and_damping_follows_stiffness():
    controller, q = stand()
    q, v = (t[0].numpy() for t in around(controller.model, q, 1))
    before = controller.compute(q, v).torque
    with torch.no_grad():
        controller.parts["com"].stiffness *= 4.0
    after = controller.compute(q, v).torque
    assert np.abs(after - before).max() > 1e-3
    given = controller.compute(q, v, {"com.stiffness": 100.0}).torque
    # Forces cost little: what the tolerance of the QP leaves of them is seen in the torques.
    np.testing.assert_allclose(given, before, rtol=0, atol=1e-5)


def test_warm_starts_save_steps():
    controller, q = stand(limits=[TorqueLimit()])
    q, v = around(controller.model, q, 8, seed=3)
    first = controller(q, v)
    again = controller(q, v, warm_start=first.solution)
    assert int(again.solution.iterations.sum()) < int(first.solution.iterations.sum())
    torch.testing.assert_close(again.torque, first.torque, rtol=0, atol=1e-6)


def test_controllers_are_copied_pickled_and_saved():
    controller, q = stand(limits=[TorqueLimit()])
    v = torch.zeros(18, dtype=torch.float64)
    expected = controller(q, v).torque.detach()
    for other in (copy.deepcopy(controller), pickle.loads(pickle.dumps(controller))):
        torch.testing.assert_close(other(q, v).torque.detach(), expected, rtol=0, atol=0)
        with torch.no_grad():
            other.parts["com"].weight *= 3.0
        other.load_state_dict(controller.state_dict())
        torch.testing.assert_close(other(q, v).torque.detach(), expected, rtol=0, atol=0)


def test_the_problem_is_data_that_others_may_solve(tmp_path):
    controller, q = stand(limits=[TorqueLimit(), JointPositionLimit(0.01, acceleration=100.0)])
    v = torch.full((18,), 0.1, dtype=torch.float64)
    with torch.no_grad():
        problem = controller.build(q, v)._asdict()
    T, t = problem.pop("T"), problem.pop("t")
    qc.save_problem(tmp_path / "tick.npz", **{name: value.numpy() for name, value in problem.items()})
    solution = qc.solve_qp(**qc.load_problem(tmp_path / "tick.npz"))
    tick = controller.compute(q.numpy(), v.numpy())
    np.testing.assert_allclose(T.numpy() @ solution.x + t.numpy(), tick.torque, rtol=0, atol=1e-6)
    # The same for a batch, with the batch's axis.
    batch = controller.build(q.expand(3, -1), v.expand(3, -1))
    assert batch.H.shape == (3, controller.n, controller.n)
    torch.testing.assert_close(batch.H[1].detach(), problem["H"], rtol=0, atol=0)
    assert len(controller.row_names) == problem["A"].shape[0] + problem["C"].shape[0] + 18
    assert controller.describe(np.full(19, np.nan), np.zeros(18)) == "status INVALID_INPUT: no answer"
