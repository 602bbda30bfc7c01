"""One training run from start to table, in its folder; what `qp-control train` and `replay` do."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from qp_control.mpc import MPC
from qp_control.settings import Settings
from qp_control.training import plots, tasks
from qp_control.training.baselines import evolution_strategy
from qp_control.training.evaluation import HELD_OUT_SEED, Evaluation, evaluate, starts
from qp_control.training.progress import results_table, training_progress
from qp_control.training.run_folder import RunError, RunFolder, read_metrics
from qp_control.training.trainer import Trainer, TrainingConfig, load_controller, many_small_problems
from qp_control.viewer import LiveViewer, write_replay


def train(
    task_name: str,
    path: Path,
    config: TrainingConfig,
    *,
    resume: bool = False,
    baselines: bool = True,
    held_out: int = 50,
    settings: Settings | None = None,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train in a new run folder, or with `resume` go on with the one that is there; compare, plot and write the replay.

    held_out: start states of the comparison. baselines: compare with the evolution strategy too, which takes as long as
    training did. settings: of the QP solver. Returns the rows of results.json.

    Raises ValueError for an unknown task, RunError for folders that cannot be used, TrainingError when
    training fails.
    """
    console = console or Console()
    task = tasks.create(task_name)
    resuming = resume and RunFolder.exists(path)
    if resuming:
        run = RunFolder.open(path)
        saved = run.config()
        wanted = {"task": task_name, "options": dataclasses.asdict(config)}
        if {key: saved[key] for key in wanted} != wanted:
            raise RunError(f"{str(path)!r} was begun with other options: {saved['options']} for {saved['task']}")
    else:
        run = RunFolder.create(path, task_name, dataclasses.asdict(config))
    trainer = Trainer(task, config, run, settings=settings)
    if resuming and run.checkpoint.is_file():
        trainer.resume()
        console.print(f"going on from iteration {trainer.iteration} of {config.iterations}", highlight=False)
    with training_progress(console, config.iterations, trainer.iteration) as progress:
        learned = trainer.train(progress.report)

    x0 = starts(task, held_out, HELD_OUT_SEED)
    before, after = _evaluate(task, task.controller(), x0), _evaluate(task, learned, x0)
    if after.rollout.failure is not None:
        run.save_failure(after.rollout.failure, trainer.iteration)
    rows = [
        _row("generic weights (before)", before, None),
        _row("hand-tuned weights", _evaluate(task, task.hand_tuned(), x0), None),
    ]
    if baselines:
        with console.status(f"(1+1) evolution strategy, {trainer.seconds:.0f} s"), many_small_problems():
            search = evolution_strategy(task, seconds=trainer.seconds, seed=config.seed)
        found = _evaluate(task, search.controller, x0)
        rows.append(_row("(1+1) evolution strategy, equal time", found, search.seconds))
    rows.append(_row("learned (after)", after, trainer.seconds))
    run.write_results(rows)
    plots.learning_curve(run.path / "learning_curve.png", read_metrics(run), task)
    plots.before_and_after(run.path / "before_and_after.png", task, before.rollout, after.rollout)
    _write_replay(run, task, after)
    console.print(results_table(rows, f"{task.name}, seed {config.seed}: {held_out} start states not trained on"))
    console.print(f"{run.path}: learning_curve.png, before_and_after.png, replay.html", highlight=False)
    return rows


def replay(path: Path) -> Path:
    """Rewrite replay.html of a run; returns its path. Raises RunError for a folder without a trained controller."""
    run, task, controller = _open(path)
    return _write_replay(run, task, _shown(run, task, controller, 1))


def play(path: Path, *, episodes: int = 3, open_browser: bool = True) -> None:
    """Show episodes of a run's controller in meshcat on 127.0.0.1, in real time."""
    run, task, controller = _open(path)
    viewer = LiveViewer(
        task.plant.urdf, scenery=task.plant.scenery(), camera=task.plant.camera(), open_browser=open_browser
    )
    try:
        print(viewer.url, flush=True)
        result = _shown(run, task, controller, episodes)
        for states in result.rollout.states:
            viewer.play(_times(task, len(states)), states.numpy())
    finally:
        viewer.close()


def _open(path: Path) -> tuple[RunFolder, tasks.TrainingTask, MPC]:
    run = RunFolder.open(path)
    try:
        task = tasks.create(run.config()["task"])
    except ValueError as error:
        raise RunError(f"{str(path)!r}: {error}") from error
    return run, task, load_controller(run, task)


def _evaluate(task: tasks.TrainingTask, controller: MPC, x0: torch.Tensor) -> Evaluation:
    with many_small_problems():
        return evaluate(task, controller, x0)


def _shown(run: RunFolder, task: tasks.TrainingTask, controller: MPC, episodes: int) -> Evaluation:
    """The first held-out episodes; a QP without an answer is kept in the run folder."""
    result = _evaluate(task, controller, starts(task, episodes, HELD_OUT_SEED))
    if result.rollout.failure is not None:
        path = run.save_failure(result.rollout.failure, 0)
        print(f"a QP had no answer{f'; it is in {str(path)!r}' if path else ''}", file=sys.stderr)
    return result


def _write_replay(run: RunFolder, task: tasks.TrainingTask, result: Evaluation) -> Path:
    states = result.rollout.states[0].numpy()
    try:
        return write_replay(
            run.replay,
            task.plant.urdf,
            _times(task, len(states)),
            states,
            scenery=task.plant.scenery(),
            camera=task.plant.camera(),
            title=f"{task.name}, learned",
        )
    except OSError as error:
        raise RunError(f"cannot write {str(run.replay)!r}: {error}") from error


def _times(task: tasks.TrainingTask, count: int) -> Any:
    return task.plant.control_period * np.arange(count)


def _row(name: str, result: Evaluation, seconds: float | None) -> dict[str, Any]:
    return {
        "controller": name,
        "success": result.success,
        "mean_return": result.mean_return,
        "seconds": seconds,
        "unsolved_share": result.rollout.unsolved_share,
        "infeasible_share": result.rollout.infeasible_share,
    }
