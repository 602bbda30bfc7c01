"""Learning controllers by gradients through them: imitation of a planner, then closed loops.

    task (plant, start states, reward, controller)
      -> planner      long-horizon trajectories on the controller's model
      -> imitation    the controller's plans, regressed to the planner's
      -> closed loop  returns of rollouts on the plant, differentiated through controller and plant
      -> run folder   metrics, checkpoints, plots, replay

A new task is one file in `tasks/`.
"""

from qp_control.training.evaluation import Evaluation, evaluate
from qp_control.training.rollout import FailedProblem, Rollout, closed_loop
from qp_control.training.run_folder import RunError, RunFolder
from qp_control.training.tasks import TrainingTask, available, create
from qp_control.training.trainer import Trainer, TrainingConfig, TrainingError

__all__ = [
    "Evaluation",
    "FailedProblem",
    "Rollout",
    "RunError",
    "RunFolder",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "TrainingTask",
    "available",
    "closed_loop",
    "create",
    "evaluate",
]
