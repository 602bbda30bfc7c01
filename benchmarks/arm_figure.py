"""The figure of the arm's tasks in docs/: what is learned, on targets and loads that were not trained on.

Left: an arm whose load nobody told, before, tuned by hand and learned. Right: another load in every episode, constants
and a network. From those run folders that are there of `benchmarks/training.py`, which calls this with --arm-figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from qp_control.training import RunFolder, create
from qp_control.training.evaluation import starts
from qp_control.training.rollout import closed_loop
from qp_control.training.task import HELD_OUT_SEED
from qp_control.training.trainer import load_module, many_small_problems

KNOWN, UNKNOWN = "arm_inverse_dynamics", "arm_unknown_loads"
COLORS = {"before": "#9aa0a6", "tuned by hand": "#e8710a", "learned": "#1a73e8", "observer by hand": "#188038"}


@torch.no_grad()
def distances(task: Any, module: Any, count: int) -> tuple[Any, Any]:
    """Loads (count,) [kg] and distances (count, T + 1) of the tool from its target [mm]."""
    x0 = starts(task.plant, count, HELD_OUT_SEED)
    with many_small_problems():
        rollout = closed_loop(module, task.plant.step, x0, task.plant.episode_steps)
    return x0[:, -1].numpy(), 1e3 * task.squares(rollout.states).sqrt().numpy()


def learned(folder: Path, name: str) -> tuple[Any, Any]:
    """The task and the module of a run."""
    run = RunFolder.open(folder / name / "seed_0")
    task = create(name, **run.config()["options"])
    return task, load_module(run, task)


def over_time(axes: Any, task: Any, module: Any) -> None:
    """Distances from the target along four episodes."""
    for name, shown in (("before", task.module()), ("tuned by hand", task.hand_tuned()), ("learned", module)):
        _, values = distances(task, shown, 4)
        time = task.plant.control_period * np.arange(values.shape[1])
        for k, curve in enumerate(values):
            axes.semilogy(time, curve, color=COLORS[name], lw=1.0, label=None if k else name)
    title = f"a load of {task.options.load:g} kg, not told"
    axes.set(xlabel="time [s]", ylabel="distance from the target [mm]", title=title)


def over_loads(axes: Any, task: Any, module: Any) -> None:
    """Errors of episodes by their loads."""
    observer = next(iter(task.others().values()))
    shown = {"constants by hand": task.hand_tuned(), "observer by hand": observer, "network": module}
    for (name, policy), color in zip(shown.items(), ("tuned by hand", "observer by hand", "learned"), strict=True):
        loads, values = distances(task, policy, 30)
        error = np.sqrt((values[:, -task.plant.goal_steps :] ** 2).mean(1))
        axes.semilogy(loads, error, "o", ms=4, color=COLORS[color], label=name)
    axes.set(xlabel="load [kg]", ylabel="tracking error [mm]", title="another load in every episode")


def arm_figure(path: Path, folder: Path) -> None:
    """Write the figure from the run folders of seed 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [name for name in (KNOWN, UNKNOWN) if (folder / name / "seed_0").is_dir()]
    figure, panels = plt.subplots(1, len(drawn), figsize=(5.0 * len(drawn), 4.0), layout="constrained", squeeze=False)
    for axes, name in zip(panels[0], drawn, strict=True):
        task, module = learned(folder, name)
        (over_time if name == KNOWN else over_loads)(axes, task, module)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f"written: {path}")
