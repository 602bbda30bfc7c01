"""The oracles against each other: what judges the product must itself agree with a second method."""

import numpy as np
import pytest
from adjoint_oracle import OUTPUTS, adjoint
from kkt_oracle import duality_gap, interior_point, polish, residuals, solve
from least_shift_oracle import least_shift, least_shift_by_enumeration
from problems import (
    FEASIBLE,
    INFEASIBLE,
    UNBOUNDED,
    crossed_bounds,
    crossed_box,
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
    toy_crossing,
)
from qp_data import QP
from scipy.optimize import linprog


@pytest.mark.parametrize("name", FEASIBLE)
def test_named_feasible_problems_have_an_exact_kkt_point(name):
    qp = FEASIBLE[name]()
    answer = solve(qp)
    assert answer.status == "solved"
    left = residuals(qp, answer.x, answer.y, answer.z, answer.w)
    scale = 1 + max(np.abs(answer.z).max(initial=0), np.abs(qp.rows()[0]).max())
    assert max(left.primal, left.dual, left.complementarity) < 1e-12 * scale
    assert abs(duality_gap(qp, answer.x, answer.y, answer.z, answer.w)) < 1e-9 * scale


@pytest.mark.parametrize("name", INFEASIBLE)
def test_named_infeasible_problems_have_no_feasible_point(name):
    qp = INFEASIBLE[name]()
    answer = solve(qp)
    assert answer.status == "closest"
    R, lower, upper = qp.rows()
    finite_up, finite_low = np.isfinite(upper), np.isfinite(lower)
    G = np.vstack([R[finite_up], -R[finite_low]])
    h = np.concatenate([upper[finite_up], -lower[finite_low]])
    assert linprog(np.zeros(qp.n), G, h, bounds=(None, None)).status == 2


@pytest.mark.parametrize("name", UNBOUNDED)
def test_named_unbounded_problems_have_no_kkt_point(name):
    assert solve(UNBOUNDED[name]()).status == "unbounded"


def test_least_shift_by_nonnegative_least_squares_equals_enumeration():
    rng = np.random.default_rng(0)
    infeasible = 0
    for k in range(150):
        n, m, n_eq = rng.integers(1, 4), rng.integers(1, 5), rng.integers(0, 3)
        C = rng.integers(-2, 3, size=(m, n)) if k % 2 else rng.normal(size=(m, n))
        A = rng.integers(-1, 2, size=(n_eq, n)) if k % 3 else rng.normal(size=(n_eq, n))
        l, u = rng.normal(size=m), rng.normal(size=m) + 0.5
        l[rng.random(m) < 0.3] = -np.inf
        qp = QP(np.eye(n), np.zeros(n), A, rng.normal(size=n_eq), C, l, u)
        exact = least_shift_by_enumeration(qp)
        np.testing.assert_allclose(least_shift(qp), exact, atol=1e-12)
        infeasible += np.abs(exact).max() > 1e-9
    assert 50 < infeasible < 140  # both kinds were seen


def test_interior_point_equals_enumeration():
    for seed in range(20):
        qp = random_feasible(seed, 4, 1, 4, active=0.4, box=seed % 2 == 0, rank=None if seed % 3 else 3)
        exact = solve(qp)
        assert exact.unique
        x, v = polish(qp, interior_point(qp))
        np.testing.assert_allclose(x, exact.x, atol=1e-11)
        np.testing.assert_allclose(v, np.concatenate([exact.y, exact.z, exact.w]), atol=1e-10)


def finite_difference_error(qp, method="enumeration", rank_preserving=False, step=1e-6):
    """Largest relative error of the adjoint against central differences of the oracle's own solution."""
    rng = np.random.default_rng(0)
    answer = solve(qp, method)
    weight = {
        name: float(rng.normal()) if name == "objective" else rng.normal(size=getattr(answer, name).shape)
        for name in OUTPUTS
    }
    gradient = adjoint(qp, answer, weight)

    def loss(changed):
        other = solve(changed, method)
        assert other.status == answer.status
        return sum(float(np.sum(weight[name] * getattr(other, name))) for name in OUTPUTS)

    def error(up, down, expected):
        slope = (loss(up) - loss(down)) / (2 * step)
        return abs(slope - expected) / max(1, abs(slope))

    worst = 0.0
    for name, value in qp.arguments().items():
        if rank_preserving and name in "AC":
            continue
        change = np.where(np.isfinite(value), rng.normal(size=value.shape), 0.0)
        change = change + change.T if name == "H" else change
        finite = np.where(np.isfinite(value), value, 0.0)
        up, down = (np.where(np.isfinite(value), finite + s * step * change, value) for s in (1, -1))
        worst = max(worst, error(qp.with_(**{name: up}), qp.with_(**{name: down}), np.sum(gradient[name] * change)))
    if rank_preserving:
        D = rng.normal(size=(qp.n, qp.n))
        up, down = (qp.with_(**{k: getattr(qp, k) @ (np.eye(qp.n) + s * step * D) for k in "AC"}) for s in (1, -1))
        worst = max(worst, error(up, down, sum(np.sum(gradient[k] * (getattr(qp, k) @ D)) for k in "AC")))
    return worst


# Central differences with step 1e-6 leave about 1e-9 times the curvature; multipliers near 10 have
# curvature near 100.
FINITE_DIFFERENCE = 2e-7


@pytest.mark.parametrize("seed", range(4))
def test_feasible_adjoint_equals_finite_differences(seed):
    qp = random_feasible(seed, 4, 1, 4, active=0.4, box=seed % 2 == 0)
    assert finite_difference_error(qp) < FINITE_DIFFERENCE
    assert finite_difference_error(random_feasible(seed, 20, 4, 10), "interior point") < FINITE_DIFFERENCE


@pytest.mark.parametrize("seed", range(4))
def test_closest_feasible_adjoint_equals_finite_differences(seed):
    assert finite_difference_error(random_infeasible_full_rank(seed)) < FINITE_DIFFERENCE
    deficient = random_infeasible_rank_deficient(seed, box=seed % 2 == 0)
    assert finite_difference_error(deficient, rank_preserving=True) < FINITE_DIFFERENCE


@pytest.mark.parametrize("problem", [crossed_bounds, crossed_box, lambda: toy_crossing(1.57)])
def test_crossed_bounds_adjoint_equals_finite_differences(problem):
    assert finite_difference_error(problem()) < FINITE_DIFFERENCE
