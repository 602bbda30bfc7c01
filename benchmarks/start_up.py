"""How long does it take until work can begin?

Each row starts fresh processes and times a statement in them, or a whole command: the best and the median of the
repeats. Files are in the page cache after the first, which is not counted. `import qp_control` has 0.3 s, NumPy's
share included; torch and Pinocchio are imported on first use. There is no peer column: what peers import differs too
much in what it can do.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import report

STATEMENTS = (
    "import numpy",
    "import qp_control",
    "from qp_control import QPLayer",
    "from qp_control import RobotModel",
    "from qp_control import MPC",
)
COMMANDS = ("qp-control --help", "qp-control list")


def statement_seconds(statement: str) -> float:
    """Of the statement alone, without the start of Python."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def command_seconds(command: str) -> float:
    """Of the whole process."""
    words = [sys.executable, "-m", "qp_control.cli", *command.split()[1:]]
    start = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    print(report.machine("torch", "pin"))
    table = report.Report("start_up", {"measure": 34, "best_s": 8, "median_s": 8}, arguments.out)
    timers: list[tuple[str, Callable[[str], float]]] = [(name, statement_seconds) for name in STATEMENTS]
    timers += [(name, command_seconds) for name in COMMANDS]
    for name, seconds in timers:
        seconds(name)
        times = [seconds(name) for _ in range(arguments.repeats)]
        table.add({"measure": name, "best_s": min(times), "median_s": statistics.median(times)})
    path = table.finish()
    shown = {"best": {str(row["measure"]): float(str(row["best_s"])) for row in table.rows}}
    report.bars(path.with_suffix(".png"), list(shown["best"]), shown, title="Start", ylabel="time [s]")


if __name__ == "__main__":
    main()
