"""Largest errors of solutions and gradients: random QPs against the tests' independent oracle, toy problems against
their closed forms.

python benchmarks/accuracy.py [--seeds 5]

Solutions: largest difference of any entry of x, y, z, w. Gradients: of a random loss on all outputs, largest difference
to the exact adjoint relative to the largest entry of each gradient (at least one).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import qp_control as qc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from kkt_oracle import solve
from problems import random_feasible
from test_random_qps import SIZES, gradient_error


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    table = Table(title=f"largest errors over {2 * arguments.seeds} QPs per size, with and without box")
    for column in ("n", "n_eq", "n_in", "solution", "gradient", "not solved"):
        table.add_column(column, justify="right")
    for size in SIZES:
        solution = gradient = 0.0
        unsolved = 0
        for seed in range(arguments.seeds):
            for box in (False, True):
                qp = random_feasible(seed, *size, active=0.4, box=box)
                exact, sol = solve(qp, "interior point"), qc.solve_qp(**qp.keywords())
                unsolved += sol.status != qc.Status.SOLVED
                for name in "xyzw":
                    difference = np.abs(getattr(sol, name) - getattr(exact, name))
                    solution = max(solution, float(difference.max(initial=0.0)))
                gradient = max(gradient, gradient_error(qp, exact, seed=seed))
        table.add_row(*map(str, size), f"{solution:.1e}", f"{gradient:.1e}", str(unsolved))
    console = Console()
    console.print(table)
    console.print(f"toy problems: largest gradient error {toy_error():.1e}", highlight=False)


if __name__ == "__main__":
    main()
