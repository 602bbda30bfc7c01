"""Gradients of shifted optimal-control solutions, against the dense layer and differences of two levels in NumPy."""

import numpy as np
import pytest
from ocp_problems import INF, Dense, random_ocp
from test_ocp_adjoint import apply
from test_ocp_layer import assert_same, dense_gradients, gradients, loss_of, tensors

import qp_control as qc


def box_out_of_reach(seed, **kind):
    d, N = random_ocp(seed, **{"rows": 1, "tight": 2.0} | kind)
    d["x_lower"][N // 2], d["x_upper"][N // 2] = 8.0, INF
    return d, N


def terminal_state_out_of_reach(seed, **kind):
    d, N = random_ocp(seed, **{"terminal_rows": 3, "tight": 2.0} | kind)
    d["lower_N"] = d["upper_N"] = d["lower_N"] + 8.0
    return d, N


def terminal_rows_that_determine_the_inputs(seed, **kind):
    d, N = random_ocp(seed, **{"terminal_rows": 5, "nu": 1, "N": 2, "box": False} | kind)
    d["lower_N"] = d["upper_N"] = np.random.default_rng(seed).normal(size=d["lower_N"].shape)
    return d, N


def same_row_twice(seed, **kind):
    d, N = random_ocp(seed, **{"rows": 2, "box": False} | kind)
    d["C"][:, 1], d["D"][:, 1] = d["C"][:, 0], d["D"][:, 0]
    d["lower"][:, 1], d["upper"][:, 1] = d["upper"][:, 0] + 0.5, INF
    d["u_upper"] = np.full(d["B"].shape[-1], 1.0)
    return d, N


def state_without_inputs(seed, **kind):
    """The last state goes its own way, and ends where it must not."""
    d, N = random_ocp(seed, **{"terminal_rows": 2, "box": False} | kind)
    d["A"][:, -1, :-1], d["B"][:, -1], d["C_N"][0], d["C_N"][0, -1] = 0.0, 0.0, 0.0, 1.0
    d["lower_N"], d["upper_N"] = np.full(2, -INF), np.full(2, -50.0)
    return d, N


def free_start_out_of_reach(seed, **kind):
    d, N = box_out_of_reach(seed, free=True, **kind)
    d["x_lower"][0], d["x_upper"][0] = -1.0, 1.0
    return d, N


OUT_OF_REACH = [
    box_out_of_reach,
    terminal_state_out_of_reach,
    terminal_rows_that_determine_the_inputs,
    same_row_twice,
    state_without_inputs,
    free_start_out_of_reach,
]


@pytest.mark.parametrize("beyond_lanes", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", OUT_OF_REACH)
def test_gradients_of_shifted_solutions_equal_those_of_the_dense_layer(make, seed, beyond_lanes):
    kind = {"nx": 21, "nu": 5, "N": 2} if beyond_lanes else {}
    if beyond_lanes and "terminal" in make.__name__:
        kind |= {"terminal_rows": 12}
    d, N = make(seed, **kind)
    data = tensors(d)
    out = qc.OcpLayer(horizon=N)(**data)
    assert out.status == qc.Status.CLOSEST_FEASIBLE
    assert_same(gradients(loss_of(out), data), dense_gradients(d, N), 1e-8)


def beside_soft_rows(seed, **kind):
    d, N = box_out_of_reach(seed, **kind)
    return d | {"slack_linear": np.full(1, 0.3), "slack_quadratic": np.full(1, 2.0)}, N


def crossed_bounds(seed, **kind):
    d, N = box_out_of_reach(seed, **kind)
    d["x_lower"][1] = d["x_lower"][1].clip(-1.0, 1.0)
    d["x_upper"][1] = d["x_lower"][1] - 6.0
    return d, N


def crossed_soft_rows(seed, **kind):
    d, N = beside_soft_rows(seed, **kind)
    d["lower"][1] = d["upper"][1] + 0.2
    return d, N


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [beside_soft_rows, crossed_bounds, crossed_soft_rows])
def test_gradients_beside_soft_rows_and_crossed_bounds_equal_those_of_the_dense_layer(make, seed):
    d, N = make(seed)
    data = tensors(d)
    out = qc.OcpLayer(horizon=N)(**data)
    assert out.status == qc.Status.CLOSEST_FEASIBLE
    if make is crossed_bounds:
        assert ((out.s_x_lower > 0) & (out.s_x_upper > 0)).any()
    else:
        assert out.slack_lower.max() + out.slack_upper.max() > 0.1
    assert_same(gradients(loss_of(out), data), dense_gradients(d, N), 1e-8)


def test_soft_equalities_beside_shifted_rows_have_the_gradients_of_the_dense_layer():
    d, N = beside_soft_rows(1)
    d["lower"][::2] = d["upper"][::2]
    data = tensors(d)
    out = qc.OcpLayer(horizon=N)(**data)
    assert out.status == qc.Status.CLOSEST_FEASIBLE
    found, expected = gradients(loss_of(out), data), dense_gradients(d, N)
    for of in (found, expected):  # which of two equal bounds moves is anybody's choice
        of["upper"] = of["upper"] + of.pop("lower")
    assert_same(found, expected, 1e-8)


class TwoLevels:
    """A shifted solution in NumPy: the least squares of the shifted rows on the dynamics, then the QP that is left. The
    sets of rows are those of one solution."""

    def __init__(self, d, N, out):
        self.N, dense = N, Dense(d, N)
        at = {name: getattr(out, name).detach().numpy() for name in out._fields}
        stacked = [np.concatenate([at[f"s_{side}"].ravel(), at[f"s_{side}_N"]]) for side in ("lower", "upper")]
        boxes = [dense.join(at[f"s_x_{side}"], at[f"s_u_{side}"]) for side in ("lower", "upper")]
        low, up = (np.concatenate(pair) for pair in zip(stacked, boxes, strict=True))
        multipliers = np.concatenate([at["z"].ravel(), at["z_N"], dense.join(at["w_x"], at["w_u"])])
        lower, upper = self.bounds(dense)
        self.shifted = np.flatnonzero((low > 0) | (up > 0) | (lower == upper))
        self.at_upper = (up - low >= 0)[self.shifted]
        active = np.abs(multipliers) > 1e-6
        active[self.shifted] = False
        self.active, self.active_upper = np.flatnonzero(active), (multipliers > 0)[active]
        E = self.rows(dense)[self.shifted] @ self.free_directions(dense)[0]
        self.rank, self.count, self.freedom = np.linalg.matrix_rank(E), *E.shape

    @staticmethod
    def rows(dense):
        eye = np.eye(len(dense.g))
        return eye if dense.C is None else np.vstack([dense.C, eye])

    @staticmethod
    def bounds(dense):
        if dense.C is None:
            return dense.lb, dense.ub
        return np.concatenate([dense.l, dense.lb]), np.concatenate([dense.u, dense.ub])

    @staticmethod
    def free_directions(dense):
        return np.linalg.svd(dense.E)[2][len(dense.e) :].T, np.linalg.lstsq(dense.E, dense.e, rcond=None)[0]

    def solve(self, d):
        """(states, inputs) and the shifts of the shifted rows, row minus bound."""
        dense = Dense(d, self.N)
        Z, v = self.free_directions(dense)
        R, (lower, upper) = self.rows(dense), self.bounds(dense)
        E, J = R[self.shifted], R[self.active]
        e = np.where(self.at_upper, upper[self.shifted], lower[self.shifted])
        b = np.where(self.active_upper, upper[self.active], lower[self.active])
        t = np.linalg.lstsq(E @ Z, e - E @ v, rcond=1e-9)[0]
        G = np.vstack([E, J]) @ Z
        K = np.block([[Z.T @ dense.H @ Z, G.T], [G, np.zeros((len(G), len(G)))]])
        right = np.concatenate([-Z.T @ (dense.g + dense.H @ v), E @ Z @ t, b - J @ v])
        v = v + Z @ np.linalg.lstsq(K, right, rcond=1e-9)[0][: Z.shape[1]]
        return v, E @ v - e


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", OUT_OF_REACH)
def test_gradients_of_shifted_solutions_equal_differences_of_two_levels(make, seed):
    d, N = make(seed)
    data = tensors(d)
    out = qc.OcpLayer(horizon=N)(**data)
    levels = TwoLevels(d, N, out)
    dense = Dense(d, N)
    v, s = levels.solve(d)
    np.testing.assert_allclose(dense.join(out.x.detach().numpy(), out.u.detach().numpy()), v, atol=1e-7)
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=v.shape)
    weight_x, weight_u = dense.split(weight)
    shifts = [out.s_lower, out.s_upper, out.s_lower_N, out.s_upper_N, out.s_x_lower, out.s_x_upper, out.s_u_lower]
    loss = apply([weight_x, weight_u.reshape(N, -1)], [out.x, out.u])
    loss = loss + sum((t**2).sum() for t in (*shifts, out.s_u_upper))
    found = gradients(loss, data)
    # The rows lack rank in one regime: a change that gives it to them moves the solution by a jump.
    fixed = () if levels.rank == levels.freedom else ("A", "B", "C", "D", "C_N")
    step = 1e-6
    for name in set(d) - {*fixed, "lower_N"}:
        delta = np.where(np.isfinite(d[name]), rng.normal(size=d[name].shape), 0.0)
        if name in ("Q", "R", "Q_N"):
            delta = delta + np.swapaxes(delta, -1, -2)
        names = ("lower_N", "upper_N") if name == "upper_N" else (name,)  # equal bounds move together
        values = []
        for sign in (1.0, -1.0):
            v, s = levels.solve(d | {name: d[name] + sign * step * delta for name in names})
            values.append(weight @ v + s @ s)
        expected = (values[0] - values[1]) / (2 * step)
        change = sum((found[name].numpy() * delta).sum() for name in names if found[name] is not None)
        # Rounding of the values over the step, about 1e-16 / 1e-6 of them with a condition of up to 1e3.
        assert change == pytest.approx(expected, rel=1e-6, abs=1e-7 * max(1.0, abs(values[0]))), name


@pytest.mark.parametrize("make", [box_out_of_reach, same_row_twice])
def test_differences_of_two_levels_are_taken_in_both_regimes(make):
    d, N = make(0)
    levels = TwoLevels(d, N, qc.OcpLayer(horizon=N)(**tensors(d)))
    if make is box_out_of_reach:
        assert levels.rank == levels.freedom < levels.count
    else:
        assert levels.rank < levels.count <= levels.freedom
