"""The loop of the learning experiments: epochs over shuffled batches, a row and a checkpoint after each.

A run is one task (data, network, QP, loss) with one solver. Before it starts, the solver gets the loosest tolerance, at
most the bar itself, with which the largest residual over the first batches, recomputed from the data, is within the
bar, so that all solvers are equally accurate. Rows contain the largest residual over all elements of the epoch, the
number of elements without an answer (which are left out of the loss), and the median time of a batch, forward (network
and QP) and backward, as process and as wall time.
"""

from __future__ import annotations

import statistics
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from layers import LAYERS, Answer, Layer, Problem, residuals
from records import Row, read_csv, report
from torch import Tensor

Peer = Literal["qplayer", "qpth"]


@dataclass(frozen=True)
class Options:
    """Options that every learning experiment has."""

    out: Path = Path("runs/qplayer_paper")
    """Folder of tables, plots and checkpoints."""
    epochs: int = 20
    """Passes over the training data."""
    batch: int = 150
    """Samples of a step."""
    rate: float = 5e-2
    """Learning rate."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Steps of Adam, or of plain gradient descent."""
    seed: int = 0
    """Of initial parameters and order of the samples, and of data that is generated."""
    samples: int | None = None
    """Use so many of the training samples, and a ninth of that for the test; all if not given."""
    residual: float = 1e-6
    """Largest residual that a solver may leave, recomputed from the data."""
    relative: float = 0.0
    """Of our layer: a residual of so much of the terms that it is the sum of is good enough, too."""
    peers: tuple[Peer, ...] = ()
    """Other layers to run, as far as they can express the problem: qplayer (proxsuite), qpth (OptNet)."""
    peer_epochs: int = 1
    """Epochs of the peers, which are slow."""
    peer_batches: int | None = None
    """Take only so many steps with the peers, for their time and residual, without a test."""
    threads: int = 1
    """Of the solvers and of torch."""
    resume: bool = False
    """Go on after the last epoch of runs that are there."""


class Task(ABC):
    """Data, network, QP and loss. `worst`: measures whose largest value over the samples counts; `total`: sums."""

    name: str
    model: str
    closest = False
    worst: tuple[str, ...] = ()
    total: tuple[str, ...] = ()
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """A new one, float64."""

    @abstractmethod
    def problem(self, network: torch.nn.Module, inputs: Tensor) -> Problem: ...

    @abstractmethod
    def losses(self, answer: Answer, targets: Tensor) -> Tensor:
        """(B,) per sample."""

    def measures(self, network: torch.nn.Module, answer: Answer, targets: Tensor) -> dict[str, Tensor]:
        """(B,) per test sample, beside the loss."""
        return {}

    def expressible(self, layer: str) -> bool:
        """Whether the peer can take the problem."""
        return True


