"""Certificates of optimal-control QPs without a solution, held against the caller's data stage by stage."""

import numpy as np
import pytest
from ocp_problems import INF, random_ocp, stage
from test_ocp_shifted_adjoint import OUT_OF_REACH, box_out_of_reach
from test_ocp_soft import soft_ocp

import qp_control as qc

PROOF = ("certificate_y", "certificate_z", "certificate_z_N", "certificate_w_x", "certificate_w_u")
RAY = ("certificate_x", "certificate_u")
LIMITS = (("lower", "upper"), ("u_lower", "u_upper"), ("x_lower", "x_upper"))


def parts(solution, names, element=None):
    fields = [getattr(solution, name) for name in names]
    return fields if element is None else [field[element] for field in fields]


def limits(d, k, N, names, size):
    given = [stage(d, name, k, N) if not name.endswith("_N") else d.get(name) for name in names]
    return [np.broadcast_to(end if b is None else b, size) for b, end in zip(given, (-INF, INF), strict=True)]


def product(M, v):
    return 0.0 if M is None else M @ v


def transposed(M, v):
    return 0.0 if M is None else M.T @ v


def contradiction(d, N, proof):
    """How far the multipliers' combination of the constraints is from 0'x <= value, and this value.

    The dynamics say y_{k+1}'(A x + B u - x_next) = -c'y_{k+1} and -y_0'x_0 = -x0'y_0; rows and boxes say z'(C x + D u)
    <= upper'z+ + lower'z-.
    """
    y, z, z_N, w_x, w_u = proof
    value, residual = 0.0, 0.0

    def support(multipliers, lower, upper):
        held = multipliers != 0
        return float(multipliers[held] @ np.where(multipliers > 0, upper, lower)[held])

    for k in range(N + 1):
        of_x = w_x[k] - y[k]
        if k == N:
            of_x = of_x + transposed(d.get("C_N"), z_N)
            value += support(z_N, *limits(d, k, N, ("lower_N", "upper_N"), z_N.shape))
        else:
            of_x = of_x + stage(d, "A", k, N).T @ y[k + 1] + transposed(stage(d, "C", k, N), z[k])
            of_u = stage(d, "B", k, N).T @ y[k + 1] + transposed(stage(d, "D", k, N), z[k]) + w_u[k]
            residual = max(residual, np.abs(of_u).max(initial=0.0))
            c = stage(d, "c", k, N)
            value -= 0.0 if c is None else c @ y[k + 1]
            for row, names in zip((z[k], w_u[k]), LIMITS[:2], strict=True):
                value += support(row, *limits(d, k, N, names, row.shape))
        if k > 0 or "x0" not in d:
            value += support(w_x[k], *limits(d, k, N, LIMITS[2], w_x[k].shape))
        residual = max(residual, np.abs(of_x).max())
    if "x0" in d:
        assert not w_x[0].any()
        value -= d["x0"] @ y[0]
    else:
        assert not y[0].any()
    return value, residual


def assert_contradiction(d, N, proof):
    assert all(np.isfinite(part).all() for part in proof)
    assert max(np.abs(part).max(initial=0.0) for part in proof) == pytest.approx(1.0)
    value, residual = contradiction(d, N, proof)
    assert value < 0.0
    # No point up to a million times as large as one satisfies the constraints, less what the sums here round.
    assert residual <= 1e-6 * -value + 1e-12
    # The contrary multipliers prove nothing.
    opposite, _ = contradiction(d, N, [-part for part in proof])
    assert opposite > 0.0


