"""Training: the phases of a task, one after the other; resumed runs give identical numbers."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qp_control.exceptions import TrainingError
from qp_control.settings import Settings, Status
from qp_control.training import checkpoint
from qp_control.training.batch_parts import descend
from qp_control.training.checkpoint import Checkpoint, RunError
from qp_control.training.phase import FailedProblem, Phase
from qp_control.training.process_group import Group
from qp_control.training.run_folder import Metrics, RunFolder
from qp_control.training.task import VALIDATION_SEED, Score, TrainingTask

LEAST_PACE = 1.0 / 8.0  # a run that starts near its best goes back often, for little reason

Report = Callable[[dict[str, Any]], None]


@dataclass
class Best:
    """The best module of all validations."""

    rank: tuple[float, ...]
    parameters: dict[str, Tensor]


class Trainer:
    """Trains the module of one task.

    run: where to write metrics, checkpoints and failures; None: nowhere. settings: of the QP solver.

    In a process group of torch.distributed the processes train together: each computes its parts of every batch, and
    the first one validates and writes. All have to make the same calls.
    """

    def __init__(self, task: TrainingTask, run: RunFolder | None = None, *, settings: Settings | None = None) -> None:
        self.group = Group.current()
        self.parts = task.options.parts or self.group.size
        self.task, self.options, self.run, self.settings = task, task.options, run, settings
        self.module: Any = task.module(settings)
        self.learnable = [p for p in self.module.parameters() if p.requires_grad]
        self.phases = task.phases()
        self.iteration, self.seconds, self.skipped, self.stale, self.returns = 0, 0.0, 0, 0, 0
        self.generator = torch.Generator().manual_seed(self.options.seed)
        self.best: Best | None = None
        self.first: float | None = None  # result of the first validation
        self._open()

    @property
    def iterations(self) -> int:
        """Updates of all phases."""
        return sum(phase.iterations for phase in self.phases)

    def _place(self) -> tuple[Phase, int]:
        """The phase of the next iteration, and the number of its iterations already done."""
        done = self.iteration
        for phase in self.phases:
            if done < phase.iterations:
                return phase, done
            done -= phase.iterations
        return self.phases[-1], self.phases[-1].iterations

    @property
    def phase(self) -> Phase:
        """The phase of the next iteration."""
        return self._place()[0]

    def train(self, *report: Report, until: int | None = None) -> Any:
        """Train to the end, or to the iteration `until`; returns the best module found so far.

        report: each is called with every row of the metrics. Raises TrainingError if `patience` updates in a row fail,
        RunError if the run folder cannot be written.
        """
        end = self.iterations if until is None else min(until, self.iterations)
        columns = tuple(f"validation_{name}" for name in self.task.metrics)
        metrics = None if self.run is None or not self.group.first else Metrics(self.run, columns, self.iteration)
        try:
            with many_small_problems():
                while self.iteration < end:
                    row = self._iterate()
                    if metrics is not None:
                        metrics.add(row)
                    for call in report:
                        call(row)
                    if self.iteration % self.options.validate_every == 0 or self.iteration >= end:
                        self.save()
        finally:
            if metrics is not None:
                metrics.close()
        learned = self.task.module(self.settings)
        chosen = self.best.parameters if self.best else {n: p.detach() for n, p in self.module.named_parameters()}
        checkpoint.load_parameters(learned, chosen, "the best validation")
        return learned

    def _iterate(self) -> dict[str, Any]:
        began = time.perf_counter()
        phase, done = self._place()
        if self.best is None:
            self._validate()
        phase.schedule(self.optimizer, done)
        update, norm = descend(
            phase, self.module, self.optimizer, self.options.clip, self.generator, self.parts, self.group
        )
        finite = math.isfinite(norm)
        path = None
        if update.failure is not None or not finite:
            path = self._save_failure(update.failure)
        if finite:
            self.optimizer.step()
            self.group.as_first([p for group in self.optimizer.param_groups for p in group["params"]])
        stepped = time.perf_counter() - began
        self.iteration += 1
        row: dict[str, Any] = {
            "iteration": self.iteration - 1,
            "phase": phase.name,
            "loss": update.loss,
            "gradient_norm": norm,
            "pace": phase.pace,
            "updated": int(finite),
            "unsolved_share": float((update.status > Status.CLOSEST_FEASIBLE).double().mean()),
            "infeasible_share": float((update.status == Status.CLOSEST_FEASIBLE).double().mean()),
            "weakly_active_share": update.weakly_active_share,
            "steps_per_second": update.steps / stepped,
        }
        ends = done + 1 == phase.iterations
        if self.iteration % self.options.validate_every == 0 or ends:
            score = self._validate()
            assert self.best is not None and self.first is not None
            row |= {f"validation_{name}": score.values[name] for name in self.task.metrics}
            if not ends and self.stale >= self.options.stop_after:
                self.iteration += phase.iterations - done - 1
                ends = True
            elif not ends and phase.lost(score.rank[-1], self.first, self.best.rank[-1]):
                self._go_back()
        if ends and self.iteration < self.iterations:
            if self.phase.from_best:
                assert self.best is not None
                checkpoint.load_parameters(self.module, self.best.parameters, "the best validation")
            self._open()
        self.seconds += time.perf_counter() - began
        row["seconds"] = self.seconds
        # An update without any solved QP has a gradient of zero, which is finite but useless.
        useless = not finite or row["unsolved_share"] == 1.0
        self.skipped = self.skipped + 1 if useless else 0
        if self.skipped >= self.options.patience:
            where = f"; the QP is in {str(path)!r}" if path else ""
            raise TrainingError(
                f"{self.skipped} updates in a row failed, the last one in iteration {row['iteration']} ({phase.name}, "
                f"loss {row['loss']:g}, {100 * row['unsolved_share']:.0f} % of the QPs without an answer){where}",
                path,
            )
        return row

    def _open(self) -> None:
        """Start the phase of the next iteration, with a new optimiser for its parameters."""
        phase, self.stale = self.phase, 0
        self._slow_down(0)
        for parameter in self.learnable:
            parameter.requires_grad_()
        learned = phase.parameters(self.module)
        chosen = {id(p) for p in learned}
        for parameter in self.learnable:
            parameter.requires_grad_(id(parameter) in chosen)
        self.optimizer = phase.optimizer(learned)

    def _slow_down(self, returns: int) -> None:
        """Set the number of times that the phase has gone back to the best module."""
        self.returns = returns
        self.phase.pace = max(0.5**returns, LEAST_PACE)

    def _go_back(self) -> None:
        """Return to the best module, with half the learning rate and a reset optimiser."""
        assert self.best is not None
        checkpoint.load_parameters(self.module, self.best.parameters, "the best validation")
        for parameter in self.learnable:
            self.optimizer.state.pop(parameter, None)
        self._slow_down(self.returns + 1)

    def _validate(self) -> Score:
        score = self.group.from_first(self._score)
        if score.failure is not None:
            self._save_failure(score.failure)
        if self.first is None:
            self.first = score.rank[-1]
        better = self.best is None or score.rank > self.best.rank
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best = Best(score.rank, {n: p.detach().clone() for n, p in self.module.named_parameters()})
        return score

    def _score(self) -> Score:
        score = self.task.score(self.module, VALIDATION_SEED, self.options.validation_count)
        return dataclasses.replace(score, details=None)  # pictures are made from other scores

    def _save_failure(self, failure: FailedProblem | None) -> Path | None:
        """Write the QP without an answer; without one (a gradient overflowed), the first QP of the task."""
        if self.run is None or not self.group.first:
            return None
        failure = failure or self.task.first_problem(self.module)
        return None if failure is None else self.run.save_failure(failure, self.iteration)

    def save(self) -> None:
        """Write the checkpoint; does nothing without a run folder."""
        if self.run is None or self.best is None or not self.group.first:
            return
        tensors = checkpoint.with_prefix("module", dict(self.module.named_parameters()))
        tensors |= checkpoint.with_prefix("best", self.best.parameters)
        tensors |= checkpoint.with_prefix("memory", self.phase.memory())
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= checkpoint.with_prefix(f"optimizer.{index}", moments)
        tensors["random_state"] = self.generator.get_state()
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "stale": self.stale,
            "parts": self.parts,
            "returns": self.returns,
            "first": self.first,
            "best_rank": list(self.best.rank),
        }
        checkpoint.write(self.run.checkpoint, Checkpoint(tensors, state))

    def resume(self) -> None:
        """Continue from the run's checkpoint. Raises RunError if it is missing, damaged or of another task.

        Batches keep the number of parts they had before, regardless of the current number of processes.
        """
        assert self.run is not None
        path = self.run.checkpoint
        source = str(path)
        saved = self.group.from_first(lambda: checkpoint.read(path))
        try:
            self.iteration = int(saved.state["iteration"])
            best = checkpoint.part(saved, "best")
            checkpoint.load_parameters(self.task.module(), best, source)
            checkpoint.load_parameters(self.module, checkpoint.part(saved, "module"), source)
            self.best = Best(tuple(float(value) for value in saved.state["best_rank"]), best)
            self.generator.set_state(saved.tensors["random_state"])
            self._open()
            self.seconds, self.skipped = float(saved.state["seconds"]), int(saved.state["skipped"])
            self.stale, self.parts = int(saved.state["stale"]), int(saved.state["parts"])
            self.first = float(saved.state["first"])
            self._slow_down(int(saved.state["returns"]))
            self.phase.remember(checkpoint.part(saved, "memory"))
            whole = self.optimizer.state_dict()
            count = sum(len(group["params"]) for group in whole["param_groups"])
            moments = {i: checkpoint.part(saved, f"optimizer.{i}") for i in range(count)}
            whole["state"] = {i: m for i, m in moments.items() if m}
            self.optimizer.load_state_dict(whole)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{source!r} does not fit this run: {error}") from error


def load_module(run: RunFolder, task: TrainingTask) -> Any:
    """The best module of a run. Raises RunError if there is none."""
    saved = checkpoint.read(run.checkpoint)
    module = task.module()
    checkpoint.load_parameters(module, checkpoint.part(saved, "best"), repr(str(run.checkpoint)))
    return module


@contextmanager
def many_small_problems() -> Iterator[None]:
    """One torch thread, and no warning for every batch with an unsolved QP: rollouts count and save them.

    A controller's matrices are small: torch's threads would cost more than they save and compete with the solver's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*QPs have no solution")
            yield
    finally:
        torch.set_num_threads(before)
