"""Ragged batches: QPs of different sizes in one call, each answered as if it were alone."""

import dataclasses
import types

import numpy as np
import pytest
from problems import (
    FEASIBLE,
    INFEASIBLE,
    UNBOUNDED,
    random_feasible,
    random_infeasible_full_rank,
    random_infeasible_rank_deficient,
)

import qp_control as qc


def ragged(count=60):
    """Every named problem, then random ones of many sizes, some without rows or box."""
    named = [make().arguments() for group in (FEASIBLE, INFEASIBLE, UNBOUNDED) for make in group.values()]
    rng = np.random.default_rng(0)
    for seed in range(count):
        n, n_eq, n_in = (int(k) for k in rng.integers((1, 0, 0), (12, 3, 9)))
        named.append(random_feasible(seed, n, min(n_eq, n - 1), n_in, box=seed % 2 == 0).arguments())
    named += [random_infeasible_full_rank(seed).arguments() for seed in range(3)]
    return [*named, random_infeasible_rank_deficient(0).arguments()]


def assert_same_bits(found, expected):
    for field in dataclasses.fields(qc.Solution):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert type(a) is type(b) and np.shape(a) == np.shape(b), field.name
        assert np.array_equal(a, b, equal_nan=True), field.name


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("infeasible", ["certify", "closest"])
def test_each_problem_of_a_list_gets_the_bits_that_it_gets_alone(infeasible, threads):
    problems = ragged()
    settings = qc.Settings(infeasible=infeasible, threads=threads)
    found = qc.solve_qps(problems, settings=settings)
    assert len(found) == len(problems)
    for problem, solution in zip(problems, found, strict=True):
        assert_same_bits(solution, qc.solve_qp(**{"H": None} | problem, settings=settings))
    assert {qc.Status.SOLVED, qc.Status.DUAL_INFEASIBLE} < {solution.status for solution in found}


def test_results_come_in_the_order_given():
    problems = ragged()
    order = np.random.default_rng(1).permutation(len(problems))
    plain = qc.solve_qps(problems)
    mixed = qc.solve_qps([problems[k] for k in order])
    for k, solution in zip(order, mixed, strict=True):
        assert_same_bits(solution, plain[k])


def test_empty_list_has_no_solutions():
    assert qc.solve_qps([]) == []


def test_absent_rows_and_weights_stay_absent():
    """Two problems of the same sizes, of which one lacks a bound, the Hessian or a weight."""
    full = random_infeasible_full_rank(0).arguments()
    without = {name: value for name, value in full.items() if name != "u"}
    weighted = full | {"weight_eq": np.linspace(1.0, 2.0, len(full["b"]))}
    linear = {name: value for name, value in full.items() if name != "H"}
    settings = qc.Settings(infeasible="closest")
    found = qc.solve_qps([full, without, weighted, linear | {"H": None}, full], settings=settings)
    for problem, solution in zip([full, without, weighted, linear, full], found, strict=True):
        assert_same_bits(solution, qc.solve_qp(**{"H": None} | problem, settings=settings))


def test_each_warm_start_goes_to_its_own_problem():
    problems = ragged()
    cold = qc.solve_qps(problems)
    solved = [k for k, solution in enumerate(cold) if solution.status == qc.Status.SOLVED]
    starts = [cold[k] if k in solved[::2] else None for k in range(len(problems))]
    found = qc.solve_qps(problems, warm_start=starts)
    for problem, start, solution in zip(problems, starts, found, strict=True):
        assert_same_bits(solution, qc.solve_qp(**{"H": None} | problem, warm_start=start))
    warm, before = (sum(sols[k].iterations for k in solved[::2]) for sols in (found, cold))
    assert warm < before


def test_callers_arrays_never_change_and_results_are_writable():
    problems = ragged(4)
    before = [{name: value.copy() for name, value in problem.items()} for problem in problems]
    found = qc.solve_qps(problems, settings=qc.Settings(infeasible="closest"))
    for problem, kept in zip(problems, before, strict=True):
        assert all(np.array_equal(problem[name], kept[name], equal_nan=True) for name in kept)
    second = found[1].x.copy()
    found[0].x[:] = 7.0
    assert np.array_equal(found[1].x, second)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"g": [0.0, np.nan]}, r"problem 2: g\[1\] is nan"),
        ({"H": np.eye(3), "g": [0.0, 0.0]}, r"problem 2: \w+ has shape .*expected"),
        ({"H": np.eye(2)}, r"problem 2: g is missing"),
        ({"g": np.zeros((1, 2))}, r"problem 2: .*batch axis"),
        ({"g": [0.0], "q": [1.0]}, r"problem 2: \['q'\]"),
        ({"g": [0.0], 3: [1.0]}, r"problem 2: \['3'\]"),
        ([np.eye(2), [0.0, 0.0]], r"problem 2: .*list, expected a mapping"),
        (None, r"problem 2: .*NoneType, expected a mapping"),
    ],
)
def test_bad_problem_is_refused_with_its_index(bad, message):
    good = {"H": np.eye(2), "g": np.ones(2)}
    with pytest.raises(ValueError, match=message):
        qc.solve_qps([good, good, bad, good])


def test_bad_warm_start_is_refused_with_the_index_of_its_problem():
    problems = [{"H": np.eye(n), "g": np.ones(n)} for n in (1, 2, 3)]
    starts = qc.solve_qps(problems)
    with pytest.raises(ValueError, match=r"problem 1: warm_start.x has shape \(1,\), expected \(2,\)"):
        qc.solve_qps(problems, warm_start=[starts[0], starts[0], starts[2]])
    starts[2].w[0] = np.nan
    with pytest.raises(ValueError, match=r"problem 2: warm_start.w .*finite"):
        qc.solve_qps(problems, warm_start=starts)
    with pytest.raises(ValueError, match=r"problem 0: warm_start is a int, expected"):
        qc.solve_qps(problems, warm_start=[1, None, None])
    for start in (starts[:2], starts[0], types.SimpleNamespace(x=1)):
        with pytest.raises(ValueError, match=r"warm_start has .*expected a list of length 3"):
            qc.solve_qps(problems, warm_start=start)


def test_one_problem_instead_of_a_list_is_refused():
    with pytest.raises(ValueError, match="problems is a mapping, expected a list"):
        qc.solve_qps({"H": np.eye(2), "g": np.ones(2)})
    for given in (None, 5, iter([])):
        with pytest.raises(ValueError, match=f"problems is a {type(given).__name__}, expected a list of mappings"):
            qc.solve_qps(given)


def test_large_group_beside_a_single_problem_is_answered():
    """More problems of one size than one call into C++ takes."""
    problems = [{"H": np.eye(2), "g": np.array([float(k), 1.0])} for k in range(1000)]
    problems.insert(500, {"H": np.eye(3), "g": np.ones(3)})
    found = qc.solve_qps(problems)
    np.testing.assert_allclose([sol.x[0] for sol in found], [-k for k in [*range(500), 1, *range(500, 1000)]])
