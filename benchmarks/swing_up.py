"""Swing-up learned from several seeds, beside generic and hand-tuned weights and an evolution strategy at equal time.

python benchmarks/swing_up.py [--seeds 0 1 2] [--folder benchmarks/results/swing_up]

Every seed is a run folder of `qp-control train`; seeds that are there already are not trained again.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qp_control.training import TrainingConfig, pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/swing_up"))
    arguments = parser.parse_args()
    console = Console()
    table = Table(title=f"50 unseen starts; {len(os.sched_getaffinity(0))} cores, {platform.machine()}")
    for column in ("seed", "controller", "success", "return", "time [s]"):
        table.add_column(column, justify="left" if column == "controller" else "right")
    for seed in arguments.seeds:
        folder = arguments.folder / f"seed_{seed}"
        rows = pipeline.train("cart_pole_swing_up", folder, TrainingConfig(seed=seed), resume=True, console=console)
        for row in rows:
            seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
            table.add_row(
                str(seed), row["controller"], f"{100 * row['success']:.0f} %", f"{row['mean_return']:.1f}", seconds
            )
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
