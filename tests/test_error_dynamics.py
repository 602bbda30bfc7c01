"""Steps in errors from references on the configuration manifold, against Pinocchio's sums and differences."""

from __future__ import annotations

import pickle

import pytest
import torch
from manifold_robots import changed, moved, normal, random_states, space_arm

from qp_control.robot.dynamics import RobotDynamics
from qp_control.systems import flying_body, seven_joint_arm

ROBOTS = {"body": flying_body, "arm": space_arm}


def setting(name, n=3):
    """Robot, references (n, nx) before and after, errors, inputs."""
    robot = ROBOTS[name]()
    now = random_states(robot, n, seed=1)
    u = robot.effort_limit * normal(n, robot.nu, seed=2)
    error = 0.7 * normal(n, robot.ndx, seed=3)
    # References of their own, near enough to where the robot goes.
    after = moved(robot.model, robot.step(now, u), 0.5 * normal(n, robot.ndx, seed=4))
    return robot, now, after, error, u


def central(function, z, h=1e-6):
    """Jacobian of function(z) by central differences, the new axis last."""
    return torch.stack([(function(z + e) - function(z - e)) / (2 * h) for e in h * torch.eye(z.shape[-1]).double()], -1)


@pytest.mark.parametrize("name", ROBOTS)
def test_difference_and_integrate_are_those_of_pinocchio_and_inverse(name):
    robot, now, _, error, _ = setting(name)
    x = robot.integrate(now, error)
    torch.testing.assert_close(x, moved(robot.model, now, error), rtol=0, atol=1e-13)
    torch.testing.assert_close(robot.difference(now, x), error, rtol=0, atol=1e-12)
    torch.testing.assert_close(robot.difference(now[0], x), changed(robot.model, now[0], x), rtol=0, atol=1e-13)
    assert robot.on_manifold(x).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_gradients_of_difference_and_integrate(name):
    robot, now, _, error, _ = setting(name, 2)
    assert torch.autograd.gradcheck(lambda e: robot.integrate(now, e), (error.requires_grad_(),))
    # The second derivatives are differences themselves, good to about 1e-9.
    curved = lambda e: (robot.integrate(now, e).sin() * normal(2, robot.nx, seed=5)).sum()  # noqa: E731
    assert torch.autograd.gradgradcheck(curved, (error,), atol=1e-6)
    x = random_states(robot, 2, seed=6).requires_grad_()
    weights = normal(2, robot.ndx, seed=7)
    (robot.difference(now, x) * weights).sum().backward()
    d, h = normal(2, robot.ndx, seed=8), 1e-6
    ahead, behind = (moved(robot.model, x, side * h * d) for side in (1.0, -1.0))
    numeric = ((changed(robot.model, now, ahead) - changed(robot.model, now, behind)) * weights).sum(-1) / (2 * h)
    along = (ahead - behind) / (2 * h)
    torch.testing.assert_close((x.grad * along).sum(-1), numeric, rtol=1e-7, atol=1e-7)
    # Least norm: nothing across the manifold.
    assert (x.grad[:, 3:7] * x.detach()[:, 3:7]).sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("shared", [False, True], ids=["one per element", "shared"])
