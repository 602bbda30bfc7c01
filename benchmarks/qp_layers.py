"""QP layers in torch, forward and backward: qp-control against proxsuite's QPLayer, qpth (OptNet) and moreau.

Every solver gets the same float64 problems, and the loosest tolerance with which the largest unscaled residual of the
batch (primal, dual, complementarity products), recomputed here from the data, is at most 1e-6. Elements above that
count as failures, and a solver with failures is no best peer. Peers run with each number of threads that they offer up
to --threads, and the best of them counts. Solvers take turns in blocks; a figure is the median.

The default is rows C x <= u, a model that all of them take as it is; --no-one-sided gives l <= C x <= u, which qpth and
moreau get as [C; -C], stacked outside the timing. "gradient error" is that of a random loss on x: the largest error of
an entry beside the largest entry (at least one), over all arrays and all elements that are not degenerate, against the
exact KKT system of the active rows.

    python benchmarks/qp_layers.py                     # all cells, minutes
    python benchmarks/qp_layers.py --cells 128,10,3,10 # one: batch, n, n_eq, n_in
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import layer_solvers
import numpy as np
import random_qps
import report
import torch
from layer_solvers import Layer
from random_qps import Array, Batch, Cell

RESIDUAL = 1e-6
LADDER = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
CELLS: list[Cell] = [
    (1, 10, 0, 10),
    (1, 30, 5, 30),
    (1, 100, 50, 50),
    (128, 10, 0, 10),
    (128, 20, 5, 20),
    (128, 30, 5, 30),
    (64, 50, 10, 50),
    (64, 100, 50, 50),
    (100, 100, 50, 50),
    (128, 100, 0, 100),
    (16, 200, 50, 200),
]
COLUMNS = {
    "cell": 13,
    "solver": 28,
    "eps": 7,
    "residual": 8,
    "failures": 8,
    "forward_ms": 10,
    "backward_ms": 11,
    "total_ms": 8,
    "gradient_error": 14,
    "x_QPLayer": 9,
    "x_1_thread": 10,
    report.BETTER: 24,
}


@dataclass
class Entry:
    layer: Layer
    eps: float
    residuals: Array
    bar: float = RESIDUAL
    gradient_error: float = np.nan
    times: list[tuple[float, float]] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return int(np.sum(~(self.residuals <= self.bar)))

    @property
    def forward_ms(self) -> float:
        return statistics.median(forward for forward, _ in self.times)

    @property
    def backward_ms(self) -> float:
        return statistics.median(backward for _, backward in self.times)

    @property
    def total_ms(self) -> float:
        return self.forward_ms + self.backward_ms


def tune(layer: Layer, data: Batch, bar: float = RESIDUAL) -> Entry:
    """Prepares the layer with the loosest tolerance whose achieved residual is within the bar."""
    layer.prepare(data)
    for eps in LADDER:
        layer.set_tolerance(eps)
        layer.solve()
        achieved = data.residuals(*layer.point())
        if np.all(achieved <= bar):
            break
    return Entry(layer, eps, achieved, bar)


def measure(
    layers: list[Layer],
    cell: Cell,
    *,
    one_sided: bool,
    repeats: int,
    bar: float = RESIDUAL,
    clock: Callable[[], float] = time.perf_counter,
    backward: bool = True,
    exact: bool = True,
) -> list[Entry]:
    """bar: the residual that all achieve. clock: of the times [s]. backward: whether there is a backward pass, and
    exact: whether its gradients are judged."""
    data = random_qps.random_batch(cell, one_sided=one_sided)
    entries = {}
    for layer in layers:
        torch.set_num_threads(layer.threads)
        entries[layer.name] = tune(layer, data, bar)
    direction = torch.tensor(np.random.default_rng(1).normal(size=(cell[0], cell[1])))

    def run(layer: Layer) -> Callable[[], tuple[float, float]]:
        def forward_backward() -> tuple[float, float]:
            start = clock()
            x = layer.solve()
            middle = clock()
            if backward:
                torch.autograd.grad(x, layer.leaves, direction, allow_unused=True)
            end = clock()
            return 1e3 * (middle - start), 1e3 * (end - middle)

        return forward_backward

    def enter(name: str) -> None:
        torch.set_num_threads(entries[name].layer.threads)

    times = report.in_turns({layer.name: run(layer) for layer in layers}, repeats, enter=enter)
    for name, values in times.items():
        entries[name].times = values
    if exact:
        add_gradient_errors(list(entries.values()), data, direction)
    return list(entries.values())


def add_gradient_errors(entries: list[Entry], data: Batch, direction: torch.Tensor) -> None:
    good = next((entry for entry in entries if not entry.failures), None)
    if good is None:
        return
    torch.set_num_threads(1)
    # Multipliers to well below the margin that tells active rows apart.
    good.layer.set_tolerance(1e-9)
    good.layer.solve()
    x, _, z = good.layer.point()
    exacts = [random_qps.exact(data, i, x[i], z[i]) for i in range(len(x))]
    degenerate = sum(one.degenerate for one in exacts)
    if degenerate:
        print(f"degenerate, left out of the gradient error: {degenerate} of {len(exacts)}")
    for entry in entries:
        layer = entry.layer
        layer.set_tolerance(entry.eps)
        found = torch.autograd.grad(layer.solve(), layer.leaves, direction, allow_unused=True)
        entry.gradient_error = random_qps.gradient_errors(exacts, direction.numpy(), layer.gradients(found))


def rows_of(cell: Cell, entries: list[Entry]) -> list[dict[str, object]]:
    """The table's rows; the first entry, ours, is compared with the best of the peers."""
    peers = [entry for entry in entries if not entry.layer.name.startswith("qp-control")]
    fit = [entry for entry in peers if not entry.failures]
    proxsuite = [entry for entry in fit if entry.layer.name.startswith("QPLayer")]
    single = next((entry for entry in entries if entry.layer.name.endswith("1 thread")), None)
    rows = []
    for entry in entries:
        row: dict[str, object] = {
            "cell": ",".join(map(str, cell)),
            "solver": entry.layer.name,
            "threads": entry.layer.threads,
            "eps": entry.eps,
            "residual": float(entry.residuals.max()),
            "failures": entry.failures,
            "forward_ms": entry.forward_ms,
            "backward_ms": entry.backward_ms,
            "total_ms": entry.total_ms,
            "gradient_error": entry.gradient_error,
        }
        if entry is entries[0]:
            if single is not None and single.layer.name.startswith("qp-control"):
                row["x_1_thread"] = single.total_ms / entry.total_ms
            if proxsuite:
                row["x_QPLayer"] = min(peer.total_ms for peer in proxsuite) / entry.total_ms
            if fit:
                better = {
                    part: min(getattr(peer, f"{part}_ms") for peer in fit) / getattr(entry, f"{part}_ms")
                    for part in ("forward", "backward", "total")
                }
                row |= {f"better_{part}": value for part, value in better.items()}
                row[report.BETTER] = (
                    f"{better['total']:.1f} (forward {better['forward']:.1f}, backward {better['backward']:.1f})"
                )
        rows.append(row)
    return rows


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--cells", nargs="*", help="batch,n,n_eq,n_in")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs per solver, at least 5")
    parser.add_argument("--threads", type=int, default=report.cores())
    parser.add_argument("--one-sided", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--interior-point", action="store_true", help="moreau's interior point too (slow)")
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats is {arguments.repeats}, expected at least 5")
    if arguments.quick:
        arguments.repeats = 5
    cells = [(4, 5, 2, 5)] if arguments.quick else CELLS
    if arguments.cells:
        cells = [tuple(int(part) for part in text.split(",")) for text in arguments.cells]  # type: ignore[misc]
        if any(len(cell) != 4 for cell in cells):
            parser.error("--cells expects batch,n,n_eq,n_in")

    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    layers, missing = layer_solvers.layers(arguments.threads, interior_point=arguments.interior_point)
    for line in missing:
        print(f"not compared: {line}")
    print(report.machine("proxsuite", "qpth", "moreau", "torch", threads=arguments.threads))
    print(f"{'C x <= u' if arguments.one_sided else 'l <= C x <= u'}; median of at least {arguments.repeats}")
    # moreau says so when its inputs need a copy; nothing to be done about it here.
    warnings.filterwarnings("ignore", module="moreau")
    table = report.Report("qp_layers" if arguments.one_sided else "qp_layers_two_sided", COLUMNS, arguments.out)
    for cell in cells:
        for row in rows_of(cell, measure(layers, cell, one_sided=arguments.one_sided, repeats=arguments.repeats)):
            table.add(row)
    path = table.finish()
    names = list(dict.fromkeys(str(row["solver"]) for row in table.rows))

    def series(column: str) -> dict[str, dict[str, float]]:
        return {
            name: {str(row["cell"]): float(str(row[column])) for row in table.rows if row["solver"] == name}
            for name in names
        }

    report.bars(
        path.with_suffix(".png"),
        dict.fromkeys(str(row["cell"]) for row in table.rows),
        series("total_ms"),
        inner=series("forward_ms"),
        title=f"QP layers at an achieved residual of {RESIDUAL:g}: forward (dark) + backward",
        ylabel="time per batch [ms]",
        xlabel="batch, n, n_eq, n_in",
    )


if __name__ == "__main__":
    main()
