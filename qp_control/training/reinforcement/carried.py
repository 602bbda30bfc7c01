"""What a controller carries from call to call, as a vector of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class CarriedNumbers:
    """Numbers (B, size) of objects structured like `example`: all tensors (B, ..) in nested dataclasses and tuples.

    Anything else is as in the example. Fields that a class lists in `warm` only serve to warm-start a solver.
    """

    def __init__(self, example: Any) -> None:
        self.example = example
        leaves = list(_leaves(example))
        self._kinds = [(leaf.shape[1:], leaf.dtype) for leaf, _ in leaves]
        self._sizes = [shape.numel() for shape, _ in self._kinds]
        self.size = sum(self._sizes)
        self.warm = torch.cat([torch.full((leaf[0].numel(),), warm) for leaf, warm in leaves])
        """bool (size,): of those fields."""

    def pack(self, carried: Any) -> Tensor:
        """The numbers (B, size)."""
        return torch.cat([leaf.flatten(1) if leaf.ndim > 1 else leaf[:, None] for leaf, _ in _leaves(carried)], 1)

    def unpack(self, numbers: Tensor) -> Any:
        """The object with these numbers (B, size)."""
        parts = torch.split(numbers, self._sizes, 1)
        kinds = zip(parts, self._kinds, strict=True)
        return _rebuilt(self.example, iter([p.view(len(p), *shape).to(dtype) for p, (shape, dtype) in kinds]))

    def joined(self, first: Any, second: Any, order: Tensor) -> Any:
        """Elements of two concatenated batches, in the order (B,)."""
        both = zip(_leaves(first), _leaves(second), strict=True)
        return _rebuilt(self.example, iter([torch.cat([a, b])[order] for (a, _), (b, _) in both]))


def _leaves(value: Any, warm: bool = False) -> Iterator[tuple[Tensor, bool]]:
    """The tensors in a value, and whether they only serve to warm-start a solver."""
    if isinstance(value, Tensor):
        yield value, warm
    elif isinstance(value, tuple):
        for item in value:
            yield from _leaves(item, warm)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), warm or field.name in getattr(value, "warm", ()))


def _rebuilt(example: Any, leaves: Iterator[Tensor]) -> Any:
    """The example with other tensors."""
    if isinstance(example, Tensor):
        return next(leaves)
    if isinstance(example, tuple):
        items = [_rebuilt(item, leaves) for item in example]
        return type(example)(*items) if hasattr(example, "_fields") else tuple(items)
    if dataclasses.is_dataclass(example) and not isinstance(example, type):
        fields = [field.name for field in dataclasses.fields(example)]
        return dataclasses.replace(example, **{name: _rebuilt(getattr(example, name), leaves) for name in fields})
    return example
