"""Instructions that a QP takes, counted by valgrind's callgrind: changes of the code compared without a clock's noise.

One call: a solve_qp or qp_adjoint from Python, with everything that belongs to it; the difference of two runs with
different numbers of calls. Per element: what one more QP in a batch adds; the difference of two batches. Counts of the
same build repeat to a few dozen instructions. valgrind knows no AVX-512, so the kernels are the generic ones, and AVX2
on request. There are no peers here: the last column compares with an earlier run.

    python benchmarks/instructions.py [--kernels generic avx2] [--before FILE.csv]
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import report
from counted_solves import LARGEST_BATCH

COUNTED = Path(__file__).with_name("counted_solves.py")
Size = tuple[int, int, int]
SIZES: list[Size] = [(10, 0, 10), (50, 10, 50)]
CALLS = {10: 50, 50: 10}
SMALL_BATCH = 16


@dataclass(frozen=True)
class Run:
    kernels: str
    what: str
    size: Size
    batch: int
    calls: int

    @property
    def case(self) -> str:
        return f"{self.what} n={self.size[0]} n_eq={self.size[1]} n_in={self.size[2]}"


def count(run: Run) -> int:
    """Instructions of the whole program.

    Raises:
        RuntimeError: valgrind or the program failed.
    """
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, str(COUNTED)]
    command += [run.what, *map(str, run.size), str(run.batch), str(run.calls)]
    if shutil.which("setarch"):
        command = ["setarch", "-R", *command]  # the same addresses every time
    fixed = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "QP_CONTROL_KERNELS": run.kernels}
    done = subprocess.run(command, env=os.environ | fixed, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return int(found.group(1))


def pairs(kernels: str, size: Size, quick: bool) -> dict[tuple[str, str], tuple[Run, Run, int]]:
    """By case and column: two runs, and by what their difference is divided."""
    out = {}
    calls = CALLS[size[0]]
    for what in ("forward", "adjoint"):
        fewer, more = Run(kernels, what, size, 1, calls), Run(kernels, what, size, 1, 2 * calls)
        out[fewer.case, "per_call"] = fewer, more, calls
        if quick:
            break
        small, large = Run(kernels, what, size, SMALL_BATCH, 1), Run(kernels, what, size, LARGEST_BATCH, 1)
        # The solve whose solution the adjoint needs is in both batches; a run without adjoints takes it out again.
        out[fewer.case, "per_element"] = small, large, LARGEST_BATCH - SMALL_BATCH
    return out


def without_calls(run: Run) -> Run:
    return Run(run.kernels, run.what, run.size, run.batch, 0)


def measure(kernels: str, sizes: list[Size], workers: int, quick: bool) -> list[dict[str, object]]:
    wanted = {key: value for size in sizes for key, value in pairs(kernels, size, quick).items()}
    runs = {run for first, second, _ in wanted.values() for run in (first, second)}
    runs |= {without_calls(run) for run in runs if run.batch > 1}
    ordered = sorted(runs, key=lambda run: (run.size, run.batch, run.calls), reverse=True)
    with ThreadPoolExecutor(workers) as pool:
        counts = dict(zip(ordered, pool.map(count, ordered), strict=True))

    def of_calls(run: Run) -> int:
        return counts[run] - (counts[without_calls(run)] if run.batch > 1 else 0)

    rows: dict[str, dict[str, object]] = {}
    for (case, column), (first, second, divisor) in wanted.items():
        row = rows.setdefault(case, {"kernels": kernels, "problem": case})
        row[column] = round((of_calls(second) - of_calls(first)) / divisor)
    return list(rows.values())


def add_change(row: dict[str, object], before: Path) -> None:
    with open(before, newline="") as file:
        for old in csv.DictReader(file):
            if (old["kernels"], old["problem"]) == (row["kernels"], row["problem"]):
                both = [name for name in ("per_call", "per_element") if name in row and old.get(name)]
                ratios = (float(str(row[name])) / float(old[name]) for name in both)
                row["now / before"] = " ".join(f"{ratio:.4f}" for ratio in ratios)


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--kernels", nargs="*", default=["generic"], choices=["generic", "avx2"])
    parser.add_argument("--before", type=Path, help="CSV file of an earlier run")
    parser.add_argument("--workers", type=int, default=report.cores(), help="runs at a time")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("not measured: valgrind is not installed (Debian, Ubuntu: apt-get install valgrind)")
        return
    print(report.machine(threads=1))
    widths = {"kernels": 7, "problem": 32, "per_call": 12, "per_element": 12, "now / before": 16}
    table = report.Report("instructions", widths, arguments.out)
    sizes = SIZES[:1] if arguments.quick else SIZES
    for kernels in arguments.kernels:
        for row in measure(kernels, sizes, arguments.workers, arguments.quick):
            if arguments.before:
                add_change(row, arguments.before)
            table.add(row)
    path = table.finish()
    columns = ("per_call", "per_element")
    report.bars(
        path.with_suffix(".png"),
        [str(row["problem"]) for row in table.rows],
        {
            f"{name}, {kernels}": {
                str(row["problem"]): float(str(row[name]))
                for row in table.rows
                if row["kernels"] == kernels and name in row
            }
            for kernels in arguments.kernels
            for name in columns
        },
        title="Instructions per QP",
        ylabel="instructions",
    )


if __name__ == "__main__":
    main()
