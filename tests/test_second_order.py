"""Second derivatives of a control period, against differences of its first ones."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import pytest
import torch
from manifold_robots import moved, normal, random_states
from trees import TREES, tree_model

from qp_control.robot.dynamics import RobotDynamics


def one_body(joint, name):
    model = pin.Model()
    index = model.addJoint(0, joint, pin.SE3.Identity(), name)
    model.appendBodyToJoint(index, pin.Inertia.Random(), pin.SE3.Identity())
    return model


def robot(tree, integrator="rk4", substeps=1):
    model = tree_model(TREES[tree])
    model.damping[:] = 0.1
    return RobotDynamics(model, dt=0.1, integrator=integrator, substeps=substeps, actuated=list(range(model.nv)))


def differences(gradient, z, h=2e-3):
    """Jacobian of gradient(z) by differences of order six: with this step 1e-16 / h and h^6 are both about 1e-13, up to
    the size of seventh derivatives."""
    columns = []
    for e in h * torch.eye(z.shape[-1], dtype=torch.float64):
        one, two, three = (gradient(z + k * e) - gradient(z - k * e) for k in (1, 2, 3))
        columns.append((45.0 * one - 9.0 * two + three) / (60.0 * h))
    return torch.stack(columns, -1)


def expected_second_order(model, x, u, y, charts):
    n = model.ndx

    def gradient(z):
        _, A, B = model.linearize(z[:, :n], z[:, n:], charts=charts)
        return (torch.cat([A, B], -1).mT @ y[..., None])[..., 0]

    return differences(gradient, torch.cat([x, u], -1))


@pytest.mark.parametrize("integrator", ["rk4", "semi_implicit", "euler"])
@pytest.mark.parametrize("substeps", [1, 2])
@pytest.mark.parametrize("tree", TREES)
def test_second_order_equals_differences_of_first_derivatives(tree, substeps, integrator):
    model = robot(tree, integrator, substeps)
    x, u = random_states(model, 4, seed=2), normal(4, model.nu, seed=3)
    y = normal(4, model.ndx, seed=4)
    charts = None
    if not model.vector_space:
        # Far enough from the references that the manifold's curvature counts.
        charts = moved(model.model, x, 0.5 * normal(4, model.ndx, seed=5)), x
        x = 0.5 * normal(4, model.ndx, seed=6)
    expected = expected_second_order(model, x, u, y, charts)
    got = model.second_order(x, u, y, charts=charts)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))
    torch.testing.assert_close(got, got.mT, rtol=0, atol=0)


@pytest.mark.parametrize("tree", ["flying tree", "car with a trailer"])
def test_second_order_without_references_is_that_around_the_state_and_the_next(tree):
    model = robot(tree)
    x, u, y = random_states(model, 4, seed=2), normal(4, model.nu, seed=3), normal(4, model.ndx, seed=4)
    zero = torch.zeros(4, model.ndx, dtype=torch.float64)
    expected = model.second_order(zero, u, y, charts=(x, model.step(x, u)))
    # The next state comes from two algorithms.
    torch.testing.assert_close(model.second_order(x, u, y), expected, rtol=1e-9, atol=1e-9)


def test_second_order_with_parameters_of_each_element():
    model = robot("chain")
    x, u, y = normal(3, model.nx, seed=2), normal(3, model.nu, seed=3), normal(3, model.ndx, seed=4)
    parameters = model.parameters * (1.0 + 0.1 * torch.rand(3, model.n_par, dtype=torch.float64))
    got = model.second_order(x, u, y, parameters)
    for i in range(3):
        one = model.second_order(x[i], u[i], y[i], parameters[i])
        torch.testing.assert_close(got[i], one, rtol=0, atol=0)
    assert not torch.allclose(got, model.second_order(x, u, y), rtol=1e-3)


@pytest.mark.parametrize("kind", ["SphericalZYX", "Universal", "Ellipsoid", "Composite"])
def test_joints_whose_derivatives_the_library_gets_wrong_are_refused(kind):
    joint = {
        "SphericalZYX": pin.JointModelSphericalZYX,
        "Universal": lambda: pin.JointModelUniversal(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])),
        "Ellipsoid": lambda: pin.JointModelEllipsoid(1.0, 2.0, 3.0),
        "Composite": pin.JointModelComposite,
    }[kind]()
    if kind == "Composite":
        joint.addJoint(pin.JointModelRX())
        joint.addJoint(pin.JointModelRY())
    model = pin.Model()
    model.appendBodyToJoint(
        model.addJoint(0, joint, pin.SE3.Identity(), "wrist"), pin.Inertia.Random(), pin.SE3.Identity()
    )
    assert error_of_the_library(model) > 1e-3
    with pytest.raises(ValueError, match=f"the joint 'wrist' is a JointModel{kind}"):
        RobotDynamics(model, dt=0.1)


def error_of_the_library(model):
    """Of Pinocchio's derivative of the acceleration by the last velocity: the reason for a refusal."""
    data, q = model.createData(), pin.integrate(model, pin.neutral(model), np.full(model.nv, 0.4))
    v, tau = np.linspace(0.5, 1.0, model.nv), np.ones(model.nv)
    pin.computeABADerivatives(model, data, q, v, tau)
    analytic, step = data.ddq_dv.copy(), 1e-6 * np.eye(model.nv)[-1]
    numeric = (pin.aba(model, data, q, v + step, tau) - pin.aba(model, data, q, v - step, tau)) / 2e-6
    return np.abs(analytic[:, -1] - numeric).max()


def test_joints_that_are_not_in_depth_first_order_are_refused():
    joints = [("x", 0), ("unaligned", 1), ("slide", 1), ("x", 2)]
    assert error_of_the_library(tree_model(joints)) > 1e-3
    with pytest.raises(ValueError, match="the joint 'x 3' comes after joints of another branch"):
        RobotDynamics(tree_model(joints), dt=0.1)
    in_order = tree_model([("x", 0), ("unaligned", 1), ("x", 2), ("slide", 1)])
    assert error_of_the_library(in_order) < 1e-7  # central differences
    RobotDynamics(in_order, dt=0.1)


def test_joints_far_from_the_origin_are_taken():
    """Where the axes of a screw in the world have lost half their digits."""
    model = tree_model([("x", 0)])
    far = pin.SE3(np.eye(3), np.array([1e6, -2e6, 3e7]))
    model.appendBodyToJoint(
        model.addJoint(1, pin.JointModelHelicalUnaligned(0.6, 0.0, 0.8, 0.1), far, "screw"),
        pin.Inertia.Random(),
        pin.SE3.Identity(),
    )
    RobotDynamics(model, dt=0.1)


def test_composite_joints_with_fixed_axes_are_taken():
    joint = pin.JointModelComposite()
    joint.addJoint(pin.JointModelPX())
    joint.addJoint(pin.JointModelPY())
    model = pin.Model()
    model.appendBodyToJoint(
        model.addJoint(0, joint, pin.SE3.Identity(), "table"), pin.Inertia.Random(), pin.SE3.Identity()
    )
    assert RobotDynamics(model, dt=0.1).nv == 2
