"""A quadruped's torques against a QP made with Pinocchio and NumPy alone: a floating base, contacts, friction."""

from __future__ import annotations

import math

import numpy as np
import pinocchio as pin
from legged_robots import around, quadruped, standing

import qp_control as qc

FEET = ["lf foot", "rf foot", "lh foot", "rh foot"]
KP, KD = 60.0, 2.0 * math.sqrt(60.0)
MU, LIMIT = 0.4, 9.0


def by_hand(model, q, v, com, still):
    """Torques, and how many rows of limits are active."""
    data, nv = model.createData(), model.nv
    zero, axes = np.zeros(nv), pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
    M = np.triu(pin.crba(model, data, q))
    M = M + np.triu(M, 1).T
    h = pin.rnea(model, data, q, v, zero) + model.damping * v
    pin.centerOfMass(model, data, q, v, zero)
    J_com = pin.jacobianCenterOfMass(model, data, q)
    pin.computeCentroidalMomentumTimeVariation(model, data, q, v, zero)
    spin, rate = data.hg.angular.copy(), data.dhg.angular.copy()
    A_spin = pin.computeCentroidalMap(model, data, q)[3:].copy()
    pin.forwardKinematics(model, data, q, v, zero)
    pin.computeJointJacobians(model, data, q)
    pin.updateFramePlacements(model, data)

    def moving(frame):
        index = model.getFrameId(frame)
        return (
            pin.getFrameJacobian(model, data, index, axes),
            pin.getFrameVelocity(model, data, index, axes).vector,
            pin.getFrameClassicalAcceleration(model, data, index, axes).vector,
        )

    J, speed, drift = moving("trunk")
    R = data.oMf[model.getFrameId("trunk")].rotation
    target = pin.rpy.rpyToMatrix(0.1, 0.2, -0.1)  # of the frame in the trunk, which is to be upright
    turn = drift[3:] - KP * R @ pin.log3(R.T @ target) + KD * speed[3:]
    costs = [
        (10.0, J_com, data.acom[0] - KP * (com - data.com[0]) + KD * data.vcom[0]),
        (2.0, J[3:], turn),
        (0.3, np.eye(nv)[6:], -KP * (still[7:] - q[7:]) + KD * v[6:]),
        (0.05, A_spin, rate + 8.0 * spin),
    ]
    legs = [moving(foot) for foot in FEET]
    costs += [(200.0, J[:3], drift[:3] + 20.0 * speed[:3]) for J, speed, drift in legs]
    D = np.hstack([M, -np.vstack([J[:3] for J, _, _ in legs]).T])
    n = D.shape[1]
    costs += [(1e-2, D[6:], h[6:]), (1e-2, np.eye(n)[nv:], np.zeros(12))]
    H, g = np.zeros((n, n)), np.zeros(n)
    for weight, J, c in costs:
        wide = np.hstack([J, np.zeros((len(J), n - J.shape[1]))])
        H += weight * wide.T @ wide
        g += weight * wide.T @ c
    cone = np.zeros((20, n))
    for k in range(4):
        columns = slice(nv + 3 * k, nv + 3 * k + 3)
        for j, side in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
            cone[5 * k + j, columns] = [*side, -MU * math.cos(math.pi / 4.0)]
        cone[5 * k + 4, columns] = [0, 0, -1]
    C = np.vstack([D[6:], cone])
    lower = np.concatenate([-LIMIT - h[6:], np.full(20, -np.inf)])
    upper = np.concatenate([LIMIT - h[6:], np.zeros(20)])
    sol = qc.solve_qp(H, g, D[:6], -h[:6], C, lower, upper)
    assert sol.status == qc.Status.SOLVED
    return (D @ sol.x + h)[6:], int((np.abs(sol.z) > 1e-6).sum())


def test_torques_are_those_of_a_problem_made_by_hand():
    robot = quadruped()
    still = standing(robot)
    com = robot.centroid(still).position
    gains = {"stiffness": KP}
    tasks = [
        qc.CenterOfMassTask(com, weight=10.0, **gains),
        qc.OrientationTask("trunk", weight=2.0, **gains),
        qc.PostureTask(still, weight=0.3, **gains),
        qc.AngularMomentumTask(weight=0.05, damping=8.0),
        qc.TorqueRegularization(weight=1e-2),
        qc.ForceRegularization(weight=1e-2),
    ]
    contacts = [qc.PointContact(foot, friction=MU, weight=200.0) for foot in FEET]
    controller = qc.InverseDynamics(robot, tasks, [qc.TorqueLimit(LIMIT)], contacts)
    active = 0
    for q, v in zip(*(t.numpy() for t in around(robot, still, 10, seed=9, size=0.1)), strict=True):
        expected, rows = by_hand(robot.model, q, v, com.numpy(), still.numpy())
        active += rows
        tick = controller.compute(q, v)
        assert tick.status == qc.Status.SOLVED
        np.testing.assert_allclose(tick.torque, expected, rtol=0, atol=1e-6)
    assert active > 20
