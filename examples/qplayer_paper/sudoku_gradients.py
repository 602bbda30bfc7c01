"""Are gradients through the linear programs of Sudoku derivatives? Compared with central differences during training.

At some steps of the first epoch of qp-control's training, the derivative of a batch's loss with respect to A along
random directions is computed by differences of the loss (our solver at a tolerance of 1e-10) and from each layer's
gradient at several tolerances. largest_error: over a few directions, relative to the largest difference (about 1 for
all layers if the loss jumps within a difference); other_sign: number of directions with the wrong sign; times_ours:
norm of the gradient divided by ours.

    python examples/qplayer_paper/sudoku_gradients.py --task infeasible --peers qplayer
    python examples/qplayer_paper/sudoku_gradients.py --task feasible --peers qplayer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import tyro
from layers import LAYERS
from learning import float64_default
from records import report
from sudoku import Sudoku, SudokuOptions
from torch import Tensor

WIDTHS = {"task": 11, "step": 5, "solver": 11, "eps": 8, "largest_error": 13, "other_sign": 10, "times_ours": 10}
EXACT = 1e-10


@dataclass(frozen=True)
class GradientOptions(SudokuOptions):
    """Compare gradients with differences."""

    at: tuple[int, ...] = (0, 1, 4, 10, 12, 16, 20)
    """Steps of the first epoch."""
    directions: int = 4
    """Random ones, at each step."""
    tolerances: tuple[float, ...] = (1e-6, 1e-7, 1e-9)
    """Of the layers."""


def main(options: GradientOptions) -> None:
    torch.set_num_threads(options.threads)
    print(report.machine("proxsuite", "torch", threads=options.threads))
    table = report.Report(f"sudoku_gradients_{options.task}", WIDTHS, options.out)
    task = Sudoku(options, "linear_program")

    def loss(network: Any, solver: str, eps: float, rows: Tensor) -> Tensor:
        layer = LAYERS[solver](eps=eps, threads=options.threads, closest=task.closest)
        inputs, targets = (data[rows] for data in task.train)
        return task.losses(layer.solve(task.problem(network, inputs)), targets).mean()

    with float64_default():
        torch.manual_seed(options.seed)
        network = task.network()
        optimiser = torch.optim.Adam(network.parameters(), lr=options.rate)
        generator = torch.Generator().manual_seed(options.seed)
        batches = torch.randperm(len(task.train[0]), generator=generator).split(options.batch)
        for step in range(max(options.at) + 1):
            rows = batches[step]

            def gradient(solver: str, eps: float, rows: Tensor = rows) -> Tensor:
                return torch.autograd.grad(loss(network, solver, eps, rows), network.A)[0]

            if step in options.at:
                along = [torch.randn(network.A.shape, generator=generator) for _ in range(options.directions)]
                differences = torch.tensor(
                    [difference(network, d, lambda r=rows: loss(network, "qp-control", EXACT, r)) for d in along]
                )
                ours = gradient("qp-control", EXACT)
                for solver in ("qp-control", *options.peers):
                    for eps in options.tolerances:
                        found = gradient(solver, eps)
                        slopes = torch.stack([(found * d).sum() for d in along])
                        table.add({
                            "task": options.task, "step": step, "solver": LAYERS[solver].name, "eps": eps,
                            "largest_error": float((slopes - differences).abs().max() / differences.abs().max()),
                            "other_sign": int((slopes * differences < 0.0).sum()),
                            "times_ours": float(found.norm() / ours.norm()),
                        })  # fmt: skip
            optimiser.zero_grad()
            loss(network, "qp-control", options.residual, rows).backward()
            optimiser.step()
    table.finish()


@torch.no_grad()
def difference(network: Any, direction: Tensor, loss: Any, h: float = 1e-7) -> float:
    """Of the loss along a direction of A, central."""
    kept, values = network.A.clone(), []
    for sign in (1.0, -1.0):
        network.A.copy_(kept + sign * h * direction)
        values.append(float(loss()))
    network.A.copy_(kept)
    return (values[0] - values[1]) / (2.0 * h)


if __name__ == "__main__":
    main(tyro.cli(GradientOptions, description=__doc__))
