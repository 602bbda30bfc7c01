"""The tasks of `qp-control train`. To add one: a file with a `TrainingTask`, and a line here."""

from __future__ import annotations

import dataclasses

from qp_control.training.options import TrainingOptions
from qp_control.training.task import TrainingTask
from qp_control.training.tasks.arm_inverse_dynamics import ArmInverseDynamics
from qp_control.training.tasks.arm_ppo import ArmPpo
from qp_control.training.tasks.arm_unknown_loads import ArmUnknownLoads
from qp_control.training.tasks.cart_pole_balance import CartPolePpo, CartPoleSac
from qp_control.training.tasks.cart_pole_identification import CartPoleIdentification
from qp_control.training.tasks.cart_pole_swing_up import CartPoleSwingUpTraining
from qp_control.training.tasks.constraint_learning import ConstraintLearning
from qp_control.training.tasks.expert_recovery import CartPoleRecovery, LqrRecovery, PendulumRecovery
from qp_control.training.tasks.polytope_learning import PolytopeLearning
from qp_control.training.tasks.quadrotor_waypoints import (
    QuadrotorAnalytic,
    QuadrotorNetwork,
    QuadrotorPpo,
    QuadrotorSac,
)
from qp_control.training.tasks.quadruped_push import QuadrupedStand, QuadrupedTrot

_KNOWN: tuple[type[TrainingTask], ...] = (
    CartPoleSwingUpTraining,
    LqrRecovery,
    PendulumRecovery,
    CartPoleRecovery,
    CartPoleIdentification,
    ConstraintLearning,
    PolytopeLearning,
    QuadrupedStand,
    QuadrupedTrot,
    CartPolePpo,
    CartPoleSac,
    QuadrotorAnalytic,
    QuadrotorPpo,
    QuadrotorSac,
    QuadrotorNetwork,
    ArmInverseDynamics,
    ArmUnknownLoads,
    ArmPpo,
)
TASKS: dict[str, type[TrainingTask]] = {task.name: task for task in _KNOWN}


def available() -> list[str]:
    """Names of the tasks."""
    return sorted(TASKS)


def create(name: str, options: TrainingOptions | None = None, **changed: object) -> TrainingTask:
    """The task of this name, with options of its `options_type` (None: the default ones), except those `changed`.

    Raises ValueError for an unknown name, listing the known ones, and for wrong options.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(available())}")
    task = TASKS[name]
    try:
        options = dataclasses.replace(options or task.options_type(), **changed)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    return task(options)
