"""A simple controller for each environment: states (n, nx) to inputs (n, nu), built on the environment's own model.

`controller(task)` returns a function that is called once per control period.
"""

from __future__ import annotations

import math

import torch

import qp_control as qc
from qp_control.envs.task import rotation_by_rows, wrapped

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


def mass(task):
    """Of the robot [kg]."""
    return float(task.parameters[: 10 * task.dynamics.bodies : 10].sum())


def legs(task, stance, wrench, swing=None):
    """Torques (n, 12) of a quadruped: its feet in stance push so that force and moment about the centre of mass are
    near `wrench(x, R, centroid, feet)` (n, 6), the others go to where `swing` says."""
    robot = task.dynamics
    weight = torch.diag(tensor(1.0, 1.0, 1.0, 10.0, 10.0, 5.0)) ** 2
    small = 1e-3 * torch.eye(12, dtype=torch.float64)

    def control(x):
        n, q, v = len(x), x[:, :19], x[:, 19:37]
        on = stance(x)
        R = rotation_by_rows(q[:, 3:7]).view(n, 3, 3)
        feet = robot.frame_motions(task.feet, q, v)
        J = robot.frame_jacobians(task.feet, q)[:, :, :3]
        centroid = robot.centroid(q, v)
        arm = feet.position - centroid.position[:, None]
        G = torch.zeros(n, 6, 4, 3, dtype=torch.float64)
        for i in range(3):
            unit = torch.zeros(n, 4, 3, dtype=torch.float64)
            unit[:, :, i] = 1.0
            G[:, :3, :, i] = unit.mT * on[:, None]
            G[:, 3:, :, i] = torch.linalg.cross(arm, unit).mT * on[:, None]
        G = G.reshape(n, 6, 12)
        w = wrench(x, R, centroid, feet)
        f = torch.linalg.solve(G.mT @ weight @ G + small, (G.mT @ weight @ w[..., None])).view(n, 4, 3)
        up = f[..., 2].clamp(0.0, 300.0)
        along = f[..., :2]
        most = 0.7 * up / along.norm(dim=-1).clamp_min(1e-9)
        f = torch.cat([along * most.clamp_max(1.0)[..., None], up[..., None]], -1) * on[..., None]
        if swing is not None:
            f = f - swing(x, R, centroid, feet) * ~on[..., None]
        carried = robot.inverse_dynamics(q, v, torch.zeros_like(v))[:, 6:]
        tau = carried - torch.einsum("nkij,nki->nj", J, f)[:, 6:]
        return tau.clamp(-robot.effort_limit, robot.effort_limit)

    return control


def upright(task, x, R, centroid, place, speed, turn):
    """Force and moment that lead the centre of mass to `place` (n, 2) with `speed` (n, 2), and the base upright."""
    m = mass(task)
    moving = centroid.momentum[:, :3] / m
    away = torch.cat([place - centroid.position[:, :2], task.height - x[:, 2:3]], 1)
    slow = torch.cat([speed, torch.zeros_like(turn)], 1) - moving
    force = m * (tensor(60.0, 60.0, 200.0) * away + tensor(14.0, 14.0, 25.0) * slow + tensor(0.0, 0.0, GRAVITY))
    lean = torch.linalg.cross(R[:, :, 2], tensor(0.0, 0.0, 1.0).expand(len(x), 3))
    rate = torch.einsum("nij,nj->ni", R, x[:, 22:25])
    rate = rate - torch.cat([torch.zeros_like(speed), turn], 1)
    moment = 40.0 * lean - tensor(2.0, 4.0, 4.0) * rate
    return torch.cat([force, moment], 1)


def quadruped(task):
    """The feet push so that the centre of mass stays over the middle between them and the base upright."""

    def wrench(x, R, centroid, feet):
        rest = torch.zeros(len(x), 2, dtype=torch.float64)
        return upright(task, x, R, centroid, feet.position[:, :, :2].mean(1), rest, rest[:, :1])

    return legs(task, lambda x: torch.ones(len(x), 4, dtype=torch.bool), wrench)


