"""Parameters of controllers as files that programs without Python read (cpp/include/qp_control/parameter_files.hpp).

A folder with controller.json, a description in text and numbers, and controller.safetensors, float64 arrays by name.
The description lists the arrays, and further files with their checksums; a folder whose files do not belong together is
rejected.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from qp_control.qp.problem import Array
from qp_control.settings import Settings

FORMAT = 1


def settings_numbers(settings: Settings) -> dict[str, float]:
    """The options of the solver, as both kinds of controllers have them."""
    limit = settings.time_limit or 0.0
    return {
        "eps_abs": settings.eps_abs,
        "eps_rel": settings.eps_rel,
        "reduced_eps_rel": settings.reduced_eps_rel,
        "eps_gap": settings.eps_gap or 0.0,
        "max_iter": int(settings.max_iter),
        "time_limit": limit if math.isfinite(limit) else 0.0,
        "closest": int(settings.infeasible != "certify"),
    }


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
    partial = folder / "controller.partial"

    def put(name: str, write: Callable[[str], Any]) -> int:
        # Written beside and moved: a full disk leaves no half file under the final name.
        write(str(partial))
        checksum = zlib.crc32(partial.read_bytes())
        os.replace(partial, folder / name)
        return checksum

    try:
        checksums = {name: put(name, write) for name, write in (more or {}).items()}
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        put("controller.safetensors", lambda path: save_file(contiguous, path))
        text = {"format": FORMAT, "kind": kind, **description, "arrays": list(arrays), "files": checksums}
        put("controller.json", lambda path: Path(path).write_text(json.dumps(text, indent=2, allow_nan=False) + "\n"))
    finally:
        partial.unlink(missing_ok=True)
    return folder
