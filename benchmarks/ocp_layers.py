"""Optimal-control QPs in torch, forward and backward: qp-control against mpc.pytorch, piqp and QP layers.

Batches of regulators with bounded inputs that share A, B, c, Q, R; the loss is linear in the whole trajectory, and its
gradient is taken by A, B, c, Q, R and x0. Plant 0 and 7 are those of acados' published timings (random, unstable); with
|u| <= 1 plant 7 runs away, and its costates reach 1e8, so residuals are judged relative to the largest state and
costate of an element everywhere. A stable plant has spectral radius one.

Every solver runs with the loosest tolerance (ours: eps_abs = eps_rel) with which the largest such residual of the
batch,
recomputed here from its point, is at most 1e-6. Elements above that are failures, and a solver with failures is no best
peer. mpc.pytorch returns no costates; its point gets those of its states. "cost_above": the largest amount by which the
cost of an element is above ours, relative. "difference" and "gradient_difference": to ours at a tolerance of 1e-9, the
largest of all entries, relative to the largest entry of the array (at least one). piqp has no derivative and solves one
problem after the other; QP layers get the dense form, where it is small enough. Solvers take turns in blocks; a figure
is the median. "x_ours": times of forward and of forward + backward, over ours, failures or not. The last column
compares forward with forward (piqp included) and forward + backward with the same.

    python benchmarks/ocp_layers.py                                # minutes: mpc.pytorch is slow
    python benchmarks/ocp_layers.py --cells 8,4,20,128,1,7         # nx, nu, N, batch, bound, plant (or "stable")
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import ocp_solvers
import report
import torch
from ocp_solvers import OURS, Point, Solver
from random_ocps import Array, Cell, Regulators, regulators

RESIDUAL = 1e-6
TOO_LONG = 5.0  # seconds of a solve, after which no tighter tolerance is tried
CELLS = [
    Cell(8, 4, 20, 128, 1e4, False),
    Cell(8, 4, 20, 128, 1.0, False),
    Cell(8, 4, 20, 128, 1.0, False, 7),
    Cell(8, 4, 20, 1, 1e4, False),
    Cell(8, 4, 20, 1, 1.0, False),
    Cell(4, 1, 20, 64, 0.5, True),
    Cell(8, 4, 40, 64, 0.5, True),
    Cell(12, 4, 50, 64, 0.5, True),
    Cell(24, 12, 30, 16, 0.5, True),
]
# Forward, forward + backward in ms for the 128 regulators.
ACADOS = "acados + leap-c, 4 threads (published, other machine)"
PUBLISHED = {CELLS[0]: (8.3, 33.0), CELLS[1]: (12.2, 41.0), CELLS[2]: (12.2, 41.0)}
COLUMNS = {
    "problem": 28,
    "solver": 36,
    "eps": 7,
    "residual": 8,
    "failures": 8,
    "cost_above": 10,
    "difference": 10,
    "gradient_difference": 19,
    "forward_ms": 10,
    "backward_ms": 11,
    "total_ms": 8,
    "x_1_thread": 10,
    "x_ours": 14,
    report.BETTER: 24,
}
Gradients = list[Array]


@dataclass
class Entry:
    solver: Solver
    eps: float
    residuals: Array
    point: Point
    cost_above: float = np.nan
    difference: float = np.nan
    gradient_difference: float = np.nan
    times: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ours(self) -> bool:
        return self.solver.name.startswith(OURS)

    @property
    def failures(self) -> int:
        return int(np.sum(~(self.residuals <= RESIDUAL)))

    @property
    def forward_ms(self) -> float:
        return statistics.median(forward for forward, _ in self.times)

    @property
    def backward_ms(self) -> float:
        """NaN without a derivative."""
        return statistics.median(backward for _, backward in self.times)

    @property
    def total_ms(self) -> float:
        return self.forward_ms + self.backward_ms


def tune(solver: Solver, problem: Regulators) -> Entry:
    """Prepares the solver with the loosest tolerance whose achieved residual is within the bar."""
    solver.prepare(problem)
    for eps in solver.tolerances:
        solver.set_tolerance(eps)
        start = time.perf_counter()
        solver.solve()
        seconds = time.perf_counter() - start
        point = solver.point()
        residuals = problem.residuals(*point)
        if np.all(residuals <= RESIDUAL) or seconds > TOO_LONG:
            break
    return Entry(solver, eps, residuals, point)


def relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))


def gradients(solver: Solver, directions: list[torch.Tensor]) -> Gradients:
    found = torch.autograd.grad(solver.solve(), solver.leaves, directions)  # type: ignore[arg-type]
    return [gradient.double().numpy() for gradient in found]


def compare(entries: list[Entry], problem: Regulators, directions: list[torch.Tensor]) -> None:
    """Fills in how far each solver is from ours at a tight tolerance."""
    first = entries[0]
    first.solver.set_tolerance(1e-9)
    expected = gradients(first.solver, directions)
    x, u, _ = first.solver.point()
    cost = problem.costs(x, u)
    first.solver.set_tolerance(first.eps)
    for entry in entries:
        x_found, u_found, _ = entry.point
        entry.cost_above = float(np.max((problem.costs(x_found, u_found) - cost) / np.maximum(1.0, cost)))
        entry.difference = max(relative(x_found, x), relative(u_found, u))
        if entry.solver.leaves:
            found = gradients(entry.solver, directions)
            entry.gradient_difference = max(relative(a, b) for a, b in zip(found, expected, strict=True))


def measure(all_solvers: list[Solver], problem: Regulators, repeats: int) -> list[Entry]:
    nx, nu, N, batch = problem.sizes
    rng = np.random.default_rng(1)
    directions = [torch.tensor(rng.normal(size=shape)) for shape in ((batch, N + 1, nx), (batch, N, nu))]
    entries = {}
    for solver in all_solvers:
        if solver.suits(problem):
            torch.set_num_threads(solver.threads)
            entries[solver.name] = tune(solver, problem)

    def run(solver: Solver) -> Callable[[], tuple[float, float]]:
        def forward_backward() -> tuple[float, float]:
            start = time.perf_counter()
            outputs = solver.solve()
            middle = time.perf_counter()
            if outputs is None:
                return 1e3 * (middle - start), np.nan
            torch.autograd.grad(outputs, solver.leaves, directions)
            return 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)

        return forward_backward

    def enter(name: str) -> None:
        torch.set_num_threads(entries[name].solver.threads)

    times = report.in_turns({name: run(entry.solver) for name, entry in entries.items()}, repeats, enter=enter)
    for name, values in times.items():
        entries[name].times = values
    compare(list(entries.values()), problem, directions)
    return list(entries.values())


def rows_of(cell: Cell, entries: list[Entry]) -> list[dict[str, object]]:
    """The table's rows; the first entry, ours, is compared with the best of the peers."""
    first = entries[0]
    fit = [entry for entry in entries if not entry.ours and not entry.failures]
    single = next((entry for entry in entries if entry.ours and entry.solver.threads == 1), None)
    rows: list[dict[str, object]] = []
    for entry in entries:
        row: dict[str, object] = {
            "problem": str(cell),
            "solver": entry.solver.name,
            "threads": entry.solver.threads,
            "eps": entry.eps,
            "residual": float(entry.residuals.max()),
            "failures": entry.failures,
            "cost_above": entry.cost_above,
            "difference": entry.difference,
            "gradient_difference": entry.gradient_difference,
            "forward_ms": entry.forward_ms,
            "backward_ms": entry.backward_ms,
            "total_ms": entry.total_ms,
        }
        if not entry.ours:
            forward, total = entry.forward_ms / first.forward_ms, entry.total_ms / first.total_ms
            row["x_ours"] = f"{forward:.1f} / {total:.1f}"
        rows.append(row)
    if single is not None and single is not first:
        rows[0]["x_1_thread"] = single.total_ms / first.total_ms
    forward = min((entry.forward_ms for entry in fit), default=np.nan) / first.forward_ms
    total = min((entry.total_ms for entry in fit if entry.solver.leaves), default=np.nan) / first.total_ms
    rows[0] |= {"better_forward": forward, "better_total": total}
    rows[0][report.BETTER] = f"{total:.1f} (forward {forward:.1f})"
    if cell in PUBLISHED:
        forward_ms, total_ms = PUBLISHED[cell]
        published = {"forward_ms": forward_ms, "backward_ms": total_ms - forward_ms, "total_ms": total_ms}
        rows.append({"problem": str(cell), "solver": ACADOS, "threads": 4, **published})
    return rows


