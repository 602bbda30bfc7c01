"""The tasks that `qp-control train` knows. A new one: a file with a `TrainingTask`, and a line here."""

from __future__ import annotations

from qp_control.training.tasks.base import TrainingTask
from qp_control.training.tasks.cart_pole_swing_up import CartPoleSwingUpTraining

_TASKS: dict[str, type[TrainingTask]] = {CartPoleSwingUpTraining.name: CartPoleSwingUpTraining}


def available() -> list[str]:
    """Names of the tasks."""
    return sorted(_TASKS)


def create(name: str) -> TrainingTask:
    """The task of this name. Raises ValueError, listing the known ones."""
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(available())}")
    return _TASKS[name]()


__all__ = ["CartPoleSwingUpTraining", "TrainingTask", "available", "create"]
