"""What the benchmarks share: solvers that take turns, a table printed as it grows, its CSV file, a bar chart.

Beside NAME.csv stands NAME.json, which says where its rows come from: the command, the date, the commit, the machine
and the versions of the packages that were there.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

BETTER = "x better than best peer"
LEFT = ("solver", "problem", "problems", "case", "task", "controller", "measure", BETTER)
HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = (
    "qp-control", "numpy", "scipy", "torch", "pin", "gymnasium", "proxsuite", "qpth", "moreau", "mpc", "piqp",
    "clarabel", "daqp", "quadprog", "pin-pink", "mujoco", "stable-baselines3",
)  # fmt: skip
T = TypeVar("T")


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class Options(argparse.ArgumentParser):
    """A quick run must not replace results: it writes to a folder of its own unless told where."""

    def parse_args(self, *given: Any, **more: Any) -> Any:
        found = super().parse_args(*given, **more)
        if found.quick and found.out == RESULTS:
            found.out = RESULTS / "quick"
        return found


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    parser = Options(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV file and the plot")
    parser.add_argument("--quick", action="store_true", help="a small part, within seconds: does it still run?")
    return parser


def machine(*packages: str, threads: int | None = None) -> str:
    """One line: what ran where. Packages that are not installed are named as missing."""
    parts = [f"Python {platform.python_version()}", f"{platform.machine()}, {cores()} cores"]
    if threads is not None:
        parts.append(f"{threads} thread{'s' if threads > 1 else ''}")
    parts += [f"{name} {installed(name) or 'MISSING (not compared)'}" for name in ("qp-control", *packages)]
    return "; ".join(parts)


def installed(name: str) -> str:
    """Version of a distribution, or nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def git(*words: str) -> str:
    """What it answers; nothing where there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=HERE.parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def processor() -> str:
    """Its name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def command(words: Sequence[str]) -> str:
    """How this process was started, without the folder of its results and without folders of this machine."""
    program, root = Path(words[0]).resolve(), HERE.parent
    shown = ["python", str(program.relative_to(root)) if program.is_relative_to(root) else program.name]
    skip = False
    for word in words[1:]:
        if word != "--out" and not word.startswith("--out=") and not skip:
            shown.append(f"PATH/{Path(word).name}" if Path(word).is_absolute() else word)
        skip = word == "--out"
    return " ".join(shown)


def provenance() -> dict[str, str]:
    """Where the results of this process come from."""
    versions = [f"{name} {version}" for name in PACKAGES if (version := installed(name))]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "qp_control", "cpp", "envs", "benchmarks/*.py")
    return {
        "command": command(sys.argv),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": git("rev-parse", "--short", "HEAD") + (" and changes" if changed else ""),
        "machine": f"{processor()}, {cores()} cores, Python {platform.python_version()}",
        "packages": ", ".join(versions),
    }


