"""The batched dynamics against Pinocchio's Python functions, textbook formulas and finite differences."""

import copy
import pickle
import subprocess
import sys
import threading

import numpy as np
import pinocchio as pin
import pytest
import torch

from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.robot.dynamics import RobotDynamics

URDF = CartPoleSwingUp.urdf
INTEGRATORS = ("euler", "semi_implicit", "rk4")


def humanoid():
    """A robot with a free-flyer and joint damping."""
    model = pin.buildSampleModelHumanoid()
    model.lowerPositionLimit[:] = -1.0
    model.upperPositionLimit[:] = 1.0
    model.upperEffortLimit[:] = 10.0
    model.damping[:] = np.linspace(0.1, 1.0, model.nv)
    return model


def arm():
    model = pin.buildSampleModelManipulator()
    model.damping[:] = np.linspace(0.1, 0.6, model.nv)
    model.upperEffortLimit[:] = 10.0
    return model


def random_state(model, rng):
    q = pin.integrate(model, pin.neutral(model), rng.uniform(-1.0, 1.0, model.nv))
    return np.concatenate([q, rng.uniform(-1.0, 1.0, model.nv)])


def random_batch(dynamics, n, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack([random_state(dynamics.model, rng) for _ in range(n)])
    return torch.from_numpy(x), torch.from_numpy(rng.uniform(-2.0, 2.0, (n, dynamics.nu)))


def move(model, x, dx):
    return np.concatenate([pin.integrate(model, x[: model.nq], dx[: model.nv]), x[model.nq :] + dx[model.nv :]])


def change(model, x0, x1):
    dq = pin.difference(model, x0[: model.nq], x1[: model.nq])
    return np.concatenate([dq, x1[model.nq :] - x0[model.nq :]])


def differences(function, size, h=1e-6):
    """Central differences of function(direction * h) in all coordinate directions, as columns."""
    columns = []
    for e in np.eye(size):
        columns.append((function(h * e) - function(-h * e)) / (2.0 * h))
    return np.stack(columns, axis=-1)


def test_cart_pole_accelerations_are_those_of_the_textbook():
    dynamics = RobotDynamics(URDF, dt=0.05)
    M, m, l, I, g, d = 1.0, 0.1, 0.5, 0.1 / 12.0, 9.81, (0.1, 0.002)
    rng = np.random.default_rng(1)
    q, v, tau = rng.normal(size=(3, 20, 2))
    tau[:, 1] = 0.0
    qdd = dynamics.forward_dynamics(*map(torch.from_numpy, (q, v, tau))).numpy()
    for i in range(20):
        s, c = np.sin(q[i, 1]), np.cos(q[i, 1])
        mass = np.array([[M + m, m * l * c], [m * l * c, I + m * l * l]])
        force = np.array([tau[i, 0] - d[0] * v[i, 0] + m * l * s * v[i, 1] ** 2, m * g * l * s - d[1] * v[i, 1]])
        np.testing.assert_allclose(qdd[i], np.linalg.solve(mass, force), atol=1e-11)


def test_forward_dynamics_is_articulated_body_algorithm_with_damping():
    model = humanoid()
    dynamics = RobotDynamics(model, dt=0.01)
    x, _ = random_batch(dynamics, 7)
    tau = torch.from_numpy(np.random.default_rng(1).normal(size=(7, model.nv)))
    q, v = x[:, : model.nq], x[:, model.nq :]
    qdd = dynamics.forward_dynamics(q, v, tau).numpy()
    data = model.createData()
    for i in range(7):
        expected = pin.aba(model, data, q[i].numpy(), v[i].numpy(), tau[i].numpy() - model.damping * v[i].numpy())
        np.testing.assert_allclose(qdd[i], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [humanoid, arm])
def test_forward_dynamics_derivatives_equal_finite_differences_on_the_manifold(make):
    model = make()
    dynamics = RobotDynamics(model, dt=0.01)
    x, _ = random_batch(dynamics, 2, seed=3)
    tau = torch.from_numpy(np.random.default_rng(4).normal(size=(2, model.nv)))
    par = dynamics.parameters
    q, v = x[:, : model.nq], x[:, model.nq :]
    qdd, dq, dv, dtau, dp = dynamics.forward_dynamics_derivatives(q, v, tau)

    def at(i, q_i, v_i, tau_i, p):
        arguments = (torch.from_numpy(np.asarray(a))[None] for a in (q_i, v_i, tau_i))
        return dynamics.forward_dynamics(*arguments, torch.from_numpy(np.asarray(p)))[0].numpy()

    for i in range(2):
        a = (q[i].numpy(), v[i].numpy(), tau[i].numpy(), par.numpy())
        scale = 1.0 + float(qdd[i].abs().max())
        cases = {
            "q": (
                dq,
                differences(lambda e, a=a, i=i: at(i, pin.integrate(model, a[0], e), *a[1:]), model.nv),
            ),
            "v": (dv, differences(lambda e, a=a, i=i: at(i, a[0], a[1] + e, *a[2:]), model.nv)),
            "tau": (dtau, differences(lambda e, a=a, i=i: at(i, *a[:2], a[2] + e, a[3]), model.nv)),
            "p": (dp, differences(lambda e, a=a, i=i: at(i, *a[:3], a[3] + e), dynamics.n_par)),
        }
        for name, (analytic, numeric) in cases.items():
            # Differences are good to about 1e-9 relative; large entries belong to light bodies.
            largest = max(scale, np.abs(numeric).max())
            np.testing.assert_allclose(analytic[i].numpy(), numeric, atol=1e-6 * largest, err_msg=name)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_step_equals_a_plain_loop(integrator):
    dynamics = RobotDynamics(URDF, dt=0.05, substeps=3, integrator=integrator)
    x, u = random_batch(dynamics, 4)
    h = 0.05 / 3

    def rate(s, force):
        tau = torch.stack([force, torch.zeros_like(force)])
        return torch.cat([s[2:], dynamics.forward_dynamics(s[:2], s[2:], tau)])

    for i in range(4):
        s, f = x[i], u[i, 0]
        for _ in range(3):
            k1 = rate(s, f)
            if integrator == "euler":
                s = s + h * k1
            elif integrator == "semi_implicit":
                v = s[2:] + h * k1[2:]
                s = torch.cat([s[:2] + h * v, v])
            else:
                k2 = rate(s + h / 2 * k1, f)
                k3 = rate(s + h / 2 * k2, f)
                k4 = rate(s + h * k3, f)
                s = s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        torch.testing.assert_close(dynamics.step(x[i], u[i]), s, rtol=0, atol=1e-12)


def test_rk4_has_order_four_on_a_free_flyer():
    # A tumbling body under its own weight: the configuration lives on SE(3).
    model = pin.Model()
    inertia = pin.Inertia(1.3, np.array([0.1, -0.2, 0.3]), np.diag([0.5, 0.7, 0.9]))
    root = model.addJoint(0, pin.JointModelFreeFlyer(), pin.SE3.Identity(), "root")
    model.appendBodyToJoint(root, inertia, pin.SE3.Identity())
    x = torch.from_numpy(np.concatenate([pin.neutral(model), [0.3, -0.5, 0.2, 2.0, -3.0, 1.5]]))[None]
    u = torch.zeros(1, 0, dtype=torch.float64)

    def end(substeps):
        return RobotDynamics(model, dt=0.4, substeps=substeps, actuated=[]).step(x, u)[0].numpy()

    exact = end(640)
    errors = [np.linalg.norm(change(model, exact, end(n))) for n in (10, 20)]
    assert 3.7 < np.log2(errors[0] / errors[1]) < 4.5, errors


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_linearization_equals_finite_differences_on_the_manifold(integrator):
    model = humanoid()
    dynamics = RobotDynamics(model, dt=0.02, substeps=2, integrator=integrator)
    x, u = random_batch(dynamics, 1, seed=5)
    x_next, A, B = dynamics.linearize(x, u)
    P = dynamics.parameter_jacobian(x, u)
    torch.testing.assert_close(x_next, dynamics.step(x, u), rtol=0, atol=1e-12)
    base, par = x_next[0].numpy(), dynamics.parameters

    def at(dx, du, dp):
        moved = torch.from_numpy(move(model, x[0].numpy(), dx))
        end = dynamics.step(moved, u[0] + torch.from_numpy(du), par + torch.from_numpy(dp))
        return change(model, base, end.numpy())

    ndx, nu, n_par = dynamics.ndx, dynamics.nu, dynamics.n_par
    zx, zu, zp = np.zeros(ndx), np.zeros(nu), np.zeros(n_par)
    for analytic, numeric in (
        (A, differences(lambda e: at(e, zu, zp), ndx)),
        (B, differences(lambda e: at(zx, e, zp), nu)),
        (P, differences(lambda e: at(zx, zu, e), n_par)),
    ):
        np.testing.assert_allclose(analytic[0].numpy(), numeric, atol=1e-6 * (1.0 + np.abs(numeric).max()))


def test_gradient_through_steps_of_a_free_flyer_equals_differences_along_tangents():
    model = humanoid()
    dynamics = RobotDynamics(model, dt=0.02, substeps=2)
    x, u = random_batch(dynamics, 1, seed=6)
    weights = torch.from_numpy(np.random.default_rng(7).normal(size=dynamics.nx))

    def loss(start, force):
        for _ in range(3):
            start = dynamics.step(start, force)
        return (start * weights).sum()

    x.requires_grad_()
    u.requires_grad_()
    g_x, g_u = torch.autograd.grad(loss(x, u), (x, u))
    x0, u0 = x[0].detach().numpy(), u[0].detach().numpy()
    numeric = differences(lambda e: loss(torch.from_numpy(move(model, x0, e)), u[0].detach()).numpy(), dynamics.ndx)
    along = differences(lambda e: move(model, x0, e), dynamics.ndx)  # coordinates moved by the tangent, nx x ndx
    np.testing.assert_allclose(along.T @ g_x[0].numpy(), numeric, atol=1e-6 * (1 + np.abs(numeric).max()))
    numeric_u = differences(lambda e: loss(x[0].detach(), torch.from_numpy(u0 + e)).numpy(), dynamics.nu)
    np.testing.assert_allclose(g_u[0].numpy(), numeric_u, atol=1e-6 * (1 + np.abs(numeric_u).max()))
    # least norm: no component across the manifold
    quaternion = x0[3:7]
    assert abs(quaternion @ g_x[0, 3:7].numpy()) < 1e-9 * (1 + np.abs(numeric).max())


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck_of_step_and_linearize(integrator, shared):
    dynamics = RobotDynamics(URDF, dt=0.05, substeps=2, integrator=integrator)
    x, u = random_batch(dynamics, 3)
    par = 1.1 * dynamics.parameters
    if not shared:
        par = par * torch.tensor([[0.9], [1.0], [1.2]])
    arguments = tuple(t.requires_grad_() for t in (x, u, par))
    assert torch.autograd.gradcheck(dynamics.step, arguments)
    assert torch.autograd.gradcheck(dynamics.linearize, arguments)
    # alone, each output and each input takes another way through the backward pass
    assert torch.autograd.gradcheck(lambda a: dynamics.linearize(a, u.detach())[1], (x,))
    assert torch.autograd.gradcheck(lambda a: dynamics.linearize(x.detach(), a)[2], (u,))
    assert torch.autograd.gradcheck(lambda a: dynamics.linearize(x.detach(), u.detach(), a)[1], (par,))


def test_gradcheck_of_an_arm():
    dynamics = RobotDynamics(arm(), dt=0.05)
    x, u = random_batch(dynamics, 1, seed=8)
    par = dynamics.parameters.requires_grad_()
    arguments = (x.requires_grad_(), u.requires_grad_(), par)
    assert torch.autograd.gradcheck(dynamics.step, arguments, atol=1e-6)
    # The numerical Jacobian of A itself is only good to about 1e-6 times its largest entries.
    assert torch.autograd.gradcheck(dynamics.linearize, arguments, atol=1e-5, rtol=1e-4)
    q, v = (t.detach().clone().requires_grad_() for t in (x[:, :6], x[:, 6:]))
    tau = torch.ones(1, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dynamics.forward_dynamics, (q, v, tau, par), atol=1e-6)


def test_shared_parameter_gradient_is_summed():
    dynamics = RobotDynamics(URDF, dt=0.05, substeps=2)
    x, u = random_batch(dynamics, 37)
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(37, 4, 4)))

    def gradient(par):
        x_next, A, _ = dynamics.linearize(x, u, par)
        return torch.autograd.grad((A * weights).sum() + x_next.sum(), par)[0]

    shared = gradient(dynamics.parameters.requires_grad_())
    each = gradient(dynamics.parameters.expand(37, -1).clone().requires_grad_())
    assert each.shape == (37, dynamics.n_par)
    torch.testing.assert_close(shared, each.sum(0), rtol=1e-10, atol=1e-10)
    assert (shared - each.mean(0)).abs().max() > 1e-3  # a mean would show


