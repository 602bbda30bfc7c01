"""Three QPs with one parameter theta whose gradients are known in closed form (appendix C.1 of the paper).

crossing    min 1/2 |x|^2    s.t. theta <= x1 + x2 <= 1.55, 1.5 <= 2 x1 + x2 <= 1.55    infeasible for theta > 1.55
interior    min 1/2 |x|^2 + theta x1 - 2 x2    s.t. -300 <= x1 + x2 <= 400, -200 <= 2 x1 + x2 <= 500
edge        min x1 + x2    s.t. theta <= x1 + x2, 0 <= x <= 1    many solutions for 0 < theta < 2, none for theta > 2

The table has the largest error of the gradients of x1 and x2 with respect to theta over a grid of thetas, by problem,
regime and solver. The derivative of the edge problem is not unique; the reference is the one of least norm. In
addition, gradient descent on x1 and on x2 in the crossing problem, 40 steps of rate 5e-4 from 1.54, shows whether it
continues through the infeasible part. QPLayer needs an equality if it shifts rows; it gets 0'x = 0.

    python examples/qplayer_paper/toy_gradients.py --peers qplayer qpth
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from layers import LAYERS, Layer, Problem
from learning import Peer, float64_default
from records import Row, report
from torch import Tensor

ROWS = [[1.0, 1.0], [2.0, 1.0]]


@dataclass(frozen=True)
class ToyOptions:
    """Gradients of three small QPs beside their closed forms."""

    out: Path = Path("runs/qplayer_paper")
    """Folder of table and plot."""
    points: int = 41
    """Thetas in the field of each problem."""
    steps: int = 40
    """Of the descent."""
    peers: tuple[Peer, ...] = ()
    """Other layers to run."""


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def crossing(theta: Tensor) -> Problem:
    l = torch.stack([theta, theta.new_tensor(1.5)])
    return Problem(torch.zeros(1, 2).double(), torch.eye(2).double(), C=tensor(*ROWS), l=l, u=tensor(1.55, 1.55))


def interior(theta: Tensor) -> Problem:
    g = torch.stack([theta, theta.new_tensor(-2.0)])[None]
    return Problem(g, torch.eye(2).double(), C=tensor(*ROWS), l=tensor(-300.0, -200.0), u=tensor(400.0, 500.0))


def edge(theta: Tensor) -> Problem:
    C = tensor([1.0, 1.0], [1.0, 0.0], [0.0, 1.0])
    l = torch.cat([theta[None], theta.new_zeros(2)])
    return Problem(tensor([1.0, 1.0]), None, C=C, l=l, u=tensor(1e20, 1.0, 1.0))


def slopes(problem: str, theta: float) -> tuple[float, float]:
    """d x / d theta.

    crossing: at feasible points both rows hold with theta and 1.55, x = (1.55 - theta, 2 theta - 1.55); beyond 1.55
    the two upper bounds and theta disagree, and x1 + x2 ends midway. (That is so above theta = 1.034.)
    """
    if problem == "interior":
        return -1.0, 0.0
    if problem == "edge":
        return (0.5, 0.5) if theta < 2.0 else (1 / 3, 1 / 3)
    return (-1.0, 2.0) if theta < 1.55 else (-0.5, 1.0)


PROBLEMS = {"crossing": (crossing, 1.25, 1.85), "interior": (interior, -1.5, 1.5), "edge": (edge, 0.01, 4.0)}
BORDERS = {"crossing": 1.55, "edge": 2.0}


def gradient(layer: Layer, problem: str, theta: float, i: int) -> tuple[float, float]:
    """x_i and its derivative."""
    parameter = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    qp = PROBLEMS[problem][0](parameter)
    if layer.name == "QPLayer" and layer.closest:
        qp.A, qp.b = torch.zeros(1, 2).double(), torch.zeros(1).double()
    x = layer.solve(qp).x[0, i]
    (slope,) = torch.autograd.grad(x, parameter)
    return float(x.detach()), float(slope)


def field(solver: str, problem: str, points: int) -> list[Row]:
    """Slopes over the thetas, those at the border left out."""
    _, low, high = PROBLEMS[problem]
    border = BORDERS.get(problem, np.inf)
    rows: list[Row] = []
    for theta in np.linspace(low, high, points):
        if abs(theta - border) < 1e-9:
            continue
        regime = "infeasible" if theta > border else "feasible"
        layer = LAYERS[solver](eps=1e-9, closest=regime == "infeasible")
        if solver == "qpth" and (layer.closest or problem == "edge"):
            continue
        exact = slopes(problem, float(theta))
        row: Row = {"problem": problem, "solver": layer.name, "regime": regime, "theta": float(theta)}
        for i in range(2):
            try:
                row[f"dx{i + 1}"] = gradient(layer, problem, float(theta), i)[1]
            except (RuntimeError, ValueError, TypeError) as error:
                row |= {f"dx{i + 1}": float("nan"), "error": str(error).splitlines()[0]}
            row[f"exact_dx{i + 1}"] = exact[i]
        rows.append(row)
    return rows


def descent(solver: str, i: int, steps: int) -> tuple[float, float, float, float]:
    """Thetas and values at both ends."""
    theta, first = 1.54, None
    for _ in range(steps):
        layer = LAYERS[solver](eps=1e-9, closest=theta > 1.55)
        value, slope = gradient(layer, "crossing", theta, i)
        first = value if first is None else first
        theta -= 5e-4 * slope
    assert first is not None
    return 1.54, theta, first, value


def largest_error(rows: list[Row]) -> float:
    """NaN counts."""
    return float(max(abs(float(str(row[f"dx{i}"])) - float(str(row[f"exact_dx{i}"]))) for row in rows for i in (1, 2)))


def main(options: ToyOptions) -> None:
    torch.set_num_threads(1)
    print(report.machine("proxsuite", "qpth", "torch", threads=1))
    every: list[Row] = []
    widths = {"problem": 10, "solver": 12, "regime": 12, "points": 8, "largest error": 14}
    table = report.Report("toy_gradients_errors", widths, options.out)
    with float64_default():
        for problem in PROBLEMS:
            for solver in ("qp-control", *options.peers):
                try:
                    rows = field(solver, problem, options.points)
                except ImportError as error:
                    print(f"not compared: {LAYERS[solver].name} ({error})")
                    continue
                every += rows
                for regime in dict.fromkeys(str(row["regime"]) for row in rows):
                    part = [row for row in rows if row["regime"] == regime]
                    key = {"problem": problem, "solver": LAYERS[solver].name, "regime": regime, "points": len(part)}
                    table.add(key | {"largest error": largest_error(part)})
        for i in range(2):
            start, end, before, after = descent("qp-control", i, options.steps)
            told = f"theta {start:.3f} to {end:.4f}, x{i + 1} {before:.4f} to {after:.4f}"
            print(f"descent on x{i + 1} of the crossing problem, {options.steps} steps: {told}")
    table.finish()
    report.write_csv(options.out / "toy_gradients.csv", every)
    plot(options.out / "toy_gradients.png", every)


def plot(path: Path, rows: list[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PROBLEMS), figsize=(11, 3.4))
    for axis, problem in zip(axes, PROBLEMS, strict=True):
        for k, solver in enumerate(dict.fromkeys(row["solver"] for row in rows)):
            part = [row for row in rows if row["problem"] == problem and row["solver"] == solver]
            theta = [row["theta"] for row in part]
            for i, marker in ((1, "o"), (2, "s")):
                values = [row[f"dx{i}"] for row in part]
                axis.plot(theta, values, marker, markersize=5 - k, color=f"C{k}", alpha=0.7, label=f"{solver}, x{i}")
        for regime in ("feasible", "infeasible"):
            keys = (problem, "qp-control", regime)
            part = [row for row in rows if (row["problem"], row["solver"], row["regime"]) == keys]
            for i in (1, 2):
                axis.plot([row["theta"] for row in part], [row[f"exact_dx{i}"] for row in part], "k-", linewidth=0.7)
        axis.set_ylim(-3, 3)
        axis.set_title(f"{problem} (lines: closed form)", fontsize=9)
        axis.set_xlabel("theta")
    axes[0].set_ylabel("d x / d theta")
    axes[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


if __name__ == "__main__":
    main(tyro.cli(ToyOptions, description=__doc__))
