"""`QPControl/ArmReach-v0`: bring the tool of an arm to a point, and keep it there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .arm import Arm
from .base import RobotEnv, RobotVectorEnv
from .task import Floats


class ArmReach(Arm):
    """State x = (angles (n) [rad], rates (n) [rad/s]; target (3) [m]), u = torques (n) [N m]; see `Arm`."""

    name = "arm_reach"
    episode_steps = 200
    goal_steps = 50
    goal_size = 3
    near = 0.02

    def starts(self, draw: Floats) -> Tensor:
        """At rest within 0.2 rad of home; the target is the tool's position in another configuration."""
        return torch.from_numpy(np.concatenate(self.start_and_place(draw), 1))


class ArmReachEnv(RobotEnv):
    """Bring the tool of a six-joint arm to a random point within 3 s, and keep it there.

    ### Action space

    `Box((6,), float64)`: the torques of shoulder pan, shoulder lift, elbow and three wrists [N m], constant for 0.02 s;
    limits 150, 150, 150, 28, 28, 28. Only they carry the arm's weight.

    ### Observation space

    `Box((15,), float64)`:

    | Num   | Observation                                 | Bounds                    |
    |-------|---------------------------------------------|---------------------------|
    | 0-5   | angles [rad]                                | +- (joint limit + 1)      |
    | 6-11  | rates [rad/s]                               | +- 31.5 (wrists 32)       |
    | 12-14 | from the tool to the target [m]             | +- 10                     |

    ### Rewards

    0.8 / (1 + (distance / 0.2)^2) + 0.1 (1 - mean((rate / limit)^2)) + 0.1 (1 - mean((torque / limit)^2)), at most 1
    per step; rate limits 3.15 (wrists 3.2) rad/s, which are not enforced otherwise.

    ### Starting state

    At rest within 0.2 rad of (0, 0.2, 1.4, 0.3, 1, 0); the target is the tool's position for angles within (1.2, 0.5,
    0.5, 0.8, 0.5, 0) rad of the same configuration; all uniform.

    ### Episode end

    `terminated`: a joint beyond its limits, +- (3.1, 2.2, 2.8, 3.1, 3.1, 3.1) rad; there are no mechanical stops. The
    links do not collide. `truncated`: 200 steps (4 s). `info["is_success"]` in the last step: never terminated, and the
    tool within 2 cm of the target for the last second.

    ### Arguments

    `robot`: None, or "ur5" or "panda" of the optional extra `robots`, which have other limits; the panda has seven
    joints. Those of all environments: `render_mode`, `mass_spread`, `friction_spread`, `action_delay`,
    `observation_noise` (`qp_control.envs.randomisation`).

    ### Version history

    * v0: initial version
    """

    task_type = ArmReach


class ArmReachVectorEnv(RobotVectorEnv):
    """`ArmReachEnv` for `num_envs` robots at once."""

    task_type = ArmReach
