"""Training on the terminal: a progress bar, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class TrainingProgress:
    """A bar with loss, return, share of unsolved or infeasible QPs, and steps per second."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self.bar = Progress(
            TextColumn("{task.fields[stage]:<11}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._task = self.bar.add_task("train", total=total, completed=done, stage="planning", numbers="")
        self._validated = ""

    def report(self, row: dict[str, Any]) -> None:
        """Show a row; validations stay on the screen as lines of their own."""
        if "validation_return" in row:
            self._validated = f"return {row['validation_return']:.1f}"
            self.bar.console.print(
                f"iteration {row['iteration'] + 1:3d}  {row['stage']:<11}  loss {row['loss']:8.4f}  {self._validated}  "
                f"success {100 * row['validation_success']:.0f} %",
                highlight=False,
            )
        bad = 100 * row["unsolved_share"]
        shifted = 100 * row["infeasible_share"]
        numbers = (
            f"loss {row['loss']:.3f} {self._validated} unsolved {bad:.0f} % infeasible {shifted:.0f} % "
            f"{row['steps_per_second']:.0f} steps/s"
        )
        stage = str(row["stage"]).replace("_", " ")
        self.bar.update(self._task, completed=row["iteration"] + 1, stage=stage, numbers=numbers)


@contextmanager
def training_progress(console: Console, total: int, done: int) -> Iterator[TrainingProgress]:
    """A progress bar that is gone when the block ends."""
    progress = TrainingProgress(console, total, done)
    with progress.bar:
        yield progress


def results_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Controllers, their successes and returns."""
    table = Table(title=title)
    for name, justify in (("controller", "left"), ("success", "right"), ("return", "right"), ("time [s]", "right")):
        table.add_column(name, justify="left" if justify == "left" else "right")
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        table.add_row(row["controller"], f"{100 * row['success']:.0f} %", f"{row['mean_return']:.1f}", seconds)
    return table
