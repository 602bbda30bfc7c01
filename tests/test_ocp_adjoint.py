"""Adjoints of optimal-control QPs at given points whose stages are not convex, against dense KKT systems in NumPy."""

import numpy as np
import pytest
import torch
from ocp_problems import Dense, random_ocp
from test_ocp_layer import gradients, tensors
from torch.autograd import forward_ad

import qp_control as qc
from qp_control.ocp.function import at_solution
from qp_control.ocp.kkt_functions import OcpSetup
from qp_control.ocp.problem import OCP_NAMES, ocp_sizes, with_stage_axis

KINDS = {
    "input boxes": {"tight": 3.0},
    "mixed rows": {"rows": 2, "box": False, "tight": 2.0},
    "all boxes and terminal rows": {"rows": 1, "terminal_rows": 2, "tight": 3.0},
    "free start": {"free": True, "rows": 1, "tight": 2.0},
    "one stage": {"N": 1, "nu": 4, "rows": 2, "box": False, "tight": 2.0},
    "many inputs": {"nx": 2, "nu": 5, "rows": 1, "tight": 2.0},
    "beyond the lanes": {"nx": 19, "nu": 7, "N": 3, "rows": 3, "terminal_rows": 2, "tight": 3.0},
    "beyond the lanes, free start": {"nx": 25, "nu": 3, "N": 2, "free": True},
}


def indefinite(seed, scale=1.5, **kind):
    """A problem, its dense form and a solution (v, y, z, w). Its stages are indefinite: terms x_k'M_k x_k / 2 that
    cancel along the dynamics are added to the cost of stage k - 1 and taken from that of stage k."""
    d, N = random_ocp(seed, **kind)
    sol = qc.solve_ocp(**d, horizon=N)
    assert sol.status == qc.Status.SOLVED
    rng = np.random.default_rng([seed, 1])
    d = d | {name: np.array(value) for name, value in d.items()}
    nx = d["A"].shape[-1]
    for k in range(1, N + 1):
        M = scale * rng.normal(size=(nx, nx))
        M, A, B, c = 0.5 * (M + M.T), d["A"][k - 1], d["B"][k - 1], d["c"][k - 1]
        (d["Q"][k] if k < N else d["Q_N"])[...] -= M
        for name, term in (("Q", A.T @ M @ A), ("S", B.T @ M @ A), ("R", B.T @ M @ B)):
            d[name][k - 1] += 0.5 * (term + term.T) if name != "S" else term
        d["q"][k - 1] += A.T @ M @ c
        d["r"][k - 1] += B.T @ M @ c
    dense = Dense(d, N)
    assert N == 1 or min(np.linalg.eigvalsh(Q).min() for Q in d["Q"]) < -0.1
    v, w = dense.join(sol.x, sol.u), dense.join(sol.w_x, sol.w_u)
    z = np.concatenate([sol.z.ravel(), sol.z_N])
    force = dense.H @ v + dense.g + w + (0.0 if dense.C is None else dense.C.T @ z)
    y = np.linalg.lstsq(dense.E.T, -force, rcond=None)[0]
    np.testing.assert_allclose(dense.E.T @ y, -force, atol=1e-8)  # the solver's tolerance
    return d, N, (v, y, z, w)


def point_of(d, N, solution):
    """x, u, y, z, z_N, w_x, w_u."""
    dense, (v, y, z, w) = Dense(d, N), solution
    (x, u), (w_x, w_u) = dense.split(v), dense.split(w)
    y = y.reshape(-1, dense.nx)
    if "x0" not in d:
        y = np.vstack([np.zeros((1, dense.nx)), y])
    rows = 0 if "C" not in d else d["C"].shape[-2]
    return [x, u.reshape(N, dense.nu), y, z[: N * rows].reshape(N, rows), z[N * rows :], w_x, w_u.reshape(N, dense.nu)]