def in_turns(
    actions: Mapping[str, Callable[[], T]],
    repeats: int,
    *,
    rounds: int = 3,
    block_seconds: float = 0.05,
    enter: Callable[[str], None] = lambda name: None,
) -> dict[str, list[T]]:
    """What each action returns, at least `repeats` times: the actions take turns in blocks.

    So a drift of the machine meets every action. The first two runs of a block are thrown away, unless they take longer
    than a second: they end the busy waiting that the threads of the action before leave behind. Short actions run more
    often, for `block_seconds`. `enter` is called before each block.
    """
    results: dict[str, list[T]] = {name: [] for name in actions}
    least = -(-repeats // rounds)
    for _ in range(rounds):
        for name, action in actions.items():
            enter(name)
            gc.collect()
            gc.disable()
            try:
                block: list[T] = []
                start = time.perf_counter()
                first = action()
                if time.perf_counter() - start > 1.0:
                    block.append(first)
                else:
                    action()
                start = time.perf_counter()
                while len(block) < least or (len(block) < 1000 and time.perf_counter() - start < block_seconds):
                    block.append(action())
            finally:
                gc.enable()
            results[name] += block
    return results


def milliseconds(action: Callable[[], object]) -> Callable[[], float]:
    """The action as one that returns how long it took."""

    def timed() -> float:
        start = time.perf_counter()
        action()
        return 1e3 * (time.perf_counter() - start)

    return timed


def written(value: object) -> str:
    """A value as the table shows it; what is absent or not a number, as a blank or a dash."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isnan(number):
            return "-"
        if number != 0 and not 1e-3 <= abs(number) < 1e6:
            return f"{number:.1e}"
        return f"{number:.3g}" if abs(number) < 1e3 else f"{number:.0f}"
    return str(value)


class Report:
    """A table, printed row by row; `finish` writes it as CSV, and beside it where it comes from.

    Until then its rows are in NAME.csv.partial: a run that is stopped does not lose what it measured.

    Args:
        name: of the files.
        columns: widths by heading, in order; a column that is not set in a row stays blank.
        out: folder of the files.
        part: a heading: rows of the file that was there whose value under it is not measured now are kept.
    """

    def __init__(self, name: str, columns: Mapping[str, int], out: Path, part: str = "") -> None:
        self.name, self.columns, self.out, self.part = name, dict(columns), out, part
        self.rows: list[dict[str, object]] = []
        self._partial = out / f"{name}.csv.partial"
        print(self._line(dict(zip(columns, columns, strict=True))))

    def _line(self, row: Mapping[str, object]) -> str:
        cells = []
        for heading, width in self.columns.items():
            text = written(row.get(heading))
            cells.append(text.ljust(width) if heading in LEFT else text.rjust(width))
        return "  ".join(cells).rstrip()

    def add(self, row: Mapping[str, object]) -> None:
        """Prints the columns of a row; what else it holds goes to the CSV file only."""
        self.rows.append(dict(row))
        print(self._line(row), flush=True)
        write_csv(self._partial, self.rows)

    def finish(self) -> Path:
        path = self.out / f"{self.name}.csv"
        measured = dict.fromkeys(str(row.get(self.part, "")) for row in self.rows)
        kept: list[Mapping[str, object]] = []
        sources: dict[str, object] = {}
        if self.part and path.exists():
            kept = [row for row in read_csv(path) if row[self.part] not in measured]
            sources = read_json(path.with_suffix(".json"))
        write_results(path, [*kept, *self.rows], sources | dict.fromkeys(measured, provenance()))
        self._partial.unlink(missing_ok=True)
        return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write_results(path: Path, rows: Sequence[Mapping[str, object]], sources: Mapping[str, object]) -> None:
    """The rows, and beside them where they come from: by part of the file, "" for all of it."""
    write_csv(path, rows)
    path.with_suffix(".json").write_text(json.dumps(sources, indent=1) + "\n")
    print(f"written: {path}")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    headings = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, headings)
        writer.writeheader()
        writer.writerows(rows)


def bars(
    path: Path,
    groups: Iterable[str],
    series: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "",
    inner: Mapping[str, Mapping[str, float]] | None = None,
    log: bool = True,
) -> None:
    """Grouped bars: series[name][group]; `inner` are darker bars in front, a part of each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = list(groups)
    figure, axes = plt.subplots(figsize=(min(12.0, max(5.0, 1.5 + 0.25 * len(labels) * (len(series) + 1))), 4))
    width = 0.8 / max(1, len(series))
    for k, (name, values) in enumerate(series.items()):
        at = [i + width * k for i, group in enumerate(labels) if group in values]
        shown = [values[group] for group in labels if group in values]
        axes.bar(at, shown, 0.9 * width, label=name, color=f"C{k % 10}", alpha=0.45 if inner else 1.0)
        part = (inner or {}).get(name, {})
        if part:
            front = [part[group] for group in labels if group in values]
            axes.bar(at, front, 0.9 * width, color=f"C{k % 10}")
    if log:
        axes.set_yscale("log")
    axes.set_ylabel(ylabel)
    axes.set_xlabel(xlabel)
    axes.set_xticks(np.arange(len(labels)) + 0.4 - 0.5 * width, labels, rotation=30, ha="right", fontsize=8)
    axes.legend(fontsize=7)
    axes.set_title(title, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")
