"""Is a time limit kept?

Dense linear programs and QPs, and contradicting ones in closest-feasible mode, get limits that end the solve at several
fractions of the time that the whole solve takes. "late_ms": the time of the call beyond the limit, the median of the
repeats, the largest of the limits. Promised is one factorisation; the work before the first iteration (copying,
scaling, the first factorisation) cannot be left out either. Beside it, therefore: "set_up_ms", the time of a call whose
limit has passed at its beginning, and "factorise_ms", NumPy's Cholesky factorisation of a matrix with a row for every
variable and constraint; "kept" says that late_ms is below their sum. Peers have no such promise; there is no last
column.

    python benchmarks/time_limits.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import report

import qp_control as qc

Infeasible = Literal["certify", "closest"]
FRACTIONS = (0.1, 0.3, 0.6, 0.9)


def problems(sizes: list[int]) -> Iterator[tuple[str, dict[str, Any], Infeasible]]:
    """Name, data, and what happens where it is infeasible."""
    for n in sizes:
        rng = np.random.default_rng(n)
        A, C, x = rng.normal(size=(n // 4, n)), rng.normal(size=(n, n)), rng.uniform(size=n)
        box = {"lb": np.zeros(n), "ub": np.full(n, 3.0)}
        rows: dict[str, Any] = {"A": A, "b": A @ x, "C": C, "u": C @ x + rng.uniform(0, 1, size=n)}
        F = rng.normal(size=(n, n // 2))
        yield f"linear n={n}", {"H": None, "g": rng.normal(size=n), **rows, **box}, "certify"
        yield f"quadratic n={n}", {"H": F @ F.T, "g": rng.normal(size=n), **rows, **box}, "certify"
        apart = rows | {"b": A @ x + 10.0 * rng.normal(size=n // 4)}
        yield f"contradicting n={n}", {"H": None, "g": rng.normal(size=n), **apart, **box}, "closest"


def timed(data: dict[str, Any], limit: float | None, infeasible: Infeasible) -> tuple[float, qc.Status]:
    settings = qc.Settings(eps_abs=1e-8, threads=1, time_limit=limit, infeasible=infeasible)
    start = time.perf_counter()
    status = qc.solve_qp(**data, settings=settings).status
    return time.perf_counter() - start, status


def factorise_seconds(rows: int) -> float:
    F = np.random.default_rng(0).normal(size=(rows, rows))
    S = F @ F.T + rows * np.eye(rows)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.linalg.cholesky(S)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 200, 600])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.repeats = [20], 2
    print(report.machine(threads=1))
    widths = {"problem": 22, "whole_ms": 9, "status": 18, "set_up_ms": 9, "factorise_ms": 12, "late_ms": 9}
    table = report.Report("time_limits", widths | {"stopped": 7, "runs": 4, "kept": 4}, arguments.out)
    for name, data, infeasible in problems(arguments.sizes):
        timed(data, None, infeasible)
        whole, status = timed(data, None, infeasible)
        set_up = statistics.median(timed(data, 1e-9, infeasible)[0] for _ in range(arguments.repeats))
        late, stopped = 0.0, 0
        for fraction in FRACTIONS:
            limit = fraction * whole
            ends = [timed(data, limit, infeasible) for _ in range(arguments.repeats)]
            late = max(late, statistics.median(elapsed - limit for elapsed, _ in ends))
            stopped += sum(found == qc.Status.TIME_LIMIT for _, found in ends)
        factorise = factorise_seconds(sum(len(data[key]) for key in ("g", "A", "C")))
        row: dict[str, Any] = {"problem": name, "whole_ms": 1e3 * whole, "status": status.name}
        row |= {"set_up_ms": 1e3 * set_up, "factorise_ms": 1e3 * factorise, "late_ms": 1e3 * late}
        table.add(
            row | {"stopped": stopped, "runs": arguments.repeats * len(FRACTIONS), "kept": late <= set_up + factorise}
        )
    path = table.finish()
    shown = {
        key: {str(row["problem"]): max(1e-3, float(str(row[f"{key}_ms"]))) for row in table.rows}
        for key in ("whole", "set_up", "factorise", "late")
    }
    groups = [str(row["problem"]) for row in table.rows]
    report.bars(path.with_suffix(".png"), groups, shown, title="Time beyond the limit", ylabel="time [ms]")


if __name__ == "__main__":
    main()
