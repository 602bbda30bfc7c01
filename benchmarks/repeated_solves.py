"""What does solving again cost: a warm start after a small change, against a cold start, and a single call from Python.

Warm: g, b and u change by 1 % of the size of their entries; the solver gets its solution before the change. Cold: the
same changed problems from nothing. moreau takes warm starts and is the peer; proxsuite's layer and qpth take none.
Every solver runs with the tolerance with which the changed problems, cold, are within an unscaled residual of 1e-6;
"residual" is that of the warm run.

Calls: one strictly convex QP from NumPy arrays, solve_qp against the solvers that have a NumPy front.

    python benchmarks/repeated_solves.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import layer_solvers
import numpy as np
import qp_layers
import random_qps
import report
import torch
from layer_solvers import Layer, Moreau, Ours
from random_qps import Array, Cell

import qp_control as qc

CELLS: list[Cell] = [(1, 10, 0, 10), (128, 10, 0, 10), (128, 30, 5, 30), (64, 100, 50, 50)]
CALLS: list[tuple[int, int, int]] = [(5, 0, 5), (10, 0, 10), (30, 5, 30)]
CHANGE = 0.01


def warm_call(layer: Layer, changed: random_qps.Batch) -> tuple[Callable[[], object], Callable[[], Array]]:
    """The warm re-solve of the changed problems, the layer holding the solution of the old ones; and its residuals."""
    if isinstance(layer, Ours):
        start = layer.out
        layer.prepare(changed)

        def solve_ours() -> object:
            layer.out = layer.layer(**layer.arguments, warm_start=start)
            return layer.out

        return solve_ours, lambda: changed.residuals(*layer.point())
    if isinstance(layer, Moreau):
        start = layer.solution.to_warm_start()
        layer.prepare(changed)

        def solve_moreau() -> object:
            layer.solution = layer.solver.solve(*layer.leaves, warm_start=start)
            return layer.solution

        return solve_moreau, lambda: changed.residuals(*layer.point())
    raise TypeError(layer.name)


def measure_warm(cell: Cell, layers: list[Layer], repeats: int) -> list[dict[str, object]]:
    data = random_qps.random_batch(cell, one_sided=True)
    changed = data.changed(1, CHANGE)
    rows: list[dict[str, object]] = []
    actions: dict[str, Callable[[], float]] = {}
    with torch.no_grad():
        for layer in layers:
            entry = qp_layers.tune(layer, changed)
            layer.prepare(data)
            layer.solve()
            warm, residuals = warm_call(layer, changed)
            warm()
            achieved = residuals()
            rows.append(
                {
                    "case": "warm " + ",".join(map(str, cell)),
                    "solver": layer.name,
                    "eps": entry.eps,
                    "residual": float(achieved.max()),
                    "failures": int(np.sum(~(achieved <= qp_layers.RESIDUAL))),
                }
            )
            actions[f"{layer.name} warm"] = report.milliseconds(warm)
            actions[f"{layer.name} cold"] = report.milliseconds(layer.solve)
        times = {name: statistics.median(values) for name, values in report.in_turns(actions, repeats).items()}
    for row in rows:
        row["cold_ms"], row["warm_ms"] = (times[f"{row['solver']} {kind}"] for kind in ("cold", "warm"))
        row["x_cold"] = times[f"{row['solver']} cold"] / times[f"{row['solver']} warm"]
    return rows


def call_solvers(H: Array, g: Array, A: Array, b: Array, C: Array, u: Array) -> dict[str, Callable[[], Any]]:
    """One call each with NumPy arrays, tolerance 1e-6; the peers' set-up belongs to the call, as ours does."""
    none = A.shape[0] == 0
    settings = qc.Settings(eps_abs=1e-6, threads=1)
    solvers: dict[str, Callable[[], Any]] = {
        "qp-control": lambda: qc.solve_qp(H, g, None if none else A, None if none else b, C, None, u, settings=settings)
    }
    try:
        import daqp

        R, r = np.ascontiguousarray(np.vstack([C, A])), np.concatenate([u, b])
        lower = np.concatenate([np.full(len(u), -1e30), b])
        sense = np.concatenate([np.zeros(len(u)), np.full(len(b), 5)]).astype(np.int32)
        solvers["daqp"] = lambda: daqp.solve(H, g, R, r, lower, sense)
    except ImportError:
        pass
    try:
        import piqp

        equalities, rows = np.asfortranarray(A), np.asfortranarray(C)

        def piqp_call() -> object:
            solver = piqp.DenseSolver()
            solver.settings.eps_abs, solver.settings.eps_rel = 1e-6, 0.0
            solver.settings.check_duality_gap = False
            if none:
                solver.setup(H, g, G=rows, h_u=u)
            else:
                solver.setup(H, g, equalities, b, rows, h_u=u)
            return solver.solve()

        solvers["piqp"] = piqp_call
    except ImportError:
        pass
    try:
        from proxsuite import proxqp

        lower_proxqp = np.full(len(u), -1e20)

        def proxqp_call() -> object:
            solver = proxqp.dense.QP(len(g), len(b), len(u))
            solver.settings.eps_abs = 1e-6
            solver.init(H, g, None if none else A, None if none else b, C, lower_proxqp, u)
            solver.solve()
            return solver

        solvers["proxqp"] = proxqp_call
    except ImportError:
        pass
    return solvers


