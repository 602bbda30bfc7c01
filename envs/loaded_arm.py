"""An arm that follows a point with a load and friction that its model lacks: the plant of the arm's training tasks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qp_control.robot.model_parameters import point_mass

from .arm_track import ArmTrack
from .arrays import Array, library
from .task import Floats

CENTRE = (0.03, 0.04, -0.03)  # [m] of the load, in the tool's frame
NEAR = 0.01  # [m] distances below this are rewarded nearly like zero
FRICTION = (1.5, 1.3, 1.6, 1.4, 1.2, 1.7)  # factors on the viscous friction of the joints


class LoadedArm(ArmTrack):
    """`ArmTrack` with a load at the tool, more friction than its model, and torques that act a control period late.

    The state of `ArmTrack` is followed by the delayed torques (n) [N m], initially zero, and the load's mass [kg],
    drawn between lightest and heaviest.
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
        return library(goal).concatenate(
            [super().next_goal(goal[..., : self.late.start]), goal[..., self.late.start :]], -1
        )

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


class RewardedArm(LoadedArm):
    """`LoadedArm` with rewards whose gradient does not vanish at any distance of the tool from its target."""

    def nearness(self, way: Array) -> Array:
        """1 - ln(1 + (distance / 1 cm)^2) / 10 for vectors (..., 3) to the target [m]."""
        return 1.0 - 0.1 * library(way).log(1.0 + (way * way).sum(-1) / NEAR**2)

    def _reward(self, x_next: Array, u: Array, way: Array) -> Array:
        """The nearness alone."""
        return self.nearness(way)