class Oracle:
    """The implicit function theorem on the dense form: K (dv, dy, dz_J, dw_J) = -dF."""

    def __init__(self, d, N, solution):
        self.d, self.N, dense = d, N, Dense(d, N)
        self.v, self.y, self.z, self.w = solution
        self.C, self.l, self.u = (dense.C, dense.l, dense.u) if dense.C is not None else (None, [], [])
        # Strictly active rows have multipliers far above the solver's 1e-8.
        rows = np.flatnonzero((np.abs(self.z) > 1e-6) | (np.asarray(self.l) == np.asarray(self.u)))
        box = np.flatnonzero(np.abs(self.w) > 1e-6)
        self.rows, self.box = rows, box
        G = np.eye(len(self.v))[box] if self.C is None else np.vstack([self.C[rows], np.eye(len(self.v))[box]])
        self.constraints = np.vstack([dense.E, G])
        count = len(self.constraints)
        self.K = np.block([[dense.H, self.constraints.T], [self.constraints, np.zeros((count, count))]])

    def reduced_hessian(self):
        n = len(self.v)
        null = np.linalg.svd(self.constraints)[2][np.linalg.matrix_rank(self.constraints) :].T
        return null.T @ self.K[:n, :n] @ null

    def adjoint(self, loss):
        """q = K^-1 (gradient of the loss by v, y, z, w)."""
        v, y, z, w = loss
        return np.linalg.solve(self.K, np.concatenate([v, y, z[self.rows], w[self.box]]))

    def change(self, name, delta):
        """dF for a change of one argument; the dense form is linear in each."""
        a, b = Dense(self.d, self.N), Dense(self.d | {name: self.d[name] + delta}, self.N)
        out = [(b.H - a.H) @ self.v + b.g - a.g + (b.E - a.E).T @ self.y, (b.E - a.E) @ self.v - (b.e - a.e)]
        if self.C is not None:
            out[0] = out[0] + (b.C - a.C).T @ self.z
            upper = self.z[self.rows] > 0
            bounds = [np.where(upper, at.u[self.rows], at.l[self.rows]) for at in (a, b)]
            out.append((b.C - a.C)[self.rows] @ self.v - bounds[1] + bounds[0])
        bounds = [np.where(self.w > 0, at.ub, at.lb)[self.box] for at in (a, b)]
        return np.concatenate([*out, bounds[0] - bounds[1]])


def run(data, N, point, status=None):
    """at_solution on named data; a point of arrays or tensors."""
    setup = OcpSetup(ocp_sizes({name: tuple(value.shape) for name, value in data.items()}, N), qc.Settings())
    inputs = [None if name not in data else with_stage_axis(name, data[name]) for name in OCP_NAMES]
    return at_solution(setup, inputs, [torch.as_tensor(field) for field in point], status)


def random_loss(shapes, seed):
    rng = np.random.default_rng([seed, 2])
    return [rng.normal(size=shape) for shape in shapes]


def apply(weights, fields):
    return sum((torch.tensor(weight) * field).sum() for weight, field in zip(weights, fields, strict=True))


def dense_loss(d, N, weights):
    """The same loss by (v, y, z, w)."""
    dense, (x, u, y, z, z_N, w_x, w_u) = Dense(d, N), weights
    y = y if "x0" in d else y[1:]
    return dense.join(x, u), y.ravel(), np.concatenate([z.ravel(), z_N]), dense.join(w_x, w_u)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_points_of_indefinite_stages_equal_those_of_the_dense_kkt_matrix(kind, seed):
    d, N, solution = indefinite(seed, **KINDS[kind])
    oracle = Oracle(d, N, solution)
    curvature = np.linalg.eigvalsh(oracle.reduced_hessian())
    assert curvature.min() > 0.1
    point = point_of(d, N, solution)
    data = tensors(d)
    out = run(data, N, point)
    for field, value in zip(out, point, strict=True):
        np.testing.assert_array_equal(field.detach(), value)
    weights = random_loss([value.shape for value in point], seed)
    found = gradients(apply(weights, out), data)
    q = oracle.adjoint(dense_loss(d, N, weights))
    rng = np.random.default_rng([seed, 3])
    for name, value in d.items():
        if name in ("lower_N", "upper_N") and "terminal_rows" in KINDS[kind]:
            delta = np.r_[0.0, rng.normal(size=value.size - 1)]  # the two bounds of an equality move together
        else:
            delta = rng.normal(size=value.shape)
        if name in ("Q", "R", "Q_N"):
            delta = delta + np.swapaxes(delta, -1, -2)
        expected = -q @ oracle.change(name, np.where(np.isfinite(value), delta, 0.0))
        change = (found[name].numpy() * np.where(np.isfinite(value), delta, 0.0)).sum()
        size = found[name].abs().max().item() * np.sqrt(value.size)
        np.testing.assert_allclose(change, expected, rtol=0, atol=1e-8 * max(1.0, size), err_msg=name)


