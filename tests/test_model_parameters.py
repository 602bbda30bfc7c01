"""Learnable inertial parameters: what they begin with, that they stay those of real bodies and can be found."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import pytest
import torch
from manifold_robots import normal

from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc.controller import MPC
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.model_parameters import LogCholesky, Payload


def arm():
    model = pin.Model()
    for k, kind in enumerate((pin.JointModelRZ, pin.JointModelRY, pin.JointModelRX)):
        joint = model.addJoint(k, kind(), pin.SE3(np.eye(3), np.array([0.1, 0.0, 0.4])), f"joint {k}")
        placement = pin.SE3(pin.rpy.rpyToMatrix(0.3, 0.2 * k, -0.4), np.array([0.05, 0.1, 0.2]))
        model.appendBodyToJoint(joint, pin.Inertia.FromBox(2.0 - 0.5 * k, 0.1, 0.2, 0.4), placement)
    model.damping[:] = [0.1, 0.2, 0.3]
    return RobotDynamics(model, dt=0.05, actuated=[0, 1, 2])


def is_real(parameters):
    """Of each body (n, 10): positive mass, and positive second moments of it about the centre in every direction."""
    answers = []
    for p in parameters.detach().numpy():
        m, c = p[0], p[1:4] / p[0]
        xx, xy, yy, xz, yz, zz = p[4:]
        about_joint = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        centred = about_joint + m * pin.skew(c) @ pin.skew(c)
        principal = np.linalg.eigvalsh(centred)
        answers.append(m > 0.0 and principal[0] > 0.0 and principal[0] + principal[1] > principal[2])
    return np.array(answers)


def test_log_cholesky_begins_at_the_nominal_model():
    for robot in (arm(), RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)):
        torch.testing.assert_close(LogCholesky(robot)().detach(), robot.parameters, rtol=1e-12, atol=1e-12)


def test_every_value_is_that_of_real_bodies():
    robot = arm()
    module = LogCholesky(robot)
    bodies = 10 * robot.bodies
    # The check tells real bodies from others.
    assert is_real(robot.parameters[:bodies].view(-1, 10)).all()
    shaken = robot.parameters[:bodies].view(-1, 10) * (1.0 + 2.0 * normal(robot.bodies, 10, seed=1))
    assert not is_real(shaken).any()
    for seed in range(20):
        with torch.no_grad():
            module.inertia.copy_(2.0 * normal(robot.bodies, 10, seed=seed))
        assert is_real(module()[:bodies].view(-1, 10)).all()


def test_gradients_reach_all_of_it():
    robot = arm()
    module = LogCholesky(robot)
    x, u = normal(4, robot.nx, seed=1), normal(4, robot.nu, seed=2)

    def loss(inertia, log_damping):
        values = {"inertia": inertia, "log_damping": log_damping}
        return robot.step(x, u, torch.func.functional_call(module, values, ())).sin().sum()

    values = [p.detach().clone().requires_grad_() for p in (module.inertia, module.log_damping)]
    assert torch.autograd.gradcheck(loss, values, atol=1e-6)


def test_the_motion_of_unknown_bodies_is_learned():
    """Accelerations of a robot whose bodies are others: steps of Newton-like size that lead plain numbers astray."""
    robot, bodies = arm(), 30
    module, true = LogCholesky(robot), LogCholesky(robot)
    with torch.no_grad():
        true.inertia += 0.3 * normal(robot.bodies, 10, seed=5)
    q, v, tau = normal(64, 3, seed=6), normal(64, 3, seed=7), normal(64, 3, seed=8)
    target = robot.forward_dynamics(q, v, tau, true()).detach()

    def loss(parameters):
        return (robot.forward_dynamics(q, v, tau, parameters) - target).square().mean()

    first = float(loss(module()).detach())
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(module())
        value.backward()
        assert is_real(module()[:bodies].view(-1, 10)).all()
        return value

    optimiser.step(closure)
    # Base parameters are found, the others do not matter: judged by motions that were not seen.
    assert float(loss(module()).detach()) < 1e-6 * first
    q, v, tau = normal(64, 3, seed=16), normal(64, 3, seed=17), normal(64, 3, seed=18)
    unseen = robot.forward_dynamics(q, v, tau, true()).detach()
    before = (robot.forward_dynamics(q, v, tau) - unseen).norm()
    after = (robot.forward_dynamics(q, v, tau, module()) - unseen).norm()
    assert after < 1e-2 * before


def test_a_controller_takes_it():
    robot = RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)
    x0 = torch.tensor([[0.1, 0.2, 0.0, 0.0]], dtype=torch.float64)
    usual, free = MPC(robot, 10), MPC(robot, 10, model="log_cholesky")
    torch.testing.assert_close(free(x0).inputs, usual(x0).inputs, rtol=0, atol=1e-9)
    free(x0).inputs.sum().backward()
    assert free.model.inertia.grad.any()
    own = torch.nn.Module()
    own.forward = lambda: robot.parameters
    torch.testing.assert_close(MPC(robot, 10, model=own)(x0).inputs, usual(x0).inputs, rtol=0, atol=1e-12)


def test_bodies_that_are_not_real_are_told():
    model = pin.Model()
    flat = pin.Inertia(1.0, np.zeros(3), np.diag([1.0, 1.0, 3.0]))  # the triangle inequality does not hold
    model.appendBodyToJoint(model.addJoint(0, pin.JointModelRX(), pin.SE3.Identity(), "lid"), flat, pin.SE3.Identity())
    with pytest.raises(ValueError, match="the body of joint 'lid' is no real one"):
        LogCholesky(RobotDynamics(model, dt=0.1, actuated=["lid"]))
    with pytest.raises(ValueError, match="model is 'free'"):
        MPC(arm(), 5, model="free")


def test_payload_is_a_mass_at_the_frame():
    """Against Pinocchio's own model with the mass on its last body."""
    robot = arm()
    place = pin.SE3(pin.rpy.rpyToMatrix(0.5, -0.2, 0.1), np.array([0.1, 0.0, 0.3]))
    with_tool = robot.model.copy()
    with_tool.addFrame(pin.Frame("tool", 3, place, pin.FrameType.OP_FRAME))
    robot = RobotDynamics(with_tool, dt=0.05, actuated=[0, 1, 2])
    load = Payload(robot, "tool", mass=2.0, size=0.1)
    centre, friction = np.array([0.05, -0.03, 0.08]), torch.tensor([1.5, 0.5, 2.0], dtype=torch.float64)
    with torch.no_grad():
        load.offset.copy_(torch.from_numpy(centre / 0.1))
        load.log_damping.copy_(friction.log())
    truth = with_tool.copy()
    truth.appendBodyToJoint(3, pin.Inertia(2.0, place.act(centre), np.zeros((3, 3))), pin.SE3.Identity())
    truth.damping[:] = with_tool.damping * friction.numpy()
    expected = RobotDynamics(truth, dt=0.05, actuated=[0, 1, 2]).parameters
    torch.testing.assert_close(load().detach(), expected, rtol=1e-12, atol=1e-14)
    assert load.mass.item() == pytest.approx(2.0) and load.centre.detach().numpy() == pytest.approx(centre)
    load().square().sum().backward()
    assert all(p.grad.abs().max() > 0.0 for p in load.parameters())
    with pytest.raises(ValueError, match="'universe' does not move with the robot"):
        Payload(robot, "universe")
    with pytest.raises(ValueError, match="no frame 'hand'"):
        Payload(robot, "hand")
    with pytest.raises(ValueError, match="mass is 0"):
        Payload(robot, "tool", mass=0.0)
