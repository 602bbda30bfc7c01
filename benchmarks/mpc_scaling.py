"""What do optimal-control QPs cost as horizon, batch and sizes grow?

Regulators with bounded inputs and matrices per stage, as a controller has them that linearises along a trajectory; the
elements of a batch share them and differ in x0. "us_forward", "us_backward": time of `OcpLayer` per stage and element,
the forward pass also per iteration (Newton step), in microseconds, the median of at least five runs, all horizons of a
size taking turns; "x_50": us_forward over that with a horizon of 50. "memory_MB": by how much a forward and backward
pass raises the peak of a process of its own, gradients included; "kB_per_stage": the same per stage and element.
Nothing is compared with; there is no last column.

    python benchmarks/mpc_scaling.py                 # minutes
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import report
import torch
from random_ocps import Cell, regulators

import qp_control as qc

SIZES = [(4, 2), (8, 4), (16, 8), (32, 16), (64, 32)]
HORIZONS = [10, 50, 200, 1000, 2000]
BATCHES = [16, 128, 1024, 4096]
WORK = 2e9  # multiplications of a factorisation of the whole batch, above which a case is left out


class Case(NamedTuple):
    nx: int
    nu: int
    horizon: int
    batch: int

    @property
    def work(self) -> float:
        """Multiplications of a Riccati factorisation."""
        nx, nu = self.nx, self.nu
        return self.batch * self.horizon * (7 / 3 * nx**3 + 4 * nx**2 * nu + 2 * nx * nu**2 + nu**3 / 3)


Run = Callable[[], tuple[float, float, float]]


def prepare(case: Case, threads: int) -> Run:
    """A function that runs both passes: their times in seconds and the mean number of iterations."""
    nx, nu, N, batch = case
    data = regulators(Cell(nx, nu, N, batch, bound=0.5, stable=True))

    def leaf(array: Any) -> torch.Tensor:
        return torch.tensor(array, requires_grad=True)

    A, B, c, Q, R = (leaf(np.stack([m] * N)) for m in (data.A, data.B, data.c, data.Q, data.R))
    rng = np.random.default_rng(1)
    # A linear cost of its own in every stage: inputs reach their bounds all along the horizon.
    q, x0, Q_N = leaf(rng.normal(size=(N, nx))), leaf(data.x0), leaf(data.Q)
    bound = torch.full((nu,), data.bound, dtype=torch.float64)
    layer = qc.OcpLayer(qc.Settings(eps_abs=1e-6, threads=threads))
    directions = [torch.tensor(rng.normal(size=shape)) for shape in ((batch, N + 1, nx), (batch, N, nu))]

    def run() -> tuple[float, float, float]:
        start = time.perf_counter()
        out = layer(A, B, x0, Q=Q, R=R, q=q, Q_N=Q_N, q_N=0 * q[0], c=c, u_lower=-bound, u_upper=bound)
        middle = time.perf_counter()
        torch.autograd.grad([out.x, out.u], [A, B, c, Q, R, q, Q_N, x0], directions)
        end = time.perf_counter()
        if (out.status != qc.Status.SOLVED).any():
            raise RuntimeError(f"{case}: not solved")
        return middle - start, end - middle, float(out.iterations.double().mean())

    return run


def megabytes(case: Case, threads: int) -> float:
    """What the passes add to the peak memory of this process, what a process loads once left out."""
    prepare(Case(2, 1, 2, threads), threads)()
    run = prepare(case, threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(cases: list[Case], threads: int) -> dict[Case, float]:
    """Peaks of processes of their own, forked before this one has solved anything."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return {case: pool.apply(megabytes, (case, threads)) for case in cases}


def timed(cases: list[Case], threads: int, repeats: int) -> list[dict[str, Any]]:
    times = report.in_turns({str(case): prepare(case, threads) for case in cases}, repeats)
    rows = []
    for case, values in zip(cases, times.values(), strict=True):
        forward, backward, iterations = (statistics.median(column) for column in zip(*values, strict=True))
        stages = case.horizon * case.batch
        row: dict[str, Any] = {**case._asdict(), "iterations": iterations}
        row |= {"forward_ms": 1e3 * forward, "backward_ms": 1e3 * backward}
        rows.append(row | {"us_forward": 1e6 * forward / (stages * iterations), "us_backward": 1e6 * backward / stages})
    return rows


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=report.cores())
    parser.add_argument("--work", type=float, default=WORK, help="of the largest case, see the source")
    arguments = parser.parse_args()
    sizes, horizons, batches = SIZES, HORIZONS, BATCHES
    if arguments.quick:
        sizes, horizons, batches = SIZES[:1], [10, 50], [16]
    groups = [[Case(nx, nu, N, 1) for N in horizons] for nx, nu in sizes]
    groups += [[Case(nx, nu, 50, batch) for batch in batches] for nx, nu in sizes]
    groups = [[case for case in group if case.work <= arguments.work] for group in groups]
    print(report.machine("torch", threads=arguments.threads))
    peaks = memory([case for group in groups for case in group], arguments.threads)
    widths = dict.fromkeys(("nx", "nu", "horizon", "batch"), 7) | {
        "iterations": 10,
        "forward_ms": 10,
        "backward_ms": 11,
    }
    widths |= {"us_forward": 10, "us_backward": 11, "x_50": 5, "memory_MB": 9, "kB_per_stage": 12}
    table = report.Report("mpc_scaling", widths, arguments.out)
    for group in groups:
        rows = timed(group, arguments.threads, arguments.repeats)
        at_50 = next((row["us_forward"] for row in rows if row["horizon"] == 50 and row["batch"] == 1), None)
        for case, row in zip(group, rows, strict=True):
            if at_50 is not None:
                row["x_50"] = row["us_forward"] / at_50
            row["memory_MB"] = peaks[case]
            table.add(row | {"kB_per_stage": 1024 * peaks[case] / (case.horizon * case.batch)})
    path = table.finish()
    shown: dict[str, dict[str, float]] = {}
    for line in table.rows:
        row = dict(line)
        name = f"N {row['horizon']}" if row["batch"] == 1 else f"N 50, batch {row['batch']}"
        shown.setdefault(f"{row['nx']}, {row['nu']}", {})[name] = float(str(row["us_forward"]))
    names = list(dict.fromkeys(name for values in shown.values() for name in values))
    title, label = "Solving, per stage, element and iteration (nx, nu)", "time [us]"
    report.bars(path.with_suffix(".png"), names, shown, title=title, ylabel=label)


if __name__ == "__main__":
    main()
