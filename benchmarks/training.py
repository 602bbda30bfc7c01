"""The tasks of `qp-control train` from several seeds, beside what was tuned by hand and a search without gradients.

Every seed is a run folder of `qp-control train` in --folder; results that are there already are not made again. All
are judged on the same 50 samples, none of which was trained on. There is no last column: what is compared is not speed.
Rows of other tasks, in the CSV file of a run before, stay.

    python benchmarks/training.py [--tasks cart_pole_swing_up] [--seeds 0 1 2 3 4] [--folder results/training]
    python benchmarks/training.py --tasks arm_inverse_dynamics arm_unknown_loads --arm-figure docs/figures/arm.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import report
from arm_figure import arm_figure
from rich.console import Console

from qp_control.training import available, create, pipeline
from qp_control.training.tasks import TASKS

QUICK = {
    "cart_pole_swing_up": {
        "imitation_iterations": 1,
        "closed_loop_iterations": 1,
        "expert_count": 1,
        "validation_count": 1,
    },
    "pendulum_recovery": {f"{part}_iterations": 2 for part in ("identification", "optimality", "imitation", "bound")},
}
# What a task is compared with that has to be trained too: its options, by name.
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "arm_unknown_loads": {"constants alone": {"network": False}},
}


def picture(path: Path, scores: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """scores[task][controller][measure]: one per seed. A panel a task, of its first measure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(scores), figsize=(3.2 * len(scores), 4.2), squeeze=False)
    for axes, (task, controllers) in zip(panels[0], scores.items(), strict=True):
        measure = TASKS[task].metrics[0]
        for k, (name, values) in enumerate(controllers.items()):
            seen = np.array(values[measure])
            middle = float(np.median(seen))
            spread = [[middle - seen.min()], [seen.max() - middle]]
            axes.bar(k, middle, yerr=spread, capsize=4, label=name, color=f"C{k}")
        if measure not in TASKS[task].percent:
            axes.set_yscale("log")
        axes.set_xticks([])
        axes.set_ylabel(measure)
        axes.set_title(task, fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=available(), default=available())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, help="of the run folders; default: training beside the CSV file")
    parser.add_argument("--arm-figure", type=Path, help="write the figure of the arm's tasks, of seed 0, to this file")
    arguments = parser.parse_args()
    held_out = 50
    if arguments.quick:
        arguments.seeds, held_out, arguments.tasks = arguments.seeds[:1], 2, list(QUICK)
    folder = arguments.folder or arguments.out / ("training_quick" if arguments.quick else "training")
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in arguments.tasks:
        for seed in arguments.seeds:
            changed: dict[str, object] = {**QUICK[name]} if arguments.quick else {}
            rows: list[dict[str, Any]] = []
            for title, further in {"": {}, **VARIANTS.get(name, {})}.items():
                options = create(name, None, seed=seed, **changed, **further).options
                path = folder / f"{name} {title}".strip().replace(" ", "_") / f"seed_{seed}"
                results = path / "results.json"
                if results.is_file():
                    found = json.loads(results.read_text())
                else:
                    found = pipeline.train(name, path, options, resume=True, held_out=held_out, console=Console())
                trained = [row for row in found if row["seconds"] is not None]
                rows += [row | {"name": f"{title}, {row['name']}"} for row in trained] if title else found
            for row in rows:
                values = scores.setdefault(name, {}).setdefault(str(row["name"]), {})
                for measure in (*TASKS[name].metrics, "seconds"):
                    values.setdefault(measure, []).append(float("nan") if row[measure] is None else row[measure])
    print(report.machine())
    columns = {"task": 24, "controller": 36, "measure": 18, **{f"seed {seed}": 9 for seed in arguments.seeds}}
    table = report.Report("training", columns, arguments.out, part="task")
    for name, controllers in scores.items():
        for controller, measures in controllers.items():
            for measure, each in measures.items():
                seeds = {f"seed {seed}": value for seed, value in zip(arguments.seeds, each, strict=True)}
                table.add({"task": name, "controller": controller, "measure": measure, **seeds})
    if arguments.arm_figure is not None:
        arm_figure(arguments.arm_figure, folder)
    picture(table.finish().with_suffix(".png"), scores)


if __name__ == "__main__":
    main()
