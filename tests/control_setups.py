"""Controllers by inverse dynamics with tasks, limits and contacts of all kinds, at states where limits are active."""

from __future__ import annotations

import torch
from legged_robots import SOLE, arm, around, biped, quadruped, standing

from qp_control.inverse_dynamics.contacts import PointContact, SurfaceContact
from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.inverse_dynamics.limits import (
    FrameBarrier,
    JointAccelerationLimit,
    JointPositionLimit,
    JointVelocityLimit,
    PlaneBarrier,
    SphereBarrier,
    TorqueLimit,
)
from qp_control.inverse_dynamics.tasks import (
    AccelerationRegularization,
    AngularMomentumTask,
    CenterOfMassTask,
    ContactForceTask,
    ForceRegularization,
    FrameTask,
    OrientationTask,
    PositionTask,
    PostureTask,
    RelativeFrameTask,
    TorqueRegularization,
)
from qp_control.settings import Settings

BATCH = 3
FEET = ["lf foot", "rf foot", "lh foot", "rh foot"]
# Forces cost so little that a dual residual of 1e-8 would leave 1e-4 N open.
PRECISE = Settings(eps_abs=1e-11, threads=1)
POSE = [0.35, 0.05, 0.6, 0.2, -0.4, 0.1, 1.3]  # a quaternion that is not of length one


def stand(robot=None, contacts=None, limits=(), **options):
    """A controller that keeps a robot, by default the quadruped on its feet, where it is; and where."""
    robot = robot or quadruped()
    q = standing(robot)
    com = robot.centroid(q).position
    tasks = [
        CenterOfMassTask(com, weight=10.0),
        OrientationTask("trunk", weight=5.0),
        PostureTask(q, weight=0.1),
        TorqueRegularization(),
        AccelerationRegularization(),
        ForceRegularization(),
    ]
    contacts = [PointContact(foot) for foot in FEET] if contacts is None else contacts
    return InverseDynamics(robot, tasks, list(limits), contacts, **options), q


def on_the_ground():
    """A fixed base: an arm whose torques, joints and distances are limited."""
    robot = arm()
    tasks = [
        FrameTask("tool", POSE, axes="frame", mask=[1, 1, 0, 1, 0, 1], weight=2.0, stiffness=[50.0, 60, 70, 80]),
        PostureTask(weight=0.1, joints=["joint 1", "joint 3", "joint 4", "joint 5"], damping=3.0),
        OrientationTask("elbow", [0.1, 0.2, -0.3, 0.8], mask=[0, 1, 1], weight=0.2, velocity=[0.1, 0.2, 0.3]),
        TorqueRegularization([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        AccelerationRegularization(weight=1e-2, reference=0.1),
    ]
    limits = [
        TorqueLimit([30.0, 25.0, 12.0, 5.0, 1.5, 0.8]),
        JointPositionLimit(0.02, acceleration=25.0, lower=-0.5, upper=0.45, return_time=0.2),
        JointVelocityLimit(0.02, velocity=0.6, acceleration=60.0, joints=["joint 0", "joint 4"]),
        JointAccelerationLimit(40.0),
        SphereBarrier("tool", [0.2, 0.1, 1.5], 0.2),
        PlaneBarrier("elbow", [0.0, 0.1, -1.0], -0.57),
    ]
    robot_q = torch.tensor([0.3, 0.4, -0.4, 0.35, 0.2, -0.2], dtype=torch.float64)
    return InverseDynamics(robot, tasks, limits, settings=PRECISE), *around(robot, robot_q, BATCH, seed=4, size=0.05)


def on_four_legs():
    """A floating base on points, one of them leaving the ground; slippery, with torque limits."""
    robot = quadruped()
    q = standing(robot)
    feet = ["lf foot", "rf foot", "lh foot"]
    tasks = [
        CenterOfMassTask([0.03, 0.02, 0.3], weight=10.0, mask=[1, 1, 1], velocity=[0.1, 0.0, 0.0]),
        OrientationTask("trunk", [0.0, 0.1, 0.0, 1.0], weight=5.0),
        PositionTask("rh foot", [-0.25, -0.2, 0.1], mask=[1, 0, 1], weight=3.0, acceleration=[0.5, 0, 0]),
        PostureTask(q, weight=0.1),
        AngularMomentumTask([0.0, 0.1, 0.0], weight=0.05, mask=[0, 1, 1], rate=[0.1, 0.2, 0.3]),
        ContactForceTask("lf foot contact", [0.0, 0.0, 40.0], weight=1e-3),
        TorqueRegularization(weight=1e-3),
        AccelerationRegularization(weight=1e-3),
        ForceRegularization(weight=1e-4),
    ]
    limits = [TorqueLimit(4.5), JointPositionLimit(0.01, acceleration=80.0, lower=-1.25, upper=0.65)]
    contacts = [PointContact(foot, friction=0.25, min_force=2.0, max_force=60.0, facets=5) for foot in feet]
    contacts.append(PointContact("rh foot", friction=0.6, max_force=50.0, activation=0.3, stiffness=5.0, facets=6))
    controller = InverseDynamics(robot, tasks, limits, contacts, settings=PRECISE)
    return controller, *around(robot, q, BATCH, seed=2)


def on_two_feet():
    """A floating base on surfaces, with constraints, a ball joint and frames seen from others."""
    robot = biped()
    q = standing(robot)
    tasks = [
        CenterOfMassTask([0.0, 0.0, 0.7], weight=float("inf"), mask=[0, 0, 1], stiffness=20.0),
        RelativeFrameTask("head", "left sole", [0, -0.1, 1.3, 0.1, 0.1, 0, 1], mask=[1, 1, 0, 1, 1, 1], weight=4.0),
        RelativeFrameTask("head", "pelvis", POSE, axes="frame", mask=[0, 1, 1, 0, 1, 0], weight=0.5, name="nod"),
        PostureTask(weight=0.2, stiffness=30.0),
        ContactForceTask("right sole contact", [0.0, 5.0, 120.0], weight=1e-4),
        TorqueRegularization(weight=1e-3),
        ForceRegularization(weight=1e-2),
    ]
    limits = [
        TorqueLimit(20.0),
        FrameBarrier("left sole", "right sole", 0.19, stiffness=50.0, damping=10.0),
        PlaneBarrier("head", [0.0, 0.0, -1.0], -1.25),
        JointVelocityLimit(0.01, velocity=0.02, joints=["right 1"]),
    ]
    contacts = [
        SurfaceContact("left sole", SOLE, friction=0.25, weight=float("inf"), damping=5.0),
        SurfaceContact(
            "right sole", SOLE[:3], normal=[0.1, 0.0, 1.0], max_force=90.0, weight=50.0, activation=0.8, friction=0.3
        ),
    ]
    controller = InverseDynamics(robot, tasks, limits, contacts, settings=PRECISE)
    return controller, *around(robot, q, BATCH, seed=5, size=0.03)


SETUPS = {"arm": on_the_ground, "quadruped": on_four_legs, "biped": on_two_feet}
