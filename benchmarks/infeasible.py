"""QPs whose constraints contradict each other, forward and backward: qp-control against proxsuite's QPLayer.

Both return the solution of the closest feasible QP, whose constraints are shifted by the least Euclidean norm. "norm
above least": the norm of what the constraints are violated by at x, minus the least norm, relative to one plus that;
the least norm is found independently, by bounded least squares (SciPy's BVLS). "residual": largest entry of the dual
residual and of the violation that the reported shifts do not explain, judged with the solver's own shifts. The table
shows the largest over the batch. Failures: elements whose norm is more than 1e-6 above, or whose residual exceeds 1e-6.

QPLayer cannot differentiate a batch of C, l or u in this mode, nor do without equalities, so these are shared and there
are equalities. No tolerance leads it to the accuracy asked for, so it runs with two, 1e-3 (fast, shifts off the least)
and 1e-6 (slow), serially and with --threads. The last column is against its setting with the least norm of the shift,
in brackets against its fastest, whatever that returns. The Sudoku layer is a linear program; A is random as at the
start of training, and partly trained (by qp-control).

    python benchmarks/infeasible.py                                  # minutes: QPLayer is slow here
    python benchmarks/infeasible.py --no-peers --sizes --stages 0    # ours on one Sudoku batch
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import infeasible_problems
import numpy as np
import report
import torch
from infeasible_problems import Array, Problems

import qp_control as qc

ACCURACY = 1e-6
Tensors = list[torch.Tensor]


@dataclass
class Shifted:
    """Outputs as NumPy arrays: s_eq of either sign, s_in: violation of the upper bound minus that of the lower."""

    x: Array
    y: Array
    z: Array
    s_eq: Array
    s_in: Array


@dataclass
class Candidate:
    """A layer in closest-feasible mode: solve(leaves, eps) -> outputs to differentiate, and how to read them."""

    name: str
    tolerances: tuple[float, ...]
    leaves: Tensors
    solve: Callable[[float], Any]
    outputs: Callable[[Any], Tensors]
    read: Callable[[Any], Shifted]


def tensors(problems: Problems, names: str) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(getattr(problems, name), requires_grad=True) for name in names}


def ours(problems: Problems, threads: int) -> Candidate:
    """With a box where C is the identity, and H absent where it is zero."""
    names = "gAb" + ("H" if np.any(problems.H) else "") + ("" if problems.box else "Clu")
    given = tensors(problems, names)
    if problems.box:
        given["lb"] = torch.tensor(problems.l, requires_grad=True)

    def solve(eps: float) -> Any:
        return qc.QPLayer(qc.Settings(eps_abs=eps, threads=threads, infeasible="closest"))(**given)

    def outputs(out: Any) -> Tensors:
        return [out.x, out.s_eq, out.s_lb] if problems.box else [out.x, out.s_eq, out.s_lower, out.s_upper]

    def read(out: Any) -> Shifted:
        z = out.w if problems.box else out.z
        s = out.s_ub - out.s_lb if problems.box else out.s_upper - out.s_lower
        return Shifted(*(t.detach().numpy() for t in (out.x, out.y, z, out.s_eq, s)))

    name = f"qp-control, {threads} thread{'s' if threads > 1 else ''}"
    return Candidate(name, (1e-6,), list(given.values()), solve, outputs, read)


def qplayer(problems: Problems, threads: int) -> Candidate:
    from proxsuite.torch.qplayer import QPFunction

    given = tensors(problems, "HgAbC")
    l, u = (torch.tensor(np.clip(v, -1e20, 1e20), requires_grad=True) for v in (problems.l, problems.u))
    leaves = [given["H"], given["g"], given["A"], given["b"], given["C"], l, u]

    def solve(eps: float) -> Any:
        count, os.cpu_count = os.cpu_count, lambda: 2 * threads
        try:
            return QPFunction(eps=eps, omp_parallel=threads > 1, structural_feasibility=False)(*leaves)
        finally:
            os.cpu_count = count

    def outputs(out: Any) -> Tensors:
        return [out[0], out[3], out[4]]

    def read(out: Any) -> Shifted:
        return Shifted(*(t.detach().double().numpy() for t in out))

    name = f"QPLayer, {threads} threads" if threads > 1 else "QPLayer, serial"
    return Candidate(name, (1e-3, 1e-6), leaves, solve, outputs, read)


def residuals(problems: Problems, found: Shifted) -> Array:
    """(B,) dual residual, and violation beyond the reported shifts."""
    Hx = np.einsum("...ij,...j->...i", problems.H, found.x)
    dual = Hx + problems.g + np.einsum("...ij,...i->...j", problems.A, found.y) + found.z @ problems.C
    s_eq, below, above = problems.violations(found.x)
    left = np.maximum(below - np.maximum(-found.s_in, 0.0), above - np.maximum(found.s_in, 0.0))
    worst: Array = np.max(np.concatenate([np.abs(dual), np.abs(s_eq - found.s_eq), left], axis=1), axis=1)
    return worst


def norms(problems: Problems, x: Array) -> Array:
    shift: Array = np.linalg.norm(np.concatenate(problems.violations(x), axis=1), axis=1)
    return shift


def measure(problems: Problems, candidates: list[Candidate], repeats: int) -> list[dict[str, object]]:
    least = problems.least_shifts()
    rows: list[dict[str, object]] = []
    actions: dict[str, Callable[[], tuple[float, float]]] = {}
    rng = np.random.default_rng(2)
    for candidate in candidates:
        for eps in candidate.tolerances:
            found = candidate.read(candidate.solve(eps))
            above = np.abs(norms(problems, found.x) - least) / (1.0 + least)
            residual = residuals(problems, found)
            rows.append(
                {
                    "problems": problems.name,
                    "batch": len(problems.g),
                    "solver": candidate.name,
                    "eps": eps,
                    "least_norm": float(least.max()),
                    "norm_above_least": float(above.max()),
                    "residual": float(residual.max()),
                    "failures": int(np.sum(~((above <= ACCURACY) & (residual <= ACCURACY)))),
                }
            )
            shapes = [t.shape for t in candidate.outputs(candidate.solve(eps))]
            directions = [torch.tensor(rng.normal(size=tuple(shape))) for shape in shapes]
            actions[f"{candidate.name} {eps}"] = forward_backward(candidate, eps, directions)
    for row, times in zip(rows, report.in_turns(actions, repeats, rounds=min(3, repeats)).values(), strict=True):
        row["forward_ms"] = statistics.median(forward for forward, _ in times)
        row["backward_ms"] = statistics.median(backward for _, backward in times)
        row["total_ms"] = float(str(row["forward_ms"])) + float(str(row["backward_ms"]))
    compare(rows)
    return rows


def compare(rows: list[dict[str, object]]) -> None:
    def number(row: dict[str, object], name: str) -> float:
        return float(str(row[name]))

    peers = [row for row in rows if str(row["solver"]).startswith("QPLayer")]
    if not peers:
        return
    ours = number(rows[0], "total_ms")
    closest = min(number(row, "norm_above_least") for row in peers)
    accurate = min(number(row, "total_ms") for row in peers if number(row, "norm_above_least") <= 2.0 * closest)
    fastest = min(number(row, "total_ms") for row in peers)
    rows[0] |= {"better_total": accurate / ours, "better_than_fastest": fastest / ours}
    rows[0][report.BETTER] = f"{accurate / ours:.1f} ({fastest / ours:.1f})"


def forward_backward(candidate: Candidate, eps: float, directions: Tensors) -> Callable[[], tuple[float, float]]:
    def run() -> tuple[float, float]:
        start = time.perf_counter()
        outputs = candidate.outputs(candidate.solve(eps))
        middle = time.perf_counter()
        torch.autograd.grad(outputs, candidate.leaves, directions, allow_unused=True)
        end = time.perf_counter()
        return 1e3 * (middle - start), 1e3 * (end - middle)

    return run


KINDS = ["parallel", "equalities", "inequalities", "mixed"]


def all_problems(batch: int, sizes: list[int], sudoku_batch: int, stages: list[int]) -> Iterator[Problems]:
    for n in sizes:
        for kind in KINDS:
            yield infeasible_problems.random_problems(kind, batch, n)
    if stages:
        yield from infeasible_problems.sudoku(sudoku_batch, stages)


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32, help="of the random problems")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 30], help="of the random problems")
    parser.add_argument("--sudoku-batch", type=int, default=150)
    parser.add_argument("--stages", type=int, nargs="*", default=[0, 5, 30], help="training steps before A is taken")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=report.cores())
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batch, arguments.sizes, arguments.sudoku_batch, arguments.stages = 2, [5], 2, [0]
        arguments.repeats, KINDS[1:] = 1, []
    print(report.machine("proxsuite", "scipy", "torch", threads=arguments.threads))
    torch.set_num_threads(arguments.threads)
    widths = {"problems": 28, "batch": 5, "solver": 22, "eps": 7, "least_norm": 10, "norm_above_least": 16}
    widths |= {"residual": 8, "failures": 8, "forward_ms": 10, "backward_ms": 11, "total_ms": 8, report.BETTER: 24}
    table = report.Report("infeasible", widths, arguments.out)
    for problems in all_problems(arguments.batch, arguments.sizes, arguments.sudoku_batch, arguments.stages):
        candidates = [ours(problems, threads) for threads in sorted({arguments.threads, 1}, reverse=True)]
        try:
            if not arguments.no_peers and not (arguments.quick and problems.box):
                candidates += [qplayer(problems, threads) for threads in sorted({1, arguments.threads})]
        except ImportError:
            print("not compared: proxsuite")
        for row in measure(problems, candidates, arguments.repeats):
            table.add(row)
    path = table.finish()
    totals: dict[str, dict[str, float]] = {}
    for row in table.rows:
        totals.setdefault(f"{row['solver']}, eps {row['eps']:g}", {})[str(row["problems"])] = float(
            str(row["total_ms"])
        )
    groups = dict.fromkeys(str(row["problems"]) for row in table.rows)
    title = "Closest feasible QPs, forward + backward"
    report.bars(path.with_suffix(".png"), groups, totals, title=title, ylabel="time per batch [ms]")


if __name__ == "__main__":
    main()
