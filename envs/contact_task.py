"""A robot task with ground contact: its plant is a `ContactDynamics`."""

from __future__ import annotations

import abc

import numpy as np
import torch
from torch import Tensor

from qp_control.robot.contact import GRAVITY, ContactDynamics, ContactForces
from qp_control.viewer import Arrow, FrictionCone, Item
from qp_control.viewer.scenery import tiles

from .task import Floats, RobotTask

WEIGHT = 0.8  # [m] length of the arrow of a force equal to the robot's weight
LEAST = 1e-6  # of the weight: smaller forces are within the solver's tolerance and not drawn


class ContactTask(RobotTask):
    """A `RobotTask` whose plant's parameters (n_par + contacts,) are those of its bodies and their viscous friction,
    followed by the friction coefficient of each ground contact."""

    dynamics: ContactDynamics

    def __init__(self) -> None:
        super().__init__()
        self.parameters = torch.cat([self.dynamics.parameters, self.dynamics.friction])

    @abc.abstractmethod
    def plant(self) -> ContactDynamics:
        """The simulated robot."""

    def pushed(self, plant: Tensor, goal: Tensor) -> Tensor:
        """The plant's states (n, nx) after any push at the start of a control period."""
        return plant

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        plant, bodies, friction, goal = self._split(x, parameters)
        return torch.cat([self.dynamics.step(plant, u, bodies, friction=friction), self.next_goal(goal)], -1)

    def forces(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> ContactForces:
        """The ground's forces at the end of the control period from x (n, nx) under u (n, nu)."""
        plant, bodies, friction, _ = self._split(x, parameters)
        return self.dynamics.step_with_forces(plant, u, bodies, friction=friction)[1]

    def scenery(self) -> list[Item]:
        """The ground, and the force and the friction cone at each contact."""
        contacts = self.dynamics.contacts
        arrows = [Arrow(f"force {contact.frame}") for contact in contacts]
        return [*tiles(8.0), *arrows, *(FrictionCone(f"cone {c.frame}", c.friction) for c in contacts)]

    def drawn_forces(self, x: Tensor, u: Tensor, parameters: Tensor | None, x_next: Tensor) -> dict[str, Floats]:
        robot = self.dynamics
        frames = [contact.frame for contact in robot.contacts]
        force = self.forces(x, u, parameters).force.numpy()
        weight = GRAVITY * float(robot.parameters[: 10 * robot.bodies : 10].sum())
        place = robot.ground_points(x_next[:, : robot.nx]).numpy()
        place[(force**2).sum(-1) < (LEAST * weight) ** 2] = np.nan
        arrows = np.stack([place, WEIGHT / weight * force], 2)
        return {f"force {frame}": arrows[:, k] for k, frame in enumerate(frames)} | {
            f"cone {frame}": place[:, k] for k, frame in enumerate(frames)
        }

    def _split(self, x: Tensor, parameters: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(plant after any push, parameters of its bodies, friction coefficients, goal)."""
        par = self.parameters if parameters is None else parameters
        plant, goal = torch.split(x, [self.dynamics.nx, self.goal_size], -1)
        bodies, friction = torch.split(par, [self.dynamics.n_par, len(self.dynamics.contacts)], -1)
        return self.pushed(plant, goal), bodies, friction, goal
