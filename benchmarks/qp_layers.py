"""QP layers in torch, forward and backward: qp-control against proxsuite's QPLayer, in one process.

Every solver gets the same problems, and its tolerance is tightened until the largest unscaled primal and dual residual
of the batch, recomputed here from the data, is at most 1e-6. Elements above that count as failures. proxsuite runs both
ways, its batch in parallel on the same number of threads and serially; the faster of the two is the best peer. The
solvers take turns in blocks; the figure is the median.

    python benchmarks/qp_layers.py                     # all cells
    python benchmarks/qp_layers.py --cells 128,10,3,10 # one: batch, n, n_eq, n_in
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import qp_control as qc

RESIDUAL = 1e-6
ROUNDS = 3
CELLS = [
    (128, 10, 3, 10),
    (1, 10, 0, 10),
    (1, 30, 5, 30),
    (128, 10, 0, 10),
    (128, 20, 5, 20),
    (128, 30, 5, 30),
    (64, 50, 10, 50),
    (64, 100, 50, 50),
]
NAMES = ("H", "g", "A", "b", "C", "l", "u")
Tensors = list[torch.Tensor]
Solve = Callable[[Tensors, float], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def problems(batch: int, n: int, n_eq: int, n_in: int, seed: int = 0) -> Tensors:
    """Feasible dense QPs with bounds on both sides, so that every solver gets the same model; some rows active."""
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(batch, n, n))
    H = F @ F.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    x = rng.normal(size=(batch, n, 1))
    A, C = rng.normal(size=(batch, n_eq, n)), rng.normal(size=(batch, n_in, n))
    Cx = (C @ x)[..., 0]
    data = {
        "H": H,
        "g": 3.0 * rng.normal(size=(batch, n)),
        "A": A,
        "b": (A @ x)[..., 0],
        "C": C,
        "l": Cx - rng.uniform(0.1, 1.0, size=(batch, n_in)),
        "u": Cx + rng.uniform(0.1, 1.0, size=(batch, n_in)),
    }
    return [torch.tensor(data[name], requires_grad=True) for name in NAMES]


def residuals(data: Tensors, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> np.ndarray:
    """Largest entry of the primal and the dual residual of each element, in the user's units."""
    H, g, A, b, C, l, u = (t.detach().numpy() for t in data)
    x_, y_, z_ = (t.detach().numpy() for t in (x, y, z))
    Cx = np.einsum("bij,bj->bi", C, x_)
    dual = np.einsum("bij,bj->bi", H, x_) + g + np.einsum("bij,bi->bj", A, y_) + np.einsum("bij,bi->bj", C, z_)
    parts = [np.abs(np.einsum("bij,bj->bi", A, x_) - b), l - Cx, Cx - u, np.abs(dual)]
    return np.max(np.concatenate(parts, axis=1), axis=1, initial=0.0)


