"""Limits and references as vectors: what a controller is given, and the shares of limits that it uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def vector(name: str, value: Tensor | Sequence[float] | None, size: int, default: float) -> Tensor:
    """`value` as (size,), `default` everywhere where it is None; ValueError for another shape and NaN, TypeError for
    what requires grad: a copy of it would not follow what is learned."""
    if value is None:
        return torch.full((size,), default, dtype=torch.float64)
    if isinstance(value, Tensor) and value.requires_grad:
        raise TypeError(f"{name} requires grad: what is learned goes into calls, see `MPC.problem`")
    try:
        given = torch.as_tensor(value, dtype=torch.float64).clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {value!r}, expected {size} numbers") from None
    if given.shape != (size,):
        raise ValueError(f"{name} has shape {tuple(given.shape)}, expected ({size},)")
    if bool(given.isnan().any()):
        raise ValueError(f"{name} is {given.tolist()}: NaN")
    return given


def finite_vector(name: str, value: Tensor | Sequence[float] | None, size: int) -> Tensor:
    """The same of finite numbers, zeros where it is None."""
    given = vector(name, value, size, 0.0)
    if not bool(given.isfinite().all()):
        raise ValueError(f"{name} is {given.tolist()}, expected finite numbers")
    return given


def limit(name: str, value: Tensor | Sequence[float] | None, size: int) -> Tensor:
    """The same for positive numbers, infinite where there is no limit."""
    given = vector(name, value, size, float("inf"))
    if not bool((given > 0.0).all()):
        raise ValueError(f"{name} is {given.tolist()}, expected positive numbers")
    return given


def slack_weights(value: Any, state_limit: Any) -> tuple[Any, Any] | None:
    """The pair (linear, quadratic) of weights of soft state limits; ValueError for anything else, and where there are
    no limits that it would make soft."""
    if value is None:
        return None
    if state_limit is None:
        raise ValueError("state_slack is given without state_limit: bounds in data are hard")
    good = isinstance(value, tuple | list) and len(value) == 2
    if not good or not all(
        isinstance(w, int | float | Tensor) and bool((torch.as_tensor(w) >= 0).all()) for w in value
    ):
        raise ValueError(f"state_slack is {value!r}, expected (linear, quadratic), two weights of at least zero")
    linear, quadratic = value
    return linear, quadratic


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
