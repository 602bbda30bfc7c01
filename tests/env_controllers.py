"""A simple controller for each environment: states (n, nx) to inputs (n, nu), built on the environment's own model.

`controller(task)` returns a function that is called once per control period.
"""

from __future__ import annotations

import math

import torch

import qp_control as qc
from qp_control.envs.task import wrapped

GRAVITY = 9.81  # [m/s^2]


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def lqr(task, q, r):
    """Gain K and cost-to-go P of the upright equilibrium, by iterating the Riccati equation."""
    robot = task.dynamics
    _, A, B = (m[0] for m in robot.linearize(torch.zeros(1, robot.nx).double(), torch.zeros(1, robot.nu).double()))
    Q, R = torch.diag(tensor(*q)), torch.diag(tensor(*r))
    P = Q
    for _ in range(2000):
        K = torch.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        P = Q + A.T @ P @ (A - B @ K)
    return K, P


def real_time(mpc, size, reference=None, first=None):
    """The controller as a function that carries its plan; reference: of the state; first: makes the first plan."""
    mpc, plan = mpc.frozen(), None

    def control(x):
        nonlocal plan
        options = {} if reference is None else {"reference": reference(x)}
        x = x[:, :size]
        plan = (first or mpc)(x, **options) if plan is None else mpc(x, plan.shift(), **options)
        return plan.input

    return control


def pendulum(task):
    """Pumps energy until the linear feedback can hold the rod with the torque there is."""
    K, _ = lqr(task, [10.0, 1.0], [1.0])
    inertia, lever = task.parameters[4], task.parameters[3]  # Iyy about the joint, m c_z

    def control(x):
        angle, rate = wrapped(x[:, 0]), x[:, 1]
        hold = -torch.stack([angle, rate], 1) @ K.T
        missing = lever * GRAVITY * (1.0 - torch.cos(angle)) - 0.5 * inertia * rate.square()
        pump = 2.0 * torch.sign(rate) * (3.0 * missing).clamp(-1.0, 1.0)
        near = (hold[:, 0].abs() < 2.0) & (angle.abs() < 0.6)
        return torch.where(near[:, None], hold, pump[:, None]).clamp(-2.0, 2.0)

    return control


def double_pendulum(task):
    """A swing-up planned by some steps of the SQP method from hanging, then followed and mended in real time."""
    model = qc.RobotDynamics(task.urdf, dt=task.control_period, substeps=2)
    weights = [0.1] * 4, [0.05], [200.0, 200.0, 50.0, 50.0]
    planner = qc.MPC(model, 80, mode="converged", sqp=qc.SqpSettings(max_iter=30)).set_weights(*weights)
    follower = qc.MPC(model, 80).set_weights(*weights)
    return real_time(follower, 4, first=planner)


def cart_pole(task):
    track = [2.3, math.inf, math.inf, math.inf]
    mpc = qc.MPC(qc.RobotDynamics(task.urdf, dt=task.control_period), 40, state_limit=track)
    return real_time(mpc.set_weights([1.0, 1.0, 0.1, 0.1], [0.01], [10.0, 100.0, 10.0, 10.0]), 4)


def cart_pole_swing_up(task):
    track = [task.track_limit, math.inf, math.inf, math.inf]
    mpc = qc.MPC(qc.RobotDynamics(task.urdf, dt=task.control_period), 25, state_limit=track)
    return real_time(mpc.set_weights([0.1, 1.0, 0.01, 0.01], [0.01], [10.0, 100.0, 10.0, 10.0]), 4)


def quadrotor(task):
    weights = [0.1, 10.0, 10.0, 10.0]
    data = {
        "r": tensor(-weights[0] * task.hover, 0.0, 0.0, 0.0),  # the cost is of the thrust beyond hovering
        "u_lower": torch.from_numpy(task.action_space.low),
        "u_upper": torch.from_numpy(task.action_space.high),
    }
    mpc = qc.MPC(task.dynamics, 20, data=data)
    mpc.set_weights([10.0] * 3 + [1.0] * 6 + [0.1] * 3, weights, [30.0] * 3 + [5.0] * 6 + [0.5] * 3)

    def hover(x):
        r = task.dynamics.neutral_state().repeat(len(x), 1)
        r[:, :3] = task.waypoint(x)
        return r

    return real_time(mpc, 13, hover)


def arm(task):
    """Computed torque: the tool is drawn to its target, what that leaves free to a posture."""
    robot, posture = task.dynamics, tensor(0.0, 0.2, 1.4, 0.3, 1.0, 0.0)
    limit = robot.effort_limit

    def control(x):
        q, v = x[:, :6], x[:, 6:12]
        motion = robot.frame_motions(["tool"], q, v)
        J = robot.frame_jacobians(["tool"], q)[:, 0, :3]
        away = task.target(x) - motion.position[:, 0]
        speed = task.target_velocity(x) if hasattr(task, "target_velocity") else torch.zeros_like(away)
        wanted = 100.0 * away + 20.0 * (speed - motion.velocity[:, 0, :3]) - motion.acceleration[:, 0, :3]
        free = 10.0 * (posture - q) - 6.0 * v
        rest = wanted - torch.einsum("nij,nj->ni", J, free)
        damped = J @ J.mT + 1e-3 * torch.eye(3, dtype=torch.float64)
        a = free + torch.einsum("nji,nj->ni", J, torch.linalg.solve(damped, rest))
        return robot.inverse_dynamics(q, v, a).clamp(-limit, limit)

    return control


CONTROLLERS = {
    "ArmReach": arm,
    "ArmTrack": arm,
    "CartPole": cart_pole,
    "CartPoleSwingUp": cart_pole_swing_up,
    "DoublePendulum": double_pendulum,
    "Pendulum": pendulum,
    "Quadrotor": quadrotor,
}
