"""Checkpoints: one safetensors file with all tensors, and the rest as JSON in its header. No pickles."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from qp_control.exceptions import QPControlError

FORMAT = 3


class RunError(QPControlError):
    """A run folder or one of its files is missing, damaged, of the wrong kind, or cannot be written."""


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name; state: numbers and strings."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the old file stays until the new one is complete. Raises RunError if it cannot be written."""
    header = {"format": str(FORMAT), "state": json.dumps(checkpoint.state, sort_keys=True)}
    tensors = {name: value.detach().contiguous().clone() for name, value in checkpoint.tensors.items()}
    write_file(path, save(tensors, metadata=header))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises RunError, naming the file, if it is missing, damaged or of the wrong kind."""
    if not path.is_file():
        raise RunError(f"there is no checkpoint {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != str(FORMAT):
                found = header.get("format", "none")
                raise RunError(f"{str(path)!r} has checkpoint format {found}, expected {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            state = json.loads(header["state"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a checkpoint, or damaged: {error}") from error
    if not isinstance(state, dict):
        raise RunError(f"{str(path)!r} is not a checkpoint: its state is no JSON object")
    return Checkpoint(tensors, state)


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors renamed to prefix.name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def part(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """The tensors named prefix.name, by name."""
    start = prefix + "."
    return {name[len(start) :]: value for name, value in checkpoint.tensors.items() if name.startswith(start)}


def load_parameters(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Put tensors into a module's parameters. Raises RunError if they do not fit or are not finite."""
    expected = {name: tuple(value.shape) for name, value in module.named_parameters()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if got != expected:
        names = sorted(name for name in {*got, *expected} if got.get(name) != expected.get(name))
        what = ", ".join(f"{n}: {got.get(n, 'missing')}, expected {expected.get(n, 'nothing')}" for n in names)
        raise RunError(f"the parameters in {source} do not fit the controller ({what})")
    own = dict(module.named_parameters())
    for name, value in tensors.items():
        # Absent limits are infinite from the start.
        if not bool((value.isfinite() | (value == own[name])).all()):
            raise RunError(f"the parameter {name} in {source} is not finite")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[name])


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and move it. Raises RunError if that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RunError(f"cannot write {str(path)!r}: {error}") from error
