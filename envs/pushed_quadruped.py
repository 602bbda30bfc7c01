"""A quadruped that is pushed hard, once, on ground of random friction: a test of controllers.

Not an environment, but a task for closed loops of controllers that know the whole state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qp_control.robot.contact import ContactForces
from qp_control.viewer import FrictionCone, Item

from .quadruped import Quadruped
from .task import Floats

AFTER = 400  # control periods, 2 s, for which a robot is observed after the latest push
FRICTION = (0.3, 0.7)  # coefficient, of the ground under all feet


class PushedQuadruped(Quadruped):
    """State x = (that of the quadruped; friction coefficient of the ground; change of the trunk's velocity by the push,
    forward and to the left [m/s], control periods until the push). It starts standing at rest.

    push: smallest and largest change of the velocity, in any direction [m/s]. when: earliest and latest time of the
    push [control periods].
    """

    name = "pushed_quadruped"
    control_period = 0.005
    substeps = 2
    goal_size = 4
    draws = 4

    def __init__(self, push: tuple[float, float], when: tuple[int, int] = (0, 0)) -> None:
        self.push, self.when = push, when
        self.episode_steps = when[1] + AFTER
        super().__init__()

    def starts(self, draw: Floats) -> Tensor:
        """Standing, with a push in any direction."""
        share = 0.5 * (1.0 + torch.from_numpy(draw))
        (least, most), (first, last) = self.push, self.when
        speed, angle = least + (most - least) * share[:, 0], 2.0 * math.pi * share[:, 1]
        goal = [
            FRICTION[0] + (FRICTION[1] - FRICTION[0]) * share[:, 2],
            speed * torch.cos(angle),
            speed * torch.sin(angle),
            first + torch.floor((last + 1 - first) * share[:, 3]),
        ]
        return torch.cat([self.stand.expand(len(draw), -1), torch.stack(goal, 1)], 1)

    def pushed(self, plant: Tensor, goal: Tensor) -> Tensor:
        """The push changes the velocity of the trunk instantaneously, in its axes."""
        now = goal[..., 3:] == 0.0
        position, velocity, rest = torch.split(plant, [19, 2, 16], -1)
        return torch.cat([position, velocity + now * goal[..., 1:3], rest], -1)

    def next_goal(self, goal: Tensor) -> Tensor:
        return torch.cat([goal[..., :3], goal[..., 3:] - 1.0], -1)

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        plant, bodies, _, goal = self._split(x, parameters)
        friction = goal[..., :1].expand(-1, len(self.feet))
        return torch.cat([self.dynamics.step(plant, u, bodies, friction=friction), self.next_goal(goal)], -1)

    def reward(self, x_next: Tensor, u: Tensor) -> Tensor:
        """-(10 (1 - R_zz) + 10 (height / standing - 1)^2 + 0.3 |velocity|^2 + 0.03 |angular velocity|^2)."""
        low = (x_next[..., 2] / self.height - 1.0).square()
        speed = x_next[..., 19:22].square().sum(-1) + 0.1 * x_next[..., 22:25].square().sum(-1)
        return -(10.0 * (1.0 - self.upward(x_next)[..., 2]) + 10.0 * low + 0.3 * speed)

    def forces(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> ContactForces:
        plant, bodies, _, goal = self._split(x, parameters)
        friction = goal[..., :1].expand(-1, len(self.feet))
        return self.dynamics.step_with_forces(plant, u, bodies, friction=friction)[1]

    def scenery(self) -> list[Item]:
        """Without friction cones, as the friction is random."""
        return [item for item in super().scenery() if not isinstance(item, FrictionCone)]

    def drawn_forces(self, x: Tensor, u: Tensor, parameters: Tensor | None, x_next: Tensor) -> dict[str, Floats]:
        drawn = super().drawn_forces(x, u, parameters, x_next)
        return {name: path for name, path in drawn.items() if name.startswith("force")}

    def survived(self, states: Tensor) -> Tensor:
        """True (n,) for trajectories (n, T + 1, nx) without a fall that end upright and at the nominal height."""
        fallen = self.failed(states.flatten(0, 1)).view(states.shape[:2]).any(1)
        return ~fallen & self.upstanding(states[:, -1])
