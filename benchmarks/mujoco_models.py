"""Robots of ours in MuJoCo: the same URDF, balls for feet on a plane, and its states in our coordinates."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
from contact_scenes import DT, FRICTION, Array, Course, Robot, Scene

GROUND = "ground"


class MujocoRobot:
    """A model of MuJoCo's with what `ContactDynamics` has by default: explicit damping, a plane, motors of no limit.

    spec: as read, without a ground. joints: driven, in the order of the inputs. floating: its root is a free-flyer.
    """

    def __init__(self, spec: Any, *, dt: float, friction: float, joints: list[str], floating: bool) -> None:
        spec.option.timestep = dt
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
        spec.compiler.discardvisual = True
        spec.compiler.fusestatic = not floating  # or the root, which has no joint yet, goes into the world
        if floating:
            spec.worldbody.first_body().add_freejoint()
        for geom in spec.geoms:
            geom.friction = [friction, 0.0, 0.0]
            geom.density = 0.0  # masses are those of the URDF alone
        plane = spec.worldbody.add_geom(name=GROUND, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
        plane.friction = [friction, 0.0, 0.0]
        for name in joints:
            spec.add_actuator(target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, gear=[1, 0, 0, 0, 0, 0])
        self.model, self.floating = spec.compile(), floating
        self.data = mujoco.MjData(self.model)

    def full_state(self, x: Array) -> Array:
        """States (B, 1 + nq + nv) of `mujoco.rollout`, from ours (B, nx)."""
        nq = self.model.nq
        q, v = x[:, :nq].copy(), x[:, nq:].copy()
        if self.floating:
            q[:, 3], q[:, 4:7] = x[:, 6], x[:, 3:6]
            v[:, :3] = np.einsum("bij,bj->bi", rotations(x[:, 3:7]), x[:, nq : nq + 3])
        return np.concatenate([np.zeros((len(x), 1)), q, v], 1)

    def our_state(self, full: Array) -> Array:
        """The way back, of states (..., 1 + nq + nv)."""
        nq = self.model.nq
        q, v = full[..., 1 : nq + 1].copy(), full[..., nq + 1 :].copy()
        if self.floating:
            q[..., 3:6], q[..., 6] = full[..., 5:8], full[..., 4]
            v[..., :3] = np.einsum("...ij,...i->...j", rotations(q[..., 3:7]), full[..., nq + 1 : nq + 4])
        return np.concatenate([q, v], -1)

    def start(self, x: Array) -> None:
        """Puts `data` to our state (nx,)."""
        mujoco.mj_resetData(self.model, self.data)
        full = self.full_state(x[None])[0]
        self.data.qpos[:], self.data.qvel[:] = full[1 : 1 + self.model.nq], full[1 + self.model.nq :]
        mujoco.mj_forward(self.model, self.data)

    def step(self, u: Array) -> Array:
        """Our state after a step with the inputs u."""
        self.data.ctrl[:] = u
        mujoco.mj_step(self.model, self.data)
        return self.our_state(np.concatenate([[0.0], self.data.qpos, self.data.qvel]))

    def contact_force(self) -> Array:
        """Sum of the forces on the robot in the last step (3,) [N]."""
        total, wrench = np.zeros(3), np.zeros(6)
        for k in range(self.data.ncon):
            mujoco.mj_contactForce(self.model, self.data, k, wrench)
            contact = self.data.contact[k]
            side = 1.0 if self.model.geom(contact.geom1).name == GROUND else -1.0
            total += side * contact.frame.reshape(3, 3).T @ wrench[:3]
        return total


def rotations(quaternions: Array) -> Array:
    """Matrices (..., 3, 3) of unit quaternions x y z w (..., 4)."""
    x, y, z, w = np.moveaxis(quaternions, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def build(robot: Robot) -> MujocoRobot:
    """The robot of ours in MuJoCo."""
    spec = mujoco.MjSpec.from_string(robot.urdf) if robot.urdf.startswith("<") else mujoco.MjSpec.from_file(robot.urdf)
    return MujocoRobot(spec, dt=DT, friction=FRICTION, joints=list(robot.joints), floating=robot.floating)


def play(scene: Scene) -> Course:
    """The scene as it goes in MuJoCo."""
    robot = build(scene.robot)
    x = scene.start()
    robot.start(x)
    states, forces, gaps = [x], [], []
    for k in range(round(scene.seconds / DT)):
        if k == round(min(scene.push_at, 1e6) / DT):
            scene.push(x)
            robot.start(x)
        x = robot.step(scene.robot.torques(torch.from_numpy(x)[None])[0].numpy())
        states.append(x)
        forces.append(robot.contact_force())
        gaps.append(min((contact.dist for contact in robot.data.contact), default=float("inf")))
    return Course(np.array(states), np.array(forces), np.array(gaps))