def batch_of(elements):
    """Problems of one size as one batch."""
    data = {name: np.stack([d[name] for d, _, _ in elements]) for name in elements[0][0]}
    points = [point_of(d, N, solution) for d, N, solution in elements]
    return data, elements[0][1], [np.stack(fields) for fields in zip(*points, strict=True)]


@pytest.mark.parametrize("kind", [KINDS["mixed rows"], KINDS["beyond the lanes"]])
def test_elements_without_a_minimum_never_harm_their_neighbours(kind):
    elements = [indefinite(seed, **kind) for seed in range(5)]
    (saddle, N, at_saddle), (flat, _, at_flat) = elements[1], elements[2]
    v = at_saddle[0]
    saddle["Q"] = saddle["Q"] - 30.0 * np.eye(saddle["Q"].shape[-1])
    dense = Dense(saddle, N)
    multipliers = dense.C.T @ at_saddle[2] + at_saddle[3]
    y = np.linalg.lstsq(dense.E.T, -(dense.H @ v + dense.g + multipliers), rcond=None)[0]
    elements[1] = saddle, N, (v, y, *at_saddle[2:])
    assert np.linalg.eigvalsh(Oracle(*elements[1]).reduced_hessian()).min() < -1.0
    for name in ("Q", "R", "S", "Q_N"):
        flat[name] = np.zeros_like(flat[name])
    elements[2] = flat, N, at_flat
    elements[4][0]["R"][0] = np.nan
    data, N, point = batch_of(elements)
    together = tensors(data)
    weights = random_loss([field.shape for field in point], 0)
    found = gradients(apply(weights, run(together, N, point)), together)
    for i in (0, 3):
        alone = tensors(elements[i][0])
        out = run(alone, N, [field[i] for field in point])
        for name, gradient in gradients(apply([w[i] for w in weights], out), alone).items():
            # Alone in another register: the same to rounding.
            scale = max(1.0, np.abs(gradient).max())
            np.testing.assert_allclose(found[name][i], gradient, rtol=0, atol=1e-12 * scale, err_msg=name)
    # The point of the saddle is no minimum, but a point that moves with the data all the same.
    oracle = Oracle(*elements[1])
    q = oracle.adjoint(dense_loss(saddle, N, [w[1] for w in weights]))
    delta = np.random.default_rng(4).normal(size=saddle["q"].shape)
    expected = -q @ oracle.change("q", delta)
    assert (found["q"][1].numpy() * delta).sum() == pytest.approx(expected, rel=1e-8)
    assert all(torch.isfinite(gradient[2]).all() for gradient in found.values())


def test_elements_without_a_solution_have_no_gradients():
    elements = [indefinite(seed, **KINDS["mixed rows"]) for seed in range(3)]
    data, N, point = batch_of(elements)
    point[0][1] = np.nan
    together = tensors(data)
    status = torch.tensor([qc.Status.SOLVED, qc.Status.MAX_ITER, qc.Status.SOLVED])
    out = run(together, N, point, status)
    found = gradients(out[1].sum(), together)
    for gradient in found.values():
        assert gradient is None or not gradient[1].any()
    assert found["r"][0].abs().max() > 1e-3 and found["r"][2].abs().max() > 1e-3


