"""The folder of one training run.

config.json               task, options, versions
checkpoint.safetensors    parameters (now and best), optimiser, random state, progress
metrics.csv, tensorboard/ one row per iteration
results.json              scores beside those of the baselines
estimates.json            learned numbers and their uncertainty, for tasks that provide them
*.png, replay.html        learning curve, and the task's pictures
failures/*.npz            QPs without an answer: `qc.solve_qp(**qc.load_problem(path))`
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qp_control import __version__
from qp_control.qp.files import save_problem
from qp_control.training.checkpoint import RunError, write_file
from qp_control.training.phase import FailedProblem
from qp_control.training.task import Estimate

__all__ = ["Metrics", "RunError", "RunFolder"]

_BEGUN = "config.json.partial"
MAX_FAILURES = 20  # QPs kept per run: the first ones are the most informative


class RunFolder:
    """Paths and files of a run. Use `create` or `open` to get one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.metrics = path / "metrics.csv"
        self.results = path / "results.json"
        self.estimates = path / "estimates.json"
        self.replay = path / "replay.html"

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether there is a run in that folder. Raises RunError if that cannot be told (names that are too long)."""
        try:
            return (path / "config.json").is_file()
        except OSError as error:
            raise RunError(f"cannot read {str(path)!r}: {error}") from error

    @staticmethod
    def create(path: Path, task: str, options: Mapping[str, Any]) -> RunFolder:
        """Start a run. Raises RunError if the folder has contents already or cannot be written."""
        if RunFolder.exists(path):
            raise RunError(f"{str(path)!r} already holds a run: continue it with --resume, or choose another folder")
        try:
            # A run that was killed as it began may have left half of its first file.
            if path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - {_BEGUN}):
                raise RunError(f"{str(path)!r} exists and is not a run folder; nothing was written")
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write the run folder {str(path)!r}: {error}") from error
        run = RunFolder(path)
        versions = {"qp_control": __version__, "torch": torch.__version__, "numpy": np.__version__}
        config = {
            "task": task,
            "options": dict(options),
            "versions": {**versions, "python": platform.python_version()},
        }
        write_file(path / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        return run

    @staticmethod
    def open(path: Path) -> RunFolder:
        """An existing run. Raises RunError if there is none."""
        if not RunFolder.exists(path):
            raise RunError(f"{str(path)!r} is not a run folder: it has no config.json")
        return RunFolder(path)

    def config(self) -> dict[str, Any]:
        """{"task": ..., "options": ..., "versions": ...}. Raises RunError for a damaged file."""
        file = self.path / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            if not (isinstance(config["task"], str) and isinstance(config["options"], dict)):
                raise ValueError("task or options have the wrong type")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{str(file)!r} is damaged: {error}") from error
        return dict(config)

    def write_results(self, rows: list[dict[str, Any]]) -> None:
        """Write the scores of everything compared."""
        write_file(self.results, (json.dumps(rows, indent=2) + "\n").encode())

    def write_estimates(self, estimates: Sequence[Estimate]) -> None:
        """Write the learned numbers and their uncertainty."""
        rows = [dataclasses.asdict(one) for one in estimates]
        write_file(self.estimates, (json.dumps(rows, indent=2) + "\n").encode())

    def save_failure(self, problem: FailedProblem, iteration: int) -> Path | None:
        """Write a QP that had no answer; returns its path, or None once enough are kept."""
        folder = self.path / "failures"
        if folder.is_dir() and len(list(folder.glob("*.npz"))) >= MAX_FAILURES:
            return None
        name = f"iteration_{iteration:04d}_step_{problem.step:03d}_element_{problem.element}_{problem.status.name}.npz"
        try:
            folder.mkdir(exist_ok=True)
            return save_problem(folder / name, **problem.data)
        except OSError as error:
            raise RunError(f"cannot write {str(folder / name)!r}: {error}") from error


class Metrics:
    """One row per iteration, as CSV and for TensorBoard. more: columns besides the common ones.

    Rows from the iteration `first` on, left by an interrupted run, are dropped.
    """

    COLUMNS = (
        "iteration",
        "phase",
        "loss",
        "gradient_norm",
        "pace",
        "updated",
        "unsolved_share",
        "infeasible_share",
        "weakly_active_share",
        "steps_per_second",
        "seconds",
    )

    def __init__(self, run: RunFolder, more: tuple[str, ...], first: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        rows = [row for row in read_metrics(run) if int(row["iteration"]) < first] if first else []
        text = io.StringIO()
        self._columns = (*self.COLUMNS, *more)
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(run.metrics, text.getvalue().encode())
        self._path, self._folder = run.metrics, run.path / "tensorboard"
        with self._writing(self._folder):
            self._board = SummaryWriter(str(self._folder), purge_step=first)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; missing values stay empty. Raises RunError if it cannot be written."""
        with self._writing(self._path), self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(dict(row))
        with self._writing(self._folder):
            for name, value in row.items():
                if name not in ("iteration", "phase"):
                    self._board.add_scalar(name, float(value), int(row["iteration"]))

    def close(self) -> None:
        """Write what is still in memory. Raises RunError if it cannot be written."""
        with self._writing(self._folder):
            self._board.close()

    @staticmethod
    @contextmanager
    def _writing(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write {str(path)!r}: {error}") from error


def read_metrics(run: RunFolder) -> list[dict[str, str]]:
    """The rows of metrics.csv, as strings. Raises RunError for a missing or damaged file."""
    try:
        with run.metrics.open(encoding="utf-8", newline="") as file:
            # A full disk can leave a partial row.
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        for row in rows:
            int(row["iteration"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"{str(run.metrics)!r} is missing or damaged: {error}") from error
    return rows