def test_threads_do_not_change_a_bit():
    results = []
    for threads in (1, 2, 5):
        dynamics = RobotDynamics(URDF, dt=0.05, substeps=2, threads=threads)
        x, u = random_batch(dynamics, 101)
        par = dynamics.parameters.requires_grad_()
        x.requires_grad_()
        x_next, A, B = dynamics.linearize(x, u, par)
        gradients = torch.autograd.grad((A.sin().sum() + B.cos().sum() + x_next.sum()), (x, par))
        results.append([x_next, A, B, *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_two_python_threads_do_not_meet():
    dynamics = RobotDynamics(URDF, dt=0.05, substeps=4)
    x, u = random_batch(dynamics, 200)
    expected = {scale: dynamics.step(x, u, scale * dynamics.parameters) for scale in (1.0, 2.0)}
    wrong = []

    def work(scale):
        for _ in range(50):
            if not torch.equal(dynamics.step(x, u, scale * dynamics.parameters), expected[scale]):
                wrong.append(scale)

    workers = [threading.Thread(target=work, args=(scale,)) for scale in expected]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_second_derivatives_on_a_manifold_are_refused_but_the_first_ones_work():
    dynamics = RobotDynamics(humanoid(), dt=0.02)
    x, u = random_batch(dynamics, 1)
    x_next, A, _ = dynamics.linearize(x.requires_grad_(), u)
    assert torch.autograd.grad(x_next.sum(), x, retain_graph=True)[0].abs().max() > 0
    with pytest.raises(ValueError, match="vector space"):
        A.sum().backward()


def test_copies_pickles_and_precision():
    dynamics = RobotDynamics(URDF, dt=0.05, substeps=2)
    x, u = random_batch(dynamics, 3)
    expected = dynamics.step(x, u)
    for other in (copy.deepcopy(dynamics), pickle.loads(pickle.dumps(dynamics))):
        assert torch.equal(other.step(x, u), expected)
    single = x.to(torch.float32).requires_grad_()
    result = dynamics.step(single, u)
    assert result.dtype == torch.float32
    result.sum().backward()
    assert single.grad.dtype == torch.float32
    assert dynamics.step(x[0], u[0]).shape == (4,)
    assert dynamics.step(x[None, :, None], u[:, None]).shape == (1, 3, 1, 4)
    assert dynamics.step(x[:0], u[:0]).shape == (0, 4)


def test_bad_arguments_are_told():
    dynamics = RobotDynamics(URDF, dt=0.05)
    x, u = random_batch(dynamics, 3)
    nan = x.clone()
    nan[1, 2] = torch.nan
    with pytest.raises(ValueError, match="x has the entry nan at flat index 6"):
        dynamics.step(nan, u)
    with pytest.raises(ValueError, match=r"u has shape \(3, 2\), expected \(..., 1\)"):
        dynamics.step(x, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="do not fit"):
        dynamics.step(x, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"parameters has shape \(5,\)"):
        dynamics.step(x, u, torch.zeros(5))
    with pytest.raises(ValueError, match="parameters has the entry inf"):
        dynamics.step(x, u, dynamics.parameters * torch.inf)
    with pytest.raises(ValueError, match=r"expected a torch\.Tensor"):
        dynamics.step(x.numpy(), u)
    for dt in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="dt is"):
            RobotDynamics(URDF, dt=dt)
    with pytest.raises(ValueError, match="substeps is 0"):
        RobotDynamics(URDF, dt=0.1, substeps=0)
    with pytest.raises(ValueError, match="integrator is 'rk5'"):
        RobotDynamics(URDF, dt=0.1, integrator="rk5")
    with pytest.raises(ValueError, match="'elbow'"):
        RobotDynamics(URDF, dt=0.1, actuated=["elbow"])
    with pytest.raises(ValueError, match="twice"):
        RobotDynamics(URDF, dt=0.1, actuated=["cart_joint", "cart_joint"])
    with pytest.raises(ValueError, match="expected a path"):
        RobotDynamics(3, dt=0.1)
    free = RobotDynamics(humanoid(), dt=0.02)
    y, w = random_batch(free, 2)
    y[1, 3:7] *= 2.0
    with pytest.raises(ValueError, match="batch element 1 is not on the manifold"):
        free.step(y, w)
    y[1, 3:7] = 0.0
    with pytest.raises(ValueError, match="not on the manifold"):
        free.step(y, w)


@pytest.mark.parametrize("integrator", ["semi_implicit", "rk4"])
@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 0.1, 0.99, 1.01, 2.5])
def test_gradients_are_transposed_jacobians_at_all_angles(angle, integrator):
    """The gradient goes by vectors, the Jacobians by matrices; a free-flyer turns by the angle within a step."""
    dynamics = RobotDynamics(humanoid(), dt=0.02, integrator=integrator)
    x, u = random_batch(dynamics, 3)
    x[:, dynamics.nq + 3 : dynamics.nq + 6] = torch.tensor([0.36, -0.48, 0.8], dtype=torch.float64) * angle / 0.02
    charts = x, dynamics.step(x, u)
    error = torch.zeros(3, dynamics.ndx, dtype=torch.float64, requires_grad=True)
    u.requires_grad_()
    _, A, B = dynamics.linearize(error.detach(), u.detach(), charts=charts)
    g = torch.from_numpy(np.random.default_rng(0).normal(size=(3, dynamics.ndx)))
    by_x, by_u = torch.autograd.grad(dynamics.step(error, u, charts=charts), (error, u), g)
    for found, J in ((by_x, A), (by_u, B)):
        expected = (g[:, None] @ J)[:, 0]
        # Both are sums of the same terms: rounding, grown by the condition of the mass matrix (1e3).
        assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_arrays_go_the_same_way_as_tensors():
    dynamics = RobotDynamics(humanoid(), dt=0.02)
    x, u = random_batch(dynamics, 3)
    parameters = dynamics.parameters * torch.linspace(1.0, 1.2, 3, dtype=torch.float64)[:, None]
    for par in (None, dynamics.parameters, parameters):
        found = dynamics.step(x.numpy(), u.numpy(), None if par is None else par.numpy())
        np.testing.assert_array_equal(found, dynamics.step(x, u, par).numpy())
    frames = [frame.name for frame in dynamics.model.frames][3:5]
    q = x[:, : dynamics.nq]
    np.testing.assert_array_equal(
        dynamics.frame_positions(frames, q.numpy()), dynamics.frame_motions(frames, q).position.numpy()
    )
    np.testing.assert_array_equal(dynamics.frame_positions(frames, q), dynamics.frame_motions(frames, q).position)
    with pytest.raises(ValueError, match=r"u has shape \[?\(?3, 2"):
        dynamics.step(x.numpy(), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="no frame 'tail'"):
        dynamics.frame_positions(["tail"], q.numpy())
    # A mixture would lose the gradients of its tensors without a word.
    for mixed in ((x.numpy(), u), (x.numpy(), u.numpy(), dynamics.parameters)):
        with pytest.raises(ValueError, match=r"expected a torch\.Tensor"):
            dynamics.step(*mixed)


