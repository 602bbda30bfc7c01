"""Pictures of a run: the learning curve, and states and inputs before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qp_control.training.checkpoint import RunError
from qp_control.training.rollout import Rollout
from qp_control.training.tasks import TrainingTask

BEFORE, AFTER, THIRD = "#9aa0a6", "#1a73e8", "#188038"


def learning_curve(path: Path, rows: list[dict[str, str]], task: TrainingTask) -> Path:
    """Loss per iteration and the validations' return and success; rows: of metrics.csv. Returns the path."""
    figure = Figure(figsize=(8.0, 6.4), layout="constrained")
    loss, gain = figure.subplots(2, 1, sharex=True)
    iteration = np.array([int(row["iteration"]) for row in rows])
    for stage, color in (("imitation", THIRD), ("closed_loop", AFTER)):
        chosen = [row["stage"] == stage for row in rows]
        if any(chosen):
            values = np.array([float(row["loss"]) for row in rows])[chosen]
            axis = loss if stage == "imitation" else loss.twinx()
            axis.plot(iteration[chosen], values, color=color, marker=".", label=stage.replace("_", " "))
            axis.set_ylabel("imitation loss" if stage == "imitation" else "closed loop: minus mean reward", color=color)
            axis.tick_params(axis="y", colors=color)
            if stage == "closed_loop":
                _mark_stage(loss, iteration[chosen])
                _mark_stage(gain, iteration[chosen])
    validated = [row for row in rows if row["validation_return"]]
    if validated:
        x = [int(row["iteration"]) for row in validated]
        gain.plot(x, [float(row["validation_return"]) for row in validated], color=AFTER, marker="o")
        share = gain.twinx()
        share.plot(x, [100.0 * float(row["validation_success"]) for row in validated], color=THIRD, marker="s", ls="--")
        share.set_ylim(-5.0, 105.0)
        share.set_ylabel("successful episodes [%]", color=THIRD)
        share.tick_params(axis="y", colors=THIRD)
    gain.set_ylabel("return of an episode", color=AFTER)
    gain.tick_params(axis="y", colors=AFTER)
    gain.set_xlabel("iteration")
    loss.set_title(f"{task.name}: training (above), validation on start states not trained on (below)")
    return _save(figure, path)


def before_and_after(path: Path, task: TrainingTask, before: Rollout, after: Rollout, shown: int = 5) -> Path:
    """States and inputs of the first episodes of two evaluations from the same start states. Returns the path."""
    names: tuple[str, ...] = (*task.state_names, *task.input_names)
    figure = Figure(figsize=(8.0, 1.9 * len(names)), layout="constrained")
    axes: Any = figure.subplots(len(names), 1, sharex=True)
    time = task.plant.control_period * np.arange(before.states.shape[1])
    limit = task.plant.dynamics.effort_limit.numpy()
    for i, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for rollout, color, label in (
            (before, BEFORE, "generic weights (before)"),
            (after, AFTER, "learned (after)"),
        ):
            values = rollout.states if i < len(task.state_names) else rollout.inputs
            index = i if i < len(task.state_names) else i - len(task.state_names)
            curves = values[:shown, :, index].detach().numpy()
            style: dict[str, Any] = {} if i < len(task.state_names) else {"drawstyle": "steps-post"}
            for k, curve in enumerate(curves):
                axis.plot(
                    time[: len(curve)], curve, color=color, lw=1.2, alpha=0.8, label=label if k == 0 else None, **style
                )
        if i >= len(task.state_names):
            for bound in (-limit[index], limit[index]):
                axis.axhline(bound, color="black", lw=0.8, ls=":")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", fontsize="small")
    axes[0].set_title(f"{task.name}: {min(shown, len(before.states))} start states not trained on")
    axes[-1].set_xlabel("time [s]")
    return _save(figure, path)


def _mark_stage(axis: Axes, iterations: Any) -> None:
    axis.axvline(iterations[0] - 0.5, color="black", lw=0.8, ls=":")


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise RunError(f"cannot write {str(path)!r}: {error}") from error
    return path
