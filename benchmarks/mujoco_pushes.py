"""The pushes of the quadruped's training tasks in MuJoCo, with the controllers as they are."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
from mujoco_models import MujocoRobot
from numpy.typing import NDArray

from qp_control.training import closed_loop

SUBSTEPS = 5  # of 1 ms in a control period


@torch.no_grad()
def survived(task: Any, controller: Any, count: int, seed: int) -> NDArray[np.bool_]:
    """(count,) which of the task's pushes a controller survives there, judged as in our simulator."""
    plant = task.plant
    joints = list(plant.dynamics.model.names)[2:]
    spec = mujoco.MjSpec.from_file(str(plant.urdf))
    robot = MujocoRobot(spec, dt=plant.control_period / SUBSTEPS, friction=1.0, joints=joints, floating=True)
    own = plant.dynamics.nx
    x = plant.sample_starts(count, seed)
    full = robot.full_state(x[:, :own].numpy())
    data = [mujoco.MjData(robot.model) for _ in range(count)]
    for body, state in zip(data, full, strict=True):
        body.qpos[:], body.qvel[:] = np.split(state[1:], [robot.model.nq])

    def step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        pushed, goal = plant.pushed(x[:, :own], x[:, own:]), plant.next_goal(x[:, own:])
        velocities = robot.full_state(pushed.numpy())[:, 1 + robot.model.nq :]
        after = np.empty((count, own))
        for k, body in enumerate(data):
            robot.model.geom_friction[:, 0] = float(goal[k, 0])
            body.qvel[:], body.ctrl[:] = velocities[k], u[k].numpy()
            for _ in range(SUBSTEPS):
                mujoco.mj_step(robot.model, body)
            after[k] = robot.our_state(np.concatenate([[0.0], body.qpos, body.qvel]))
        return torch.cat([torch.from_numpy(after), goal], 1)

    states = closed_loop(controller, step, x, plant.episode_steps).states
    kept: NDArray[np.bool_] = plant.survived(states).numpy()
    return kept