@contextmanager
def float64_default() -> Iterator[None]:
    """QPLayer's gradients come in torch's default type: with this one they are not rounded to float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Diverged(ArithmeticError):
    """A parameter is no longer finite, or no element of a batch has an answer: there is no loss."""


def run(task: Task, options: Options, *, quiet: bool = False) -> dict[str, str]:
    """Our layer on all epochs, then the peers on their part; rows go to OUT/runs.

    Returns:
        By solver how it ended: "finished", or what went wrong. Only errors of our layer are raised, unless they are a
        divergence.
    """
    outcomes = {}
    torch.set_num_threads(options.threads)
    if not quiet:
        print(report.machine("proxsuite", "qpth", "torch", threads=options.threads))
    for name in ("qp-control", *options.peers):
        if not task.expressible(name):
            if not quiet:
                print(f"{task.name}, {task.model}: {LAYERS[name].name} cannot express this")
            continue
        try:
            with float64_default(), warnings.catch_warnings():
                # A few elements without an answer are counted, not warned of.
                warnings.simplefilter("ignore", RuntimeWarning)
                _Run(task, options, name, quiet).go()
            outcomes[name] = "finished"
        except ImportError as error:
            print(f"not compared: {LAYERS[name].name} ({error})")
        except Diverged as error:
            outcomes[name] = str(error)
        except Exception as error:
            if name == "qp-control":
                raise
            outcomes[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        if outcomes.get(name, "finished") != "finished":
            print(f"{LAYERS[name].name}, {task.model}: {outcomes[name]}", flush=True)
    return outcomes


class _Run:
    def __init__(self, task: Task, options: Options, solver: str, quiet: bool) -> None:
        self.task, self.options, self.quiet = task, options, quiet
        ours = solver == "qp-control"
        self.layer: Layer = LAYERS[solver](relative=options.relative, threads=options.threads, closest=task.closest)
        self.epochs = options.epochs if ours else options.peer_epochs
        self.batches = None if ours else options.peer_batches
        torch.manual_seed(options.seed)
        self.network = task.network()
        kind = torch.optim.Adam if options.optimiser == "adam" else torch.optim.SGD
        self.optimiser = kind(self.network.parameters(), lr=options.rate)
        model = task.model.replace(" ", "_").replace(",", "")
        self.path = options.out / "runs" / f"{task.name}-{model}-{solver}-{options.seed}.csv"

    def go(self) -> None:
        rows = self._resumed() if self.options.resume else []
        if rows and int(str(rows[-1]["epoch"])) >= self.epochs:
            return
        self.layer.eps = self._tolerance()
        if not rows:
            rows.append(self._start() | self._test_row())
            report.write_csv(self.path, rows)
        for epoch in range(len(rows), self.epochs + 1):
            rows.append(self._epoch(epoch) | self._test_row())
            report.write_csv(self.path, rows)
            state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "epoch": epoch}
            torch.save(state, self.path.with_suffix(".pt"))
            if self.quiet:
                continue
            told = ", ".join(f"{key} {report.written(value)}" for key, value in rows[-1].items() if key not in _TOLD)
            print(f"{self.layer.name}, {self.task.model}: {told}", flush=True)

    def _resumed(self) -> list[Row]:
        checkpoint = self.path.with_suffix(".pt")
        if not (self.path.exists() and checkpoint.exists()):
            return []
        state = torch.load(checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        return [dict(row) for row in read_csv(self.path) if int(row["epoch"]) <= state["epoch"]]

    def _order(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(100_003 * self.options.seed + epoch)
        batches = torch.randperm(len(self.task.train[0]), generator=generator).split(self.options.batch)
        return list(batches[: self.batches])

    @torch.no_grad()
    def _tolerance(self) -> float:
        """The loosest one that keeps the first batches within the bar; the best of them where none does."""
        problems = [self.task.problem(self.network, self.task.train[0][rows]) for rows in self._order(1)[:2]]
        reached: dict[float, float] = {}
        for eps in (self.options.residual * 10.0**-k for k in range(5)):
            self.layer.eps = eps
            reached[eps] = max(float(residuals(problem, self.layer.solve(problem)).max()) for problem in problems)
            if reached[eps] <= self.options.residual:
                return eps
        return min(reached, key=lambda eps: reached[eps])

    def _start(self) -> Row:
        options = self.options
        return {
            "solver": self.layer.name,
            "model": self.task.model,
            "seed": options.seed,
            "threads": options.threads,
            "eps": self.layer.eps,
            "epoch": 0,
            "steps": 0,
        }

    def _epoch(self, epoch: int) -> Row:
        clocks = (time.process_time, time.perf_counter)
        times: list[list[float]] = []
        total, count, failures, worst = 0.0, 0, 0, 0.0
        batches = self._order(epoch)
        for rows in batches:
            inputs, targets = (data[rows] for data in self.task.train)
            start = [clock() for clock in clocks]
            problem = self.task.problem(self.network, inputs)
            whole = self.layer.solve(problem)
            middle = [clock() for clock in clocks]
            answer = whole.without_failures()
            failures += int(whole.failed.sum())
            if not len(answer.x):
                raise Diverged(f"no element has an answer in step {len(times) + 1} of epoch {epoch}")
            losses = self.task.losses(answer, targets[~whole.failed])
            self.optimiser.zero_grad()
            before = [clock() for clock in clocks]
            losses.mean().backward()
            after = [clock() for clock in clocks]
            # Before the step, which changes the parameters in the problem.
            worst = max(worst, float(residuals(problem, whole)[~whole.failed].max()))
            self.optimiser.step()
            if not all(p.isfinite().all() for p in self.network.parameters()):
                raise Diverged(f"parameters are not finite after step {len(times) + 1} of epoch {epoch}")
            total, count = total + float(losses.detach().sum()), count + len(losses)
            times.append([1e3 * (m - s) for s, m in zip(start, middle, strict=True)])
            times[-1] += [1e3 * (a - b) for b, a in zip(before, after, strict=True)]
        row = self._start() | {"epoch": epoch, "steps": epoch * len(batches)}
        row |= {"train_loss": total / count, "residual": worst, "failures": failures}
        names = ("forward_cpu_ms", "forward_ms", "backward_cpu_ms", "backward_ms")
        medians = [statistics.median(values) for values in zip(*times, strict=True)]
        return row | dict(zip(names, medians, strict=True))

    def _test_row(self) -> Row:
        return self._tested() if self.batches is None else {}

    @torch.no_grad()
    def _tested(self) -> Row:
        task, found = self.task, dict[str, list[Tensor]]()
        failures = 0
        self.network.eval()
        for inputs, targets in zip(*(data.split(self.options.batch) for data in task.test), strict=True):
            whole = self.layer.solve(task.problem(self.network, inputs))
            answer, targets = whole.without_failures(), targets[~whole.failed]
            failures += int(whole.failed.sum())
            measures = {"test_loss": task.losses(answer, targets)} | task.measures(self.network, answer, targets)
            for name, values in measures.items():
                found.setdefault(name, []).append(values)
        self.network.train()
        row: Row = {"test_failures": failures}
        for name, parts in found.items():
            values = torch.cat(parts).double()
            if name in task.worst:
                row[name] = float(values.max()) if len(values) else float("nan")
            else:
                row[name] = float(values.sum() if name in task.total else values.mean())
        return row


_TOLD = ("solver", "model", "seed", "threads", "forward_ms", "backward_ms")
