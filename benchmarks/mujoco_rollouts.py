"""MuJoCo's `rollout` on the robots of our environments, for `environments.py`.

It loads the same URDF files. Contact and joint limits are off, as our plants have none; the time step is that of our
integrator, and so is the friction of the joints, which MuJoCo integrates implicitly. It simulates only: no
observations, rewards or resets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import mujoco
    from mujoco import rollout
except ImportError:
    mujoco = None

PERIODS = 10  # control periods in a call


def available() -> bool:
    return mujoco is not None


def model_of(task: Any) -> Any:
    """None where MuJoCo would load another robot: it takes no free-flyer from a URDF file."""
    if task.floating_base:
        return None
    model = mujoco.MjModel.from_xml_path(str(task.urdf))
    model.opt.timestep = task.control_period / task.substeps
    off = mujoco.mjtDisableBit
    model.opt.disableflags |= int(off.mjDSBL_CONTACT) | int(off.mjDSBL_LIMIT)
    return model


def periods(task: Any, model: Any, count: int, threads: int, clock: Callable[[], float]) -> Callable[[], float]:
    """Seconds per control period of `count` robots from the task's starts, forces at rest."""
    x = task.sample_starts(count, seed=0).numpy()
    spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
    starts = np.zeros((count, mujoco.mj_stateSize(model, spec)))
    starts[:, 1 : 1 + model.nq + model.nv] = x[:, : task.dynamics.nx]  # behind the time
    forces = np.zeros((count, PERIODS * task.substeps, model.nv))
    by_force = int(mujoco.mjtState.mjSTATE_QFRC_APPLIED)
    data = [mujoco.MjData(model) for _ in range(threads)]
    pool = rollout.Rollout(nthread=threads if threads > 1 else 0)

    def run() -> float:
        start = clock()
        pool.rollout(model, data, starts, forces, control_spec=by_force)
        return (clock() - start) / PERIODS

    return run
