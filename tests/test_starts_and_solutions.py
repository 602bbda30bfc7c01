"""Starting points and solutions as they come: of another class, of another kind of number, without some of their
fields, with an axis of one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ocp_problems import random_ocp
from problems import random_feasible
from qp_data import DATA

import qp_control as qc
from qp_control.ocp.solve import POINT
from qp_control.qp.solve import START

QP = random_feasible(0, 4, 2, 3, box=True).keywords()
OCP, HORIZON = random_ocp(0, rows=2, terminal_rows=1)


def tensors(data):
    return {name: torch.as_tensor(value) for name, value in data.items() if value is not None}


def batch_of_three(name, value):
    """The last argument moved from element to element."""
    return np.stack([value + 0.01 * k for k in range(3)]) if name in ("g", "x0") else value


BATCH_QP = {name: batch_of_three(name, value) for name, value in QP.items() if name in DATA}
BATCH_OCP = {name: batch_of_three(name, value) for name, value in OCP.items()}


def of_tensors(layer):
    return lambda warm_start=None, **data: layer(**tensors(data), warm_start=warm_start)


SOLVERS = {
    "solve_qp": (START, QP, BATCH_QP, qc.solve_qp),
    "QPLayer": (START, QP, BATCH_QP, of_tensors(qc.QPLayer())),
    "solve_ocp": (POINT, OCP, BATCH_OCP, qc.solve_ocp),
    "OcpLayer": (POINT, OCP, BATCH_OCP, of_tensors(qc.OcpLayer())),
}


def fields(solution, names):
    return SimpleNamespace(**{name: getattr(solution, name) for name in names})


@pytest.mark.parametrize("solver", SOLVERS)
def test_start_that_lacks_fields_is_refused(solver):
    names, data, _, solve = SOLVERS[solver]
    start = fields(solve(**data), names[:2])
    for given in ("text", 5, {"x": 1.0}, start):
        expected = rf"^warm_start is a {type(given).__name__}, expected something with x, {names[1]}, "
        with pytest.raises(ValueError, match=expected):
            solve(**data, warm_start=given)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", ["text", [None], {"a": 1}, np.array([1j])])
def test_start_of_no_numbers_is_refused_by_name(solver, value):
    names, data, _, solve = SOLVERS[solver]
    for name in names:
        start = fields(solve(**data), names)
        setattr(start, name, value)
        with pytest.raises(ValueError, match=rf"^warm_start\.{name} (has|is) "):
            solve(**data, warm_start=start)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble, np.float16])
def test_start_of_any_real_numbers_is_taken(solver, dtype):
    names, data, _, solve = SOLVERS[solver]
    cold = solve(**data)
    start = SimpleNamespace(**{name: np.asarray(getattr(cold, name)).astype(dtype) for name in names})
    warm = solve(**data, warm_start=start)
    assert int(warm.status) == 0 and int(warm.iterations) <= int(cold.iterations)
    np.testing.assert_allclose(warm.x, cold.x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_start_of_one_element_is_that_of_all_with_and_without_its_axis(solver):
    names, _, data, solve = SOLVERS[solver]
    cold = solve(**data)
    starts = [
        SimpleNamespace(**{name: np.asarray(getattr(cold, name))[part] for name in names}) for part in (1, slice(1, 2))
    ]
    without, with_axis = (solve(**data, warm_start=start) for start in starts)
    for name in (*names, "iterations", "status"):
        assert np.array_equal(getattr(without, name), getattr(with_axis, name)), name
    assert int(with_axis.iterations[1]) < int(cold.iterations[1])


DERIVATIVES = {
    "qp_adjoint": lambda solution: qc.qp_adjoint(**QP, solution=solution, x=np.ones(4)),
    "qp_tangent": lambda solution: qc.qp_tangent(**QP, solution=solution, dg=np.ones(4)),
    "ocp_adjoint": lambda solution: qc.ocp_adjoint(qc.OcpQP(**OCP), solution, objective=1.0),
    "ocp_tangent": lambda solution: qc.ocp_tangent(qc.OcpQP(**OCP), solution, dx0=np.ones(4)),
    "ocp_gain": lambda solution: qc.ocp_gain(qc.OcpQP(**OCP), solution),
}


@pytest.mark.parametrize("function", DERIVATIVES)
def test_solution_without_its_fields_or_statuses_is_refused(function):
    take = DERIVATIVES[function]
    solution = qc.solve_qp(**QP) if function.startswith("qp") else qc.solve_ocp(**OCP)
    take(solution)
    for given in ("text", {"x": 1.0}, SimpleNamespace(x=solution.x)):
        with pytest.raises(ValueError, match=rf"^solution is a {type(given).__name__}, expected something with x, "):
            take(given)
    for status, message in (
        (None, "solution is a SimpleNamespace, expected something with status"),
        ("SOLVED", "solution.status has dtype <U6, expected integers"),
        (np.nan, "solution.status has dtype float64, expected integers"),
        ([0, 0], r"solution.status has shape \(2,\), expected \(1,\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            take(SimpleNamespace(**vars(solution) | {"status": status}))


def test_one_status_stands_for_all():
    one, many = qc.solve_qp(**BATCH_QP), {}
    for status in (0, np.zeros(3, dtype=np.int8), torch.zeros(3, dtype=torch.int64)):
        given = SimpleNamespace(**vars(one) | {"status": status})
        many[str(type(status))] = qc.qp_adjoint(**BATCH_QP, solution=given, x=np.ones(4)).g
    expected = qc.qp_adjoint(**BATCH_QP, solution=one, x=np.ones(4)).g
    assert len(many) == 3 and all(np.array_equal(g, expected) for g in many.values())


def test_shift_of_what_is_no_solution_is_refused():
    with pytest.raises(ValueError, match=r"^solution is a Solution, expected something with x, u, y"):
        qc.shifted(qc.solve_qp(**QP))
