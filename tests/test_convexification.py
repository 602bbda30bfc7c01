"""Curvature moved between stages: convex stages, the same QP, against slow NumPy code and dense KKT systems."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qp_control as qc
from qp_control import _solver
from qp_control.mpc.convexification import convexified
from qp_control.mpc.nonlinear_ocp import NonlinearOcp
from qp_control.systems import cart_pole

N, NX, NU = 8, 4, 2


def indefinite(seed, batch=3, nu=NU):
    """Stages whose Hessians are indefinite, made from convex ones by moving random curvature along the dynamics."""
    rng = np.random.default_rng(seed)
    n = NX + nu
    AB = rng.normal(size=(batch, N, NX, n)) / 2
    L = rng.normal(size=(batch, N, n, n))
    H = L @ L.swapaxes(-1, -2) + 0.5 * np.eye(n)
    L = rng.normal(size=(batch, NX, NX))
    last = L @ L.swapaxes(-1, -2)
    W = rng.normal(size=(batch, N, NX, NX))
    W = 3 * (W + W.swapaxes(-1, -2))
    # Stage k gets the curvature W_k of x_{k+1}, which loses it.
    H += AB.swapaxes(-1, -2) @ W @ AB
    H[:, 1:, :NX, :NX] -= W[:, :-1]
    last = last - W[:, -1]
    return H, last, AB


def size_of(H, last):
    return np.maximum(np.abs(H).max((1, 2, 3)), np.abs(last).max((1, 2)))


def slow(H, last, AB, size, delta=1e-8):
    """The recursion as it stands in the paper, one element."""
    M = [last - delta * size * np.eye(NX)]
    stages = []
    for k in range(N - 1, -1, -1):
        K = H[k] + AB[k].T @ M[-1] @ AB[k]
        Q, S, R = K[:NX, :NX], K[NX:, :NX], K[NX:, NX:]
        gain = S.T @ np.linalg.solve(R, S)
        stages.append(np.block([[gain + delta * size * np.eye(NX), S.T], [S, R]]))
        M.append(Q - gain - delta * size * np.eye(NX))
    return np.stack(stages[::-1]), np.stack(M[::-1])


@pytest.mark.parametrize("seed", range(3))
def test_recursion_equals_slow_code_and_leaves_convex_stages(seed):
    H, last, AB = indefinite(seed)
    assert np.linalg.eigvalsh(H).min() < -1.0
    size = size_of(H, last)
    stages, M, good = _solver.convex_stages(H, last, AB, size)
    assert good.all()
    for i in range(len(H)):
        expected, expected_M = slow(H[i], last[i], AB[i], size[i])
        np.testing.assert_allclose(stages[i], expected, rtol=0, atol=1e-9 * np.abs(expected).max())
        np.testing.assert_allclose(M[i], expected_M, rtol=0, atol=1e-9 * np.abs(expected_M).max())
    assert np.linalg.eigvalsh(stages).min() > -1e-9 * size.max()


def test_indefinite_inputs_are_told_and_change_no_neighbour():
    H, last, AB = indefinite(0)
    H[1, 3, NX:, NX:] -= 1e4 * np.eye(NU)
    size = size_of(H, last)
    stages, _, good = _solver.convex_stages(H, last, AB, size)
    assert good.tolist() == [True, False, True]
    alone, _, _ = _solver.convex_stages(H[2:], last[2:], AB[2:], size[2:])
    assert np.array_equal(alone[0], stages[2])
    for threads in (1, 2, 3):
        assert np.array_equal(_solver.convex_stages(H, last, AB, size, threads)[0][[0, 2]], stages[[0, 2]])


def test_stages_without_inputs_and_wrong_shapes():
    H, last, AB = indefinite(1, nu=0)
    stages, _, good = _solver.convex_stages(H, last, AB, size_of(H, last))
    assert good.all() and np.linalg.eigvalsh(stages).min() >= 0.0
    with pytest.raises(ValueError, match="do not fit"):
        _solver.convex_stages(H, last[:1], AB, size_of(H, last))


def test_convexified_qp_has_the_solution_and_the_multipliers_of_the_indefinite_one():
    """Around a trajectory of the cart-pole with gaps, without bounds: both QPs by dense KKT systems in NumPy."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dynamics = cart_pole()
    x, u, y = 0.3 * normal(1, N + 1, 4), normal(1, N, 1), 5 * normal(1, N + 1, 4)
    eye = torch.eye(4, dtype=torch.float64)
    data = {"Q": eye, "R": eye[:1, :1], "Q_N": 3 * eye}
    ocp = NonlinearOcp(dynamics, N, x[:, 0] + 0.1, data, dynamics.parameters)
    with torch.no_grad():
        qp = ocp.around(x, u)
        none = x.new_zeros(1, N, 0)
        stage, end = ocp.curvature(x, u, y, none, none[:, 0])
        assert torch.linalg.eigvalsh(stage + torch.eye(5)).min() < 0.0

        class Point:
            z, z_N, w_x, w_u = none, none[:, 0], torch.zeros_like(x), torch.zeros_like(u)

        convex, M, _ = convexified(qp, ocp, x, u, stage, end, Point)

    def dense(blocks, slopes, last, last_slope):
        """States and multipliers of min over (x, u) with dynamics and x_0 as equalities."""
        n, size = 5, 5 * N + 4
        H, g = np.zeros((size, size)), np.zeros(size)
        E, e = np.zeros((4 * (N + 1), size)), np.zeros(4 * (N + 1))
        E[:4, :4], e[:4] = -np.eye(4), -ocp.x0[0].numpy()
        for k in range(N):
            at = slice(n * k, n * k + n)
            H[at, at], g[at] = blocks[k], slopes[k]
            rows = slice(4 * (k + 1), 4 * (k + 2))
            E[rows, at] = np.hstack([qp.A[0, k], qp.B[0, k]])
            E[rows, n * (k + 1) : n * (k + 1) + 4] = -np.eye(4)
            e[rows] = -qp.c[0, k]
        H[-4:, -4:], g[-4:] = last, last_slope
        K = np.block([[H, E.T], [E, np.zeros((len(e), len(e)))]])
        v = np.linalg.solve(K, np.concatenate([-g, e]))
        states = np.stack([v[n * k : n * k + 4] for k in range(N + 1)])
        return states, v[size:].reshape(N + 1, 4)

    w = torch.cat([x[:, :N], u], -1)
    indefinite_slopes = -(stage @ w[..., None])[0, :, :, 0]
    wanted = dense((stage[0] + torch.eye(5)).numpy(), indefinite_slopes.numpy(), 3 * np.eye(4), np.zeros(4))
    blocks = torch.cat([torch.cat([convex.Q, convex.S.mT], -1), torch.cat([convex.S, convex.R], -1)], -2)[0]
    slopes = torch.cat([convex.q, convex.r], -1)[0]
    states, multipliers = dense(blocks.numpy(), slopes.numpy(), convex.Q_N[0].numpy(), convex.q_N[0].numpy())
    assert torch.linalg.eigvalsh(blocks).min() > -1e-9
    np.testing.assert_allclose(states, wanted[0], rtol=0, atol=1e-8)
    moved = multipliers[1:] + np.einsum("kij,kj->ki", M[0, 1:].numpy(), states[1:] - x[0, 1:].numpy())
    np.testing.assert_allclose(moved, wanted[1][1:], rtol=0, atol=1e-6)


