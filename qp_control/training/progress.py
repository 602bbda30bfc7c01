"""Training on the terminal: a progress bar, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from qp_control.training.task import Estimate, TrainingTask


class TrainingProgress:
    """A bar with loss, share of unsolved or infeasible QPs, and steps per second."""

    def __init__(self, console: Console, task: TrainingTask, total: int, done: int) -> None:
        self.bar = Progress(
            TextColumn("{task.fields[phase]:<11}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._of = task
        self._task = self.bar.add_task("train", total=total, completed=done, phase="planning", numbers="")

    def report(self, row: dict[str, Any]) -> None:
        """Show a row; validations remain on the screen as separate lines."""
        if f"validation_{self._of.metrics[0]}" in row:
            values = (f"{name} {_shown(self._of, name, row[f'validation_{name}'])}" for name in self._of.metrics)
            begin = f"iteration {row['iteration'] + 1:3d}  {row['phase']:<11}  loss {row['loss']:9.3g}"
            self.bar.console.print(f"{begin}  {'  '.join(values)}", highlight=False)
        bad = 100 * row["unsolved_share"]
        shifted = 100 * row["infeasible_share"]
        numbers = (
            f"loss {row['loss']:.3g} unsolved {bad:.0f} % infeasible {shifted:.0f} % "
            f"{row['steps_per_second']:.0f} steps/s"
        )
        phase = str(row["phase"]).replace("_", " ")
        self.bar.update(self._task, completed=row["iteration"] + 1, phase=phase, numbers=numbers)


@contextmanager
def training_progress(console: Console, task: TrainingTask, total: int, done: int) -> Iterator[TrainingProgress]:
    """A progress bar that disappears at the end of the block."""
    progress = TrainingProgress(console, task, total, done)
    with progress.bar:
        yield progress


def results_table(rows: list[dict[str, Any]], task: TrainingTask, title: str) -> Table:
    """Scores with their 95 % confidence intervals."""
    table = Table(title=title)
    table.add_column("")
    for name in (*task.metrics, "time [s]"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_with_interval(task, name, row) for name in task.metrics]
        table.add_row(row["name"], *cells, "" if row["seconds"] is None else f"{row['seconds']:.0f}")
    return table


def estimates_table(estimates: Sequence[Estimate]) -> Table:
    """Learned numbers with standard deviations, or with the interval of values that the data allow."""
    table = Table()
    table.add_column("")
    for name in ("learned", "standard deviation", "the data allow"):
        table.add_column(name, justify="right")
    for one in estimates:
        deviation = "" if one.standard_deviation is None else f"{one.standard_deviation:.2g}"
        interval = "" if one.interval is None else f"{one.interval[0]:.4g} to {one.interval[1]:.4g}"
        table.add_row(one.name, f"{one.value:.6g}", deviation, interval)
    return table


def _with_interval(task: TrainingTask, name: str, row: dict[str, Any]) -> str:
    value = _shown(task, name, row[name])
    interval = row["intervals"].get(name)
    return value if interval is None else f"{value} ({' to '.join(_shown(task, name, end) for end in interval)})"


def _shown(task: TrainingTask, name: str, value: float) -> str:
    return f"{100 * value:.0f} %" if name in task.percent else f"{value:.4g}"
