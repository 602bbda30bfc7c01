"""Limits and references as vectors: what a controller is given, and the shares of limits that it uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def vector(name: str, value: Tensor | Sequence[float] | None, size: int, default: float) -> Tensor:
    """`value` as (size,), `default` in all entries if it is None; ValueError for another shape and NaN."""
    if value is None:
        return torch.full((size,), default, dtype=torch.float64)
    given = torch.as_tensor(value, dtype=torch.float64).clone()
    if given.shape != (size,):
        raise ValueError(f"{name} has shape {tuple(given.shape)}, expected ({size},)")
    if bool(given.isnan().any()):
        raise ValueError(f"{name} is {given.tolist()}: NaN")
    return given


def limit(name: str, value: Tensor | Sequence[float] | None, size: int) -> Tensor:
    """The same for positive numbers, infinite where there is no limit."""
    given = vector(name, value, size, float("inf"))
    if not bool((given > 0.0).all()):
        raise ValueError(f"{name} is {given.tolist()}, expected positive numbers")
    return given


def used(limits: Tensor, fraction: nn.Parameter | None) -> Tensor:
    """The share of the limits that is used; all of it without a fraction."""
    if fraction is None:
        return limits
    # The gradient of an infinite limit's share would be 0 inf = NaN.
    finite = limits.isfinite()
    return torch.where(finite, torch.where(finite, limits, 0.0) * fraction.sigmoid(), limits)


def spread(bound: Tensor, chosen: list[int], size: int) -> Tensor:
    """Bounds (..., chosen) of some coordinates as (..., size) of all, infinite for the others."""
    index = torch.tensor(chosen)
    return bound.new_full((*bound.shape[:-1], size), float("inf")).index_copy(-1, index, bound)
