"""Runs the benchmarks of solvers, layers and environments, one after the other, each in a process of its own.

What a benchmark asks stands at the top of its file and in README.md. At the end: what was written, and how each ended.
The exit status is 0 if none failed; one that cannot run here (no collections of problems, no valgrind) has not failed.
Those that train for minutes are not among them: training.py, reinforcement.py, quadruped_pushes.py, imitation.py,
identification.py and scaling.py.

    python benchmarks/run_all.py             # a long while; results go to benchmarks/results/
    python benchmarks/run_all.py --quick     # do they all run? results go to benchmarks/results/quick/
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import report

HERE = Path(__file__).parent
COLLECTIONS = "qp_sets"
BENCHMARKS = (
    "accuracy", "qp_layers", "ocp_layers", "mpc_scaling", "nonlinear_mpc", "repeated_solves", "structure", "infeasible",
    "time_limits", "start_up", "environments", "contact", "instructions", "dynamics", "inverse_dynamics",
    "inverse_dynamics_peers", "worst_ticks", COLLECTIONS,
)  # fmt: skip


def written_since(start: float, out: Path) -> list[Path]:
    files = [path for ending in ("csv", "png") for path in out.glob(f"*.{ending}")]
    return sorted(path for path in files if path.stat().st_mtime >= start)


def run(name: str, options: list[str], out: Path) -> tuple[bool, str]:
    """Whether the benchmark went well, and what there is to say about it."""
    start = time.time()
    code = subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--out", str(out), *options]).returncode
    if code:
        return False, f"FAILED, exit status {code}"
    files = ", ".join(path.name for path in written_since(start, out))
    return True, files or "nothing measured, see above"


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("QP_CONTROL_DATA"), help=f"of {COLLECTIONS}.py")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME", help="of these")
    arguments = parser.parse_args()
    out = arguments.out
    outcomes: dict[str, tuple[bool, str]] = {}
    for name in arguments.only:
        options = ["--quick"] if arguments.quick else []
        if name == COLLECTIONS and not arguments.quick:
            if arguments.data is None:
                outcomes[name] = True, "skipped: no collections of problems, name their folder with --data"
                print(f"\n{name} {outcomes[name][1]} or QP_CONTROL_DATA", flush=True)
                continue
            options += ["--data", str(arguments.data)]
        print(f"\n{name}.py {' '.join(options)}".rstrip(), flush=True)
        outcomes[name] = run(name, options, out)
    print(f"\nwritten to {out}:")
    for name, (_, what) in outcomes.items():
        print(f"  {name:<16} {what}")
    return 0 if all(good for good, _ in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
