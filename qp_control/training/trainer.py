"""Training: imitation of the planner, then backpropagation of closed loops; resuming changes no number."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qp_control.exceptions import QPControlError
from qp_control.mpc import MPC
from qp_control.settings import Settings, Status
from qp_control.training import checkpoint, losses
from qp_control.training.checkpoint import Checkpoint, RunError
from qp_control.training.evaluation import VALIDATION_SEED, evaluate, starts
from qp_control.training.planner import Trajectories, experts
from qp_control.training.rollout import FailedProblem, closed_loop, failed_problem
from qp_control.training.run_folder import Metrics, RunFolder
from qp_control.training.tasks import TrainingTask

SETTLING_STEPS = 40  # control periods after which an expert must have arrived

Stage = Literal["imitation", "closed_loop"]


class TrainingError(QPControlError):
    """Training cannot go on. problem_path: where the QP it failed on was written, if it was."""

    def __init__(self, message: str, problem_path: Path | None = None) -> None:
        super().__init__(message)
        self.problem_path = problem_path


@dataclass(frozen=True)
class TrainingConfig:
    """Options of a training run."""

    seed: int = 0
    """Of the planner's and the training's start states."""
    imitation_iterations: int = 35
    """Updates from the planner's trajectories."""
    imitation_batch: int = 8
    """Trajectories per update."""
    imitation_steps: int = 50
    """Control periods along a trajectory."""
    imitation_rate: float = 0.15
    """Learning rate of Adam."""
    expert_count: int = 16
    """Trajectories the planner finds."""
    expert_steps: int = 50
    """Control periods the planner optimises over."""
    closed_loop_iterations: int = 20
    """Updates from closed loops."""
    closed_loop_batch: int = 8
    """Closed loops per update."""
    closed_loop_steps: int = 100
    """Control periods of a closed loop."""
    closed_loop_rate: float = 0.03
    """Learning rate of Adam."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    validate_every: int = 5
    """Iterations between validations; the best controller of all validations is kept."""
    validation_count: int = 16
    """Episodes of a validation."""
    patience: int = 10
    """Updates in a row that may fail before training stops."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("seed", "imitation_iterations", "closed_loop_iterations") else 1
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if field.name.endswith("_rate") or field.name == "clip":
                if not (number and 0.0 < value < float("inf")):
                    raise ValueError(f"{field.name} is {value!r}, expected a positive number")
            elif not (isinstance(value, int) and number and value >= least):
                raise ValueError(f"{field.name} is {value!r}, expected an integer >= {least}")

    @property
    def iterations(self) -> int:
        """Updates of both stages."""
        return self.imitation_iterations + self.closed_loop_iterations


@dataclass
class Best:
    """The best controller of all validations: more successes, then a higher return."""

    success: float
    mean_return: float
    parameters: dict[str, Tensor]


