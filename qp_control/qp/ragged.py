"""Many QPs of different sizes in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from qp_control import _solver
from qp_control.qp.problem import NAMES, WEIGHTS, Array, Problem, problem_from_arrays
from qp_control.qp.solve import Solution, element, warm_start_arrays
from qp_control.settings import Settings, settings_or

# Problems per call into C++: enough to make the call cheap, few enough for Ctrl-C, which is handled between calls.
_LARGEST_CHUNK = 64


class _Entry(NamedTuple):
    position: int
    problem: Problem
    start: list[Array] | None


def solve_qps(
    problems: Sequence[Mapping[str, Any]],
    *,
    settings: Settings | None = None,
    warm_start: Sequence[Any] | None = None,
) -> list[Solution]:
    """Solve QPs of different sizes in one call, in several threads.

    Args:
        problems: the arguments of `solve_qp` for each problem, by name, without batch axes: `{"H": H, "g": g, ...}`.
        settings: options, the same for all problems.
        warm_start: for each problem None or what `solve_qp` takes, for example an earlier list of solutions.

    Returns:
        One solution per problem, in the given order, bitwise equal to that of `solve_qp` for the problem alone.

    Raises:
        ValueError, TypeError: as in `solve_qp`, preceded by the index of the problem; nothing has been solved then.
    """
    starts = _starts(problems, warm_start)
    entries = [_entry(k, given, start) for k, (given, start) in enumerate(zip(problems, starts, strict=True))]
    native = settings_or(settings).native("certify")
    threads = _solver.thread_count(native.threads)
    native.threads = 1  # each thread solves its own chunks
    chunks = _chunks(entries, threads)
    out: list[Solution | None] = [None] * len(entries)

    def solve(chunk: list[_Entry]) -> None:
        for entry, solution in zip(chunk, _solve_equal_sizes(chunk, native), strict=True):
            out[entry.position] = solution

    workers = min(threads, len(chunks))
    if workers <= 1:
        for chunk in chunks:
            solve(chunk)
    else:
        pool = ThreadPoolExecutor(workers)
        try:
            for done in [pool.submit(solve, chunk) for chunk in chunks]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return [solution for solution in out if solution is not None]


def _starts(problems: Sequence[Mapping[str, Any]], warm_start: Sequence[Any] | None) -> Sequence[Any]:
    if isinstance(problems, Mapping):
        raise ValueError("problems is a mapping, expected a list of them; one problem goes to solve_qp")
    if not hasattr(problems, "__len__"):
        raise ValueError(f"problems is a {type(problems).__name__}, expected a list of mappings")
    if warm_start is None:
        return [None] * len(problems)
    if not isinstance(warm_start, Sequence) or len(warm_start) != len(problems):
        got = f"length {len(warm_start)}" if isinstance(warm_start, Sequence) else f"type {type(warm_start).__name__}"
        raise ValueError(f"warm_start has {got}, expected a list of length {len(problems)}")
    return warm_start


def _entry(index: int, given: Any, start: Any) -> _Entry:
    try:
        if not isinstance(given, Mapping):
            raise ValueError(f"it is of type {type(given).__name__}, expected a mapping of names to arrays")
        unknown = set(given) - set(NAMES) - set(WEIGHTS)
        if unknown:
            raise ValueError(f"{sorted(map(str, unknown))} are not arguments; expected some of {[*NAMES, *WEIGHTS]}")
        problem = problem_from_arrays(dict(given))
        if problem.sizes.batched:
            raise ValueError("an argument has a batch axis, expected a single problem")
        return _Entry(index, problem, None if start is None else warm_start_arrays(start, problem.sizes))
    except (ValueError, TypeError) as error:
        raise type(error)(f"problem {index}: {error}") from error


def _chunks(entries: list[_Entry], threads: int) -> list[list[_Entry]]:
    """Entries that can share a call, in pieces that keep the threads busy, large problems first."""
    groups: dict[tuple[Any, ...], list[_Entry]] = {}
    for entry in entries:
        present = tuple(array is not None for array in entry.problem.arrays)
        groups.setdefault((entry.problem.sizes, present, entry.start is not None), []).append(entry)
    size = min(_LARGEST_CHUNK, math.ceil(len(entries) / (4 * threads)))
    ordered = sorted(groups.values(), key=lambda group: -group[0].problem.sizes.n)
    return [group[k : k + size] for group in ordered for k in range(0, len(group), size)]


def _solve_equal_sizes(chunk: list[_Entry], settings: _solver.Settings) -> list[Solution]:
    """Solutions of problems that have the same sizes and the same arguments present."""
    first = chunk[0]
    sizes = first.problem.sizes._replace(batch=len(chunk), batched=True)
    columns = zip(*(entry.problem.arrays for entry in chunk), strict=True)
    arrays = [None if column[0] is None else np.stack(column) for column in columns]
    start = None
    if first.start is not None:
        start = [np.concatenate(column) for column in zip(*(entry.start or [] for entry in chunk), strict=True)]
    fields, *_ = _solver.solve(sizes.native, arrays, settings, start)
    return [element(fields, k) for k in range(len(chunk))]
