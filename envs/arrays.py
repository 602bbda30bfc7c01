"""Functions of torch tensors or NumPy arrays: tasks are defined once, for training (torch, with gradients) and for the
environments (NumPy, whose operations on a few robots take a tenth of torch's time)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Array: TypeAlias = Any  # a float64 torch.Tensor or NumPy array; results are of the same kind


def library(x: Array) -> Any:
    """torch or numpy, for functions that have the same name in both."""
    return torch if isinstance(x, torch.Tensor) else np


def constant(value: NDArray[Any], like: Array) -> Array:
    """The value as a tensor if `like` is one."""
    return torch.from_numpy(value) if isinstance(like, torch.Tensor) else value
