"""Does a large learning rate end a run? Denoising and digits by plain gradient descent (section C.4 of the paper).

With large steps a learned QP becomes badly scaled and, if nothing keeps its constraints consistent, infeasible. A run
fails if a solver raises an error or a parameter is no longer finite; the number of elements without an answer, and of
runs that did not fail but ended with a training loss above the first, are reported as well. Learning rates of the
paper: 1e-4 to 1e-7 (denoising), 1e-2 to 1e-4 (digits), 30 epochs, 10 seeds.

    python examples/qplayer_paper/learning_rates.py --task digits
    python examples/qplayer_paper/learning_rates.py --task denoising --seeds 2 --samples 600
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from denoising import Denoising, DenoisingOptions
from digits import Digits, DigitsOptions
from learning import Options, Peer, run
from records import Row, curves, read_csv, report, series

RATES = {"denoising": (1e-4, 1e-5, 1e-6, 1e-7), "digits": (1e-2, 1e-3, 1e-4)}
# A run that diverges makes entries of 1e8 to 1e22 in H, with which products round to far more than 1e-6.
RELATIVE = 1e-6
Model = Literal["two_sided", "one_sided"]


@dataclass(frozen=True)
class RatesOptions:
    """Count runs that a large learning rate ends."""

    out: Path = Path("runs/qplayer_paper")
    """Folder of table and plot."""
    task: Literal["denoising", "digits"] = "digits"
    """What to learn."""
    rates: tuple[float, ...] = ()
    """Learning rates; the paper's if not given."""
    seeds: int = 10
    """Runs for each rate."""
    first_seed: int = 0
    """Of the first run: several processes can share the runs, and the counts in their tables add up."""
    epochs: int = 30
    """Passes over the training data."""
    samples: int | None = None
    """Use so many of the training samples; all if not given."""
    batch: int | None = None
    """Samples of a step; the paper's if not given. Seeds differ in the order of the samples: there should be more."""
    models: tuple[Model, ...] = ("two_sided", "one_sided")
    """Two-sided rows may come to contradict each other, one-sided ones (digits) not."""
    data: Path | None = None
    """Denoising: an npz file with noisy and clean signals; digits: a folder with MNIST's files."""
    peers: tuple[Peer, ...] = ()
    """Other layers to run."""
    peer_seeds: int = 1
    """Seeds below this are run with the peers as well, for as many epochs."""
    threads: int = 1
    """Of the solvers."""
    resume: bool = False
    """Go on after the last epoch of runs that are there."""


def task_of(options: RatesOptions, model: Model, rate: float, seed: int) -> tuple[Denoising | Digits, Options]:
    peers = options.peers if seed < options.peer_seeds else ()
    shared: dict[str, Any] = {
        "epochs": options.epochs, "rate": rate, "optimiser": "sgd", "seed": seed, "samples": options.samples,
        "peers": peers, "peer_epochs": options.epochs, "threads": options.threads, "relative": RELATIVE,
        "resume": options.resume,
        "out": options.out / f"learning_rates_{options.task}" / f"{rate:g}",
    }  # fmt: skip
    if options.batch is not None:
        shared["batch"] = options.batch
    task: Denoising | Digits
    if options.task == "denoising":
        settings = DenoisingOptions(data=options.data, **shared)
        # The same data for every seed, which is that of the order.
        task = Denoising(dataclasses.replace(settings, seed=0), model)
        return task, settings
    chosen = DigitsOptions(mnist=options.data, **shared)
    return Digits(chosen, model), chosen


def outcome_rows(options: RatesOptions, model: Model, rate: float) -> list[Row]:
    """A row per solver."""
    ends: dict[str, list[str]] = {}
    elements: dict[str, int] = {}
    unanswered: dict[str, int] = {}
    worse: dict[str, int] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        task, settings = task_of(options, model, rate, seed)
        for solver, end in run(task, settings, quiet=True).items():
            ends.setdefault(solver, []).append(end)
            path = settings.out / "runs" / f"{task.name}-{task.model}-{solver}-{seed}.csv"
            rows = [row for row in read_csv(path) if row.get("train_loss")] if path.exists() else []
            losses = [float(row["train_loss"]) for row in rows]
            elements[solver] = elements.get(solver, 0) + len(rows) * len(task.train[0])
            unanswered[solver] = unanswered.get(solver, 0) + sum(int(row["failures"]) for row in rows)
            worse[solver] = worse.get(solver, 0) + int(end == "finished" and not losses[-1] <= losses[0])
    return [
        {
            "task": options.task,
            "model": model.replace("_", "-"),
            "rate": rate,
            "solver": solver,
            "epochs": options.epochs,
            "runs": len(these),
            "failed": sum(end != "finished" for end in these),
            "elements": elements[solver],
            "unanswered": unanswered[solver],
            "ended worse": worse[solver],
            "how": next((end for end in these if end != "finished"), ""),
        }
        for solver, these in ends.items()
    ]


def training_losses(options: RatesOptions, rate: float) -> dict[str, list[tuple[float, float]]]:
    """Of the first seed, by solver, model and rate: a run that fails ends before the others."""
    runs = options.out / f"learning_rates_{options.task}" / f"{rate:g}" / "runs"
    paths = runs.glob(f"*-{options.first_seed}.csv")
    rows = [row for path in sorted(paths) for row in read_csv(path)]
    return {f"{name}, {rate:g}": points for name, points in series(rows, "train_loss").items()}


def main(options: RatesOptions) -> None:
    widths = {"task": 10, "model": 10, "rate": 8, "solver": 12, "epochs": 7, "runs": 5, "failed": 7, "elements": 9}
    widths |= {"unanswered": 11, "ended worse": 12, "how": 50}
    print(report.machine("proxsuite", "qpth", "torch", threads=options.threads))
    print(f"gradient descent, {options.epochs} epochs, {options.samples or 'all'} samples")
    table = report.Report(f"learning_rates_{options.task}", widths, options.out)
    for model in options.models:
        for rate in options.rates or RATES[options.task]:
            for row in outcome_rows(options, model, rate):
                table.add(row)
            report.write_csv(options.out / f"{table.name}.csv", table.rows)
    path = table.finish()
    lines: dict[str, list[tuple[float, float]]] = {}
    for rate in options.rates or RATES[options.task]:
        lines |= training_losses(options, rate)
    title = f"{options.task}: gradient descent with several rates, seed {options.first_seed}"
    curves(path.with_suffix(".png"), lines, title=title, xlabel="epoch", ylabel="training loss")


if __name__ == "__main__":
    main(tyro.cli(RatesOptions, description=__doc__))
