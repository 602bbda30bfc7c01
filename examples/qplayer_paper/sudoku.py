"""4x4 Sudoku learned from boards only: the rules are the equality rows A of a QP (section 4, appendix C.2).

    minimise    regularisation / 2 |x|^2 - puzzle'x      over x >= 0, 64 numbers: one-hot digits
    subject to  A x = b                                  40 rows

feasible: A and z0 are learned and b = A exp(z0), so that there is always a feasible point. infeasible: only A is
learned and b = 1; the layer shifts constraints that cannot be met, the loss adds 1e-3 times the norm of the shift, and
learning finds a consistent A. The paper's layer solves a linear program (regularisation 0); the same task is also run
with 0.1, which qpth needs. The infeasible task, which qpth cannot express, is run for it (and all others) with relaxed
rows: A x - s = b with cost penalty / 2 |s|^2.

A board is wrong if in any cell the largest entry is that of a wrong digit. The violation is the largest entry of
|A x - b| over all test puzzles, recomputed. Generated puzzles are all different, each with one solution; those of a
file (arrays puzzles and solutions (N, 4, 4), digits, 0 for blank; the last tenth is the test set) may repeat, and
training puzzles that occur in the test set are left out.

    python examples/qplayer_paper/sudoku.py --task feasible
    python examples/qplayer_paper/sudoku.py --task infeasible --peers qplayer --peer-batches 5
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from layers import Answer, Problem
from learning import Options, Task, run
from records import curves, merge, series
from torch import Tensor

# isort: split
# From the folder of the benchmarks, which records puts on the path.
import sudoku_puzzles

N = 10_000
PUBLISHED = {"feasible": {"paper's QPLayer, final": 6.19e-4}, "infeasible": {}}
Model = Literal["linear_program", "strictly_convex", "relaxed"]


@dataclass(frozen=True)
class SudokuOptions(Options):
    """Learn the rules of 4x4 Sudoku."""

    task: Literal["feasible", "infeasible"] = "feasible"
    """Feasible by construction, or through infeasible problems."""
    models: tuple[Model, ...] = ("linear_program", "strictly_convex")
    """linear_program: the paper's; strictly_convex: what all solvers can do; relaxed: rows that cost (infeasible)."""
    data: Path | None = None
    """An npz file with puzzles and solutions instead of generated ones."""
    penalty: float = 1e3
    """Of the relaxed rows."""


