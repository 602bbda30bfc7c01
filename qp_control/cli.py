"""qp-control train | play | replay | list | bench | doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Union

import tyro
from rich.console import Console

from qp_control import doctor
from qp_control.exceptions import TrainingError
from qp_control.training import RunError, available, pipeline
from qp_control.training.options import TrainingOptions
from qp_control.training.tasks import TASKS

if TYPE_CHECKING:
    TaskOptions = TrainingOptions
else:
    TaskOptions = Union[  # noqa: UP007, their number is not known here
        tuple(
            Annotated[task.options_type, tyro.conf.subcommand(name, description=task.options_type.__doc__)]
            for name, task in sorted(TASKS.items())
        )
    ]


@dataclass(frozen=True)
class Train:
    """Train a task; everything is written to the run folder."""

    task: TaskOptions
    """What to learn."""
    # torchrun would take --run as an abbreviation of one of its own options.
    run: Annotated[Path | None, tyro.conf.arg(aliases=["--run-folder"])] = None
    """Run folder; runs/TASK by default."""
    resume: bool = False
    """Resume the run in the run folder; start it if there is none."""
    baselines: bool = True
    """Compare with an evolution strategy too, which takes as long as training."""
    held_out: int = 50
    """Number of samples of the final comparison."""


@dataclass(frozen=True)
class Play:
    """Show a trained controller in meshcat on 127.0.0.1."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    episodes: int = 3
    """Episodes to show."""
    browser: bool = True
    """Open the page in the browser."""


@dataclass(frozen=True)
class Replay:
    """Rewrite replay.html of a run."""

    run: tyro.conf.Positional[Path]
    """Run folder."""


@dataclass(frozen=True)
class List:
    """List the tasks that can be trained."""


@dataclass(frozen=True)
class Bench:
    """Time the QP layer on this machine."""


@dataclass(frozen=True)
class Doctor:
    """Check versions, kernels, threads, solver, gradients, robots and browser."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def run(command: Command) -> int:
    """Execute a command; returns the exit code."""
    if isinstance(command, Train):
        if command.held_out < 1:
            raise ValueError(f"held_out is {command.held_out}, expected at least 1")
        name = next(name for name, task in TASKS.items() if task.options_type is type(command.task))
        pipeline.train(
            name,
            command.run or Path("runs") / name,
            command.task,
            resume=command.resume,
            baselines=command.baselines,
            held_out=command.held_out,
        )
    elif isinstance(command, Play):
        if command.episodes < 1:
            raise ValueError(f"episodes is {command.episodes}, expected at least 1")
        pipeline.play(command.run, episodes=command.episodes, open_browser=command.browser)
    elif isinstance(command, Replay):
        print(pipeline.replay(command.run))
    elif isinstance(command, Bench):
        Console().print(doctor.speed_table())
    elif isinstance(command, Doctor):
        found = doctor.examine()
        Console().print(doctor.findings_table(found))
        return int(any(item.good is False for item in found))
    else:
        for name in available():
            print(f"{name:<26}{(TASKS[name].options_type.__doc__ or '').splitlines()[0]}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 2 for invalid requests, 1 for failed training, 130 if interrupted."""
    errors = Console(stderr=True)
    style = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitArgPrefixes)
    try:
        return run(tyro.cli(Command, prog="qp-control", description=__doc__, args=arguments, config=style))
    except (ValueError, RunError) as error:
        errors.print(f"qp-control: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except TrainingError as error:
        errors.print(f"qp-control: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("qp-control: interrupted; --resume goes on", markup=False)
        return 130


if __name__ == "__main__":
    sys.exit(main())
