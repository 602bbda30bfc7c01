"""Linear controllers as files that C++ programs run without Python (cpp/include/qp_control/linear_mpc.hpp).

See parameter_files.py. The numbers are sizes and options; the arrays are the data of the controller's problem except
x0, with the letters and shapes of an OcpQP, and only one stage if all are the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.ocp.problem import base_rank
from qp_control.parameter_files import settings_numbers, write_parameters
from qp_control.qp.problem import Array

_LINEAR = 1e-9  # relative change of the data with the plan that counts as none


@torch.no_grad()
def export_mpc(mpc: MPC, folder: str | os.PathLike[str], plan: Plan | None = None) -> Path:
    """Write the parameters of a linear controller for C++ programs.

    Args:
        mpc: the controller, in mode "real_time", with its current weights, limits and reference.
        folder: the target, which is created if necessary; files of an earlier export in it are replaced.
        plan: a plan of one element, along which dynamics and rows are linearised, for example `mpc.cold_plan(x)` at an
            equilibrium x (1, nx). None: dynamics and rows must be linear or affine already, which is checked.

    Returns:
        The folder.

    Raises:
        ValueError: the controller is not linear and no plan is given; configurations do not form a vector space; the
            plan is that of a batch; or there is a delay, and the dynamics differ between stages.
    """
    if mpc.in_errors:
        raise ValueError("configurations with quaternions or (cos, sin) cannot be exported: they form no vector space")
    if plan is not None and len(plan.states) != 1:
        raise ValueError(f"plan has {len(plan.states)} elements, expected one")
    arrays = _problem_data(mpc, _resting(mpc, 0) if plan is None else plan)
    if plan is None:
        other = _problem_data(mpc, _resting(mpc, 1))
        for name, value in arrays.items():
            if not np.allclose(value, other[name], rtol=_LINEAR, atol=_LINEAR):
                raise ValueError(f"{name} depends on the state or the input: give the plan to linearise along")
    if mpc.delay and any(name in arrays and arrays[name].ndim > base_rank(name) for name in ("A", "B", "c")):
        raise ValueError("a delay is given, and the dynamics differ from stage to stage")
    rows = [arrays[name].shape[-2] for name in ("C", "D") if name in arrays]
    numbers: dict[str, Any] = {
        "horizon": mpc.horizon,
        "model_nx": mpc.nx,
        "nx": arrays["A"].shape[-1],
        "nu": mpc.nu,
        "rows": rows[0] if rows else 0,
        "terminal_rows": arrays["C_N"].shape[-2] if "C_N" in arrays else 0,
        "delay": mpc.delay,
        "period": float(mpc.dynamics.dt or 0.0),
        **settings_numbers(mpc.layer.settings),
    }
    arrays["reference"] = mpc.reference.numpy().astype(np.float64)
    return write_parameters(folder, "linear_mpc", numbers, arrays)


def _resting(mpc: MPC, seed: int) -> Plan:
    """Some plan: data that are the same along several do not depend on it."""
    if seed == 0:
        return mpc.cold_plan(mpc.reference[None])
    random = torch.Generator().manual_seed(seed)
    state = mpc.reference + torch.randn(1, mpc.nx, generator=random, dtype=torch.float64)
    plan = mpc.cold_plan(state)
    inputs = torch.randn(plan.inputs.shape, generator=random, dtype=torch.float64)
    states = plan.states + torch.randn(plan.states.shape, generator=random, dtype=torch.float64)
    return Plan(**{**vars(plan), "inputs": inputs, "states": states})


def _problem_data(mpc: MPC, plan: Plan) -> dict[str, Array]:
    """The data of the problem along the plan except x0, without the batch axis; equal stages only once."""
    data = mpc.build(plan.states[:, 0], plan).data()
    del data["x0"]
    return {name: _compact(name, value) for name, value in data.items()}


def _compact(name: str, value: Tensor) -> Array:
    array: Array = value.detach().numpy().astype(np.float64)
    rank = base_rank(name)
    while array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    if array.ndim == rank + 2:
        raise ValueError(f"{name} has a batch of {len(array)}, expected one element")
    if array.ndim == rank + 1:
        if name.endswith("_N"):
            raise ValueError(f"{name} has a batch of {len(array)}, expected one element")
        if (array == array[0]).all():
            array = array[0]
    return array