def ours(threads: int) -> Solve:
    def solve(data: Tensors, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        out = qc.QPLayer(qc.Settings(eps_abs=eps, threads=threads))(*data)
        return out.x, out.y, out.z

    return solve


def proxsuite_layer(threads: int, parallel: bool) -> Solve:
    """proxsuite takes half of os.cpu_count() as its number of threads; here it gets the number asked for."""
    from proxsuite.torch.qplayer import QPFunction

    def solve(data: Tensors, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        count, os.cpu_count = os.cpu_count, lambda: 2 * threads
        try:
            H, g, A, b, C, l, u = data
            x, y, z = QPFunction(eps=eps, omp_parallel=parallel)(H, g, A, b, C, l, u)
        finally:
            os.cpu_count = count
        return x, y, z

    return solve


@dataclass
class Entry:
    solver: str
    eps: float
    residual: float
    failures: int
    forward_ms: float
    backward_ms: float
    gradients: Tensors

    @property
    def total_ms(self) -> float:
        return self.forward_ms + self.backward_ms


def tolerance_for(solve: Solve, data: Tensors) -> tuple[float, np.ndarray]:
    """The loosest tolerance whose achieved residual is within the bar, and the residuals."""
    for eps in (1e-6, 3e-7, 1e-7, 3e-8, 1e-8, 1e-9, 1e-10):
        with torch.no_grad():
            achieved = residuals(data, *solve(data, eps))
        if np.all(achieved <= RESIDUAL):
            break
    return eps, achieved


def measure(solvers: dict[str, Solve], cell: tuple[int, int, int, int], repeats: int) -> list[Entry]:
    data = problems(*cell)
    torch.manual_seed(0)
    direction = torch.randn(cell[0], cell[1], dtype=torch.float64)
    tolerances = {name: tolerance_for(solve, data) for name, solve in solvers.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in solvers}
    gradients: dict[str, Tensors] = {}
    # In rounds of blocks: a drift of the machine meets every solver, and the first two runs of a block, not timed, end
    # the busy waiting that the threads of the solver before leave behind.
    per_block = -(-repeats // ROUNDS)
    for name, solve in ROUNDS * list(solvers.items()):
        for run in range(per_block + 2):
            start = time.perf_counter()
            x = solve(data, tolerances[name][0])[0]
            middle = time.perf_counter()
            found = torch.autograd.grad(x, data, direction, allow_unused=True)
            end = time.perf_counter()
            gradients[name] = [f if f is not None else torch.zeros(0) for f in found]
            if run >= 2:
                times[name].append((1e3 * (middle - start), 1e3 * (end - middle)))
    return [
        Entry(
            name,
            tolerances[name][0],
            float(tolerances[name][1].max()),
            int(np.sum(~(tolerances[name][1] <= RESIDUAL))),
            statistics.median(t[0] for t in times[name]),
            statistics.median(t[1] for t in times[name]),
            gradients[name],
        )
        for name in solvers
    ]


def gradient_difference(one: Entry, other: Entry) -> float:
    """Largest difference between two solvers' gradients, relative to the largest entry of each."""
    worst = 0.0
    for a, b in zip(one.gradients, other.gradients, strict=True):
        if a.numel():
            a, b = a.double(), b.double()
            worst = max(worst, float((a - b).abs().max() / (1.0 + a.abs().max())))
    return worst


def plot(rows: list[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = list(dict.fromkeys(str(row["cell"]) for row in rows))
    names = list(dict.fromkeys(str(row["solver"]) for row in rows))
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(cells), 4))
    for k, name in enumerate(names):
        width = 0.8 / len(names)
        at = np.arange(len(cells)) + width * k
        chosen = {row["cell"]: row for row in rows if row["solver"] == name}
        forward = [float(chosen[cell]["forward_ms"]) for cell in cells]  # type: ignore[arg-type]
        total = [f + float(chosen[c]["backward_ms"]) for f, c in zip(forward, cells, strict=True)]  # type: ignore[arg-type]
        axes.bar(at, total, 0.9 * width, label=f"{name}, forward + backward", color=f"C{k}", alpha=0.45)
        axes.bar(at, forward, 0.9 * width, label=f"{name}, forward", color=f"C{k}")
    axes.set_yscale("log")
    axes.set_ylabel("time per batch [ms]")
    axes.set_xlabel("batch, n, n_eq, n_in")
    axes.set_xticks(np.arange(len(cells)) + 0.3, cells, rotation=30, ha="right", fontsize=8)
    axes.legend(fontsize=8)
    axes.set_title(f"QP layers at an achieved residual of {RESIDUAL:g}")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", help="batch,n,n_eq,n_in")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs per solver, at least 5")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats is {arguments.repeats}, expected at least 5")
    cells = CELLS
    if arguments.cells:
        cells = [tuple(int(part) for part in text.split(",")) for text in arguments.cells]  # type: ignore[misc]
        if any(len(cell) != 4 for cell in cells):
            parser.error("--cells expects batch,n,n_eq,n_in")

    torch.set_num_threads(arguments.threads)
    solvers: dict[str, Solve] = {"qp-control": ours(arguments.threads)}
    try:
        solvers["QPLayer serial"] = proxsuite_layer(1, parallel=False)
        if arguments.threads > 1:
            solvers["QPLayer parallel"] = proxsuite_layer(arguments.threads, parallel=True)
        import proxsuite

        version = proxsuite.__version__
    except ImportError:
        sys.exit('proxsuite is missing: python -m pip install "qp-control[bench]"')
    print(
        f"qp-control {qc.__version__}, proxsuite (QPLayer) {version}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {arguments.threads} threads, median of {arguments.repeats}"
    )
    head = f"{'cell':>16}  {'solver':<16} {'eps':>7} {'residual':>9} {'fail':>4}"
    head += f" {'forward ms':>11} {'backward ms':>12} {'total ms':>9} {'grad diff':>10}  x better than best peer"
    print(head)
    rows: list[dict[str, object]] = []
    for cell in cells:
        entries = measure(solvers, cell, arguments.repeats)
        peers = [entry for entry in entries[1:] if not entry.failures] or entries[1:]
        best = {
            "forward": min(e.forward_ms for e in peers),
            "backward": min(e.backward_ms for e in peers),
            "total": min(e.total_ms for e in peers),
        }
        for entry in entries:
            text = ",".join(map(str, cell))
            row: dict[str, object] = {
                "cell": text,
                "solver": entry.solver,
                "threads": arguments.threads,
                "eps": entry.eps,
                "residual": entry.residual,
                "failures": entry.failures,
                "forward_ms": entry.forward_ms,
                "backward_ms": entry.backward_ms,
                "total_ms": entry.total_ms,
                "gradient_difference": gradient_difference(entry, entries[0]),
            }
            better = ""
            if entry is entries[0]:
                ratio = {key: best[key] / getattr(entry, f"{key}_ms") for key in best}
                row |= {f"better_{key}": value for key, value in ratio.items()}
                better = f"{ratio['total']:.1f} (forward {ratio['forward']:.1f}, backward {ratio['backward']:.1f})"
            rows.append(row)
            line = f"{text:>16}  {entry.solver:<16} {entry.eps:7.0e} {entry.residual:9.1e} {entry.failures:4d}"
            line += f" {entry.forward_ms:11.3f} {entry.backward_ms:12.3f} {entry.total_ms:9.3f}"
            print(f"{line} {row['gradient_difference']:10.1e}  {better}", flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(arguments.out / "qp_layers.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, arguments.out / "qp_layers.png")
    print(f"written: {arguments.out / 'qp_layers.csv'}, {arguments.out / 'qp_layers.png'}")


if __name__ == "__main__":
    main()
