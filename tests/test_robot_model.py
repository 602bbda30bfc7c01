"""Inverse dynamics, frames and the centroid of whole batches, against Pinocchio's Python functions and differences."""

from __future__ import annotations

import pickle

import numpy as np
import pinocchio as pin
import pytest
import torch
from manifold_robots import normal
from trees import TREES, tree_model

from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.model import RobotModel

BATCH = 3


def setting(tree):
    """The model, its last frame and another one, and configurations, velocities and accelerations."""
    model = tree_model(TREES[tree])
    rng = np.random.default_rng(3)
    placement = pin.SE3(pin.rpy.rpyToMatrix(0.3, -0.5, 0.8), np.array([0.1, -0.2, 0.3]))
    model.addFrame(pin.Frame("tool", model.njoints - 1, placement, pin.FrameType.OP_FRAME))
    model.addFrame(pin.Frame("camera", 1, placement.inverse(), pin.FrameType.OP_FRAME))
    q = np.stack([pin.integrate(model, pin.neutral(model), rng.normal(size=model.nv)) for _ in range(BATCH)])
    v, a = rng.normal(size=(2, BATCH, model.nv))
    return RobotModel(model), ["tool", "camera"], *map(torch.from_numpy, (q, v, a))


def scaled(robot):
    """Parameters of each element: all bodies real, none the nominal one."""
    factor = 1.0 + 0.3 * torch.rand(BATCH, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return robot.parameters * factor


def differences(function, robot, inputs, direction, h=1e-3):
    """d/dt function(inputs moved by t direction) by differences of order six, q on its manifold; with this step 1e-16 /
    h and h^6 are both about 1e-13 or less."""

    def at(t):
        moved = []
        for name, value in inputs.items():
            d = t * direction[name]
            if name == "q":
                value = torch.stack([
                    torch.from_numpy(pin.integrate(robot.model, qi.numpy(), di.numpy()))
                    for qi, di in zip(value, d, strict=True)
                ])  # fmt: skip
                moved.append(value)
            else:
                moved.append(value + d)
        return function(*moved)

    one, two, three = (at(k * h) - at(-k * h) for k in (1, 2, 3))
    return (45.0 * one - 9.0 * two + three) / (60.0 * h)


def check_gradient(function, robot, **inputs):
    """The gradient of a random sum of the function's outputs, by every input, along a random direction."""

    def weighted(*values):
        outputs = function(*values)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.stack([(o * normal(*o.shape, seed=k)).sum() for k, o in enumerate(outputs)]).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    weighted(*leaves.values()).backward()
    for name, leaf in leaves.items():
        sizes = {n: robot.nv if n in "qva" else robot.n_par for n in inputs}
        direction = {n: torch.zeros(BATCH, sizes[n], dtype=torch.float64) for n in inputs}
        direction[name] = normal(BATCH, sizes[name], seed=7)
        with torch.no_grad():
            expected = float(differences(weighted, robot, inputs, direction))
        assert leaf.grad is not None
        if name == "q":  # of the coordinates, along the tangent
            h, model = 1e-5, robot.model
            pairs = zip(inputs["q"].numpy(), h * direction["q"].numpy(), strict=True)
            along = torch.from_numpy(
                np.stack([(pin.integrate(model, x, d) - pin.integrate(model, x, -d)) / (2 * h) for x, d in pairs])
            )
        else:
            along = direction[name]
        assert float((leaf.grad * along).sum()) == pytest.approx(expected, rel=1e-7, abs=1e-7), name


@pytest.mark.parametrize("tree", TREES)
def test_inverse_dynamics_and_mass_matrix_are_pinocchios(tree):
    robot, _, q, v, a = setting(tree)
    tau, M = robot.inverse_dynamics(q, v, a), robot.mass_matrix(q)
    data = robot.model.createData()
    for i in range(BATCH):
        expected = pin.rnea(robot.model, data, q[i].numpy(), v[i].numpy(), a[i].numpy())
        expected = expected + robot.model.damping * v[i].numpy()
        np.testing.assert_allclose(tau[i], expected, rtol=0, atol=1e-11)
        upper = np.triu(pin.crba(robot.model, data, q[i].numpy()))
        np.testing.assert_allclose(M[i], upper + np.triu(upper, 1).T, rtol=0, atol=1e-12)
    # Forward and inverse dynamics are inverse to each other, with parameters of each element too.
    parameters = scaled(robot)
    back = robot.inverse_dynamics(q, v, robot.forward_dynamics(q, v, a, parameters), parameters)
    torch.testing.assert_close(back, a, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tree", TREES)
def test_gradients_of_inverse_dynamics_and_mass_matrix(tree):
    robot, _, q, v, a = setting(tree)
    parameters = scaled(robot)
    check_gradient(robot.inverse_dynamics, robot, q=q, v=v, a=a, parameters=parameters)
    check_gradient(robot.mass_matrix, robot, q=q, parameters=parameters)


def test_rotor_inertias_are_part_of_the_forces_and_of_their_gradients():
    model = tree_model(TREES["chain"])
    model.armature[:] = np.array([0.5, 0.3, 0.2, 0.1])
    robot = RobotModel(model)
    q, v, a = normal(BATCH, 4, seed=1), normal(BATCH, 4, seed=2), normal(BATCH, 4, seed=3)
    plain = RobotModel(tree_model(TREES["chain"]))
    armature = torch.from_numpy(model.armature)
    torch.testing.assert_close(robot.inverse_dynamics(q, v, a) - plain.inverse_dynamics(q, v, a), armature * a)
    torch.testing.assert_close(robot.mass_matrix(q) - plain.mass_matrix(q), torch.diag(armature).expand(BATCH, 4, 4))
    check_gradient(robot.inverse_dynamics, robot, q=q, v=v, a=a)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("tree", TREES)
def test_frame_motions_and_jacobians_are_pinocchios(tree, aligned):
    robot, names, q, v, a = setting(tree)
    found, J = robot.frame_motions(names, q, v, a, aligned=aligned), robot.frame_jacobians(names, q, aligned=aligned)
    axes = pin.ReferenceFrame.LOCAL_WORLD_ALIGNED if aligned else pin.ReferenceFrame.LOCAL
    model, data = robot.model, robot.model.createData()
    for i in range(BATCH):
        pin.forwardKinematics(model, data, q[i].numpy(), v[i].numpy(), a[i].numpy())
        for k, name in enumerate(names):
            frame = model.getFrameId(name)
            placement = pin.updateFramePlacement(model, data, frame)
            np.testing.assert_allclose(found.position[i, k], placement.translation, rtol=0, atol=1e-13)
            np.testing.assert_allclose(found.rotation[i, k], placement.rotation, rtol=0, atol=1e-13)
            velocity = pin.getFrameVelocity(model, data, frame, axes).vector
            acceleration = pin.getFrameClassicalAcceleration(model, data, frame, axes).vector
            np.testing.assert_allclose(found.velocity[i, k], velocity, rtol=0, atol=1e-12)
            np.testing.assert_allclose(found.acceleration[i, k], acceleration, rtol=0, atol=1e-11)
            jacobian = pin.computeFrameJacobian(model, data, q[i].numpy(), frame, axes)
            np.testing.assert_allclose(J[i, k], jacobian, rtol=0, atol=1e-12)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("tree", TREES)
def test_gradients_of_frame_motions_and_jacobians(tree, aligned):
    robot, names, q, v, a = setting(tree)
    check_gradient(lambda *motion: tuple(robot.frame_motions(names, *motion, aligned=aligned)), robot, q=q, v=v, a=a)
    check_gradient(lambda q: robot.frame_jacobians(names, q, aligned=aligned), robot, q=q)


@pytest.mark.parametrize("tree", TREES)
def test_centroid_is_pinocchios(tree):
    robot, _, q, v, a = setting(tree)
    found = robot.centroid(q, v, a)
    model, data = robot.model, robot.model.createData()
    for i in range(BATCH):
        np.testing.assert_allclose(found.position[i], pin.centerOfMass(model, data, q[i].numpy()), rtol=0, atol=1e-12)
        pin.computeCentroidalMomentumTimeVariation(model, data, q[i].numpy(), v[i].numpy(), a[i].numpy())
        np.testing.assert_allclose(found.momentum[i], data.hg.vector, rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.rate[i], data.dhg.vector, rtol=0, atol=1e-11)


@pytest.mark.parametrize("tree", TREES)
def test_gradients_of_the_centroid(tree):
    robot, _, q, v, a = setting(tree)
    check_gradient(lambda *motion: tuple(robot.centroid(*motion)), robot, q=q, v=v, a=a, parameters=scaled(robot))


def test_shared_parameters_get_the_sum_and_shared_motions_are_broadcast():
    robot, names, q, v, a = setting("chain")
    shared = robot.parameters.requires_grad_()
    robot.inverse_dynamics(q, v, a, shared).sin().sum().backward()
    each = robot.parameters.expand(BATCH, -1).clone().requires_grad_()
    robot.inverse_dynamics(q, v, a, each).sin().sum().backward()
    torch.testing.assert_close(shared.grad, each.grad.sum(0), rtol=1e-12, atol=1e-12)
    still = robot.frame_motions(names, q)
    assert not still.velocity.any() and not still.acceleration.any()
    deep = robot.frame_motions(names, q[:, None].expand(BATCH, 2, -1), v[:, None], a[0])
    assert deep.position.shape == (BATCH, 2, 2, 3) and deep.acceleration.shape == (BATCH, 2, 2, 6)
    torch.testing.assert_close(deep.velocity[:, 1], robot.frame_motions(names, q, v).velocity, rtol=0, atol=0)
    single = robot.centroid(q[0].float(), v[0].float())
    assert single.position.shape == (3,) and single.position.dtype == torch.float32


def test_gradients_do_not_depend_on_threads_and_models_travel():
    robot, names, q, v, a = setting("flying tree")
    found = {}
    for threads in (1, 2):
        copy = RobotModel(robot.model, threads=threads)
        leaf = q.repeat(50, 1).requires_grad_()
        motion = copy.frame_motions(names, leaf, v.repeat(50, 1), a.repeat(50, 1))
        (motion.acceleration.sum() + copy.centroid(leaf).position.sin().sum()).backward()
        found[threads] = leaf.grad
    assert torch.equal(found[1], found[2])
    again = pickle.loads(pickle.dumps(robot))
    assert type(again) is RobotModel
    assert torch.equal(again.mass_matrix(q), robot.mass_matrix(q))


def test_bad_arguments_are_told():
    robot, names, q, v, a = setting("flying body")
    with pytest.raises(ValueError, match="no frame 'hand', only universe"):
        robot.frame_motions(["hand"], q)
    with pytest.raises(ValueError, match="expected a list of names"):
        robot.frame_jacobians("tool", q)
    with pytest.raises(ValueError, match=r"v has shape \(3, 5\), expected \(..., 6\)"):
        robot.frame_motions(names, q, v[:, :5])
    with pytest.raises(ValueError, match="q has the entry nan"):
        robot.mass_matrix(q * torch.nan)
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.centroid(2.0 * q)
    with pytest.raises(ValueError, match="parameters has shape"):
        robot.inverse_dynamics(q, v, a, robot.parameters[:-1])
    for threads in (-1, 1.5, 5000):
        with pytest.raises(ValueError, match=f"threads is {threads}, expected an integer >= 0"):
            RobotModel(robot.model, threads=threads)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_tensors_of_integers_are_refused(dtype):
    """Results have the dtype of the first argument: they would be cut off."""
    robot = RobotDynamics(setting("chain")[0].model, dt=0.01)
    q, v = torch.zeros(2, robot.nq, dtype=dtype), torch.zeros(2, robot.nv)
    x, u = torch.zeros(2, robot.nx, dtype=dtype), torch.zeros(2, robot.nu)
    calls = {
        "q": (
            lambda: robot.frame_positions(["tool"], q),
            lambda: robot.frame_jacobians(["tool"], q),
            lambda: robot.forward_dynamics(q, v, v),
            lambda: robot.mass_matrix(q),
            lambda: robot.centroid(q),
        ),
        "x": (lambda: robot.step(x, u), lambda: robot.linearize(x, u), lambda: robot.difference(x.double(), x)),
        "v": (lambda: robot.inverse_dynamics(q.double(), v.to(dtype), v),),
        "u": (lambda: robot.step(x.double(), u.to(dtype)),),
        "parameters": (lambda: robot.mass_matrix(q.double(), robot.parameters.to(dtype)),),
    }
    for name, functions in calls.items():
        for function in functions:
            with pytest.raises(
                TypeError, match=f"{name} is a tensor of dtype {dtype}, expected a floating-point tensor"
            ):
                function()


def test_gradients_of_differences_do_not_depend_on_what_was_computed_before():
    """Their Jacobians are blocks of the joints, in memory that a mass matrix has been in."""
    robot, _, q, v, _ = setting("flying tree")
    robot = RobotModel(robot.model, threads=1)
    x = torch.cat([q, v], 1)
    reference = torch.cat([q.roll(1, 0), v.roll(1, 0)], 1)

    def gradients():
        leaves = [reference.clone().requires_grad_(), x.clone().requires_grad_()]
        (robot.difference(*leaves) * normal(BATCH, 2 * robot.nv)).sum().backward()
        return [leaf.grad for leaf in leaves]

    before = gradients()
    robot.mass_matrix(q)
    for first, second in zip(before, gradients(), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=0)
