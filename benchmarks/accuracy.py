"""How far are solutions and gradients from exact ones, and are the others'?

Random QPs, feasible (with and without a box) and contradicting, against the tests' independent oracle, which shares no
code with the solver; toy problems of the ICLR 2024 paper against their closed forms. "solution": largest difference of
any entry of x, y, z, w. Gradients: of a random loss on all outputs, on x and on the inequalities' multipliers z alone;
the largest difference to exact active-set differentiation, relative to the largest entry of each gradient (at least
one). proxsuite's QPLayer, tolerance 1e-9, gets the feasible QPs without a box, as it has none. The last column: its
largest gradient error over ours.

    python benchmarks/accuracy.py [--seeds 5]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch

import qp_control as qc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from adjoint_oracle import adjoint
from kkt_oracle import solve
from problems import random_feasible, random_infeasible_full_rank, random_infeasible_rank_deficient
from qp_data import QP, Answer
from test_random_qps import SIZES, gradient_error

LOSSES: dict[str, dict[str, Any]] = {"all": {}, "x": {"outputs": ("x",)}, "z": {"outputs": ("z",)}}


def toy_error() -> float:
    """Gradients of the three toy problems of Bambade et al. (ICLR 2024, C.1), feasible and infeasible."""
    H, layer, error = torch.eye(2, dtype=torch.float64), qc.QPLayer(), 0.0
    C = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)

    def gradients(theta: float, kind: str) -> list[float]:
        t = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        if kind == "a":
            l, u = torch.stack([t, t.new_tensor(1.5)]), t.new_tensor([1.55, 1.55])
            x = layer(H, torch.zeros(2, dtype=torch.float64), C=C, l=l, u=u).x
        elif kind == "b":
            g = torch.stack([t, t.new_tensor(-2.0)])
            x = layer(H, g, C=C, l=t.new_tensor([-300.0, -200.0]), u=t.new_tensor([400.0, 500.0])).x
        else:
            one = torch.ones(2, dtype=torch.float64)
            x = layer(None, one, C=one[None], l=t[None], lb=0 * one, ub=one).x
        return [float(torch.autograd.grad(x[i], t, retain_graph=True)[0]) for i in range(2)]

    # a: both rows active, then both give way equally; b: interior; c: an edge of minimisers, then shifted thrice.
    cases = [("a", 1.54, (-1.0, 2.0)), ("a", 1.6, (-0.5, 1.0)), ("b", -1.5, (-1.0, 0.0))]
    cases += [("c", 1.0, (0.5, 0.5)), ("c", 3.0, (1 / 3, 1 / 3))]
    for kind, theta, expected in cases:
        error = max(error, float(np.abs(np.subtract(gradients(theta, kind), expected)).max()))
    return error


def errors(qps: list[QP]) -> dict[str, float]:
    """Largest errors of qp-control over the problems."""
    worst = {"solution": 0.0, "not_solved": 0.0} | {f"gradient_{name}": 0.0 for name in LOSSES}
    for seed, qp in enumerate(qps):
        exact = solve(qp, "interior point")
        sol = qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible="closest"))
        wanted = qc.Status.SOLVED if exact.status == "solved" else qc.Status.CLOSEST_FEASIBLE
        worst["not_solved"] += sol.status != wanted
        for name in "xyzw":
            difference = np.abs(getattr(sol, name) - getattr(exact, name))
            worst["solution"] = max(worst["solution"], float(difference.max(initial=0.0)))
        for name, loss in LOSSES.items():
            if name != "z" or qp.n_in:
                found = gradient_error(qp, exact, seed=seed, **loss)
                worst[f"gradient_{name}"] = max(worst[f"gradient_{name}"], float(found))
    return worst


def qplayer_errors(qps: list[QP]) -> dict[str, float]:
    """Of proxsuite's layer; nothing where it is not installed."""
    try:
        from proxsuite.torch.qplayer import QPFunction
    except ImportError:
        return {}
    worst = {"solution": 0.0, "gradient_x": 0.0, "gradient_z": 0.0}
    for seed, qp in enumerate(qps):
        exact = solve(qp, "interior point")
        for name in ("x", "z"):
            error, solution = qplayer_gradient_error(QPFunction, qp, exact, name, seed)
            worst["solution"] = max(worst["solution"], solution)
            worst[f"gradient_{name}"] = max(worst[f"gradient_{name}"], error)
    return worst


