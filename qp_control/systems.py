"""Example systems: a cart-pole and a quadrotor as torch functions, an arm and a flying body for Pinocchio."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import torch
from torch import Tensor

from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.torch_dynamics import TorchDynamics

GRAVITY = 9.81  # [m/s^2]
ARM_LENGTHS = (0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1)  # [m]
ARM_MASSES = (3.0, 3.0, 2.5, 2.0, 1.5, 0.7, 0.3)  # [kg]


def cart_pole(dt: float = 0.05, *, force_limit: float = 10.0) -> TorchDynamics:
    """A point mass on a massless rod on a cart.

    State (cart position [m], angle from upright [rad], cart velocity [m/s], rate [rad/s]), input: force on the cart
    [N]. Parameters: (mass of the cart [kg], mass of the pole [kg], length of the rod [m]), by default (1, 0.2, 0.5).
    """

    def derivative(x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        _, angle, speed, rate = x.unbind(-1)
        cart, pole, length = p.unbind(-1)
        sine, cosine = angle.sin(), angle.cos()
        mass = cart + pole * sine * sine
        force = u[..., 0] + pole * length * rate * rate * sine
        acceleration = (force - pole * GRAVITY * sine * cosine) / mass
        turn = (GRAVITY * sine - acceleration * cosine) / length
        return torch.stack([speed, rate, acceleration, turn], -1)

    nominal = torch.tensor([1.0, 0.2, 0.5], dtype=torch.float64)
    return TorchDynamics(
        derivative, 4, 1, dt=dt, integrator="rk4", parameters=nominal, input_limit=torch.tensor([force_limit])
    )


def quadrotor(dt: float = 0.05) -> TorchDynamics:
    """A quadrotor in roll, pitch and yaw, singular at a pitch of 90 degrees.

    State (position [m], (roll, pitch, yaw) [rad], velocity in the world [m/s], angular velocity in the body [rad/s]),
    input: thrusts of the front, left, back and right rotor [N] relative to hovering. Parameters: (mass [kg], moments of
    inertia [kg m^2], distance of the rotors from the centre [m], drag torque per thrust [m]).

    Source: R. Mahony, V. Kumar, P. Corke, "Multirotor aerial vehicles", IEEE Robotics & Automation Magazine 19 (2012).
    """

    def derivative(x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        angles, velocity, omega = x[..., 3:6], x[..., 6:9], x[..., 9:]
        mass, inertia, arm, drag = p[..., 0], p[..., 1:4], p[..., 4], p[..., 5]
        (sr, sp, sy), (cr, cp, cy) = angles.sin().unbind(-1), angles.cos().unbind(-1)
        front, left, back, right = (u + 0.25 * GRAVITY * mass[..., None]).unbind(-1)
        thrust = (front + left + back + right) / mass
        # third column of R = R_z(yaw) R_y(pitch) R_x(roll)
        axis = torch.stack([cy * sp * cr + sy * sr, sy * sp * cr - cy * sr, cp * cr], -1)
        down = torch.tensor([0.0, 0.0, -GRAVITY], dtype=x.dtype)
        torque = torch.stack([arm * (left - right), arm * (back - front), drag * (front - left + back - right)], -1)
        wx, wy, wz = omega.unbind(-1)
        turn = wy * sr + wz * cr
        rates = torch.stack([wx + turn * sp / cp, wy * cr - wz * sr, turn / cp], -1)
        spin = (torque - torch.linalg.cross(omega, inertia * omega)) / inertia
        return torch.cat([velocity, rates, thrust[..., None] * axis + down, spin], -1)

    nominal = torch.tensor([0.5, 3e-3, 3e-3, 5e-3, 0.17, 0.016], dtype=torch.float64)
    limit = torch.full((4,), 0.25 * GRAVITY * 0.5)
    return TorchDynamics(derivative, 12, 4, dt=dt, integrator="rk4", parameters=nominal, input_limit=limit)


def seven_joint_arm(dt: float = 0.05) -> RobotDynamics:
    """An arm of seven revolute joints, alternately about z and y, 1.2 m long, 13 kg; torque limits 40 to 8 N m."""
    model = pin.Model()
    parent, placement = 0, pin.SE3.Identity()
    efforts = (40.0, 40.0, 40.0, 40.0, 12.0, 12.0, 8.0)
    for k, (length, mass, effort) in enumerate(zip(ARM_LENGTHS, ARM_MASSES, efforts, strict=True)):
        joint = pin.JointModelRZ() if k % 2 == 0 else pin.JointModelRY()
        bound = np.array([2.8])
        parent = model.addJoint(
            parent, joint, placement, f"joint{k + 1}", np.array([effort]), np.array([3.0]), -bound, bound
        )
        body = pin.Inertia.FromCylinder(mass, 0.05, length)
        model.appendBodyToJoint(parent, body, pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.5 * length])))
        placement = pin.SE3(np.eye(3), np.array([0.0, 0.0, length]))
    return RobotDynamics(model, dt=dt)


def flying_body(dt: float = 0.05) -> RobotDynamics:
    """A quadrotor as a free-flyer, without singularities.

    State (position [m], quaternion x y z w, velocity [m/s] and angular velocity [rad/s] in the body's axes), input:
    thrust along the body's z axis [N], and torques about its axes [N m]. The mass is 0.5 kg, hovering takes 4.905 N;
    the limits are 12 N and 0.5, 0.5, 0.1 N m.
    """
    model = pin.Model()
    effort = np.array([0.0, 0.0, 12.0, 0.5, 0.5, 0.1])
    far = np.full(7, np.inf)
    root = model.addJoint(
        0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "body", effort, np.full(6, np.inf), -far, far
    )
    inertia = pin.Inertia(0.5, np.zeros(3), np.diag([3e-3, 3e-3, 5e-3]))
    model.appendBodyToJoint(root, inertia, pin.SE3.Identity())
    return RobotDynamics(model, dt=dt, actuated=[2, 3, 4, 5])
