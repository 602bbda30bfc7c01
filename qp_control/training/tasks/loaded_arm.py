"""An arm with a load at its tool that is unknown to its controller: what the arm tasks have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from qp_control.envs.loaded_arm import CENTRE, FRICTION, LoadedArm
from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.inverse_dynamics.limits import JointPositionLimit, JointVelocityLimit, TorqueLimit
from qp_control.inverse_dynamics.policy import InverseDynamicsPolicy, Situation, Source
from qp_control.inverse_dynamics.positive_numbers import PositiveNumbers
from qp_control.inverse_dynamics.tasks import PositionTask, PostureTask, TorqueRegularization
from qp_control.robot.model import RobotModel
from qp_control.robot.model_parameters import Payload
from qp_control.settings import Settings
from qp_control.training import plots
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import evaluate, mean_interval, share_interval, starts
from qp_control.training.rollout import Rollout, finite_only
from qp_control.training.task import Score

FLOOR = 1e-4  # [m] errors below this hardly count
MARGIN = 0.1  # [rad] that joints keep from their limits
DECELERATION = 50.0  # [rad/s^2] that the position limits assume


GAINS = ("tool.stiffness", "tool.damping", "posture.weight", "posture.stiffness", "posture.damping", "torque.weight")


@dataclass(frozen=True)
class Gains:
    """Stiffness [1/s^2] and damping [1/s] of the tool; weight relative to the tool's and stiffness of the posture."""

    stiffness: float = 100.0
    damping: float = 20.0
    posture_weight: float = 0.1
    posture_stiffness: float = 10.0


def targets(plant: LoadedArm) -> Source:
    """The reference of the tool, as a source of numbers."""

    def follow(situation: Situation) -> dict[str, Tensor]:
        x = situation.state
        motion = plant.target(x), plant.target_velocity(x), plant.target_acceleration(x)
        return dict(zip(("tool.reference", "tool.velocity", "tool.acceleration"), motion, strict=True))

    return follow


def policy(
    plant: LoadedArm,
    settings: Settings | None = None,
    *,
    load: float = 0.5,
    gains: Gains | None = None,
    further: Callable[[Payload], Sequence[Source]] = lambda model: (),
) -> InverseDynamicsPolicy:
    """Keeps the tool on its target and otherwise the joints near the home posture, with a model that has a load [kg].

    gains: initial values of the learned gains. further: makes further sources, after those of targets and learned
    gains, from the controller's model.
    """
    gains = gains or Gains()
    tasks = [
        PositionTask("tool", stiffness=gains.stiffness, damping=gains.damping),
        PostureTask(plant.build.home, weight=gains.posture_weight, stiffness=gains.posture_stiffness),
        TorqueRegularization(weight=1e-4),
    ]
    dt, lower, upper = plant.control_period, plant.lower_limit + MARGIN, plant.upper_limit - MARGIN
    limits = [
        TorqueLimit(),
        JointPositionLimit(dt, acceleration=DECELERATION, lower=lower, upper=upper),
        JointVelocityLimit(dt, acceleration=DECELERATION),
    ]
    controller = InverseDynamics(RobotModel(plant.dynamics.model), tasks, limits, settings=settings)
    model = Payload(controller.model, "tool", mass=load)
    sources: list[Source] = [targets(plant), PositiveNumbers.of(controller, GAINS), *further(model)]
    return InverseDynamicsPolicy(controller, sources, model=model)


@torch.no_grad()
def tell(module: InverseDynamicsPolicy, load: float) -> InverseDynamicsPolicy:
    """Set the controller's model to the true load [kg] and friction."""
    assert isinstance(module.model, Payload)
    module.model.log_mass.fill_(math.log(load))
    module.model.offset.copy_(torch.tensor(CENTRE, dtype=torch.float64) / module.model.size)
    module.model.log_damping.copy_(torch.tensor(FRICTION, dtype=torch.float64).log())
    return module


class LoadedArmTask(ClosedLoopTask):
    """Scores: root mean square distance of the tool from its target over the last four seconds of an episode, averaged
    over the episodes, and the share of those in which it stays within 3 cm and no joint leaves its limits.

    settle: control periods that the tool has to reach its target; errors count from then on.
    """

    environment = "QPControl/ArmTrack-v0"
    metrics: ClassVar[tuple[str, ...]] = ("tracking error [mm]", "success")
    plant: LoadedArm
    settle: int

    def loss(self, rollout: Rollout) -> Tensor:
        """Mean over the loops of the logarithm of the root mean square distance, with a floor of a tenth of a
        millimetre. Errors of all sizes have comparable gradients, and a failing loop counts no more than the others."""
        squares = self.squares(rollout.states[:, self.settle :]).mean(1)
        return 0.5 * (squares / FLOOR**2 + 1.0).log().mean()

    def squares(self, states: Tensor) -> Tensor:
        """Squared distances (B, T) of the tool from its target [m^2]; NaN for states that are not finite."""
        ways = finite_only("way", self.plant.way, (3,), states.flatten(0, 1))
        return ways.square().sum(-1).view(states.shape[:2])

    def score(self, module: Any, seed: int, count: int) -> Score:
        result = evaluate(self.plant, module, starts(self.plant, count, seed))
        squares = self.squares(result.rollout.states[:, -self.plant.goal_steps :])
        errors = (1e3 * squares.mean(1).sqrt()).nan_to_num(math.inf)
        error = float(errors.mean())
        values = {"tracking error [mm]": error, "success": result.success}
        intervals = {
            "tracking error [mm]": mean_interval(errors.numpy()),
            "success": share_interval(result.success, count),
        }
        return Score(values, (-error,), intervals, result.rollout.failure, result)

    def pictures(self, folder: Path, before: Score, after: Score) -> list[Path]:
        curves = {
            name: 1e3 * self.squares(score.details.rollout.states).sqrt()
            for name, score in (("before", before), ("learned", after))
        }
        picture = folder / "before_and_after.png"
        plots.over_time(
            picture, f"{self.name}: targets not trained on", self.plant.control_period, curves, "distance [mm]"
        )
        return [picture, self.write_replay(folder / "replay.html", after.details)]