class Trainer:
    """Trains the controller of one task.

    run: where to put metrics, checkpoints and failures; None: nowhere. settings: of the controller's QP solver.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: TrainingConfig | None = None,
        run: RunFolder | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self.task, self.config, self.run = task, config or TrainingConfig(), run
        self.controller = task.controller(settings)
        self.iteration, self.seconds, self.skipped = 0, 0.0, 0
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.best: Best | None = None
        self.optimizer = self._new_optimizer(self.stage)
        self._experts: Trajectories | None = None

    @property
    def stage(self) -> Stage:
        """Of the next iteration."""
        return "imitation" if self.iteration < self.config.imitation_iterations else "closed_loop"

    def train(self, report: Callable[[dict[str, Any]], None] | None = None, until: int | None = None) -> MPC:
        """Go on to the end, or to the iteration `until`; returns the best controller found so far.

        report: called with every row of the metrics. Raises TrainingError when `patience` updates in a row
        failed, RunError where the run folder cannot be written.
        """
        end = self.config.iterations if until is None else min(until, self.config.iterations)
        metrics = None if self.run is None else Metrics(self.run, self.iteration)
        try:
            with many_small_problems():
                while self.iteration < end:
                    row = self._iterate()
                    if metrics is not None:
                        metrics.add(row)
                    if report is not None:
                        report(row)
                    if self.iteration % self.config.validate_every == 0 or self.iteration == end:
                        self.save()
        finally:
            if metrics is not None:
                metrics.close()
        learned = self.task.controller(self.controller.layer.settings)
        chosen = self.best.parameters if self.best else {n: p.detach() for n, p in self.controller.named_parameters()}
        checkpoint.load_parameters(learned, chosen, "the best validation")
        return learned

    def _iterate(self) -> dict[str, Any]:
        began = time.perf_counter()
        stage = self.stage
        if self.best is None:
            self._validate()
        self.optimizer.zero_grad()
        if stage == "imitation":
            loss, status, failure, control_steps = self._imitation_loss()
        else:
            loss, status, failure, control_steps = self._closed_loop_loss()
        norm = float("nan")
        if bool(loss.isfinite()):
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(self.controller.parameters(), self.config.clip))
        finite = norm == norm and norm != float("inf")
        path = None
        if failure is not None or not finite:
            path = self._save_failure(failure)
        if finite:
            self.optimizer.step()
        stepped = time.perf_counter() - began
        self.iteration += 1
        row: dict[str, Any] = {
            "iteration": self.iteration - 1,
            "stage": stage,
            "loss": float(loss.detach()),
            "gradient_norm": norm,
            "updated": int(finite),
            "unsolved_share": float((status > Status.CLOSEST_FEASIBLE).double().mean()),
            "infeasible_share": float((status == Status.CLOSEST_FEASIBLE).double().mean()),
            "steps_per_second": control_steps / stepped,
        }
        last_of_stage = self.iteration in (self.config.imitation_iterations, self.config.iterations)
        if self.iteration % self.config.validate_every == 0 or last_of_stage:
            row["validation_success"], row["validation_return"] = self._validate()
        if self.stage != stage and self.iteration < self.config.iterations:
            assert self.best is not None
            checkpoint.load_parameters(self.controller, self.best.parameters, "the best validation")
            self.optimizer = self._new_optimizer(self.stage)
        self.seconds += time.perf_counter() - began
        row["seconds"] = self.seconds
        # An update without any solved QP has a finite gradient, zero, and teaches nothing either.
        useless = not finite or row["unsolved_share"] == 1.0
        self.skipped = self.skipped + 1 if useless else 0
        if self.skipped >= self.config.patience:
            where = f"; the QP is in {str(path)!r}" if path else ""
            raise TrainingError(
                f"{self.skipped} updates in a row failed, the last one in iteration {self.iteration - 1} ({stage}, "
                f"loss {row['loss']:g}, {100 * row['unsolved_share']:.0f} % of the QPs without an answer){where}",
                path,
            )
        return row

    def _imitation_loss(self) -> tuple[Tensor, Tensor, FailedProblem | None, int]:
        c = self.config
        if self._experts is None:
            self._experts = self._plan()
        which = torch.randint(len(self._experts.cost), (c.imitation_batch,), generator=self.generator)
        loss, status, failure = losses.imitation(
            self.controller, self._experts[which], c.imitation_steps, self.task.state_scale
        )
        return loss, status, failure, c.imitation_batch * c.imitation_steps

    def _closed_loop_loss(self) -> tuple[Tensor, Tensor, FailedProblem | None, int]:
        c, plant = self.config, self.task.plant
        seed = int(torch.randint(2**20, 2**31, (), generator=self.generator))
        x0 = starts(self.task, c.closed_loop_batch, seed)
        rollout = closed_loop(self.controller, plant.step, x0, c.closed_loop_steps, reward=plant.reward)
        loss = losses.negative_return(rollout, self.task.barrier(rollout.states))
        return loss, rollout.status, rollout.failure, c.closed_loop_batch * c.closed_loop_steps

    def _plan(self) -> Trajectories:
        """The planner's trajectories that end near the reference, from starts that depend on the seed alone."""
        c, cost = self.config, self.task.planner_cost()
        generator = torch.Generator().manual_seed(c.seed)
        found = experts(
            self.task.model,
            starts(self.task, c.expert_count, 2**19 + c.seed),
            cost,
            steps=c.expert_steps,
            total_steps=max(c.expert_steps, c.imitation_steps + self.controller.horizon) + SETTLING_STEPS,
            generator=generator,
        )
        final = (found.states[:, -1] - cost.reference) / self.task.state_scale
        arrived = final.abs().amax(1) < 0.2
        if int(arrived.sum()) < max(1, c.expert_count // 4):
            raise TrainingError(
                f"only {int(arrived.sum())} of {c.expert_count} of the planner's trajectories arrive at the reference; "
                "more expert_steps may help"
            )
        return found[arrived]

    def _validate(self) -> tuple[float, float]:
        x0 = starts(self.task, self.config.validation_count, VALIDATION_SEED)
        result = evaluate(self.task, self.controller, x0)
        if result.rollout.failure is not None:
            self._save_failure(result.rollout.failure)
        score = (result.success, result.mean_return)
        if self.best is None or score > (self.best.success, self.best.mean_return):
            self.best = Best(*score, {n: p.detach().clone() for n, p in self.controller.named_parameters()})
        return score

    def _save_failure(self, failure: FailedProblem | None) -> Path | None:
        """Write the QP without an answer; without one (a gradient overflowed), the first QP of the iteration."""
        if self.run is None:
            return None
        if failure is None:
            x0 = starts(self.task, 1, VALIDATION_SEED)
            with torch.no_grad():
                failure = failed_problem(self.controller, x0, None, self.controller(x0), 0, 0)
        return self.run.save_failure(failure, self.iteration)

    def _new_optimizer(self, stage: Stage) -> torch.optim.Adam:
        """Adam over what the stage learns: the planner knows limits and model exactly, only the plant differs."""
        m, c = self.controller, self.config
        weights = [p for cost in (m.state_cost, m.input_cost, m.terminal_cost) for p in cost.parameters()]
        learned = weights if stage == "imitation" else list(m.parameters())
        chosen = {id(p) for p in learned}
        for parameter in m.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        return torch.optim.Adam(learned, lr=c.imitation_rate if stage == "imitation" else c.closed_loop_rate)

    def save(self) -> None:
        """Write the checkpoint; without a run folder nothing happens."""
        if self.run is None or self.best is None:
            return
        tensors = checkpoint.with_prefix("controller", dict(self.controller.named_parameters()))
        tensors |= checkpoint.with_prefix("best", self.best.parameters)
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= checkpoint.with_prefix(f"optimizer.{index}", moments)
        tensors["random_state"] = self.generator.get_state()
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "best_success": self.best.success,
            "best_return": self.best.mean_return,
        }
        checkpoint.write(self.run.checkpoint, Checkpoint(tensors, state))

    def resume(self) -> None:
        """Go back to the run's checkpoint. Raises RunError where it is missing, damaged or of another task."""
        assert self.run is not None
        source = str(self.run.checkpoint)
        saved = checkpoint.read(self.run.checkpoint)
        try:
            self.iteration = int(saved.state["iteration"])
            self.seconds, self.skipped = float(saved.state["seconds"]), int(saved.state["skipped"])
            best = checkpoint.part(saved, "best")
            self.best = Best(float(saved.state["best_success"]), float(saved.state["best_return"]), best)
            checkpoint.load_parameters(self.task.controller(), best, source)
            checkpoint.load_parameters(self.controller, checkpoint.part(saved, "controller"), source)
            self.generator.set_state(saved.tensors["random_state"])
            self.optimizer = self._new_optimizer(self.stage)
            whole = self.optimizer.state_dict()
            count = len(whole["param_groups"][0]["params"])
            moments = {i: checkpoint.part(saved, f"optimizer.{i}") for i in range(count)}
            whole["state"] = {i: m for i, m in moments.items() if m}
            self.optimizer.load_state_dict(whole)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{source!r} does not fit this run: {error}") from error


def load_controller(run: RunFolder, task: TrainingTask) -> MPC:
    """The best controller of a run. Raises RunError where there is none."""
    saved = checkpoint.read(run.checkpoint)
    controller = task.controller()
    checkpoint.load_parameters(controller, checkpoint.part(saved, "best"), repr(str(run.checkpoint)))
    return controller


@contextmanager
def many_small_problems() -> Iterator[None]:
    """One torch thread, and no warning for every batch with an unsolved QP: rollouts count and keep them.

    A controller's matrices are small: torch's threads would cost more than they bring and be in the solver's way.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*QPs have no solution")
            yield
    finally:
        torch.set_num_threads(before)
