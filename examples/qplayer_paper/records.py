"""Output of the experiments: a table per run, extended after each epoch, all runs in one CSV file, and plots."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import report

Row = dict[str, object]


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def merge(folder: Path, name: str) -> list[dict[str, str]]:
    """All runs of an experiment in FOLDER/runs, written to FOLDER/NAME.csv with where the last of them comes from."""
    rows = [row for path in sorted((folder / "runs").glob(f"{name}-*.csv")) for row in read_csv(path)]
    report.write_results(folder / f"{name}.csv", rows, {"": report.provenance()})
    return rows


def curves(
    path: Path,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log: bool = True,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Lines by name, and dashed levels to compare with, such as a published figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4))
    for name, points in lines.items():
        x, y = zip(*points, strict=True) if points else ((), ())
        axes.plot(x, y, marker="o" if len(points) < 40 else None, markersize=3, label=name)
    for k, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(level, linestyle="--", linewidth=1, color=f"{0.3 + 0.2 * (k % 3):.1f}", label=name)
    if log:
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


def series(rows: Iterable[Mapping[str, str]], y: str, x: str = "epoch") -> dict[str, list[tuple[float, float]]]:
    """(x, y) of each run by its name, without what is blank; zero, which no logarithm shows, as 1e-17."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.get(y):
            name = f"{row['solver']}, {row['model']}"
            lines.setdefault(name, []).append((float(row[x]), max(float(row[y]), 1e-17)))
    return lines


__all__ = ["Row", "curves", "merge", "read_csv", "report", "series"]