def test_another_minor_version_of_pinocchio_is_refused():
    code = (
        "import sys, types\n"
        "fake = types.ModuleType('pinocchio'); fake.__version__ = '4.2.0'; sys.modules['pinocchio'] = fake\n"
        "import qp_control.robot.description\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "ImportError: qp_control was built for pinocchio 4.1, got 4.2.0" in run.stderr


@pytest.mark.parametrize("call", ["step", "linearize", "forward_dynamics"])
def test_an_element_that_overflows_spoils_no_gradient_of_a_loss_without_it(call):
    robot = RobotDynamics(CartPoleSwingUp.urdf, dt=0.05)
    x = torch.zeros(3, 4, dtype=torch.float64)
    x[1, 3] = 1e200
    found = []
    for kept in ([0, 1, 2], [0, 2]):
        state = x[kept].requires_grad_()
        u = torch.full((len(kept), 1), 0.3, dtype=torch.float64, requires_grad=True)
        p = robot.parameters.clone().requires_grad_()
        if call == "forward_dynamics":
            tau = torch.cat([u, torch.zeros_like(u)], 1)
            value = robot.forward_dynamics(state[:, :2], state[:, 2:], tau, p)
        else:
            value = robot.step(state, u, p) if call == "step" else torch.cat(robot.linearize(state, u, p)[1:], 2)
        value[[0, -1]].sum().backward()
        found.append((state.grad, u.grad, p.grad))
    (state, u, p), (state_alone, u_alone, p_alone) = found
    assert not state[1].any() and not u[1].any()
    for whole, alone in ((state[::2], state_alone), (u[::2], u_alone), (p, p_alone)):
        assert whole.any()
        torch.testing.assert_close(whole, alone, rtol=0, atol=0)
