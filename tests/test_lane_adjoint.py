"""Gradients of small problems, made for as many as a register holds, against those made one by one; their bits."""

import numpy as np
import pytest
from adjoint_oracle import OUTPUTS
from problems import duplicate_rows, random_feasible
from qp_data import DATA

import qp_control as qc

# "one_sided" is differentiated one by one, and is the same derivative where no row is weakly active.
ONE_BY_ONE = qc.Settings(weakly_active="one_sided")
SIZES = [(1, 0, 1), (2, 0, 3), (5, 2, 4), (8, 0, 0), (8, 3, 0), (10, 3, 10), (17, 4, 9), (24, 4, 16)]


def batch_of(size, n, n_eq, n_in, box=True):
    qps = [random_feasible(seed, n, n_eq, n_in, active=0.4, box=box) for seed in range(size)]
    batch = {name: np.stack([getattr(qp, name) for qp in qps]) for name in qps[0].arguments()}
    solution = qc.solve_qp(**batch)
    assert np.all(solution.status == qc.Status.SOLVED)
    return batch, solution


def losses(solution, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=np.shape(getattr(solution, name))) for name in OUTPUTS}


def same_bits(found, expected, order=slice(None), names=DATA):
    for name in (*names, "residual", "weakly_active", "rank_deficiency"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None) and (a is None or np.array_equal(a, b[order])), name


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("n", "n_eq", "n_in"), SIZES)
def test_gradients_in_lanes_equal_those_made_one_by_one(n, n_eq, n_in, box):
    batch, solution = batch_of(19, n, n_eq, n_in, box)
    for name in (None, *OUTPUTS):
        loss = losses(solution) if name is None else {name: losses(solution)[name]}
        fast = qc.qp_adjoint(**batch, solution=solution, **loss)
        slow = qc.qp_adjoint(**batch, solution=solution, settings=ONE_BY_ONE, **loss)
        assert not fast.weakly_active.any() and not slow.weakly_active.any()
        for data in batch:
            a, b = getattr(fast, data), getattr(slow, data)
            # Both are refined to a residual of 1e-15 to 1e-11 of systems with a condition of 1e2 to 1e3.
            assert np.abs(a - b).max() < 1e-9 * max(1.0, np.abs(b).max()), (name, data)


@pytest.mark.parametrize("n", [6, 20])
def test_gradients_in_lanes_equal_those_of_the_problem_padded_beyond_lanes(n):
    """Free variables of their own, H = I and g = 0, change nothing for the rest."""
    batch, solution = batch_of(9, n, 2, 5)
    extra = 60

    def wide(matrix):
        return np.concatenate([matrix, np.zeros((*matrix.shape[:-1], extra))], axis=-1)

    H = np.zeros((9, n + extra, n + extra))
    H[:, :n, :n], H[:, n:, n:] = batch["H"], np.eye(extra)
    infinite = np.full((9, extra), np.inf)
    padded = batch | {name: wide(batch[name]) for name in ("g", "A", "C")} | {"H": H}
    padded |= {"lb": np.hstack([batch["lb"], -infinite]), "ub": np.hstack([batch["ub"], infinite])}
    large = qc.solve_qp(**padded)
    loss = losses(solution)
    by_lanes = qc.qp_adjoint(**batch, solution=solution, **loss)
    wide_loss = {k: wide(v) if k in ("x", "w", "s_lb", "s_ub") else v for k, v in loss.items()}
    by_blocks = qc.qp_adjoint(**padded, solution=large, **wide_loss)
    for name in DATA:
        a, b = getattr(by_lanes, name), getattr(by_blocks, name)
        b = b[tuple(slice(0, size) for size in a.shape)]
        # The solutions themselves differ by 1e-13 times their condition.
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * max(1.0, np.abs(b).max()), err_msg=name)