def cell_of(text: str) -> Cell:
    nx, nu, horizon, batch, bound, plant = text.split(",")
    stable = plant == "stable"
    return Cell(int(nx), int(nu), int(horizon), int(batch), float(bound), stable, 0 if stable else int(plant))


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--cells", nargs="*", type=cell_of, help="nx,nu,N,batch,bound,plant")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs per solver, at least 5")
    parser.add_argument("--threads", type=int, default=report.cores())
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats is {arguments.repeats}, expected at least 5")
    cells = arguments.cells or ([Cell(3, 2, 4, 2, 0.5, True)] if arguments.quick else CELLS)

    all_solvers, missing = ocp_solvers.solvers(arguments.threads)
    for line in missing:
        print(f"not compared: {line}")
    print(report.machine("mpc", "piqp", "proxsuite", "torch", threads=arguments.threads))
    print(f"problem: nx,nu,N,batch |u|<=bound plant; median of at least {arguments.repeats}")
    print("published, other machine (one GPU), 64 regulators with N = 40: DiffMPC and TurboMPC 2.1 to 2.8 ms per batch")
    # mpc.pytorch calls what torch has under another name by now.
    warnings.filterwarnings("ignore", message=".*lu.*deprecated.*")
    table = report.Report("ocp_layers", COLUMNS, arguments.out)
    for cell in cells:
        for row in rows_of(cell, measure(all_solvers, regulators(cell), arguments.repeats)):
            table.add(row)
    path = table.finish()
    names = list(dict.fromkeys(str(row["solver"]) for row in table.rows))

    def series(column: str) -> dict[str, dict[str, float]]:
        return {
            name: {str(row["problem"]): float(str(row[column])) for row in table.rows if row["solver"] == name}
            for name in names
        }

    forward, total = series("forward_ms"), series("total_ms")
    # A solver without derivatives has its forward pass alone.
    shown = {
        name: {problem: forward[name][problem] if np.isnan(ms) else ms for problem, ms in values.items()}
        for name, values in total.items()
    }
    report.bars(
        path.with_suffix(".png"),
        dict.fromkeys(str(row["problem"]) for row in table.rows),
        shown,
        inner=forward,
        title=f"Regulators at a relative residual of {RESIDUAL:g}: forward (dark) + backward",
        ylabel="time per batch [ms]",
    )


if __name__ == "__main__":
    main()