def quadruped_walk(task):
    """Trots: two feet across from each other push, the other two swing to where the base will be (Raibert)."""
    period, lift, gain = 18, 0.07, 0.12  # control periods of a step, [m], [s]
    pairs = torch.tensor([[True, False, False, True], [False, True, True, False]])
    seconds = period * task.control_period
    under = task.dynamics.frame_motions(task.feet, task.stand[:19]).position[..., :2]
    step, left = -1, None

    def stance(x):
        nonlocal step
        step += 1
        return pairs[step // period % 2].expand(len(x), 4)

    def wrench(x, R, centroid, feet):
        speed = torch.einsum("nij,nj->ni", R[:, :2, :2], x[:, 37:39])
        return upright(task, x, R, centroid, centroid.position[:, :2], speed, x[:, 39:40])

    def swing(x, R, centroid, feet):
        nonlocal left
        phase = (step % period + 1) / period
        if step % period == 0:
            left = feet.position.clone()
        moving = centroid.momentum[:, :2] / mass(task)
        wanted = torch.einsum("nij,nj->ni", R[:, :2, :2], x[:, 37:39])
        ahead = 0.5 * seconds * moving + gain * (moving - wanted)
        turn = (0.5 * seconds + (1.0 - phase) * seconds) * x[:, 39, None]
        round_ = torch.stack([under[:, 0] - turn * under[:, 1], under[:, 1] + turn * under[:, 0]], -1)
        land = x[:, None, :2] + torch.einsum("nij,nkj->nki", R[:, :2, :2], round_)
        land = land + (ahead + (1.0 - phase) * seconds * moving)[:, None]
        part = 0.5 * (1.0 - math.cos(math.pi * min(1.0, phase / 0.9)))
        height = task.foot_radius - 0.005 + lift * math.sin(math.pi * phase)
        target = torch.cat([left[..., :2] + part * (land - left[..., :2]), torch.full_like(land[..., :1], height)], -1)
        return 500.0 * (target - feet.position) + 12.0 * (moving_with(moving) - feet.velocity[..., :3])

    def moving_with(speed):
        return torch.cat([speed, torch.zeros_like(speed[:, :1])], 1)[:, None]

    return legs(task, stance, wrench, swing)


def hopper(task):
    """Balances over its foot, leaps with the speed that leads to the mark, and lands where it can balance again.

    Accelerations and the forces of heel and toe, (x, z) each, are those of a QP that weighs what is wanted of them.
    Numbers by random search.
    """
    robot = task.dynamics
    crouch, leap, reach = 0.65, 0.809, 0.679  # [m] from ankle to hip: balancing, at the end of a leap, before landing
    step, forward = 0.468, 0.072  # [s] of speed that the foot lands ahead, [m] how far ahead of its middle to balance
    BALANCE, LEAP, FLIGHT = 0, 1, 2
    phase = since = None

    def next_phase(x, leg, low, speed):
        nonlocal phase, since
        if phase is None:
            phase, since = torch.full((len(x),), FLIGHT), torch.zeros(len(x))
        ready = (since > 20) & (speed.abs() < 0.15) & (x[:, 2].abs() < 0.15) & (task.way(x) > -0.05)
        ends = torch.stack([ready, leg > leap, low & (x[:, 7] < 0.0)])
        over = ends.gather(0, phase[None])[0]
        phase, since = torch.where(over, (phase + 1) % 3, phase), torch.where(over, 0, since + 1)

    def control(x):
        n, q, v = len(x), x[:, :6], x[:, 6:12]
        ends = robot.frame_motions([*task.ends, "foot"], q, v)
        J = robot.frame_jacobians(task.ends, q)[:, :, [0, 2]].reshape(n, 4, 6)
        centroid = robot.centroid(q, v)
        c, speed, spin = centroid.position, centroid.momentum[:, 0] / mass(task), centroid.momentum[:, 4]
        M, bias = robot.mass_matrix(q), robot.inverse_dynamics(q, v, torch.zeros_like(v))
        place, velocity, height = ends.position[:, :2], ends.velocity[:, :2], ends.position[:, :2, 2] - task.radius
        leg = q[:, 1] - ends.position[:, 2, 2]
        next_phase(x, leg, (height < 0.002).any(1), speed)
        balance, leaping, flight = ((phase == k).double()[:, None] for k in (BALANCE, LEAP, FLIGHT))
        stance = balance + leaping

        # In stance: forces at the centre of mass, the moment about it, and a foot that stays flat on the ground.
        hop = ((task.way(x) + c[:, 0] - q[:, 0] + 0.6 * x[:, 13]) / 0.565).clamp(-0.1, 0.8)
        ahead = torch.where(
            phase == LEAP, 12.0 * (hop - speed), 20.0 * (place[:, :, 0].mean(1) + forward - c[:, 0]) - 9.0 * speed
        )
        up = torch.where(phase == LEAP, 6.03, 120.0 * (crouch - leg) - 16.0 * v[:, 1]) + GRAVITY
        arm = place - c[:, None]
        about = torch.stack([arm[:, 0, 2], -arm[:, 0, 0], arm[:, 1, 2], -arm[:, 1, 0]], 1)
        still = -ends.acceleration[:, :2] - 40.0 * velocity
        still[..., 2] -= 400.0 * height
        # In flight: a posture that puts the foot there.
        lean = torch.asin((c[:, 0] - q[:, 0] + step * speed - 0.05).clamp(-0.35, 0.35) / reach)
        bend = math.acos(reach / 0.9)  # thigh and leg are 0.45 m long
        angles = torch.stack([-bend - lean - q[:, 2], torch.full_like(lean, 2.0 * bend), lean - bend], 1)

        of_forces = torch.zeros(n, 3, 10, dtype=torch.float64)
        of_forces[:, 0, [6, 8]] = of_forces[:, 1, [7, 9]] = 1.0 / mass(task)
        of_forces[:, 2, 6:] = about
        joints = torch.eye(10, dtype=torch.float64)[2:6].expand(n, 4, 10)
        feet = torch.cat([J, torch.zeros(n, 4, 4).double()], 2)
        W = torch.cat([of_forces, joints, feet], 1)
        wanted = torch.stack(
            [ahead.clamp(-6.0, 6.0), up.clamp(0.0, 40.0), -14.5 * spin - 8.2 * q[:, 2] * (phase == BALANCE)], 1
        )
        posture = torch.cat([-80.0 * q[:, 2:3] - 15.0 * v[:, 2:3], 400.0 * (angles - q[:, 3:]) - 40.0 * v[:, 3:]], 1)
        t = torch.cat([wanted, posture, still[..., [0, 2]].reshape(n, 4)], 1)
        weights = [
            stance * tensor(0.776, 3.0, 1.67),
            0.021 * leaping,
            (flight + 1e-3).expand(n, 3),
            10.0 * stance.expand(n, 4),
        ]
        w = torch.cat(weights, 1)[..., None]
        H = (w * W).mT @ (w * W) + 1e-6 * torch.eye(10, dtype=torch.float64)
        g = -((w * W).mT @ (w * t[..., None]))[..., 0]
        # Subject to the equations of motion, limits of torques, and friction.
        motion = torch.cat([M, -J.mT], 2)
        cone = torch.zeros(n, 4, 10, dtype=torch.float64)
        for k, (end, sign) in enumerate([(6, 1.0), (6, -1.0), (8, 1.0), (8, -1.0)]):
            cone[:, k, end], cone[:, k, end + 1] = sign, 0.8
        limit, any_ = robot.effort_limit, torch.full((n, 6), math.inf, dtype=torch.float64)
        l = torch.cat([-limit - bias[:, 3:], torch.zeros(n, 4).double()], 1)
        u = torch.cat([limit - bias[:, 3:], any_[:, :4]], 1)
        most = torch.cat([any_, 1e3 * stance.expand(n, 4)], 1)
        arrays = (a.numpy() for a in (H, g, motion[:, :3], -bias[:, :3], torch.cat([motion[:, 3:], cone], 1), l, u))
        z = torch.from_numpy(qc.solve_qp(*arrays, -most.numpy(), most.numpy()).x)
        tau = torch.einsum("nij,nj->ni", motion, z)[:, 3:] + bias[:, 3:]
        return tau.clamp(-limit, limit)

    return control


CONTROLLERS = {
    "ArmReach": arm,
    "ArmTrack": arm,
    "CartPole": cart_pole,
    "CartPoleSwingUp": cart_pole_swing_up,
    "DoublePendulum": double_pendulum,
    "Hopper": hopper,
    "Pendulum": pendulum,
    "Quadruped": quadruped,
    "QuadrupedPush": quadruped,
    "QuadrupedWalk": quadruped_walk,
    "Quadrotor": quadrotor,
}