@pytest.mark.parametrize("name", ROBOTS)
def test_gradients_by_references(name, shared):
    """Of sums, differences, steps and linearizations, along the references' tangents."""
    robot, now, after, error, u = setting(name)
    if shared:
        now, after = now[0], after[0]
    x = random_states(robot, 3, seed=6)

    def losses(now, after):
        e_next, A, B = robot.linearize(error, u, charts=(now, after))
        slope = error.clone().requires_grad_()
        there = (robot.integrate(now, slope).sin() * normal(3, robot.nx, seed=12)).sum()
        yield (robot.difference(now, x) * normal(3, robot.ndx, seed=7)).sum()
        yield (robot.integrate(now, error) * normal(3, robot.nx, seed=8)).sum()
        yield (torch.autograd.grad(there, slope, create_graph=True)[0] * normal(3, robot.ndx, seed=13)).sum()
        yield (robot.step(error, u, charts=(now, after)) * normal(3, robot.ndx, seed=9)).sum()
        yield (e_next * normal(3, robot.ndx, seed=9)).sum()
        yield (A * normal(3, robot.ndx, robot.ndx, seed=10)).sum() + (B * normal(*B.shape, seed=11)).sum()

    now.requires_grad_(), after.requires_grad_()
    h, directions = 1e-5, [normal(*now.shape[:-1], robot.ndx, seed=14 + k) for k in range(2)]
    sides = []
    for side in (1.0, -1.0):
        at = [moved(robot.model, r.detach(), side * h * d) for r, d in zip((now, after), directions, strict=True)]
        sides.append((at, [float(value) for value in losses(*at)]))
    (ahead, values_ahead), (behind, values_behind) = sides
    for k, value in enumerate(losses(now, after)):
        gradients = torch.autograd.grad(value, (now, after), retain_graph=True, allow_unused=True)
        pairs = zip(gradients, ahead, behind, strict=True)
        found = sum(float((g * (a - b)).sum()) / (2 * h) for g, a, b in pairs if g is not None)
        numeric = (values_ahead[k] - values_behind[k]) / (2 * h)
        # Second derivatives are central differences themselves, and the arm's are of the order of 1e3.
        assert found == pytest.approx(numeric, rel=1e-7, abs=2e-6), k


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2, 0.1, 0.9, 1.1, 2.0])
def test_jacobian_of_a_free_flyer_has_all_its_digits_at_every_angle(angle):
    """Against the series sum_k (-ad)^k / (k + 1)! of the right Jacobian of SE(3)'s exponential."""
    robot = flying_body()
    v, w = normal(3, seed=1), angle * torch.nn.functional.normalize(normal(3, seed=2), dim=0)

    def cross(a):
        return torch.linalg.cross(a.expand(3, 3), torch.eye(3, dtype=torch.float64)).mT

    ad = torch.cat([torch.cat([cross(w), cross(v)], 1), torch.cat([torch.zeros(3, 3).double(), cross(w)], 1)])
    term, series = torch.eye(6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    for k in range(40):
        series = series + term
        term = -ad @ term / (k + 2)
    error = torch.cat([v, w, torch.zeros(6)]).double().requires_grad_()
    x = robot.integrate(robot.neutral_state(), error)
    # The change of coordinates with the tangent at x is T.
    rows = torch.eye(13, dtype=torch.float64)[:7]
    J = torch.stack([torch.autograd.grad(x, error, row, retain_graph=True)[0][:6] for row in rows])
    zero = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    there = robot.integrate(x.detach(), zero)
    T = torch.stack([torch.autograd.grad(there, zero, row, retain_graph=True)[0][:6] for row in rows])
    torch.testing.assert_close(J, T @ series, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ROBOTS)
def test_step_in_errors_is_the_step_of_states(name):
    robot, now, after, error, u = setting(name)
    got = robot.step(error, u, charts=(now, after))
    expected = changed(robot.model, after, robot.step(moved(robot.model, now, error), u))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    shared = robot.step(error, u, charts=(now[0], after[0]))
    torch.testing.assert_close(shared[:1], got[:1], rtol=0, atol=0)
    e_next, _, _ = robot.linearize(error, u, charts=(now, after))
    # Accelerations by two algorithms; the light bodies of the arm cost digits.
    torch.testing.assert_close(e_next, got, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ROBOTS)
def test_linearization_in_errors_equals_finite_differences(name):
    robot, now, after, error, u = setting(name)
    _, A, B = robot.linearize(error, u, charts=(now, after))

    def end(e, w):
        return changed(robot.model, after, robot.step(moved(robot.model, now, e), w))

    for found, numeric in ((A, central(lambda e: end(e, u), error)), (B, central(lambda w: end(error, w), u))):
        torch.testing.assert_close(found, numeric, rtol=0, atol=1e-8 * (1.0 + float(numeric.abs().max())))


@pytest.mark.parametrize("name", ROBOTS)
def test_hessian_in_errors_equals_finite_differences_of_first_derivatives(name):
    robot, now, after, error, u = setting(name)
    y = normal(*error.shape, seed=9)
    z = torch.cat([error, u], -1)

    def slope(z):
        _, A, B = robot.linearize(z[:, : robot.ndx], z[:, robot.ndx :], charts=(now, after))
        return (torch.cat([A, B], -1).mT @ y[:, :, None])[..., 0]

    got = robot.second_order(error, u, y, charts=(now, after))
    numeric = central(slope, z, h=1e-5)
    torch.testing.assert_close(got, numeric, rtol=0, atol=1e-7 * (1.0 + float(numeric.abs().max())))


@pytest.mark.parametrize("name", ROBOTS)
def test_hessian_without_references_is_the_one_around_the_state_itself(name):
    robot, x, _, _, u = setting(name)
    y = normal(len(x), robot.ndx, seed=9)
    zero = torch.zeros(len(x), robot.ndx, dtype=torch.float64)
    charts = (x, robot.step(x, u))
    _, A, B = robot.linearize(x, u)
    _, A_e, B_e = robot.linearize(zero, u, charts=charts)
    torch.testing.assert_close(A_e, A, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(B_e, B, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(
        robot.second_order(x, u, y), robot.second_order(zero, u, y, charts=charts), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_step_and_linearization_in_errors(name, shared):
    robot, now, after, error, u = setting(name, 2)
    par = 1.1 * robot.parameters
    if not shared:
        par = par * torch.tensor([[1.0], [1.1]])
    x = tuple(t.requires_grad_() for t in (error, u, par))

    def loss(e, w, p):
        e_next, A, B = robot.linearize(e, w, p, charts=(now, after))
        stepped = robot.step(e, w, p, charts=(now, after))
        return [(value * normal(*value.shape, seed=10 + k)).sum() for k, value in enumerate((stepped, e_next, A, B))]

    for k in range(4):
        gradients = torch.autograd.grad(loss(*x)[k], x)
        for i, found in enumerate(gradients):
            d = normal(*found.shape, seed=20 + i) * (x[i].detach() if i == 2 else 1.0)
            h = 1e-5
            sides = [loss(*(t + side * h * d if j == i else t for j, t in enumerate(x)))[k] for side in (1.0, -1.0)]
            numeric = float((sides[0] - sides[1]).detach()) / (2 * h)
            # 1e-9 of the largest second derivatives, which are about a thousand here.
            assert float((found * d).sum()) == pytest.approx(numeric, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("name", ROBOTS)
def test_gradients_of_a_linearization_are_exact(name):
    """By all it depends on, references along their tangents; differences of order four are good to 1e-10 or so."""
    robot, now, after, error, u = setting(name, 2)
    now, after = (r.expand(2, -1).clone() for r in (now, after))
    weights = [normal(2, robot.ndx, columns, seed=columns) for columns in (robot.ndx, robot.nu)]

    def loss(error, u, parameters, now, after):
        _, A, B = robot.linearize(error, u, parameters, charts=(now, after))
        return (A * weights[0]).sum() + (B * weights[1]).sum()

    at = [t.detach() for t in (error, u, robot.parameters, now, after)]
    leaves = [t.clone().requires_grad_() for t in at]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for i, found in enumerate(gradients):
        d = normal(*(at[i].shape if i < 3 else (2, robot.ndx)), seed=30 + i) * (at[i] if i == 2 else 1.0)

        def moved(t, i=i, d=d):
            there = at[i] + t * d if i < 3 else robot.integrate(at[i], t * d)
            return float(loss(*(there if j == i else other for j, other in enumerate(at))))

        def along(h, moved=moved):
            return (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)

        tangent = d
        if i > 2:  # how the coordinates move along the tangent, to the same order
            h = 1e-3
            at_h = {k: robot.integrate(at[i], k * h * d) for k in (-2, -1, 1, 2)}
            tangent = (8 * (at_h[1] - at_h[-1]) - (at_h[2] - at_h[-2])) / (12 * h)
        assert float((found * tangent).sum()) == pytest.approx(along(1e-3), rel=1e-8, abs=1e-8)


def test_references_of_a_horizon_go_to_their_stages():
    robot = space_arm()
    B, N = 2, 4
    reference = random_states(robot, B, N + 1, seed=11, size=0.5)
    dynamics = robot.around(reference)
    x = random_states(robot, B, N + 1, seed=12, size=0.5)
    u = normal(B, N, robot.nu, seed=13)
    errors = dynamics.to_error(x)
    torch.testing.assert_close(errors, changed(robot.model, reference, x), rtol=0, atol=1e-12)
    torch.testing.assert_close(dynamics.from_error(errors), x, rtol=0, atol=1e-12)
    expected = changed(robot.model, reference[:, 1:], robot.step(x[:, :-1], u))
    torch.testing.assert_close(dynamics.step(errors[:, :-1], u), expected, rtol=0, atol=1e-11)
    part = dynamics.element(torch.tensor([False, True]))
    torch.testing.assert_close(part.step(errors[1:, :-1], u[1:]), expected[1:], rtol=0, atol=1e-11)
    torch.testing.assert_close(dynamics.to_error(x[:, 0]), errors[:, 0], rtol=0, atol=0)
    constant = robot.around(reference[:, 0])
    torch.testing.assert_close(
        constant.to_error(x), changed(robot.model, reference[:, :1].expand_as(x), x), rtol=0, atol=1e-12
    )


def test_errors_of_a_vector_space_are_plain_differences():
    robot = seven_joint_arm()
    r, x, u = normal(3, 14, seed=1), normal(3, 14, seed=2), normal(3, 7, seed=3)
    torch.testing.assert_close(robot.difference(r, x), x - r, rtol=0, atol=0)
    torch.testing.assert_close(robot.step(x - r, u, charts=(r, r)), robot.step(x, u) - r, rtol=0, atol=1e-12)
    for a, b in zip(robot.linearize(x - r, u, charts=(r, r))[1:], robot.linearize(x, u)[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_single_velocities_are_actuated():
    robot = flying_body()
    x = random_states(robot, 1, seed=3)
    assert pickle.loads(pickle.dumps(robot)).actuated == [2, 3, 4, 5]
    with pytest.raises(ValueError, match="actuated has index 6"):
        RobotDynamics(robot.model, dt=0.05, actuated=[2, 6])
    u = torch.tensor([[3.0, 0.1, -0.2, 0.05]], dtype=torch.float64)
    _, _, B = robot.linearize(x, u)
    # Thrust along the body's z axis: 1 / mass times dt, to first order in dt and the angular velocity.
    assert B[0, 8, 0] == pytest.approx(0.05 / 0.5, rel=0.01)
    assert (B[0, 9:, 1:].diagonal() - torch.tensor([0.05 / 3e-3, 0.05 / 3e-3, 0.05 / 5e-3])).abs().max() < 0.5


def test_bad_references_are_told():
    robot = flying_body()
    r, error, u = robot.neutral_state(), torch.zeros(2, 12, dtype=torch.float64), torch.zeros(2, 4)
    bad = r.clone()
    bad[3:7] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.step(error, u, charts=(bad, r))
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.step(error, u, charts=(r, bad))
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.difference(bad, r)
    with pytest.raises(ValueError, match="not on the manifold"):
        robot.integrate(bad, error)
    with pytest.raises(ValueError, match=r"next reference has shape \(12,\)"):
        robot.step(error, u, charts=(r, r[1:]))
    with pytest.raises(ValueError, match=r"x has shape \(13,\), expected \(..., 12\)"):
        robot.step(r, u[0], charts=(r, r))
    with pytest.raises(ValueError, match="entry nan"):
        robot.integrate(r, error * torch.nan)
    with pytest.raises(ValueError, match="do not fit"):
        robot.step(error, u, charts=(r.expand(3, -1), r))
    with pytest.raises(ValueError, match=r"reference\[1, 2\] is not on the manifold"):
        robot.around(torch.stack([r.expand(4, -1), torch.stack([r, r, bad, r])]))
    assert robot.on_manifold(torch.stack([r, bad, r * torch.nan])).tolist() == [True, False, False]