def measure_calls(size: tuple[int, int, int], repeats: int) -> list[dict[str, object]]:
    data = random_qps.random_batch((1, *size), one_sided=True)
    H, g, A, b, C, u = (getattr(data, name)[0] for name in "HgAbCu")
    actions = {name: report.milliseconds(call) for name, call in call_solvers(H, g, A, b, C, u).items()}
    times = {name: statistics.median(values) for name, values in report.in_turns(actions, repeats).items()}
    case = "call 1," + ",".join(map(str, size))
    return [{"case": case, "solver": name, "cold_ms": value} for name, value in times.items()]


def add_comparison(rows: list[dict[str, object]], column: str) -> None:
    """Into the first row, ours: how much faster than the fastest peer without failures."""
    peers = [float(str(row[column])) for row in rows[1:] if not row.get("failures")]
    if peers:
        rows[0][report.BETTER] = f"{min(peers) / float(str(rows[0][column])):.1f}"


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=report.cores())
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 3
    cells, calls = ([(4, 5, 0, 5)], CALLS[:1]) if arguments.quick else (CELLS, CALLS)
    found, missing = layer_solvers.layers(arguments.threads)
    layers = [layer for layer in found if isinstance(layer, Moreau) or layer is found[0]]
    for line in missing:
        print(f"not compared: {line}")
    print(report.machine("moreau", "daqp", "piqp", "proxsuite", threads=arguments.threads))
    columns = {
        "case": 20,
        "solver": 28,
        "eps": 7,
        "residual": 8,
        "failures": 8,
        "cold_ms": 8,
        "warm_ms": 8,
        "x_cold": 6,
    }
    table = report.Report("repeated_solves", columns | {report.BETTER: 24}, arguments.out)
    for cell in cells:
        rows = measure_warm(cell, layers, arguments.repeats)
        add_comparison(rows, "warm_ms")
        for row in rows:
            table.add(row)
    for size in calls:
        rows = measure_calls(size, arguments.repeats)
        add_comparison(rows, "cold_ms")
        for row in rows:
            table.add(row)
    path = table.finish()
    kinds = ("cold_ms", "warm_ms")
    series: dict[str, dict[str, float]] = {}
    for row in table.rows:
        for kind in kinds:
            if kind in row:
                series.setdefault(f"{row['solver']} {kind[:-3]}", {})[str(row["case"])] = float(str(row[kind]))
    report.bars(
        path.with_suffix(".png"),
        dict.fromkeys(str(row["case"]) for row in table.rows),
        series,
        title="Solving again after a change of 1 %, and single calls",
        ylabel="time [ms]",
    )


if __name__ == "__main__":
    main()
