"""The blocks of docs/experiments.md, from examples/qplayer_paper/results: see pages.py."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import cells
import report
from cells import Row, number, passes, power, table
from report import written

RESULTS = report.HERE.parent / "examples" / "qplayer_paper" / "results"
SOLVERS = ("qp-control", "QPLayer", "qpth", "moreau")


def read(name: str) -> list[Row]:
    return report.read_csv(RESULTS / f"{name}.csv")


def by_solver(rows: Iterable[Row]) -> dict[str, Row]:
    return {re.split(r"[ ,]", row["solver"])[0]: row for row in rows}


def last(rows: Iterable[Row], solver: str, model: str) -> Row:
    """Of the run's last epoch."""
    return max((r for r in rows if r["solver"] == solver and r["model"] == model), key=lambda r: int(r["epoch"]))


def toy_gradients() -> str:
    cases = {
        ("crossing", "feasible"): "crossing, theta < 1.55",
        ("crossing", "infeasible"): "crossing, theta > 1.55",
        ("interior", "feasible"): "interior",
        ("edge", "feasible"): "edge, 0 < theta < 2: linear program with many solutions",
        ("edge", "infeasible"): "edge, theta > 2",
    }
    rows, lines = read("toy_gradients_errors"), []
    for (problem, regime), shown in cases.items():
        found = by_solver(row for row in rows if (row["problem"], row["regime"]) == (problem, regime))
        cells = []
        for solver in SOLVERS[:3]:
            error = number(found[solver], "largest error") if solver in found else None
            cells.append(
                "cannot" if error is None else "0" if error == 0.0 else power(error) if error < 1e-2 else f"{error:.2f}"
            )
        lines.append([shown, regime, *cells])
    return table(["problem", "", *SOLVERS[:3]], lines)


def _times(name: str, cell: Callable[[Row], str], total: str) -> Iterable[tuple[list[str], Row, list[str], str]]:
    """Of each cell: its sizes, our row, cells by solver, and how many times faster than the best peer."""
    rows = read(name)
    for sizes in dict.fromkeys(row["cell"] for row in rows):
        found = by_solver(row for row in rows if row["cell"] == sizes)
        cells = [cell(found[solver]) + (" *" if found[solver]["failures"] != "0" else "") for solver in SOLVERS]
        ours = found.pop("qp-control")
        best = min(number(row, total) for row in found.values() if row["failures"] == "0")
        yield sizes.split(","), ours, cells, f"{best / number(ours, total):.1f}"


def jacobians() -> str:
    published = {"100": "72.1 + 18.1, 349.4 + 6.7", "1": "1.55 + .71, 7.49 + .70"}
    lines = [
        [sizes[0], published[sizes[0]], *cells, faster]
        for sizes, _, cells, faster in _times("layer_times_jacobians", passes, "total_ms")
    ]
    return table(["batch", "published: QPLayer, OptNet", *SOLVERS, "best peer / ours"], lines)


def forward() -> str:
    lines = [
        [f"{sizes[2]}, {sizes[3]}", sizes[0], ours["published_ms"].partition(",")[0], *cells, faster]
        for sizes, ours, cells, faster in _times(
            "layer_times_forward", lambda row: written(number(row, "forward_ms")), "forward_ms"
        )
    ]
    return table(["n_eq, n_in", "batch", "published: QPLayer", *SOLVERS, "best peer / ours"], lines)


def sudoku_peers() -> str:
    """Whole runs on one set of puzzles; the linear program also where peers have a tighter tolerance."""
    lines = []
    for name, model, shown in (
        ("sudoku_feasible", "strictly convex", "strictly convex"),
        ("sudoku_feasible", "linear program", "linear program"),
        ("sudoku_feasible_1e-8", "linear program", "linear program, residuals of at most 1e-8"),
    ):
        rows = read(name)
        cells = []
        for solver in SOLVERS[:3]:
            run = [row for row in rows if row["solver"] == solver and row["model"] == model]
            if not run:
                cells += ["cannot", ""]
                continue
            wrong = sum(number(row, "wrong") for row in run[-5:])
            cells += [f"{wrong:.0f}, {power(number(run[-1], 'test_loss'), 1)}"]
            cells += [f"{number(run[-1], 'forward_cpu_ms'):.0f} + {number(run[-1], 'backward_cpu_ms'):.0f}"]
        lines.append([shown, *cells])
    return table(["model", *(text for solver in SOLVERS[:3] for text in (solver, "ms"))], lines)


def sudoku_infeasible_peers() -> str:
    lines = []
    for name, model in (("sudoku_infeasible", "linear program"), ("sudoku_infeasible_relaxed", "relaxed rows")):
        rows = read(name)
        for solver in dict.fromkeys(row["solver"] for row in rows):
            run = [row for row in rows if row["solver"] == solver]
            first, end = (
                f"{number(run[k], 'forward_cpu_ms'):.0f} + {number(run[k], 'backward_cpu_ms'):.0f}" for k in (1, -1)
            )
            violations = (number(run[1], "violation"), max(number(row, "violation") for row in run[1:]))
            wrong = sum(number(row, "wrong") for row in run[-5:])
            measures = [*map(power, violations), f"{wrong:.0f}", power(number(run[-1], "test_loss"), 1)]
            lines.append([model, solver, *measures, first, end])
    headings = ["violation after one epoch", "largest of any test after it", "wrong boards of the last five tests"]
    return table(["model", "", *headings, "test loss at the end", "ms, first epoch", "ms, last epoch"], lines)


