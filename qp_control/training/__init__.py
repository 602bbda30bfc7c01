"""Learning controllers by gradients through them.

    task      what is trained (a module), its phases, and how it is scored
      -> phase     what is learned from which loss: a recipe, such as imitation or closed-loop returns
      -> trainer   iterations, validations, checkpoints; resumed runs give identical numbers
      -> pipeline  a run from start to table, in its run folder: metrics, checkpoint, plots, replay

A new task is one file in `tasks/`, a new recipe one file with a `Phase`.
"""

from qp_control.exceptions import TrainingError
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import Evaluation, evaluate
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import FailedProblem, Phase, Update
from qp_control.training.rollout import Controller, Rollout, closed_loop
from qp_control.training.run_folder import RunError, RunFolder
from qp_control.training.task import Score, TrainingTask
from qp_control.training.tasks import available, create
from qp_control.training.trainer import Trainer

__all__ = [
    "ClosedLoopTask",
    "Controller",
    "Evaluation",
    "FailedProblem",
    "Phase",
    "Rollout",
    "RunError",
    "RunFolder",
    "Score",
    "Trainer",
    "TrainingError",
    "TrainingOptions",
    "TrainingTask",
    "Update",
    "available",
    "closed_loop",
    "create",
    "evaluate",
]
