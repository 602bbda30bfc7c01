"""Positive numbers of controllers, learned as logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.controller import InverseDynamics


class PositiveNumbers(nn.Module):
    """Weights, gains or coefficients that stay positive: an update of a given size changes each by the same factor.

    values: by name, a positive number or several. places: by name, the numbers of a controller that it sets, such as
    ("left contact.friction", "right contact.friction"); its own name if not given.

    A source of `InverseDynamicsPolicy`; a call returns the numbers for a call of `InverseDynamics`. Raises ValueError
    for numbers that are not positive.
    """

    def __init__(self, values: Mapping[str, Any], places: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__()
        self.places = {name: tuple((places or {}).get(name, (name,))) for name in values}
        self.log = nn.ParameterDict({_key(name): nn.Parameter(_log(name, value)) for name, value in values.items()})

    @classmethod
    def of(cls, controller: InverseDynamics, names: Sequence[str]) -> PositiveNumbers:
        """Those of a controller's parts, such as "tool.stiffness" or "posture.weight", with their current values.

        "tool.damping" of a task without damping starts at the critical value and no longer follows the stiffness.

        Raises ValueError for numbers that do not exist or are not positive.
        """
        own, values = controller.numbers(), {}
        for name in names:
            if name not in own:
                raise ValueError(f"there is no number {name!r}, only {', '.join(own)}")
            part, key = name.split(".")
            given = getattr(controller.parts[part], key)  # one for all stays one
            values[name] = (own[name] if given is None else given).detach()
        return cls(values)

    def __getitem__(self, name: str) -> Tensor:
        """(size,)"""
        value: Tensor = self.log[_key(name)].exp()
        return value

    def set(self, **values: Any) -> None:
        """Set some of them by hand. Raises ValueError for unknown names, wrong sizes and numbers <= 0."""
        for name, value in values.items():
            if name not in self.places:
                raise ValueError(f"there is no number {name!r}, only {', '.join(self.places)}")
            own = self.log[_key(name)]
            log = _log(name, value)
            if log.shape not in ((1,), own.shape):
                raise ValueError(f"{name} is {value}, expected one positive number or {len(own)}")
            with torch.no_grad():
                own.copy_(log.expand_as(own))

    def forward(self, situation: object = None) -> dict[str, Tensor]:
        """The numbers by the names of the controller's numbers that they set, (size,) each."""
        return {place: value for name, places in self.places.items() for value in [self[name]] for place in places}


def _key(name: str) -> str:
    """Names of parameters have no dots."""
    return name.replace(".", ":")


def _log(name: str, value: Any) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if not bool((numbers > 0.0).all() & numbers.isfinite().all()):
        raise ValueError(f"{name} is {numbers.tolist()}, expected positive numbers")
    return numbers.log()