@pytest.mark.parametrize("beyond_lanes", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", OUT_OF_REACH)
def test_infeasible_problem_comes_with_a_contradiction(make, seed, beyond_lanes):
    kind = {"nx": 21, "nu": 5, "N": 2} if beyond_lanes else {}
    if beyond_lanes and "terminal" in make.__name__:
        kind |= {"terminal_rows": 12}
    d, N = make(seed, **kind)
    sol = qc.solve_ocp(**d, horizon=N)
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE
    assert_contradiction(d, N, parts(sol, PROOF))
    assert all(np.isnan(part).all() for part in parts(sol, RAY))


@pytest.mark.parametrize("nx", [4, 23])
@pytest.mark.parametrize("infeasible", ["certify", "closest"])
def test_limits_out_of_reach_are_noticed_early(infeasible, nx):
    """Before the 100 steps that are first spent on a problem, in lanes or alone, have passed."""
    rng = np.random.default_rng(0)
    d = {"A": np.eye(nx) + 0.1 * rng.normal(size=(nx, nx)) / nx, "B": 0.1 * rng.normal(size=(nx, 2))}
    d |= {"Q": np.eye(nx), "R": np.eye(2), "u_lower": -np.ones(2), "u_upper": np.ones(2), "x_lower": -0.5 * np.ones(nx)}
    settings = qc.Settings(infeasible=infeasible)
    found = qc.solve_ocp(**d, x0=2.0 * rng.normal(size=(7, nx)) - 3.0, horizon=15, settings=settings)
    assert set(found.status) == {qc.Status.CLOSEST_FEASIBLE if infeasible == "closest" else qc.Status.PRIMAL_INFEASIBLE}
    assert (found.iterations < 100).all()


def test_feasible_problems_far_from_zero_do_not_look_infeasible():
    """Judged without the size of the states, some do: they are let go and solved again, in up to 97 steps for 33."""
    settings = qc.Settings(eps_rel=1e-8, infeasible="closest")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        B, Q, target = rng.normal(size=(4, 2)), np.diag(rng.uniform(size=4)), 3.0 * rng.normal(size=4)
        d = {"A": np.eye(4), "B": B, "Q": Q, "R": 0.1 * np.eye(2), "q": -Q @ (1e4 + target)}
        d |= {"x_lower": np.full(4, 1e4), "u_lower": -np.ones(2), "u_upper": np.ones(2)}
        found = qc.solve_ocp(**d, x0=1e4 + rng.uniform(0.01, 2.0, size=(4, 4)), horizon=10, settings=settings)
        assert (found.status == qc.Status.SOLVED).all()
        assert found.iterations.max() < 55


def test_soft_rows_have_no_part_in_a_contradiction():
    d, N = box_out_of_reach(1)
    d |= {"slack_linear": np.full(1, 0.3), "slack_quadratic": np.full(1, 2.0)}
    sol = qc.solve_ocp(**d, horizon=N)
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE
    assert not sol.certificate_z.any()
    assert_contradiction(d, N, parts(sol, PROOF))


def test_crossed_bounds_prove_it_themselves():
    d, N = random_ocp(0)
    d["u_lower"][3, 1], d["u_upper"][3, 1] = 1.0, 0.0
    sol = qc.solve_ocp(**d, horizon=N)
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE
    assert all(not part.any() for part in parts(sol, PROOF))


def assert_ray(d, N, ray):
    """Along it the dynamics and all limits hold for ever, and the cost falls."""
    x, u = ray
    assert max(np.abs(x).max(), np.abs(u).max()) == pytest.approx(1.0)
    slope = 0.0
    tolerance = 1e-9  # times entries of about one

    def stays(value, lower, upper):
        assert (value[np.isfinite(upper)] <= tolerance).all() and (value[np.isfinite(lower)] >= -tolerance).all()

    for k in range(N + 1):
        if k == N:
            Q, q = (d.get(name + "_N", stage(d, name, k, N)) for name in ("Q", "q"))
        else:
            Q, q = stage(d, "Q", k, N), stage(d, "q", k, N)
        slope += 0.0 if q is None else q @ x[k]
        of_x = product(Q, x[k]) + np.zeros_like(x[k])
        if k < N:
            R, S, r = (stage(d, name, k, N) for name in ("R", "S", "r"))
            slope += 0.0 if r is None else r @ u[k]
            of_x = of_x + transposed(S, u[k])
            assert np.abs(product(R, u[k]) + product(S, x[k])).max() <= tolerance
            following = stage(d, "A", k, N) @ x[k] + stage(d, "B", k, N) @ u[k]
            np.testing.assert_allclose(x[k + 1], following, atol=tolerance)
            stays(u[k], *limits(d, k, N, LIMITS[1], u[k].shape))
            if "C" in d or "D" in d:
                rows = product(stage(d, "C", k, N), x[k]) + product(stage(d, "D", k, N), u[k])
                soft = np.isfinite(stage(d, "slack_linear", k, N)) if "slack_linear" in d else np.zeros(len(rows), bool)
                lower, upper = limits(d, k, N, LIMITS[0], rows.shape)
                outside = np.maximum(np.where(np.isfinite(upper), rows, 0.0), np.where(np.isfinite(lower), -rows, 0.0))
                slope += stage(d, "slack_linear", k, N)[soft] @ outside[soft].clip(0.0) if soft.any() else 0.0
                stays(rows[~soft], lower[~soft], upper[~soft])
        assert np.abs(of_x).max() <= tolerance
        if k > 0 or "x0" not in d:
            stays(x[k], *limits(d, k, N, LIMITS[2], x[k].shape))
    if "x0" in d:
        np.testing.assert_allclose(x[0], 0.0, atol=tolerance)
    assert slope < -1e-6


def unbounded(kind):
    A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
    d = {"A": A, "B": B, "x0": np.zeros(2), "r": np.array([1.0]), "Q": np.diag([0.0, 0.0])}
    if kind == "free start":
        del d["x0"]
        d["q"] = np.array([0.5, 0.0])
    elif kind == "along a row":
        d |= {"C": np.array([[1.0, 0.0]]), "D": np.array([[1.0]]), "upper": np.array([2.0]), "r": np.array([-1.0])}
        d |= {"q": np.array([-0.1, 0.0]), "u_lower": np.array([-1.0]), "Q_N": np.zeros((2, 2))}
        d["C"] = -d["C"]
        d["D"] = -d["D"]
    elif kind == "cheap slacks":
        d |= {"C": np.array([[0.0, 0.0]]), "D": np.array([[1.0]]), "lower": np.array([-1.0])}
        d |= {"slack_linear": np.array([0.25])}
    return d, 4


@pytest.mark.parametrize("kind", ["fixed start", "free start", "along a row", "cheap slacks"])
def test_unbounded_problem_comes_with_a_ray(kind):
    d, N = unbounded(kind)
    sol = qc.solve_ocp(**d, horizon=N)
    assert sol.status == qc.Status.DUAL_INFEASIBLE
    assert_ray(d, N, parts(sol, RAY))
    assert all(np.isnan(part).all() for part in parts(sol, PROOF))
    with pytest.raises(AssertionError):
        assert_ray(d, N, [-part for part in parts(sol, RAY)])


@pytest.mark.parametrize("nx", [4, 23])
def test_each_element_of_a_batch_has_its_own_certificate(nx):
    good, N = random_ocp(5, N=4, rows=1, nx=nx)
    bad, _ = box_out_of_reach(5, N=4, nx=nx)
    batch = {name: np.stack([good[name], bad[name], good[name], bad[name]]) for name in good}
    batch["lower"][3] = batch["upper"][3] + 1.0
    sol = qc.solve_ocp(**batch)
    infeasible = qc.Status.PRIMAL_INFEASIBLE
    assert list(sol.status) == [qc.Status.SOLVED, infeasible, qc.Status.SOLVED, infeasible]
    assert_contradiction(bad, N, parts(sol, PROOF, 1))
    assert all(not part.any() for part in parts(sol, PROOF, 3))
    for k in (0, 2):
        assert all(np.isnan(part).all() for part in parts(sol, PROOF + RAY, k))


def test_closest_feasible_solution_has_no_certificate():
    d, N = soft_ocp(1)
    d["x_lower"][3] = 9.0
    d["x_upper"][3] = INF
    sol = qc.solve_ocp(**d, horizon=N, settings=qc.Settings(infeasible="closest"))
    assert sol.status == qc.Status.CLOSEST_FEASIBLE
    assert all(np.isnan(part).all() for part in parts(sol, PROOF + RAY))
