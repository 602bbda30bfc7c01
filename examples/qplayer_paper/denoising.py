"""Signal denoising by a QP layer all of whose data are learned (sections 4 and C.3 of the paper).

    minimise    1/2 v'H v + (g - [signal; 0])'v        v = (x, t), 100 + 99 numbers
    subject to  l <= C v <= u                           198 rows

H = L'L, g, C, l and u are learned by Adam; the loss is the squared error of x summed over a signal. Learning starts
from total variation, 1/2 |x - signal|^2 + strength sum |x_(i+1) - x_i|, written with t >= |D x|. There are two models:
one-sided rows C v <= u with positive definite H, which all solvers can take; and the paper's, with two-sided rows,
where the lower bounds (initially far below) are learned as well and H may be singular.

Signals are piecewise constant with a random number of jumps and integer heights, plus Gaussian noise: generated with
the statistics of those published by OptNet, or read from a file (arrays noisy and clean, the last tenth is the test
set). For comparison: the test loss of total variation for a list of strengths, the best of which is what tuning by hand
achieves.

    python examples/qplayer_paper/denoising.py
    python examples/qplayer_paper/denoising.py --data FILE.npz --epochs 5 --peers qplayer qpth --peer-batches 5
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from layers import Answer, Problem, QpControl
from learning import Options, Task, run
from records import curves, merge, report, series
from torch import Tensor

N, LENGTH, NOISE = 10_000, 100, 10.0
JUMPS = LENGTH - 1
FAR = 1e3  # [signal units] more than any row of C v can reach below its upper bound
PUBLISHED = {"paper's QPLayer, final": 3281.8, "paper's OptNet, final": 3529.2}
Model = Literal["two_sided", "one_sided"]


@dataclass(frozen=True)
class DenoisingOptions(Options):
    """Learn to take noise from signals."""

    rate: float = 1e-5
    """Learning rate."""
    models: tuple[Model, ...] = ("two_sided", "one_sided")
    """two_sided: the paper's, for solvers with l <= C v <= u and singular H; one_sided: what all solvers can do."""
    strength: float = 13.0
    """Of the total variation that learning starts from; 13 is what OptNet's authors had tuned."""
    strengths: tuple[float, ...] = (5.0, 10.0, 13.0, 16.0, 20.0, 25.0, 30.0)
    """To compare with, by hand."""
    data: Path | None = None
    """An npz file with noisy and clean signals instead of generated ones."""


def signals(number: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(number, 100) noisy and clean: 1 to 9 pieces, any number as likely, of heights 10 to 99, with jumps anywhere."""
    rng = np.random.default_rng(seed)
    clean = np.empty((number, LENGTH))
    for signal in clean:
        ends = np.sort(rng.choice(np.arange(1, LENGTH - 1), rng.integers(0, 9), replace=False))
        signal[:] = np.repeat(rng.integers(10, 100, len(ends) + 1), np.diff([0, *ends, LENGTH]))
    return clean + NOISE * rng.normal(size=clean.shape), clean


def total_variation(strength: float, slack_cost: float) -> dict[str, Tensor]:
    """L, g, C and u of 1/2 |x|^2 + slack_cost/2 |t|^2 + strength sum t, t >= |D x|."""
    D = np.diff(np.eye(LENGTH), axis=0)
    eye = np.eye(JUMPS)
    values = {
        "L": np.diag(np.concatenate([np.ones(LENGTH), np.full(JUMPS, np.sqrt(slack_cost))])),
        "g": np.concatenate([np.zeros(LENGTH), np.full(JUMPS, strength)]),
        "C": np.block([[D, -eye], [-D, -eye]]),
        "u": np.zeros(2 * JUMPS),
    }
    return {name: torch.tensor(value) for name, value in values.items()}


class Filter(torch.nn.Module):
    """All numbers of the QP as parameters; l is absent where rows are one-sided."""

    def __init__(self, model: Model, strength: float) -> None:
        super().__init__()
        # qpth factors H: the slacks get a small cost of their own.
        start = total_variation(strength, 0.0 if model == "two_sided" else 1e-4)
        self.L, self.g, self.C, self.u = (torch.nn.Parameter(start[name]) for name in "LgCu")
        self.l = torch.nn.Parameter(self.u.detach() - FAR) if model == "two_sided" else None

    def forward(self, noisy: Tensor) -> Problem:
        linear = torch.cat([self.g[:LENGTH] - noisy, self.g[LENGTH:].expand(len(noisy), -1)], 1)
        return Problem(linear, self.L.T @ self.L, C=self.C, l=self.l, u=self.u)


class Denoising(Task):
    name = "denoising"

    def __init__(self, options: DenoisingOptions, model: Model) -> None:
        self.kind, self.strength = model, options.strength
        self.model = model.replace("_", "-")
        self.train, self.test = data(options)

    def network(self) -> Filter:
        return Filter(self.kind, self.strength)

    def expressible(self, layer: str) -> bool:
        return layer != "qpth" or self.kind == "one_sided"

    def problem(self, network: torch.nn.Module, inputs: Tensor) -> Problem:
        problem: Problem = network(inputs)
        return problem

    def losses(self, answer: Answer, targets: Tensor) -> Tensor:
        return (answer.x[:, :LENGTH] - targets).square().sum(1)


def data(options: DenoisingOptions) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test signals: noisy and clean."""
    if options.data is None:
        number = N if options.samples is None else -(-10 * options.samples // 9)
        noisy, clean = signals(number, options.seed)
    else:
        with np.load(options.data, allow_pickle=False) as file:
            noisy, clean = file["noisy"].astype(np.float64), file["clean"].astype(np.float64)
    tests = max(1, len(noisy) // 10)
    x, y = torch.tensor(noisy), torch.tensor(clean)
    return (x[:-tests][: options.samples], y[:-tests][: options.samples]), (x[-tests:], y[-tests:])


@torch.no_grad()
def by_hand(options: DenoisingOptions) -> dict[float, float]:
    """Test loss of total variation by its strength."""
    _, (noisy, clean) = data(options)
    found = {}
    for strength in options.strengths:
        answer = QpControl(threads=options.threads).solve(Filter("two_sided", strength)(noisy))
        found[strength] = float((answer.x[:, :LENGTH] - clean).square().sum(1).mean())
        print(f"total variation of strength {strength:g}: test loss {report.written(found[strength])}")
    return found


def main(options: DenoisingOptions) -> None:
    tuned = by_hand(options)
    report.write_csv(
        options.out / "denoising_by_hand.csv", [{"strength": key, "test_loss": value} for key, value in tuned.items()]
    )
    for model in options.models:
        run(Denoising(options, model), options)
    rows = merge(options.out, "denoising")
    levels = PUBLISHED | {"total variation, best by hand": min(tuned.values())}
    curves(
        options.out / "denoising.png",
        series(rows, "test_loss"),
        title="Denoising: squared error of a test signal",
        xlabel="epoch",
        ylabel="test loss",
        levels=levels,
    )


if __name__ == "__main__":
    main(tyro.cli(DenoisingOptions, description=__doc__))
