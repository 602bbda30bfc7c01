"""What training needs to know of a task, on top of the environment's plant."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor

from qp_control.dynamics import RobotDynamics
from qp_control.envs.task import RobotTask
from qp_control.mpc import MPC
from qp_control.settings import Settings
from qp_control.training.planner import PlannerCost


class TrainingTask(abc.ABC):
    """A plant, a controller with generic weights, and how to teach it.

    plant: the environment's task, possibly with other masses than the controller's `model`.
    state_scale (nx,): typical size of the state's coordinates, for the imitation loss.
    """

    name: ClassVar[str]
    environment: ClassVar[str]  # Gymnasium id of the plant
    state_names: ClassVar[tuple[str, ...]]
    input_names: ClassVar[tuple[str, ...]]
    plant: RobotTask
    model: RobotDynamics
    state_scale: Tensor

    @abc.abstractmethod
    def controller(self, settings: Settings | None = None) -> MPC:
        """A controller with generic weights: all ones."""

    @abc.abstractmethod
    def hand_tuned(self) -> MPC:
        """A controller with the best weights found by hand."""

    @abc.abstractmethod
    def planner_cost(self) -> PlannerCost:
        """What the long-horizon planner minimises."""

    @abc.abstractmethod
    def barrier(self, states: Tensor) -> Tensor:
        """Penalty (B, T + 1) on states (B, T + 1, nx) near the edge of where the robot may be; zero inside."""
