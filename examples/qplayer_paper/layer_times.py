"""Time of QP layers on random strictly convex QPs with 100 variables (section 4 and appendix C.2 of the paper).

jacobians: forward and backward pass, gradients of a random loss with respect to all data, 50 equalities and 50
inequalities, batches of 100 and 1. forward: the forward pass only, for 0, 50 and 100 equalities, 50 and 100
inequalities, batches of 1, 64 and 128. Every solver gets the loosest tolerance with which the largest residual of the
batch, recomputed from the data, is at most 1e-3, the paper's tolerance (or --residual); elements above it are failures.
Rows are C x <= u, which all solvers take directly. Solvers take turns; a figure is the median.

--clock process measures the CPU time of this process over all threads: for busy machines, with one thread.

    python examples/qplayer_paper/layer_times.py --part jacobians
    python examples/qplayer_paper/layer_times.py --part forward --batches 1 64
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from records import Row, report

# isort: split
# From the folder of the benchmarks, which records puts on the path.
import layer_solvers
import qp_layers

Sizes = tuple[int, int, int, int]
# Batch, n, n_eq, n_in: ms in the paper on 4 cores (QPLayer, OptNet), forward + backward or forward.
PUBLISHED: dict[str, dict[Sizes, str]] = {
    "jacobians": {(100, 100, 50, 50): "90.2, 356.1", (1, 100, 50, 50): "2.26, 8.19"},
    "forward": {
        (1, 100, 0, 50): ".88, 8..18",
        (64, 100, 0, 50): "30.2, 174..276",
        (128, 100, 0, 50): "62.9, 621..934",
        (1, 100, 50, 50): "1.09, 8..18",
        (64, 100, 50, 50): "48.6, 174..276",
        (128, 100, 50, 50): "78.0, 621..934",
        (1, 100, 0, 100): "1.22, 8..18",
        (64, 100, 0, 100): "44.7, 174..276",
        (128, 100, 0, 100): "89.5, 621..934",
        (1, 100, 50, 100): "1.75, 8..18",
        (64, 100, 50, 100): "55.8, 174..276",
        (128, 100, 50, 100): "111.0, 621..934",
        (1, 100, 100, 50): "1.26, 8..18",
        (64, 100, 100, 50): "51.7, 174..276",
        (128, 100, 100, 50): "96.2, 621..934",
        (1, 100, 100, 100): "1.45, 8..18",
        (64, 100, 100, 100): "62.5, 174..276",
        (128, 100, 100, 100): "119.1, 621..934",
    },
}
COLUMNS = {"cell": 15, "solver": 28, "eps": 7, "residual": 8, "failures": 8, "forward_ms": 10, "backward_ms": 11}
COLUMNS |= {"total_ms": 9, "x_QPLayer": 9, "x_best_peer": 11, "published_ms": 15}


@dataclass(frozen=True)
class TimesOptions:
    """Time QP layers on random QPs with 100 variables."""

    out: Path = Path("runs/qplayer_paper")
    """Folder of table and plot."""
    part: Literal["jacobians", "forward"] = "jacobians"
    """Forward and backward, or forward alone."""
    batches: tuple[int, ...] = ()
    """Only cells with these; all if not given."""
    n: int = 100
    """Variables; the rows stay in proportion."""
    repeats: int = 5
    """Timed runs per solver, at least."""
    residual: float = 1e-3
    """That all achieve."""
    threads: int = 1
    """Of the solvers; peers run with one, too, and their better time counts."""
    clock: Literal["wall", "process"] = "wall"
    """What time is."""


def cells(options: TimesOptions) -> list[tuple[Sizes, str]]:
    """Sizes, and the paper's figures where they are those of the paper."""
    every = PUBLISHED[options.part].items()
    wanted = [(cell, told) for cell, told in every if cell[0] in options.batches or not options.batches]
    if options.n == 100:
        return wanted
    return [
        ((batch, options.n, n_eq * options.n // 100, n_in * options.n // 100), "")
        for (batch, _, n_eq, n_in), _ in wanted
    ]


def rows_of(options: TimesOptions, cell: Sizes, entries: list[qp_layers.Entry], told: str) -> list[Row]:
    def time_of(entry: qp_layers.Entry) -> float:
        return entry.total_ms if options.part == "jacobians" else entry.forward_ms

    ours, *others = entries
    peers = [entry for entry in others if not entry.failures and not entry.layer.name.startswith("qp-control")]
    rows = []
    for entry in entries:
        row: Row = {
            "cell": ",".join(map(str, cell)),
            "solver": entry.layer.name,
            "threads": entry.layer.threads,
            "clock": options.clock,
            "eps": entry.eps,
            "residual": float(entry.residuals.max()),
            "failures": entry.failures,
            "forward_ms": entry.forward_ms,
        }
        if options.part == "jacobians":
            row |= {"backward_ms": entry.backward_ms, "total_ms": entry.total_ms}
        if entry is ours:
            rivals = {"x_best_peer": peers, "x_QPLayer": [peer for peer in peers if "QPLayer" in peer.layer.name]}
            row |= {name: min(map(time_of, these)) / time_of(ours) for name, these in rivals.items() if these}
            row["published_ms"] = told
        rows.append(row)
    return rows


def main(options: TimesOptions) -> None:
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    # moreau says so when its inputs need a copy; nothing to be done about it here.
    warnings.filterwarnings("ignore", module="moreau")
    layers, missing = layer_solvers.layers(options.threads)
    for line in missing:
        print(f"not compared: {line}")
    print(report.machine("proxsuite", "qpth", "moreau", "torch", threads=options.threads), f"; {options.clock} clock")
    table = report.Report(f"layer_times_{options.part}", COLUMNS, options.out)
    for cell, told in cells(options):
        entries = qp_layers.measure(
            layers,
            cell,
            one_sided=True,
            repeats=options.repeats,
            bar=options.residual,
            clock=time.process_time if options.clock == "process" else time.perf_counter,
            backward=options.part == "jacobians",
            exact=False,
        )
        for row in rows_of(options, cell, entries, told):
            table.add(row)
        report.write_csv(options.out / f"{table.name}.csv", table.rows)
    path = table.finish()
    column = "total_ms" if options.part == "jacobians" else "forward_ms"
    times: dict[str, dict[str, float]] = {}
    for row in table.rows:
        times.setdefault(str(row["solver"]), {})[str(row["cell"])] = float(str(row[column]))
    report.bars(
        path.with_suffix(".png"),
        dict.fromkeys(str(row["cell"]) for row in table.rows),
        times,
        title=f"Random QPs at a residual of {options.residual:g}, {options.part}",
        ylabel="time per batch [ms]",
        xlabel="batch, n, n_eq, n_in",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(TimesOptions, description=__doc__))
