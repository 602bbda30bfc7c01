"""Parameters of controllers as files that programs without Python read (cpp/include/qp_control/parameter_files.hpp).

A folder with controller.json, a description in text and numbers, and controller.safetensors, float64 arrays by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from qp_control.qp.problem import Array

FORMAT = 1


def write_parameters(
    folder: str | os.PathLike[str],
    kind: str,
    description: Mapping[str, Any],
    arrays: Mapping[str, Array],
    more: Mapping[str, Callable[[str], Any]] | None = None,
) -> Path:
    """Write the files of a controller of the given kind, and return the folder.

    more: further files by name, each with a function that writes it to a path.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "kind": kind, **description}, indent=2, allow_nan=False) + "\n"
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    files: dict[str, Callable[[str], Any]] = {
        **(more or {}),
        "controller.safetensors": lambda path: save_file(contiguous, path),
        "controller.json": lambda path: Path(path).write_text(text),
    }
    # Written under another name and moved: a full disk leaves no partial file under the final name.
    partial = folder / "controller.partial"
    try:
        for name, write in files.items():
            write(str(partial))
            os.replace(partial, folder / name)
    finally:
        partial.unlink(missing_ok=True)
    return folder
