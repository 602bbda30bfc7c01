"""Positive numbers that several parts of a controller share, learned by their logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SharedNumbers(nn.Module):
    """Weights, gains or coefficients, some of them shared by several parts of a controller.

    values: by name, a positive number or several. places: by name, the numbers of a controller that it sets, such as
    "com.weight"; see `InverseDynamics.forward`.

    An update of the same size changes each of them by the same share.
    """

    def __init__(self, values: Mapping[str, Any], places: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__()
        self.places = {name: tuple((places or {}).get(name, ())) for name in values}
        self.log = nn.ParameterDict()
        for name, value in values.items():
            numbers = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            if not bool((numbers > 0.0).all() & numbers.isfinite().all()):
                raise ValueError(f"{name} is {value}, expected positive numbers")
            self.log[name] = nn.Parameter(numbers.log())

    def __getitem__(self, name: str) -> Tensor:
        """(size,)"""
        value: Tensor = self.log[name].exp()
        return value

    def set(self, **values: Any) -> None:
        """Set some of them by hand. Raises ValueError for names there are none of, wrong sizes and numbers <= 0."""
        for name, value in values.items():
            if name not in self.log:
                raise ValueError(f"there is no number {name!r}, only {', '.join(self.log)}")
            own = self.log[name]
            numbers = torch.as_tensor(value, dtype=torch.float64)
            if numbers.shape not in ((), own.shape) or not bool((numbers > 0.0).all() & numbers.isfinite().all()):
                raise ValueError(f"{name} is {value}, expected one positive number or {len(own)}")
            with torch.no_grad():
                own.copy_(numbers.log().expand_as(own))

    def forward(self) -> dict[str, Tensor]:
        """The numbers for a call of the controller."""
        return {place: value for name, places in self.places.items() for value in [self[name]] for place in places}
