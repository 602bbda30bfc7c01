"""The figures of docs/training.md and docs/scaling.md, from the CSV files that the benchmarks wrote.

Every figure whose CSV file is there is written again; the others stay as they are. A picture of what a task's seeds
reached has a dot per seed: before training, tuned by hand, the evolution strategy after as many seconds, learned.

    python benchmarks/figures.py [--results benchmarks/results] [--figures docs/figures]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, str]
FOLDER = Path(__file__).parents[1] / "docs" / "figures"
COLORS = {"before": "#9aa0a6", "tuned by hand": "#f29900", "evolution strategy": "#d93025", "learned": "#1a73e8"}
# Of training.csv: file, tasks, measure and its name.
SEEDS = [
    ("swing_up", ["cart_pole_swing_up"], "return", "return (at most 200)"),
    ("recovery", ["lqr_recovery", "pendulum_recovery", "cart_pole_recovery"], "action error", "held-out action error"),
    ("constraints", ["constraint_learning"], "limit error", "largest relative error of the limits"),
    ("identification", ["cart_pole_identification"], "parameter error", "largest relative error"),
]


def number(text: str | None) -> float:
    return float(text) if text else math.nan


def short(controller: str) -> str:
    return "evolution strategy" if "evolution" in controller else controller


def dots(axes: Axes, rows: Sequence[Row], log: bool) -> None:
    """A column per controller, a dot per seed."""
    names = [name for name in COLORS if any(short(row["controller"]) == name for row in rows)]
    for k, name in enumerate(names):
        row = next(row for row in rows if short(row["controller"]) == name)
        values = [number(text) for heading, text in row.items() if heading.startswith("seed ")]
        spread = [k + 0.25 * (j / max(1, len(values) - 1) - 0.5) for j in range(len(values))]
        axes.plot(spread, values, "o", color=COLORS[name], ms=5, alpha=0.8)
    axes.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names], fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    if log:
        axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.3)


def of_seeds(rows: list[Row], tasks: list[str], measure: str, label: str) -> Figure | None:
    shown = {task: [r for r in rows if r["task"] == task and r["measure"] == measure] for task in tasks}
    shown = {task: found for task, found in shown.items() if found}
    if not shown:
        return None
    figure, panels = plt.subplots(
        1, len(shown), figsize=(1.0 + 2.9 * len(shown), 2.9), squeeze=False, sharey=True, layout="constrained"
    )
    for axes, (task, found) in zip(panels[0], shown.items(), strict=True):
        dots(axes, found, log="error" in measure)
        axes.set_title(task, fontsize=9)
    panels[0][0].set_ylabel(label, fontsize=9)
    return figure


def of_imitation(rows: list[Row]) -> Figure:
    """Held-out action errors over the number of demonstrations, ours and mpc.pytorch's at equal time and at the end."""
    rows = [row for row in rows if row["action error"]]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(1.0 + 2.6 * len(tasks), 2.9), squeeze=False, sharey=True, layout="constrained"
    )
    curves = (
        ("qp-control", "action error", COLORS["learned"], "qp-control"),
        ("qp-control, bounds given", "action error", "#188038", "qp-control, bounds given"),
        ("mpc.pytorch", "at equal time", "#9aa0a6", "mpc.pytorch, equal time"),
        ("mpc.pytorch", "action error", "#d93025", "mpc.pytorch, at the end"),
    )
    for axes, task in zip(panels[0], tasks, strict=True):
        for controller, measure, color, label in curves:
            found = [row for row in rows if row["task"] == task and row["controller"] == controller]
            x, y = [int(row["demonstrations"]) for row in found], [number(row[measure]) for row in found]
            axes.plot(x, y, "o-", color=color, ms=4, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([10, 50, 100], ["10", "50", "100"])
        axes.minorticks_off()
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("demonstrations", fontsize=9)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("held-out action error", fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def of_noise(rows: list[Row]) -> Figure:
    """Largest relative error of seven numbers over the noise of the measurements."""
    figure, axes = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    kinds = list(dict.fromkeys((row["trajectories"], row["steps"]) for row in rows))
    for k, (trajectories, steps) in enumerate(kinds):
        found = [row for row in rows if (row["trajectories"], row["steps"]) == (trajectories, steps)]
        x = [number(row["noise"]) for row in found]
        middle, worst = ([number(row[name]) for row in found] for name in ("largest", "worst seed"))
        label = f"{trajectories} trajectories" + ("" if steps == "1" else f", {steps} periods ahead")
        axes.plot(x, middle, "o-", color=f"C{k}", ms=4, label=label)
        axes.plot(x, worst, ":", color=f"C{k}")
    axes.axhline(0.01, color="black", lw=0.8, ls="--")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("noise, share of the states' scale", fontsize=9)
    axes.set_ylabel("largest relative error\n(median of seeds; dotted: worst)", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def save(figure: Figure | None, path: Path) -> None:
    if figure is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"written: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the CSV files")
    parser.add_argument("--figures", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    others: dict[str, Callable[[list[Row]], Figure]] = {"imitation": of_imitation, "identification": of_noise}
    training = arguments.results / "training.csv"
    if training.exists():
        rows = report.read_csv(training)
        for name, tasks, measure, label in SEEDS:
            save(of_seeds(rows, tasks, measure, label), arguments.figures / f"{name}.png")
    for name, draw in others.items():
        path = arguments.results / f"{name}.csv"
        if path.exists():
            save(
                draw(report.read_csv(path)),
                arguments.figures / f"{name}{'_noise' if name == 'identification' else ''}.png",
            )


if __name__ == "__main__":
    main()