def infeasible_layer() -> str:
    """From benchmarks/results: QPLayer with its tightest tolerance, and with its fastest setting."""
    rows, lines = cells.read("infeasible"), []
    for ours in (row for row in rows if row["problems"].startswith("Sudoku") and row["solver"].startswith("qp-")):
        threads = ours["solver"].split(", ")[1]
        peers = [row for row in rows if row["problems"] == ours["problems"] and row["solver"].startswith("QPLayer")]
        if threads == "1 thread":
            peers = [row for row in peers if row["solver"].endswith("serial")]
        peers.sort(key=lambda row: number(row, "total_ms"))
        line = [ours["problems"].removeprefix("Sudoku, "), threads, passes(ours)]
        for row in (next(row for row in peers if number(row, "eps") <= 1e-6), peers[0]):
            times = number(row, "total_ms") / number(ours, "total_ms")
            line += [passes(row), power(number(row, "norm_above_least"), 1), f"{times:.0f}"]
        lines.append(line)
    headings = [f"QPLayer{of}" for of in (", tight tolerance", ", fastest")]
    columns = [text for name in headings for text in (name, "norm above the least", "times faster")]
    return table(["matrix", "", "qp-control", *columns], lines)


def _whole_runs(name: str, epochs: int, loss: str) -> str:
    """Test loss and ms of the last epoch; of runs that were stopped, their epochs."""
    rows, lines = read(name), []
    for model in ("two-sided", "one-sided"):
        cells = []
        for solver in SOLVERS[:3]:
            if not any(row["solver"] == solver and row["model"] == model for row in rows):
                cells += ["cannot", ""]
                continue
            row = last(rows, solver, model)
            stopped = "" if row["epoch"] == str(epochs) else f" ({row['epoch']} epochs)"
            cells += [f"{number(row, 'test_loss'):{loss}}{stopped}"]
            cells += [f"{written(number(row, 'forward_cpu_ms'))} + {written(number(row, 'backward_cpu_ms'))}"]
        lines.append([model, *cells])
    return table(["rows", *(text for solver in SOLVERS[:3] for text in (solver, "ms"))], lines)


def denoising_peers() -> str:
    return _whole_runs("denoising", 20, ".0f")


def digits_peers() -> str:
    return _whole_runs("digits", 30, ".4f")


def cart_pole() -> str:
    names = {
        ("qp-control", "layer"): "qp-control, layer",
        ("qp-control", "ContactDynamics"): "qp-control, `ContactDynamics`",
        ("QPLayer", "layer"): "QPLayer",
        ("qpth", "layer"): "qpth",
    }
    found = {(row["solver"], row["model"]): row for row in read("cart_pole_losses")}
    rows = [found[name] for name in names]
    residuals = [number(row, "residual") for row in rows]
    lines = [
        [
            "loss, mean of the last ten",
            ".02556 QPLayer, .02604 OptNet",
            *(f"{number(row, 'loss'):.5f}" for row in rows),
        ],
        ["loss of the learned inputs without noise", "", *(f"{number(row, 'loss_without_draws'):.5f}" for row in rows)],
        [
            "ms per epoch, forward + backward",
            "55 + 39 QPLayer, 616 + 61 OptNet",
            *(f"{number(row, 'forward_cpu_ms'):.1f} + {number(row, 'backward_cpu_ms'):.1f}" for row in rows),
        ],
        ["largest residual", "", *("" if math.isnan(value) else power(value) for value in residuals)],
    ]
    return table(["", "published", *names.values()], lines)


def learning_rates() -> str:
    """Ours; rates with the same outcome in one line."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for name, samples in (("digits", ""), ("denoising", ", 60 signals"), ("denoising_whole", ", 9000 signals")):
        for row in read(f"learning_rates_{name}"):
            if row["solver"] == "qp-control":
                unanswered = f"{row['unanswered']} of {int(row['elements']):,}".replace(",", " ")
                counts = (row["epochs"], row["runs"], row["failed"], unanswered)
                lines.setdefault((f"{row['task']}, {row['model']}{samples}", *counts), []).append(
                    power(float(row["rate"]))
                )
    cells = [[task, ", ".join(rates), *counts] for (task, *counts), rates in lines.items()]
    return table(["", "rates", "epochs", "runs of each", "failed", "elements without an answer, at each rate"], cells)


BLOCKS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        toy_gradients, jacobians, forward, sudoku_peers, sudoku_infeasible_peers, infeasible_layer, denoising_peers,
        digits_peers, cart_pole, learning_rates,
    )
}  # fmt: skip