def qplayer_gradient_error(function: Any, qp: QP, exact: Answer, output: str, seed: int) -> tuple[float, float]:
    data: dict[str, Any] = {"A": np.zeros((0, qp.n)), "b": np.zeros(0)} | qp.arguments()
    data |= {name: np.clip(data[name], -1e20, 1e20) for name in "lu"}
    given = [torch.tensor(data[name], requires_grad=True) for name in "HgAbClu"]
    out = dict(zip("xyz", function(eps=1e-9, omp_parallel=False)(*(t[None] for t in given)), strict=True))
    weight = np.random.default_rng(seed).normal(size=getattr(exact, output).shape)
    found = torch.autograd.grad((out[output][0].double() * torch.tensor(weight)).sum(), given, allow_unused=True)
    expected = adjoint(qp, exact, {output: weight})
    error = 0.0
    for name, gradient in zip("HgAbClu", found, strict=True):
        if name in qp.arguments() and gradient is not None:
            size = max(1.0, float(np.abs(expected[name]).max(initial=0.0)))
            error = max(error, float(np.abs(gradient.double().numpy() - expected[name]).max(initial=0.0)) / size)
    solution = float(np.abs(out["x"][0].detach().double().numpy() - exact.x).max())
    return error, solution


def cases(seeds: int, sizes: list[tuple[int, int, int]]) -> dict[str, list[QP]]:
    found: dict[str, list[QP]] = {}
    for n, n_eq, n_in in sizes:
        for box in (False, True):
            qps = [random_feasible(seed, n, n_eq, n_in, active=0.4, box=box) for seed in range(seeds)]
            found[f"feasible {n},{n_eq},{n_in}{' box' if box else ''}"] = qps
    for n in (3, 6, 12, 24):
        found[f"infeasible n={n}"] = [random_infeasible_full_rank(seed, n) for seed in range(seeds)]
    for n in (6, 12):
        qps = [random_infeasible_rank_deficient(seed, n, box=seed % 2 == 0) for seed in range(seeds)]
        found[f"infeasible, dependent rows n={n}"] = qps
    return found


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="problems per case")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = 1
    print(report.machine("proxsuite", "torch"))
    widths = {"problem": 32, "solver": 12, "solution": 9, "gradient_all": 12, "gradient_x": 10, "gradient_z": 10}
    table = report.Report("accuracy", widths | {"not_solved": 10, report.BETTER: 24}, arguments.out)
    for case, qps in cases(arguments.seeds, SIZES[:2] if arguments.quick else SIZES).items():
        row: dict[str, Any] = {"problem": case, "solver": "qp-control", **errors(qps)}
        peer = qplayer_errors(qps) if case.startswith("feasible") and "box" not in case else {}
        if peer:
            ours = max(row["gradient_x"], row["gradient_z"], 1e-16)
            row[report.BETTER] = f"{max(peer['gradient_x'], peer['gradient_z']) / ours:.1e}"
        table.add(row)
        if peer:
            table.add({"problem": case, "solver": "QPLayer", **peer})
    table.add({"problem": "toy problems of ICLR 2024", "solver": "qp-control", "gradient_x": toy_error()})
    path = table.finish()
    series: dict[str, dict[str, float]] = {}
    for shown in table.rows:
        for name in ("gradient_x", "gradient_z"):
            if name in shown:
                value = max(1e-17, float(str(shown[name])))
                series.setdefault(f"{shown['solver']}, {name[-1]}", {})[str(shown["problem"])] = value
    groups = dict.fromkeys(str(row["problem"]) for row in table.rows)
    report.bars(path.with_suffix(".png"), groups, series, title="Largest error of a gradient", ylabel="relative error")


if __name__ == "__main__":
    main()
