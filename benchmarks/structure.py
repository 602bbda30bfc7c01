"""What does structure save: a diagonal H, boxes without rows, matrices that the batch shares?

Forward and backward pass of the layer, each problem once with its structure and once without: H with entries of 1e-300
beside its diagonal, which change no solution but make it a full matrix (a linear program has 1e-14 everywhere); H, A
and C copied for each element. There are no peers here: "x" compares the two.

    python benchmarks/structure.py                       # all cases
    python benchmarks/structure.py --only "box 64,100"   # one
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import report
import torch
from random_qps import Array

import qp_control as qc

Data = dict[str, Array]


def random_rows(rng: np.random.Generator, batch: int, n: int, n_in: int, box: bool) -> Data:
    """g, rows of C and a box around the same points."""
    x = rng.normal(size=(batch, n))
    data = {"g": 3.0 * rng.normal(size=(batch, n))}
    if n_in:
        data["C"] = rng.normal(size=(n_in, n))
        Cx = x @ data["C"].T
        data |= {"l": Cx - rng.uniform(0.1, 1.0, size=Cx.shape), "u": Cx + rng.uniform(0.1, 1.0, size=Cx.shape)}
    if box:
        data |= {"lb": x - rng.uniform(0.1, 1.0, size=x.shape), "ub": x + rng.uniform(0.1, 1.0, size=x.shape)}
    return data


def own(data: Data, batch: int) -> Data:
    matrices = {name: data[name] for name in "HAC" if name in data}
    return data | {name: np.broadcast_to(a, (batch, *a.shape)).copy() for name, a in matrices.items()}


def diagonal(batch: int, n: int, n_in: int, *, box: bool = False) -> tuple[Data, Data]:
    rng = np.random.default_rng(0)
    data = own(random_rows(rng, batch, n, n_in, box), batch)
    H = rng.uniform(0.1, 2.0, size=(batch, n, 1)) * np.eye(n)
    full = H.copy()
    full[:, 0, -1] = full[:, -1, 0] = 1e-300
    return data | {"H": H}, data | {"H": full}


def linear_program(batch: int, n: int, n_in: int) -> tuple[Data, Data]:
    data = own(random_rows(np.random.default_rng(0), batch, n, n_in, True), batch)
    return data, data | {"H": np.full((batch, n, n), 1e-14)}


def shared(batch: int, n: int, n_eq: int, n_in: int) -> tuple[Data, Data]:
    rng = np.random.default_rng(0)
    F, A = rng.normal(size=(n, n)), rng.normal(size=(n_eq, n))
    data = random_rows(rng, batch, n, n_in, False) | {"H": F @ F.T / n + 0.1 * np.eye(n), "A": A}
    data["b"] = 0.5 * (data["l"] + data["u"]) @ np.linalg.pinv(data["C"]).T @ A.T
    return data, own(data, batch)


Case = Callable[[], tuple[Data, Data]]
CASES: dict[str, Case] = {
    "diagonal 128,20,10": lambda: diagonal(128, 20, 10),
    "diagonal 64,100,20": lambda: diagonal(64, 100, 20),
    "diagonal 16,200,50": lambda: diagonal(16, 200, 50),
    "box 128,20": lambda: diagonal(128, 20, 0, box=True),
    "box 64,100": lambda: diagonal(64, 100, 0, box=True),
    "LP 16,100,20": lambda: linear_program(16, 100, 20),
    "shared 128,20,5,20": lambda: shared(128, 20, 5, 20),
    "shared 128,30,5,30": lambda: shared(128, 30, 5, 30),
    "shared 64,100,50,50": lambda: shared(64, 100, 50, 50),
}


def passes(data: Data, layer: qc.QPLayer) -> Callable[[], tuple[float, float]]:
    """Milliseconds of a forward and a backward pass."""
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in data.items()}
    if not bool((layer(**tensors).status == qc.Status.SOLVED).all()):
        raise RuntimeError("not solved")

    def forward_backward() -> tuple[float, float]:
        start = time.perf_counter()
        x = layer(**tensors).x
        middle = time.perf_counter()
        torch.autograd.grad(x.sum(), list(tensors.values()), allow_unused=True)
        return 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)

    return forward_backward


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="of these")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=report.cores())
    arguments = parser.parse_args()
    cases = {name: CASES[name] for name in arguments.only}
    if arguments.quick:
        cases, arguments.repeats = {"box 4,30": lambda: diagonal(4, 30, 0, box=True)}, 3
    torch.set_num_threads(arguments.threads)
    layer = qc.QPLayer(qc.Settings(eps_abs=1e-6, threads=arguments.threads))
    print(report.machine(threads=arguments.threads))
    columns = {
        "forward_ms": 10,
        "without_ms": 10,
        "x": 6,
        "backward_ms": 11,
        "backward_without_ms": 19,
        "x_backward": 10,
    }
    table = report.Report("structure", {"case": 20} | columns, arguments.out)
    for name, case in cases.items():
        pair = dict(zip(("with", "without"), (passes(data, layer) for data in case()), strict=True))
        times = report.in_turns(pair, arguments.repeats)
        forward, backward = (
            {kind: statistics.median(run[k] for run in runs) for kind, runs in times.items()} for k in (0, 1)
        )
        row: dict[str, object] = {"case": name, "forward_ms": forward["with"], "without_ms": forward["without"]}
        row |= {"x": forward["without"] / forward["with"], "backward_ms": backward["with"]}
        row |= {"backward_without_ms": backward["without"], "x_backward": backward["without"] / backward["with"]}
        table.add(row)
    path = table.finish()
    shown = {
        label: {str(row["case"]): float(str(row[column])) for row in table.rows}
        for label, column in (("with structure", "forward_ms"), ("without", "without_ms"))
    }
    groups = [str(row["case"]) for row in table.rows]
    report.bars(path.with_suffix(".png"), groups, shown, title="Forward pass, by structure", ylabel="time [ms]")


if __name__ == "__main__":
    main()
