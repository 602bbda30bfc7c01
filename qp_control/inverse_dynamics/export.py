"""Inverse-dynamics controllers as files that programs without Python run (cpp: inverse_dynamics_controller.hpp).

See parameter_files.py. controller.json lists the parts in the terms of assembly.py; the arrays are their numbers by
name, such as "com.reference", the weights of the rows' shifts, and the model's parameters if they are not its own.
robot.txt is the model in Pinocchio's own text format, which has what a URDF cannot express, such as locked joints or
learned inertias.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.parameter_files import settings_numbers, write_parameters


@torch.no_grad()
def export_inverse_dynamics(
    controller: InverseDynamics, folder: str | os.PathLike[str], *, parameters: npt.ArrayLike | None = None
) -> Path:
    """Write a controller by inverse dynamics, and its robot, for C++ programs.

    Args:
        controller: written with its current weights, gains, references and limits; damping that follows from stiffness
            is written as a number of its own.
        folder: created if it does not exist; files of an earlier export in it are replaced.
        parameters: (n_par,) of the model, see `RobotModel`, for example identified ones; None: its own.

    Returns:
        The folder.

    Raises:
        ValueError: controller is not an `InverseDynamics` or has user-defined kinds of parts, which C++ does not know;
            parameters have the wrong shape or are not finite.
    """
    if not isinstance(controller, InverseDynamics):
        raise ValueError(f"controller is a {type(controller).__name__}, expected an InverseDynamics")
    model, assembly = controller.model, controller.assembly
    for part in controller.parts.values():
        if not type(part).__module__.startswith("qp_control."):
            raise ValueError(f"{part.name!r} is a {type(part).__name__}, which C++ does not know")
    frames = [frame.name for frame in model.model.frames]
    sizes = {part.name: part.sizes for part in (*controller.task_list, *controller.contacts, *controller.limits)}

    def described(entry: Mapping[str, Any]) -> dict[str, Any]:
        """The entry without the offsets of its numbers, with names of frames."""
        name = entry["name"]
        numbers = {*sizes[name], "acceleration"}
        own = {key: value for key, value in entry.items() if key not in numbers}
        own |= {key: frames[own[key]] for key in ("frame", "base", "other") if key in own}
        own |= {key: np.asarray(own[key]).tolist() for key in ("points", "directions", "normal") if key in own}
        return own

    kinds = ("terms", "supports", "bounds", "barriers")
    limit = assembly.torque_limit
    description = {
        **settings_numbers(controller.layer.settings),
        "actuated": [int(i) for i in assembly.description["actuated"]],
        **{kind: [described(entry) for entry in assembly.description[kind]] for kind in kinds},
        "torque_limit": None if limit is None else {"name": limit.name, "hard": limit.shift_weight == np.inf},
    }
    arrays = {name: value.numpy().astype(np.float64) for name, value in controller.numbers().items()}
    for name, weight in zip(("weight_eq", "weight_in", "weight_box"), controller.shift_weights, strict=True):
        arrays[name] = weight.numpy()
    if parameters is not None:
        given = np.asarray(parameters, dtype=np.float64)
        if given.shape != (model.n_par,) or not np.isfinite(given).all():
            raise ValueError(f"parameters has shape {given.shape}, expected ({model.n_par},) and finite numbers")
        arrays["parameters"] = given
    return write_parameters(folder, "inverse_dynamics", description, arrays, {"robot.txt": model.model.saveToText})
