"""An arm with a load at its tool that nobody told its controller about: what the tasks of learning with it share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qp_control.envs.arm_track import ArmTrack
from qp_control.envs.arrays import Array, library
from qp_control.envs.task import Floats
from qp_control.inverse_dynamics import InverseDynamics
from qp_control.inverse_dynamics_policy import InverseDynamicsPolicy, PositiveNumbers, Situation, Source
from qp_control.limits import JointPositionLimit, JointVelocityLimit, TorqueLimit
from qp_control.model_parameters import Payload, point_mass
from qp_control.robot_model import RobotModel
from qp_control.settings import Settings
from qp_control.tasks import PositionTask, PostureTask, TorqueRegularization
from qp_control.training import plots
from qp_control.training.closed_loop_task import ClosedLoopTask
from qp_control.training.evaluation import evaluate, mean_interval, share_interval, starts
from qp_control.training.rollout import Rollout
from qp_control.training.task import Score

CENTRE = (0.03, 0.04, -0.03)  # [m] of the load, in the tool's frame
FRICTION = (1.5, 1.3, 1.6, 1.4, 1.2, 1.7)  # factors on the viscous friction of the joints
FLOOR = 1e-4  # [m] errors below count as none
MARGIN = 0.1  # [rad] that joints keep from their ends
DECELERATION = 50.0  # [rad/s^2] that the limits of the joints count on


class LoadedArm(ArmTrack):
    """`ArmTrack` with a load at the tool and more friction than the model has, and torques that act a control period late.

    The state has, behind that of `ArmTrack`, the torques on their way (n) [N m], at first zero, and the load's mass
    [kg], drawn between lightest and heaviest.
    """

    goal_size = 18
    more_draws = 7

    def __init__(self, lightest: float, heaviest: float) -> None:
        super().__init__()
        self.late = slice(-1 - self.joints, -1)
        self.lightest, self.heaviest = lightest, heaviest
        frame = self.dynamics.model.frames[self.dynamics.model.getFrameId(self.build.tool)]
        joint = int(frame.parentJoint)
        self.place = torch.from_numpy(frame.placement.act(np.array(CENTRE)))
        self.load = torch.zeros_like(self.parameters)
        self.load[10 * (joint - 1) : 10 * joint] = point_mass(self.place)
        self.parameters[10 * self.dynamics.bodies :] *= torch.tensor(FRICTION, dtype=torch.float64)

    def starts(self, draw: Floats) -> Tensor:
        load = self.lightest + 0.5 * (1.0 + torch.from_numpy(draw[:, -1:])) * (self.heaviest - self.lightest)
        return torch.cat([super().starts(draw), load.new_zeros(len(load), self.joints), load], 1)

    def next_goal(self, goal: Array) -> Array:
        return library(goal).concatenate([super().next_goal(goal[..., : self.late.start]), goal[..., self.late.start :]], -1)

    def step(self, x: Array, u: Array, parameters: Array | None = None) -> Array:
        own, load = (p if isinstance(x, Tensor) else p.numpy() for p in (self.parameters, self.load))
        par = (own if parameters is None else parameters) + x[..., -1:] * load
        moved = super().step(x, x[..., self.late], par)
        return library(x).concatenate([moved[..., : self.late.start], u, moved[..., -1:]], -1)

    def target_acceleration(self, x: Array) -> Array:
        """(..., 3) [m/s^2]."""
        centre, *_, rate = self._ellipse(x)
        return -rate * rate * (self.target(x) - centre)

    def _ellipse(self, x: Array) -> tuple[Array, ...]:
        return super()._ellipse(x[..., : self.late.start])


GAINS = ("tool.stiffness", "tool.damping", "posture.weight", "posture.stiffness", "posture.damping", "torque.weight")


def targets(plant: LoadedArm) -> Source:
    """What the tool is to follow, as a source of numbers."""

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
    stiffness: float = 100.0,
    damping: float = 20.0,
    posture_weight: float = 0.1,
    posture_stiffness: float = 10.0,
    further: Callable[[Payload], Sequence[Source]] = lambda model: (),
) -> InverseDynamicsPolicy:
    """The tool on its target, near the posture at home where that leaves freedom, by a model with some load [kg].

    What is given is where learning begins. further: makes sources behind those of targets and learned gains, from the
    controller's model.
    """
    tasks = [
        PositionTask("tool", stiffness=stiffness, damping=damping),
        PostureTask(plant.build.home, weight=posture_weight, stiffness=posture_stiffness),
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
    sources = [targets(plant), PositiveNumbers(controller, GAINS), *further(model)]
    return InverseDynamicsPolicy(controller, sources, model=model)


@torch.no_grad()
def tell(module: InverseDynamicsPolicy, load: float) -> InverseDynamicsPolicy:
    """Put the truth about load [kg] and friction into the controller's model."""
    assert isinstance(module.model, Payload)
    module.model.log_mass.fill_(math.log(load))
    module.model.offset.copy_(torch.tensor(CENTRE, dtype=torch.float64) / module.model.size)
    module.model.log_damping.copy_(torch.tensor(FRICTION, dtype=torch.float64).log())
    return module


class LoadedArmTask(ClosedLoopTask):
    """Scores: root of the mean squared distance of the tool from its target over the last four seconds of an episode,
    mean over the episodes, and the share of those in which it stays within 3 cm and no joint leaves its limits.

    settle: control periods that the tool has to get to its target; errors count from there on.
    """

    environment = "QPControl/ArmTrack-v0"
    metrics = ("tracking error [mm]", "success")
    plant: LoadedArm
    settle: int

    def loss(self, rollout: Rollout) -> Tensor:
        """Mean over the loops of the logarithm of the root of the mean squared distance, above a tenth of a millimetre:
        errors of all sizes have a slope, and a loop that goes wrong counts no more than the others."""
        squares = self.squares(rollout.states[:, self.settle :]).mean(1)
        return 0.5 * (squares / FLOOR**2 + 1.0).log().mean()

    def squares(self, states: Tensor) -> Tensor:
        """Squared distances (B, T) of the tool from its target [m^2]."""
        return self.plant.way(states).square().sum(-1)

    def score(self, module: InverseDynamicsPolicy, seed: int, count: int) -> Score:
        result = evaluate(self.plant, module, starts(self.plant, count, seed))
        squares = self.squares(result.rollout.states[:, -self.plant.goal_steps :])
        errors = 1e3 * squares.mean(1).sqrt()
        error = float(errors.mean())
        error = error if error == error else math.inf
        values = {"tracking error [mm]": error, "success": result.success}
        intervals = {
            "tracking error [mm]": mean_interval(errors.numpy()),
            "success": share_interval(result.success, count),
        }
        return Score(values, (-error,), intervals, result.rollout.failure, result)

    def pictures(self, folder: Path, before: Score, after: Score) -> list[Path]:
        curves = {
            name: 1e3 * self.squares(score.details.rollout.states).sqrt() for name, score in (("before", before), ("learned", after))
        }
        picture = folder / "before_and_after.png"
        plots.over_time(picture, f"{self.name}: targets not trained on", self.plant.control_period, curves, "distance [mm]")
        return [picture, self.write_replay(folder / "replay.html", after.details)]