def puzzles(options: SudokuOptions) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test data, (N, 64) each; no puzzle is in both."""
    if options.data is None:
        number = N if options.samples is None else -(-10 * options.samples // 9)
        given, solved = sudoku_puzzles.random_puzzles(number, options.seed)
    else:
        with np.load(options.data, allow_pickle=False) as file:
            given, solved = (file[name].reshape(-1, 16).astype(int) for name in ("puzzles", "solutions"))
    tests = max(1, len(given) // 10)
    held_out = {puzzle.tobytes() for puzzle in given[-tests:]}
    keep = np.array([puzzle.tobytes() not in held_out for puzzle in given[:-tests]])
    kinds = len(np.unique(given, axis=0))
    left_out = int((~keep).sum())
    print(f"{len(given)} puzzles, {kinds} different; {left_out} of the training set left out, as the test has them")
    x, y = (torch.tensor(sudoku_puzzles.one_hot(digits)) for digits in (given, solved))
    train = x[:-tests][keep], y[:-tests][keep]
    samples = options.samples
    return (train[0][:samples], train[1][:samples]), (x[-tests:], y[-tests:])


class Rules(torch.nn.Module):
    """A (40, 64), non-negative at first, and log_z0 (64,) where b follows from it."""

    def __init__(self, feasible: bool) -> None:
        super().__init__()
        self.A = torch.nn.Parameter(torch.rand(40, 64, dtype=torch.float64))
        self.log_z0 = torch.nn.Parameter(torch.zeros(64, dtype=torch.float64)) if feasible else None

    @property
    def b(self) -> Tensor:
        return self.A.new_ones(40) if self.log_z0 is None else self.A @ self.log_z0.exp()


class Sudoku(Task):
    total = ("wrong",)
    worst = ("violation",)

    def __init__(self, options: SudokuOptions, model: Model) -> None:
        self.name, self.model = f"sudoku_{options.task}", model.replace("_", " ")
        self.feasible, self.relaxed = options.task == "feasible", model == "relaxed"
        self.penalty = options.penalty
        self.weight = 0.0 if model == "linear_program" else 0.1
        self.closest = not (self.feasible or self.relaxed)
        self.train, self.test = puzzles(options)

    def network(self) -> Rules:
        return Rules(self.feasible)

    def expressible(self, layer: str) -> bool:
        return layer != "qpth" or (self.weight > 0.0 and not self.closest)

    def problem(self, network: torch.nn.Module, inputs: Tensor) -> Problem:
        assert isinstance(network, Rules)
        A, b = network.A, network.b
        eye = torch.eye(64, dtype=torch.float64)
        if not self.relaxed:
            return Problem(-inputs, self.weight * eye if self.weight else None, A, b, nonnegative=True)
        # Variables x and s; rows x >= 0 only.
        cost = torch.cat([torch.full((64,), self.weight), torch.full((40,), self.penalty)]).double()
        g = torch.cat([-inputs, inputs.new_zeros(len(inputs), 40)], 1)
        rows = torch.cat([A, -torch.eye(40, dtype=torch.float64)], 1)
        return Problem(g, cost.diag(), rows, b, torch.eye(64, 104, dtype=torch.float64), torch.zeros(64).double())

    def losses(self, answer: Answer, targets: Tensor) -> Tensor:
        squared = (answer.x[:, :64] - targets).square().mean(1)
        if self.feasible:
            return squared
        shift = answer.x[:, 64:] if self.relaxed else answer.shift
        return squared + 1e-3 * _norm(shift)

    def measures(self, network: torch.nn.Module, answer: Answer, targets: Tensor) -> dict[str, Tensor]:
        assert isinstance(network, Rules)
        x = answer.x[:, :64]
        digits, truth = (values.reshape(-1, 16, 4).argmax(2) for values in (x, targets))
        violation = (x @ network.A.T - network.b).abs().amax(1)
        return {"wrong": (digits != truth).any(1), "violation": violation, "mse": (x - targets).square().mean(1)}


def _norm(shift: Tensor) -> Tensor:
    """(B,) Euclidean norms, with the gradient zero at zero."""
    squared = shift.square().sum(1)
    return torch.where(squared > 0.0, squared, 1.0).sqrt() * (squared > 0.0)


def main(options: SudokuOptions) -> None:
    for model in options.models:
        if model == "relaxed" and options.task == "feasible":
            raise ValueError("models: relaxed is for the infeasible task")
        run(Sudoku(options, model), options)
    name = f"sudoku_{options.task}"
    rows = merge(options.out, name)
    title, label = f"4x4 Sudoku, {options.task}", "test MSE"
    path, levels = options.out / f"{name}.png", PUBLISHED[options.task]
    curves(path, series(rows, "mse"), title=title, xlabel="epoch", ylabel=label, levels=levels)
    if options.task == "infeasible":
        path = options.out / f"{name}_violation.png"
        label = "largest violation of A x = 1"
        curves(path, series(rows, "violation"), title=title, xlabel="epoch", ylabel=label)
    for line, points in series(rows, "wrong").items():
        last = [wrong if wrong >= 1 else 0 for _, wrong in points[-5:]]
        print(f"{line}: {sum(last):.0f} wrong boards in the last {len(last)} of {len(points)} tests")


if __name__ == "__main__":
    main(tyro.cli(SudokuOptions, description=__doc__))
