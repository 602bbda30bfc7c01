"""One training run from start to table, in its folder; what `qp-control train`, `play` and `replay` do."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from qp_control.envs.base import look, moved_paths
from qp_control.settings import Settings
from qp_control.training import plots, tasks
from qp_control.training.baselines import evolution_strategy
from qp_control.training.checkpoint import RunError
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.options import TrainingOptions
from qp_control.training.process_group import process_group
from qp_control.training.progress import estimates_table, results_table, training_progress
from qp_control.training.run_folder import RunFolder, read_metrics
from qp_control.training.task import HELD_OUT_SEED, Score, TrainingTask
from qp_control.training.trainer import Report, Trainer, load_module, many_small_problems
from qp_control.viewer import LiveViewer


def train(
    task_name: str,
    path: Path,
    options: TrainingOptions | None = None,
    *,
    resume: bool = False,
    baselines: bool = True,
    held_out: int = 50,
    settings: Settings | None = None,
    console: Console | None = None,
    report: tuple[Report, ...] = (),
) -> list[dict[str, Any]]:
    """Train in a new run folder, or with `resume` continue the run in it; compare, plot and write the replay.

    held_out: samples of the comparison. baselines: compare with the evolution strategy too, which takes as long as
    training. settings: of the QP solver. report: called with every row of the metrics, for your own loggers.
    Returns the rows of results.json.

    Under torchrun all processes train together; only the first one writes, compares and plots; the others return no
    rows. Restarts need `resume` to continue from the last checkpoint.

    Raises ValueError for an unknown task, RunError for folders that cannot be used and missing packages, TrainingError
    if training fails.
    """
    with process_group() as group:
        console = (console or Console()) if group.first else Console(quiet=True)
        task = tasks.create(task_name, options)
        for package, extra in task.needs:
            if importlib.util.find_spec(package) is None:
                raise RunError(f"{task_name} needs {package}: pip install 'qp-control[{extra}]'")
        run, going_on = group.from_first(lambda: _run_folder(path, task, resume))
        trainer = Trainer(task, run, settings=settings)
        if going_on:
            trainer.resume()
            console.print(f"going on from iteration {trainer.iteration} of {trainer.iterations}", highlight=False)
        with training_progress(console, task, trainer.iterations, trainer.iteration) as progress:
            learned = trainer.train(progress.report, *report)
        if not group.first:
            return []
    rows, before, after = _compare(task, trainer, learned, held_out, baselines, console)
    if after.failure is not None:
        run.save_failure(after.failure, trainer.iteration)
    run.write_results(rows)
    with many_small_problems():
        estimates = task.estimates(learned)
    if estimates:
        run.write_estimates(estimates)
    written = [run.path / "learning_curve.png"]
    plots.learning_curve(written[0], read_metrics(run), task)
    written += task.pictures(run.path, before, after)
    console.print(results_table(rows, task, f"{task.name}, seed {task.options.seed}: {held_out} held-out samples"))
    if estimates:
        console.print(estimates_table(estimates))
    console.print(f"{run.path}: {', '.join(file.name for file in written)}", highlight=False)
    return rows


def _run_folder(path: Path, task: TrainingTask, resume: bool) -> tuple[RunFolder, bool]:
    """The folder to train in, a new one unless resumed, and whether it has a checkpoint to continue from."""
    wanted: dict[str, Any] = {"task": task.name, "options": dataclasses.asdict(task.options)}
    if not (resume and RunFolder.exists(path)):
        return RunFolder.create(path, task.name, wanted["options"]), False
    run = RunFolder.open(path)
    saved = run.config()
    if saved["task"] != task.name:
        raise RunError(f"{str(path)!r} was begun with another task: {saved['task']}, not {task.name}")
    before, now = saved["options"], wanted["options"]
    changed = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    if changed:
        what = ", ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in changed)
        raise RunError(f"{str(path)!r} was begun with other options: {what}")
    return run, run.checkpoint.is_file()


def replay(path: Path) -> Path:
    """Rewrite replay.html of a run; returns its path. Raises RunError for a folder without a trained controller."""
    run, task, controller = _open(path)
    return task.write_replay(run.replay, _shown(run, task, controller, 1).details)


def play(path: Path, *, episodes: int = 3, open_browser: bool = True) -> None:
    """Show episodes of a run's controller in meshcat on 127.0.0.1, in real time."""
    run, task, controller = _open(path)
    viewer = LiveViewer(task.plant.urdf, open_browser=open_browser, **look(task.plant))
    try:
        print(viewer.url, flush=True)
        for states in _shown(run, task, controller, episodes).details.rollout.states.numpy():
            robot, moved = states[:, : task.plant.dynamics.nx], moved_paths(task.plant, states)
            viewer.play(task.times(len(states)), robot, moved=moved)
    finally:
        viewer.close()


def _compare(
    task: TrainingTask, trainer: Trainer, learned: Any, count: int, baselines: bool, console: Console
) -> tuple[list[dict[str, Any]], Score, Score]:
    """Rows of the table on held-out samples, and the scores before and after training."""

    def score(module: Any) -> Score:
        with many_small_problems():
            return task.score(module, HELD_OUT_SEED, count)

    before, after, by_hand = score(task.module()), score(learned), task.hand_tuned()
    rows = [_row("before", before, None)]
    if by_hand is not None:
        rows.append(_row("tuned by hand", score(by_hand), None))
    rows += [_row(name, score(module), None) for name, module in task.others().items()]
    loss = task.search_loss() if baselines else None
    if loss is not None:
        with console.status(f"(1+1) evolution strategy, {trainer.seconds:.0f} s"), many_small_problems():
            found = evolution_strategy(
                task.module(), loss, seconds=trainer.seconds, seed=task.options.seed, step_size=task.search_step
            )
        rows.append(_row("(1+1) evolution strategy, equal time", score(found.module), found.seconds))
    rows.append(_row("learned", after, trainer.seconds))
    return rows, before, after


def _open(path: Path) -> tuple[RunFolder, ClosedLoopTask, Any]:
    run = RunFolder.open(path)
    config = run.config()
    try:
        task = tasks.create(config["task"], **config["options"])
    except (ValueError, TypeError) as error:
        raise RunError(f"{str(path)!r}: {error}") from error
    if not isinstance(task, ClosedLoopTask):
        raise RunError(f"{str(path)!r} is a run of {task.name}, which has no motion to show")
    return run, task, load_module(run, task)


def _shown(run: RunFolder, task: ClosedLoopTask, controller: Any, episodes: int) -> Score:
    """The first held-out episodes; a QP without an answer is saved in the run folder."""
    with many_small_problems():
        score = task.score(controller, HELD_OUT_SEED, episodes)
    if score.failure is not None:
        path = run.save_failure(score.failure, 0)
        print(f"a QP had no answer{f'; it is in {str(path)!r}' if path else ''}", file=sys.stderr)
    return score


def _row(name: str, score: Score, seconds: float | None) -> dict[str, Any]:
    return {"name": name, **score.values, "intervals": score.intervals, "seconds": seconds}
