"""Plots of a run: the learning curve, and states and inputs before and after."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from qp_control.training.checkpoint import write_file
from qp_control.training.rollout import Rollout
from qp_control.training.task import TrainingTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qp_control.training.closed_loop_task import ClosedLoopTask

BEFORE, AFTER = "#9aa0a6", "#1a73e8"
COLORS = ("#188038", AFTER, "#a142f4")


def learning_curve(path: Path, rows: list[dict[str, str]], task: TrainingTask) -> Path:
    """Loss per iteration, and the validations' scores (one or two of them); rows: of metrics.csv. Returns the path."""
    figure = _figure((8.0, 6.4))
    loss, gain = figure.subplots(2, 1, sharex=True)
    iteration = np.array([int(row["iteration"]) for row in rows])
    values = np.array([float(row["loss"]) for row in rows])
    names = list(dict.fromkeys(row["phase"] for row in rows))
    for k, name in enumerate(names):
        chosen = np.array([row["phase"] == name for row in rows])
        color = COLORS[k % len(COLORS)]
        axis = loss if k == 0 else loss.twinx()
        axis.plot(iteration[chosen], values[chosen], color=color, marker=".")
        axis.set_ylabel(f"loss, {name.replace('_', ' ')}", color=color)
        axis.tick_params(axis="y", colors=color)
        if (values[chosen] > 0.0).all() and values[chosen].max() > 30.0 * values[chosen].min():
            axis.set_yscale("log")
        if k > 0:
            for marked in (loss, gain):
                marked.axvline(iteration[chosen][0] - 0.5, color="black", lw=0.8, ls=":")
    validated = [row for row in rows if row[f"validation_{task.metrics[0]}"]]
    for k, name in enumerate(task.metrics[:2] if validated else ()):
        axis = gain if k == 0 else gain.twinx()
        share = 100.0 if name in task.percent else 1.0
        color = COLORS[k]
        y = [share * float(row[f"validation_{name}"]) for row in validated]
        axis.plot([int(row["iteration"]) for row in validated], y, color=color, marker="os"[k], ls=("-", "--")[k])
        axis.set_ylabel(f"{name} [%]" if name in task.percent else name, color=color)
        axis.tick_params(axis="y", colors=color)
        if name in task.percent:
            axis.set_ylim(-5.0, 105.0)
        elif min(y) > 0.0 and max(y) > 30.0 * min(y):
            axis.set_yscale("log")
    gain.set_xlabel("iteration")
    loss.set_title(f"{task.name}: training (above), validation on samples not trained on (below)")
    return _save(figure, path)


def before_and_after(path: Path, task: ClosedLoopTask, before: Rollout, after: Rollout, shown: int = 5) -> Path:
    """States and inputs of the first episodes of two evaluations from the same start states. Returns the path."""
    names: tuple[str, ...] = (*task.state_names, *task.input_names)
    figure = _figure((8.0, 1.9 * len(names)))
    axes: Any = figure.subplots(len(names), 1, sharex=True)
    time = task.plant.control_period * np.arange(before.states.shape[1])
    limit = task.plant.dynamics.effort_limit.numpy()
    for i, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for rollout, color, label in (
            (before, BEFORE, "before"),
            (after, AFTER, "learned"),
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


def pushes(path: Path, tasks: dict[str, tuple[Any, dict[str, Any]]]) -> Path:
    """Which pushes controllers survived: for each task by name the pushes' velocities (n, 2) [m/s], and for each
    controller by name whether it survived them (n,). Returns the path."""
    columns = max(len(survived) for _, survived in tasks.values())
    figure = _figure((3.2 * columns, 4.4 * len(tasks)))
    rows: Any = figure.subplots(len(tasks), columns, sharex="row", sharey="row", squeeze=False)
    for axes, (task, (velocity, survived)) in zip(rows, tasks.items(), strict=True):
        for axis, (name, kept) in zip(axes, survived.items(), strict=True):
            axis.scatter(*velocity[kept].T, color=AFTER, s=14, label="survived")
            axis.scatter(*velocity[~kept].T, color="#d93025", s=22, marker="x", label="fell")
            axis.set_title(f"{task}\n{name}: {int(kept.sum())} of {len(kept)}", fontsize="medium")
            axis.set_aspect("equal")
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("push to the left [m/s]")
    for axis in rows[-1]:
        axis.set_xlabel("push ahead [m/s]")
    rows[0, 0].legend(loc="center", fontsize="small")
    return _save(figure, path)


def over_time(path: Path, title: str, period: float, curves: dict[str, Tensor], label: str, shown: int = 5) -> Path:
    """The first curves (B, T) of each name, sampled every `period` [s], on a logarithmic axis. Returns the path."""
    figure = _figure((8.0, 3.6))
    axis = figure.subplots()
    for (name, values), color in zip(curves.items(), (BEFORE, AFTER, *COLORS), strict=False):
        for k, curve in enumerate(values[:shown].detach().numpy()):
            axis.semilogy(period * np.arange(len(curve)), curve, color=color, lw=1.2, label=None if k else name)
    axis.set(title=title, xlabel="time [s]", ylabel=label)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper right", fontsize="small")
    return _save(figure, path)


def _figure(inches: tuple[float, float]) -> Figure:
    # Matplotlib takes most of a second to import, and most commands draw nothing.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_file(path, picture.getvalue())
    return path
