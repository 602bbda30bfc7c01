"""Tiny QPs made by Hypothesis against the enumeration of active sets: plain entries exactly, wild entries
honestly."""

import dataclasses

import numpy as np
import pytest
import torch
from adjoint_oracle import adjoint
from hypothesis import event, given, settings
from hypothesis import strategies as st
from kkt_oracle import solve
from qp_data import DATA, QP
from verdicts import assert_honest, farkas_holds, ray_holds

import qp_control as qc

PLAIN = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -3.0]
WILD = [0.0, 1.0, -1.0, 1e-12, -1e-12, 1e12, -1e12, 3.0, -0.5]
POISON = [np.inf, -np.inf, np.nan]


@st.composite
def tiny_qp(draw, entries, n_max, rows_max):
    """H = F F' / 2 with integer-like F (so that it is semidefinite), and up to rows_max rows of each kind."""
    n = draw(st.integers(1, n_max))
    number = st.sampled_from(entries)

    def array(*shape):
        size = int(np.prod(shape))
        return np.array(draw(st.lists(number, min_size=size, max_size=size))).reshape(shape)

    F = array(n, draw(st.integers(0, n)))
    n_eq, n_in = draw(st.integers(0, min(2, rows_max))), draw(st.integers(0, rows_max))

    def interval(size):
        first, second = array(size), array(size)
        l, u = np.minimum(first, second), np.maximum(first, second)
        kind = np.array(draw(st.lists(st.sampled_from("blu="), min_size=size, max_size=size)), dtype=object)
        l = np.where(kind == "u", -np.inf, l)
        u = np.where(kind == "l", np.inf, np.where(kind == "=", l, u))
        return l, u

    l, u = interval(n_in)
    lb = ub = None
    if draw(st.booleans()):
        lb, ub = interval(n)
    return QP(
        F @ F.T if F.shape[1] else np.zeros((n, n)),
        array(n),
        array(n_eq, n) if n_eq else None,
        array(n_eq) if n_eq else None,
        array(n_in, n) if n_in else None,
        l if n_in else None,
        u if n_in else None,
        lb,
        ub,
    )


@settings(max_examples=800)
@given(tiny_qp(PLAIN, n_max=4, rows_max=3))
def test_plain_problem_gets_the_exact_status_and_solution(qp):
    exact = solve(qp)
    sol = qc.solve_qp(**qp.keywords())
    event(exact.status)
    if exact.status == "solved":
        assert sol.status == qc.Status.SOLVED
        assert abs(sol.objective - exact.objective) < 1e-6 * (1 + abs(exact.objective))
        if exact.unique:
            np.testing.assert_allclose(sol.x, exact.x, atol=1e-6)
    elif exact.status == "unbounded" and exact.feasible:
        assert sol.status == qc.Status.DUAL_INFEASIBLE
    else:
        # A QP whose dual is infeasible too may be reported by either certificate.
        assert sol.status in (qc.Status.PRIMAL_INFEASIBLE, qc.Status.DUAL_INFEASIBLE)
    assert_honest(qp, sol)


@settings(max_examples=400)
@given(tiny_qp(PLAIN, n_max=4, rows_max=3))
def test_plain_problem_gets_the_least_shift(qp):
    exact = solve(qp)
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible="closest"))
    event(exact.status)
    if exact.status == "unbounded":
        assert sol.status == qc.Status.DUAL_INFEASIBLE
        return
    assert sol.status == (qc.Status.SOLVED if exact.status == "solved" else qc.Status.CLOSEST_FEASIBLE)
    for name in ("s_eq", "s_lower", "s_upper", "s_lb", "s_ub"):
        np.testing.assert_allclose(getattr(sol, name), getattr(exact, name), atol=1e-6, err_msg=name)
    assert abs(sol.objective - exact.objective) < 1e-6 * (1 + abs(exact.objective))
    if exact.unique:
        np.testing.assert_allclose(sol.x, exact.x, atol=1e-6)


@settings(max_examples=150)
@given(tiny_qp(PLAIN, n_max=6, rows_max=2))
def test_plain_problem_of_six_unknowns_gets_the_exact_objective(qp):
    exact = solve(qp)
    sol = qc.solve_qp(**qp.keywords())
    if exact.status == "solved":
        assert sol.status == qc.Status.SOLVED
        assert abs(sol.objective - exact.objective) < 1e-6 * (1 + abs(exact.objective))
    assert_honest(qp, sol)


@settings(max_examples=800)
@given(tiny_qp(WILD, n_max=4, rows_max=3), st.sampled_from(["certify", "closest"]))
def test_wild_problem_gets_an_honest_status(qp, infeasible):
    """Entries of 1e-12 and 1e12: any status may come back, but what it claims must hold."""
    sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible=infeasible))
    event(qc.Status(sol.status).name)
    assert_honest(qp, sol)


