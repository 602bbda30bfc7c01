"""Swing-up learned from several seeds, beside generic and hand-tuned weights and an evolution strategy at equal time.

Every seed is a run folder of `qp-control train` in --folder; seeds that are there already are not trained again. All
controllers are judged on the same 50 start states, none of which was trained on. There is no last column: what is
compared is not speed.

    python benchmarks/swing_up.py [--seeds 0 1 2] [--folder benchmarks/results/swing_up]
"""

from __future__ import annotations

from pathlib import Path

import report
from rich.console import Console

from qp_control.training import TrainingConfig, pipeline

QUICK = {"imitation_iterations": 1, "closed_loop_iterations": 1, "expert_count": 1, "validation_count": 1}


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="of the run folders; default: swing_up beside the CSV file")
    arguments = parser.parse_args()
    held_out = 50
    if arguments.quick:
        arguments.seeds, held_out = arguments.seeds[:1], 2
    folder = arguments.folder or arguments.out / ("swing_up_quick" if arguments.quick else "swing_up")
    trained = []
    for seed in arguments.seeds:
        config = TrainingConfig(seed=seed, **(QUICK if arguments.quick else {}))
        path = folder / f"seed_{seed}"
        trained += [
            {"seed": seed, **row}
            for row in pipeline.train(
                "cart_pole_swing_up", path, config, resume=True, held_out=held_out, console=Console()
            )
        ]
    print(report.machine())
    widths = {"seed": 4, "controller": 36, "success": 8, "mean_return": 11, "seconds": 8}
    table = report.Report("swing_up", widths, arguments.out)
    for row in trained:
        table.add(row)
    path = table.finish()
    returns: dict[str, dict[str, float]] = {}
    for row in trained:
        returns.setdefault(str(row["controller"]), {})[f"seed {row['seed']}"] = float(row["mean_return"])
    report.bars(
        path.with_suffix(".png"),
        dict.fromkeys(f"seed {row['seed']}" for row in trained),
        returns,
        title=f"Return of a swing-up, mean of {held_out} unseen starts",
        ylabel="return",
        log=False,
    )


if __name__ == "__main__":
    main()