def test_shared_data_has_the_sum_of_the_gradients():
    d, N, solution = indefinite(3, **KINDS["all boxes and terminal rows"])
    point = [np.stack([field] * 3) for field in point_of(d, N, solution)]
    shared = tensors(d | {"q_N": np.stack([d["q_N"]] * 3)})
    apart = tensors({name: np.stack([value] * 3) for name, value in d.items()})
    weights = random_loss([field.shape for field in point], 0)
    found = gradients(apply(weights, run(shared, N, point)), shared)
    expected = gradients(apply(weights, run(apart, N, point)), apart)
    for name in d:
        total = expected[name] if name == "q_N" else expected[name].sum(0)
        np.testing.assert_allclose(found[name], total, rtol=1e-11, atol=1e-11, err_msg=name)


def test_function_transforms_give_the_jacobian_of_the_first_input():
    d, N, solution = indefinite(0, nx=3, nu=2, N=3, rows=1, tight=3.0)
    point, data = [torch.tensor(field) for field in point_of(d, N, solution)], tensors(d, grad=False)

    def first_input(x0):
        return run(data | {"x0": x0}, N, point)[1][0]

    expected = torch.autograd.functional.jacobian(first_input, data["x0"])
    assert expected.abs().max() > 0.01
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        np.testing.assert_allclose(jacobian(first_input)(data["x0"]), expected, atol=1e-9)


def test_second_derivatives_and_tangents_are_those_of_the_gradients():
    d, N, solution = indefinite(1, nx=2, nu=1, N=3, rows=1, tight=0.5)
    point, data = point_of(d, N, solution), tensors(d)
    weights = random_loss([field.shape for field in point], 0)
    rng = np.random.default_rng(5)
    directions = {name: torch.tensor(np.where(np.isfinite(d[name]), rng.normal(size=d[name].shape), 0.0)) for name in d}
    directions |= {name: 0.5 * (directions[name] + directions[name].mT) for name in ("Q", "R", "Q_N")}

    plain = gradients(apply(weights, run(data, N, point)), data)
    slope = sum((plain[name] * directions[name]).sum() for name in d if plain[name] is not None)
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(data[name].detach(), directions[name]) for name in d}
        moved = [forward_ad.unpack_dual(field).tangent for field in run(dual, N, point)]
        np.testing.assert_allclose(apply(weights, moved).item(), slope.item(), rtol=1e-9)

    # Of a QP the gradient at the solution of changed data, for small changes: central differences of the gradient.
    first = gradients(apply(weights, run(data, N, point)), data, create_graph=True)
    total = sum((first[name] * directions[name]).sum() for name in d if first[name] is not None)
    second = gradients(total, data)
    step, oracle = 1e-5, Oracle(d, N, solution)
    other = {name: torch.tensor(rng.normal(size=d[name].shape)) for name in ("q", "r", "A", "c", "D")}
    values = []
    for sign in (1.0, -1.0):
        changed = d | {name: d[name] + sign * step * other[name].numpy() for name in other}
        dense = Dense(changed, N)
        new = Oracle(changed, N, solution)
        bound = np.where(solution[2][oracle.rows] > 0, dense.u[oracle.rows], dense.l[oracle.rows])
        box = np.where(solution[3][oracle.box] > 0, dense.ub[oracle.box], dense.lb[oracle.box])
        exact = np.linalg.solve(new.K, np.concatenate([-dense.g, dense.e, bound, box]))
        n, m = len(dense.g), len(dense.e)
        z, w = np.zeros_like(solution[2]), np.zeros_like(solution[3])
        z[oracle.rows], w[oracle.box] = np.split(exact[n + m :], [len(oracle.rows)])
        at = tensors(changed)
        found = gradients(apply(weights, run(at, N, point_of(changed, N, (exact[:n], exact[n : n + m], z, w)))), at)
        values.append(sum((found[name] * directions[name]).sum().item() for name in d if found[name] is not None))
    expected = (values[0] - values[1]) / (2 * step)
    change = sum((second[name] * other[name]).sum().item() for name in other)
    assert change == pytest.approx(expected, rel=1e-5)  # differences of step 1e-5: about 1e-9 and the third derivative