@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.parametrize("threads", [1, 3])
def test_order_size_and_neighbours_of_the_batch_change_no_bit_of_the_gradients(n, threads):
    settings = qc.Settings(threads=threads)
    batch, solution = batch_of(21, n, 2, 5)
    loss = losses(solution)

    def of(rows):
        picked = {name: value[rows] for name, value in batch.items()}
        fields = qc.solve_qp(**picked)
        return qc.qp_adjoint(**picked, solution=fields, settings=settings, **{k: v[rows] for k, v in loss.items()})

    everything = of(slice(None))
    for rows in (np.random.default_rng(0).permutation(21), slice(0, 1), slice(4, 7), slice(3, 20)):
        same_bits(of(rows), everything, rows)


@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_neighbours_change_no_bit_of_the_gradients(n):
    """Infeasible, indefinite and degenerate elements leave the lanes; the others stay."""
    batch, solution = batch_of(16, n, 2, 5)
    loss = losses(solution)
    expected = qc.qp_adjoint(**batch, solution=solution, **loss)
    bad = {name: value.copy() for name, value in batch.items()}
    bad["l"][3, 0], bad["u"][3, 0] = 3.0, -3.0
    bad["H"][5] *= -1.0
    bad["C"][9], bad["l"][9], bad["u"][9] = bad["C"][9][0], -1e-3, 1e-3
    among = qc.solve_qp(**bad, settings=qc.Settings(infeasible="closest"))
    assert among.status[3] == qc.Status.CLOSEST_FEASIBLE and among.status[5] >= qc.Status.DUAL_INFEASIBLE
    found = qc.qp_adjoint(**bad, solution=among, **{k: np.nan_to_num(v) for k, v in loss.items()})
    good = np.setdiff1d(np.arange(16), (3, 5, 9))
    for name in DATA:
        assert np.array_equal(getattr(found, name)[good], getattr(expected, name)[good]), name
        assert not getattr(found, name)[5].any(), name
    assert np.all(np.isfinite(found.H))


@pytest.mark.parametrize("n", [6, 40])
def test_shared_sums_have_the_same_bits_for_any_thread_count(n):
    batch, _ = batch_of(67, n, 2, 5)
    for name in ("H", "A", "C", "l", "ub"):
        batch[name] = batch[name][0]
    batch["b"], batch["u"] = batch["b"][:1], batch["u"][:1]
    solution = qc.solve_qp(**batch, settings=qc.Settings(infeasible="closest"))
    loss = losses(solution)
    one = qc.qp_adjoint(**batch, solution=solution, settings=qc.Settings(threads=1), **loss)
    for threads in (2, 3, 8, 0):
        same_bits(qc.qp_adjoint(**batch, solution=solution, settings=qc.Settings(threads=threads), **loss), one)
    assert {0, 1} >= set(solution.status.tolist())


def test_singular_elements_leave_the_lanes_and_take_the_least_squares_solution():
    """Dependent active rows among regular neighbours."""
    qp = duplicate_rows()
    C = np.stack([qp.C, qp.C + np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]])] * 4)
    A, b = qp.A[:1], qp.b[:1]
    arguments = {"H": qp.H, "g": np.stack([qp.g] * 8), "A": A, "b": b, "C": C}
    arguments["l"] = np.stack([qp.l, np.full(3, -50.0)] * 4)
    solution = qc.solve_qp(**arguments)
    assert np.all(solution.status == qc.Status.SOLVED)
    found = qc.qp_adjoint(**arguments, solution=solution, x=np.ones((8, 3)))
    assert found.rank_deficiency.tolist() == [2, 0] * 4
    assert np.all(found.residual < 1e-10)
    slow = qc.qp_adjoint(**arguments, solution=solution, x=np.ones((8, 3)), settings=ONE_BY_ONE)
    np.testing.assert_allclose(found.g, slow.g, atol=1e-12)
    np.testing.assert_allclose(found.l, slow.l, atol=1e-12)