def test_repaired_stages_are_convex_and_keep_what_is_positive():
    H, last, AB = indefinite(0)
    H[1, 3, NX:, NX:] -= 1e4 * np.eye(NU)
    size = size_of(H, last)
    plain, _, good = _solver.convex_stages(H, last, AB, size)
    stages, M, repaired = _solver.convex_stages(H, last, AB, size, repair=True)
    assert good.tolist() == [True, False, True] and repaired.all()
    assert np.array_equal(stages[[0, 2]], plain[[0, 2]])
    assert np.linalg.eigvalsh(stages[1]).min() > -1e-9 * size[1]
    # Stages after the one that is repaired are those of the plain recursion; in that one R's eigenvalues, its diagonal
    # made one, are replaced by their absolute values.
    R = (H[1, 3] + AB[1, 3].T @ M[1, 4] @ AB[1, 3])[NX:, NX:]
    scale = 1.0 / np.sqrt(np.abs(np.diag(R)))
    values, vectors = np.linalg.eigh(scale[:, None] * R * scale)
    assert values.max() < 0.0
    expected = (vectors * np.abs(values)) @ vectors.T / scale / scale[:, None]
    np.testing.assert_allclose(stages[1, 3, NX:, NX:], expected, rtol=1e-10, atol=0)


def test_price_of_violated_rows_makes_a_stage_convex_and_stays_what_it_is():
    """Negative curvature against the price of a soft row: the step is the minimum of the sum, by rolling out."""
    generator = torch.Generator().manual_seed(0)
    A = torch.eye(2, dtype=torch.float64) + 0.1 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
    B = torch.randn(2, 1, generator=generator, dtype=torch.float64)
    plant = qc.TorchDynamics(lambda x, u: x @ A.T + u @ B.T, 2, 1)
    eye = torch.eye(2, dtype=torch.float64)
    data = {"Q": eye, "R": eye[:1, :1], "Q_N": eye, "C": eye[:1], "D": torch.ones(1, 1, dtype=torch.float64)}
    data |= {"upper": torch.tensor([-20.0]).double(), "slack_linear": torch.tensor([2.0]).double()}
    data |= {"slack_quadratic": torch.tensor([50.0]).double()}
    ocp = NonlinearOcp(plant, 3, torch.tensor([[1.0, -1.0]]).double(), data, plant.parameters)
    x = 0.3 * torch.randn(1, 4, 2, generator=generator, dtype=torch.float64)
    u = 0.3 * torch.randn(1, 3, 1, generator=generator, dtype=torch.float64)
    x[:, 0] = ocp.x0
    curvature, end = torch.zeros(1, 3, 3, 3, dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64)
    direction = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    curvature[:] = -3.0 * direction[:, None] * direction

    class Point:
        z, z_N = torch.full((1, 3, 1), 30.0, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.float64)
        w_x, w_u = torch.zeros_like(x), torch.zeros_like(u)

    convex = convexified(ocp.around(x, u), ocp, x, u, curvature, end, Point)
    assert len(convex.priced) == 1 and convex.priced[0].which.all()
    found = convex.solution(qc.OcpLayer(qc.Settings(eps_abs=1e-10), horizon=3).solve(convex.qp), x)
    assert (found.slack_upper > 0.0).all()
    assert torch.allclose(found.z, 2.0 + 50.0 * found.slack_upper, rtol=0, atol=1e-9)

    def value(v):
        states = [ocp.x0[0]]
        total = 0.0
        for k in range(3):
            at = torch.cat([states[-1], v[k]])
            off = at - torch.cat([x[0, k], u[0, k]])
            slack = at[0] + at[2] + 20.0
            total = total + 0.5 * at @ at + 0.5 * off @ curvature[0, k] @ off + (2.0 + 25.0 * slack) * slack
            states.append(A @ states[-1] + B @ v[k])
        return total + 0.5 * states[-1] @ states[-1]

    assert torch.func.grad(value)(found.u[0]).abs().max() < 1e-7
    assert torch.linalg.eigvalsh(torch.func.hessian(value)(found.u[0]).reshape(3, 3)).min() > 0.0
    assert torch.linalg.eigvalsh(curvature[0, 0] + torch.eye(3)).min() < 0.0
