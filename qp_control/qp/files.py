"""QPs and optimal-control QPs as files, so that every failure can be sent in: npz archives without pickles."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from qp_control.exceptions import ProblemFileError
from qp_control.ocp.problem import OCP_NAMES
from qp_control.qp.problem import NAMES, WEIGHTS, as_array

_QP = frozenset(NAMES + WEIGHTS)
_OCP = frozenset((*OCP_NAMES, "horizon"))


def save_problem(path: str | os.PathLike[str], **arrays: Any) -> Path:
    """Write a QP, or an optimal-control QP, to `path`; `solve_qp(**load_problem(path))`, or `solve_ocp`, solves it
    again.

    Args:
        path: the file, by convention ending in .npz, in a folder that exists.
        **arrays: arguments of `solve_qp` by name (H, g, A, b, C, l, u, lb, ub, weight_eq, weight_in, weight_box), or of
            `solve_ocp` (Q, R, A, B, x0, ..), as arrays or tensors; None is left out. Values may be NaN: a problem that
            cannot be solved is what one wants to keep.

    Returns:
        The path.

    Raises:
        ValueError: an unknown name, or an array without numbers.
        OSError: the file cannot be written.
    """
    unknown = min(set(arrays) - _QP, set(arrays) - _OCP, key=len)
    if unknown:
        parts = f"some of {[*NAMES, *WEIGHTS]}, or of {[*OCP_NAMES, 'horizon']}"
        raise ValueError(f"{sorted(unknown)} are not parts of a QP; expected {parts}")
    data = {}
    for name, value in arrays.items():
        if value is None:
            continue
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        data[name] = as_array(name, value)
    path = Path(path)

    # Written beside and moved: a full disk leaves no half file under the final name.
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **data)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_problem(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_problem` has written, by argument name.

    Raises:
        FileNotFoundError: there is no such file.
        ProblemFileError: it is not a problem file, or only part of one.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ProblemFileError(f"{path} is a single array, not a problem file")
        with archive:
            data = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except ProblemFileError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ProblemFileError(f"{path} is not a problem file, or damaged: {error}") from error
    unknown = min(set(data) - _QP, set(data) - _OCP, key=len)
    if unknown or not ("g" in data or {"A", "B"} <= set(data)):
        reason = f"has unknown arrays {sorted(unknown)}" if unknown else "has no g"
        raise ProblemFileError(f"{path} {reason}: not a problem file")
    horizon = data.pop("horizon", None)
    arrays: dict[str, Any] = {name: as_array(name, array) for name, array in data.items()}
    return arrays if horizon is None else arrays | {"horizon": int(horizon)}
