"""How data may come to solve_qp: shapes, shared and batched, absent parts, memory layouts and dtypes."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from kkt_oracle import solve
from problems import equal_bounds, lp_vertex, random_feasible, random_infeasible_rank_deficient, toy_crossing
from qp_data import DATA

import qp_control as qc

CLOSEST = qc.Settings(infeasible="closest")


# --- shapes ---


def test_single_problem_gives_vectors_and_scalars():
    qp = random_feasible(0, 5, 2, 4)
    sol = qc.solve_qp(**qp.keywords())
    shapes = {"x": (5,), "y": (2,), "z": (4,), "w": (5,), "s_eq": (2,), "s_lower": (4,), "s_upper": (4,)}
    for name, shape in (shapes | {"s_lb": (5,), "s_ub": (5,)}).items():
        assert getattr(sol, name).shape == shape, name
        assert getattr(sol, name).dtype == np.float64
    assert isinstance(sol.status, qc.Status)
    for name in ("objective", "iterations", "primal_residual", "dual_residual", "duality_gap"):
        assert np.ndim(getattr(sol, name)) == 0, name


def test_absent_rows_give_multipliers_of_length_zero_and_w_of_length_n():
    sol = qc.solve_qp(np.eye(3), np.ones(3))
    assert sol.y.shape == (0,) and sol.z.shape == (0,) and sol.w.shape == (3,)
    np.testing.assert_allclose(sol.x, -np.ones(3), atol=1e-9)


@pytest.mark.parametrize("batched", DATA)
def test_one_batched_argument_makes_a_batch_of_the_shared_rest(batched):
    qp = random_feasible(3, 4, 1, 3, box=True)
    arguments = qp.arguments()
    single = qc.solve_qp(**arguments)
    arguments[batched] = np.stack([arguments[batched]] * 3)
    sol = qc.solve_qp(**arguments)
    assert sol.x.shape == (3, 4) and sol.status.shape == (3,) and sol.objective.shape == (3,)
    for k in range(3):
        assert np.array_equal(sol.x[k], single.x)
        assert sol.status[k] == single.status


def test_batch_of_one_keeps_its_axis():
    sol = qc.solve_qp(np.eye(2)[None], np.ones(2))
    assert sol.x.shape == (1, 2) and sol.status.shape == (1,)


def test_empty_batch_and_empty_problem_are_answered():
    sol = qc.solve_qp(np.eye(2), np.zeros((0, 2)))
    assert sol.x.shape == (0, 2) and sol.status.shape == (0,)
    sol = qc.solve_qp(np.zeros((0, 0)), np.zeros(0))
    assert sol.x.shape == (0,) and sol.status == qc.Status.SOLVED and sol.objective == 0
    sol = qc.solve_qp(np.zeros((0, 0)), np.zeros(0), C=np.zeros((1, 0)), l=[1.0], u=[2.0])
    assert sol.status == qc.Status.PRIMAL_INFEASIBLE


def test_rows_of_length_zero_equal_absent_rows():
    sol = qc.solve_qp(np.eye(2), np.ones(2), np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    np.testing.assert_allclose(sol.x, [-1, -1], atol=1e-9)


def test_missing_hessian_is_a_linear_program():
    np.testing.assert_allclose(qc.solve_qp(**lp_vertex().keywords()).x, [0, 1], atol=1e-8)


def test_missing_bounds_are_infinite():
    C = np.array([[1.0, 1.0]])
    only_lower = qc.solve_qp(np.eye(2), np.zeros(2), C=C, l=[2.0])
    np.testing.assert_allclose(only_lower.x, [1, 1], atol=1e-8)
    only_upper = qc.solve_qp(np.eye(2), np.zeros(2), C=C, u=[-2.0])
    np.testing.assert_allclose(only_upper.x, [-1, -1], atol=1e-8)
    only_lb = qc.solve_qp(np.eye(2), np.zeros(2), lb=[1.0, -1.0])
    np.testing.assert_allclose(only_lb.x, [1, 0], atol=1e-8)


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_bounds_act_as_an_equality_of_either_sign(sign):
    qp = equal_bounds()
    qp = qp.with_(g=sign * qp.g)
    exact, sol = solve(qp), qc.solve_qp(**qp.keywords())
    np.testing.assert_allclose(sol.x, exact.x, atol=1e-8)
    np.testing.assert_allclose(sol.z, exact.z, atol=1e-7)


# --- arrays as they come ---


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "read-only", "stride 0", "list", "sparse"])
def test_memory_layout_does_not_change_the_answer(kind):
    qp = random_feasible(1, 5, 2, 4, box=True)
    plain = qc.solve_qp(**qp.keywords())

    def convert(value):
        if kind == "fortran":
            return np.asfortranarray(value)
        if kind == "strided":
            wide = np.full(tuple(2 * s for s in value.shape), np.nan)
            wide[tuple(slice(None, None, 2) for _ in value.shape)] = value
            return wide[tuple(slice(None, None, 2) for _ in value.shape)]
        if kind == "reversed":
            return np.ascontiguousarray(value[::-1])[::-1]
        if kind == "read-only":
            value = value.copy()
            value.flags.writeable = False
            return value
        if kind == "stride 0":
            return np.broadcast_to(value, (3, *value.shape))
        if kind == "sparse":
            return scipy.sparse.csc_matrix(value) if value.ndim == 2 else value
        return value.tolist()

    sol = qc.solve_qp(**{name: convert(value) for name, value in qp.keywords().items()})
    x = sol.x[2] if kind == "stride 0" else sol.x
    assert np.array_equal(x, plain.x)


def test_integers_and_float32_give_the_same_answer():
    arguments = toy_crossing(1.5).arguments()
    exact = qc.solve_qp(**arguments)
    for dtype in (np.float32, np.float16):
        sol = qc.solve_qp(**{name: value.astype(dtype) for name, value in arguments.items()})
        assert sol.x.dtype == np.float64
        np.testing.assert_allclose(sol.x, exact.x, atol=20 * np.finfo(dtype).eps)
    sol = qc.solve_qp(np.eye(2, dtype=int), np.array([1, -2]), lb=np.array([0, 0], dtype=np.int32))
    np.testing.assert_allclose(sol.x, [0, 2], atol=1e-8)


@pytest.mark.parametrize("n", [5, 30])
def test_callers_arrays_never_change(n):
    """Neither data nor warm start, nor the solution and the loss that derivatives are made of."""
    for qp in (random_feasible(1, n, 2, 4, box=True), random_infeasible_rank_deficient(0, n)):
        arguments = qp.arguments()
        start = qc.solve_qp(**arguments, settings=CLOSEST)
        loss = np.ones(n)
        arrays = [*arguments.values(), *(np.asarray(value) for value in vars(start).values()), loss]
        before = [value.copy() for value in arrays]
        qc.solve_qp(**arguments, settings=CLOSEST, warm_start=start)
        qc.qp_adjoint(**arguments, solution=start, x=loss, w=loss)
        qc.qp_tangent(**arguments, solution=start, dg=loss)
        for value, kept in zip(arrays, before, strict=True):
            assert np.array_equal(value, kept, equal_nan=True)


def test_import_loads_numpy_and_nothing_else():
    """What is slow to load (torch, Pinocchio, Gymnasium) comes with the names that need it; benchmarks/start_up.py has
    the times."""
    code = (
        "import sys; before = set(sys.modules); import qp_control\n"
        "print(*{name.partition('.')[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"numpy", "qp_control"}