@settings(max_examples=500)
@given(tiny_qp(PLAIN, n_max=4, rows_max=3))
def test_plain_problem_gets_the_exact_gradient(qp):
    """Where the solution is unique and its active rows are independent; weakly active rows count as active."""
    exact = solve(qp)
    event(f"{exact.status}, {'unique' if exact.unique and exact.multipliers_unique else 'degenerate'}")
    if exact.status != "solved" or not (exact.unique and exact.multipliers_unique):
        return
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in qp.arguments().items()}
    out = qc.QPLayer()(*(tensors.get(name) for name in DATA))
    weight = {"x": np.cos(np.arange(1.0, qp.n + 1)), "z": np.sin(np.arange(1.0, qp.n_in + 1)), "objective": 0.7}
    loss = sum((getattr(out, name) * torch.tensor(value)).sum() for name, value in weight.items())
    loss.backward()
    expected = adjoint(qp, exact, weight)
    found = {name: tensor.grad.numpy() for name, tensor in tensors.items()}
    for lower, upper in (("l", "u"), ("lb", "ub")):
        if lower in found:
            # Of l = u with a zero multiplier either bound may get the gradient.
            equal = getattr(qp, lower) == getattr(qp, upper)
            for gradient in (found, expected):
                gradient[lower] = np.where(equal, gradient[lower] + gradient[upper], gradient[lower])
                gradient[upper] = np.where(equal, 0.0, gradient[upper])
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6 * (1 + np.abs(expected[name]).max()), err_msg=name)


@settings(max_examples=400)
@given(tiny_qp(PLAIN, n_max=3, rows_max=2), st.data())
def test_poisoned_problem_is_refused(qp, data):
    """NaN anywhere, an infinity outside the bounds, or a bound infinite on the wrong side."""
    arguments = qp.arguments()
    filled = [name for name, value in arguments.items() if value.size]
    name = data.draw(st.sampled_from(filled))
    wrong_infinity = {"l": np.inf, "lb": np.inf, "u": -np.inf, "ub": -np.inf}.get(name)
    poison = data.draw(st.sampled_from(POISON if wrong_infinity is None else [np.nan, wrong_infinity]))
    value = arguments[name].copy()
    value.reshape(-1)[data.draw(st.integers(0, value.size - 1))] = poison
    arguments[name] = value
    with pytest.raises(ValueError, match=name):
        qc.solve_qp(**arguments)


def test_checks_of_solutions_reject_wrong_solutions():
    """The negative control of assert_honest."""
    solved = QP(np.eye(2), [1.0, -3.0], A=[[1.0, 1.0]], b=[1.0], lb=[0.5, -5.0], ub=[9.0, 9.0])
    closest = QP(np.eye(2), [1.0, -3.0], A=[[1.0, 0.0]], b=[1.0], C=[[1.0, 0.0]], l=[2.0], u=[9.0], ub=[9.0, 1.0])
    status = {"solved": qc.Status.SOLVED, "closest": qc.Status.CLOSEST_FEASIBLE}
    for name, qp in (("solved", solved), ("closest", closest)):
        sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible="closest"))
        assert sol.status == status[name]
        assert_honest(qp, sol)
        lies = [{field: getattr(sol, field) + 1e-6} for field in ("x", "y", "w")]
        lies += [{"w": -sol.w}, {"x": np.full(2, np.nan)}]
        lies += [{"primal_residual": 1.0}, {"dual_residual": 1.0}] if name == "solved" else []
        lies += [{"status": qc.Status.PRIMAL_INFEASIBLE}, {"status": qc.Status.DUAL_INFEASIBLE}]
        lies += [{"status": qc.Status.NON_CONVEX}]
        if name == "closest":
            lies += [{"status": qc.Status.SOLVED}, {"s_eq": 0.0 * sol.s_eq}, {"s_lower": -sol.s_lower}]
        for lie in lies:
            with pytest.raises(AssertionError):
                assert_honest(qp, dataclasses.replace(sol, **lie))


def test_certificate_checks_reject_wrong_certificates():
    """The negative control of its parts."""
    infeasible = QP(np.eye(1), [0.0], C=[[1.0], [1.0]], l=[1.0, -np.inf], u=[np.inf, 0.0])
    assert farkas_holds(infeasible, [], [-1.0, 1.0], [0.0])
    assert not farkas_holds(infeasible, [], [1.0, -1.0], [0.0])
    assert not farkas_holds(infeasible, [], [-1.0, 0.5], [0.0])
    assert not farkas_holds(infeasible, [], [0.0, 0.0], [0.0])
    unbounded = QP(np.zeros((2, 2)), [-1.0, 0.0], C=[[0.0, 1.0]], l=[0.0], u=[1.0])
    assert ray_holds(unbounded, [1.0, 0.0])
    assert not ray_holds(unbounded, [-1.0, 0.0])
    assert not ray_holds(unbounded, [1.0, 1.0])
