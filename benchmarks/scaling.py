"""Training in one and in two processes of one machine: seconds per update, and whether the numbers are the same bits.

Batches are divided into two parts in every row, so that the numbers must be equal. A process has the cores that stand
in the row: its solver uses as many threads. "update": median seconds of an update, validations aside; "cpu": CPU
seconds of all processes over the whole run, start of Python included; "x_one": updates per second over those of one
process on one core. Two cores in one process share the solver's work alone, two processes all of it.

    python benchmarks/scaling.py [--repeats 3]
"""

from __future__ import annotations

import csv
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import report

PROBLEMS = {
    "cart-pole swing-up, 64 loops of 50": [
        "cart_pole_swing_up",
        "--imitation-iterations=0",
        "--closed-loop-iterations=6",
        "--closed-loop-batch=64",
        "--closed-loop-steps=50",
        "--validation-count=1",
        "--validate-every=100",
    ],
    "cart-pole recovery, 200 plans": [
        "cart_pole_recovery",
        "--identification-iterations=0",
        "--imitation-iterations=20",
        "--bound-iterations=0",
        "--demonstrations=200",
        "--batch=200",
        "--validation-count=1",
        "--validate-every=100",
    ],
}
QUICK = {"pendulum recovery": ["pendulum_recovery", "--demonstrations=4", "--imitation-iterations=2"]}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def train(arguments: list[str], processes: int, cores: int, folder: Path) -> tuple[float, float, list[dict[str, str]]]:
    """Median seconds of an update, CPU seconds, the metrics' rows."""
    start = TORCHRUN if processes > 1 else [sys.executable]
    options = [f"--run-folder={folder}", "--parts=2", "--no-baselines", "--held-out=1"]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*start, "-m", "qp_control.training", *arguments, *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [0.0, *(float(row["seconds"]) for row in rows)]
    taken = [b - a for a, b in itertools.pairwise(ends)]
    return statistics.median(taken[1:-1] or taken), cpu, rows


def numbers(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in rows]


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    problems, repeats = (QUICK, 1) if arguments.quick else (PROBLEMS, arguments.repeats)
    print(report.machine("torch"))
    columns = {"problem": 36, "processes": 9, "cores": 5, "update": 8, "cpu": 8, "x_one": 6, "same bits": 9}
    table = report.Report("scaling", columns, arguments.out)
    for problem, options in problems.items():
        first: dict[str, float] = {}
        expected: list[dict[str, str]] = []
        for processes, cores in ((1, 1), (1, 2), (2, 2)):
            with tempfile.TemporaryDirectory() as folder:
                found = [train(options, processes, cores, Path(folder) / str(k)) for k in range(repeats)]
            update = min(one[0] for one in found)
            expected = expected or numbers(found[0][2])
            first = first or {"update": update}
            row: dict[str, object] = {"problem": problem, "processes": processes, "cores": cores, "update": update}
            row |= {"cpu": min(one[1] for one in found), "x_one": first["update"] / update}
            table.add(row | {"same bits": all(numbers(one[2]) == expected for one in found)})
    series: dict[str, dict[str, float]] = {}
    for row in table.rows:
        name = f"{row['processes']} process{'es' if row['processes'] != 1 else ''}, {row['cores']} cores"
        series.setdefault(name, {})[str(row["problem"])] = float(str(row["update"]))
    path = table.finish().with_suffix(".png")
    report.bars(path, problems, series, title="training: seconds per update", ylabel="s")


if __name__ == "__main__":
    main()
