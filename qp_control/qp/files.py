"""QPs and optimal-control QPs as files, so that every failure can be reported: npz archives without pickles."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from qp_control.exceptions import ProblemFileError
from qp_control.ocp.problem import OCP_NAMES
from qp_control.qp.problem import NAMES, WEIGHTS, as_array, as_integer

_QP = frozenset(NAMES + WEIGHTS)
_OCP = frozenset((*OCP_NAMES, "horizon"))


def save_problem(path: str | os.PathLike[str], **arrays: Any) -> Path:
    """Write a QP, or an optimal-control QP, to `path`; `solve_qp(**load_problem(path))`, or `solve_ocp`, solves it
    again.

    Args:
        path: the file, by convention ending in .npz, in a folder that exists.
        **arrays: arguments of `solve_qp` by name (H, g, A, b, C, l, u, lb, ub, weight_eq, weight_in, weight_box), or of
            `solve_ocp` (Q, R, A, B, x0, ..), as arrays or tensors; None is left out. Values may be NaN, so that
            problems that cannot be solved can be saved too.

    Returns:
        The path.

    Raises:
        ValueError: an unknown name, an array that is not numeric, an invalid horizon, or a missing g (for an
            optimal-control QP, A or B).
        OSError: the file cannot be written.
    """
    unknown = min(set(arrays) - _QP, set(arrays) - _OCP, key=len)
    if unknown:
        parts = f"some of {[*NAMES, *WEIGHTS]}, or of {[*OCP_NAMES, 'horizon']}"
        raise ValueError(f"{sorted(unknown)} are not parts of a QP; expected {parts}")
    data = {}
    for name, value in arrays.items():
        if value is not None:
            data[name] = as_array(name, value.detach() if hasattr(value, "detach") else value)
    if arrays.get("horizon") is not None:
        as_integer("horizon", arrays["horizon"], 1)
    if not _is_problem(data):
        raise ValueError(f"got {sorted(data)}, expected g at least, or A and B of an optimal-control QP")
    path = Path(path)

    # Written under another name and moved: a full disk leaves no partial file under the final one.
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **data)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_problem(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file written by `save_problem`, as arrays by argument name.

    Raises:
        FileNotFoundError: there is no such file.
        ProblemFileError: it is not a problem file, or only part of one.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ProblemFileError(f"{path} is not an npz archive, or only part of one")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                data = {name: as_array(name, archive[name]) for name in archive.files}
    except (FileNotFoundError, ProblemFileError):
        raise
    except ValueError:  # NumPy's own advice is to allow pickles
        raise ProblemFileError(f"{path} is damaged, or has something else than arrays of numbers") from None
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ProblemFileError(f"{path} is not a problem file, or damaged: {error}") from error
    unknown = min(set(data) - _QP, set(data) - _OCP, key=len)
    if unknown or not _is_problem(data):
        reason = f"has unknown arrays {sorted(unknown)}" if unknown else "has no g"
        raise ProblemFileError(f"{path} {reason}: not a problem file")
    if "horizon" not in data:
        return dict(data)
    try:
        return data | {"horizon": as_integer("horizon", data["horizon"], 1)}
    except ValueError as error:
        raise ProblemFileError(f"{path}: {error}: not a problem file") from None


def _is_problem(names: Container[str]) -> bool:
    """Whether the names include what a QP or an optimal-control QP requires."""
    return "g" in names or ("A" in names and "B" in names)
