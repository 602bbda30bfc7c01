"""Networks as controllers, and networks that set the weights and references of controllers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from qp_control.mpc.plan import Plan


def dense_network(sizes: list[int], last_gain: float = 1.0) -> nn.Sequential:
    """Layers of `sizes` with tanh between them, in double precision, initially orthogonal, the last one scaled."""
    layers: list[nn.Module] = []
    for k, (n, m) in enumerate(pairwise(sizes)):
        last = k == len(sizes) - 2
        linear = nn.Linear(n, m, dtype=torch.float64)
        nn.init.orthogonal_(linear.weight, last_gain if last else 2.0**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class NetworkController(nn.Module):
    """A plain network in place of a controller, from observations to inputs; for comparison.

    observe: observations (B, size) of the plant's states (B, nx); low, high: bounds (nu,) of the inputs.
    """

    def __init__(
        self,
        observe: Callable[[Tensor], Tensor],
        size: int,
        low: Tensor,
        high: Tensor,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__()
        self.observe = observe
        self.middle, self.reach = 0.5 * (high + low), 0.5 * (high - low)
        self.input_limit = torch.maximum(low.abs(), high.abs())
        self.network = dense_network([size, *hidden, len(low)], last_gain=0.01)

    def forward(self, x: Tensor, plan: Plan | None = None) -> Plan:
        """Inputs for states x (B, nx), as a plan of one control period."""
        u = self.middle + self.reach * self.network(self.observe(x))
        return dataclasses.replace(Plan.at_rest(x, 1, len(self.middle)), inputs=u[:, None])


class Guide(nn.Module):
    """A network that adjusts weights and reference of a controller from observations; initially without influence.

    features: number of its inputs; weights, shifts: how many factors and how many shifts it returns. rate_scale: its
    learning rate under PPO and SAC as a multiple of the controller's, which is too large for a network.
    """

    def __init__(
        self, features: int, weights: int, shifts: int, hidden: tuple[int, ...] = (32,), rate_scale: float = 0.02
    ) -> None:
        super().__init__()
        self.weights = weights
        self.network = dense_network([features, *hidden, weights + shifts], last_gain=0.0)
        for parameter in self.network.parameters():
            parameter.rate_scale = rate_scale  # type: ignore[attr-defined]

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (B, weights) and shifts (B, shifts)."""
        out = self.network(seen)
        return out[:, : self.weights].exp(), out[:, self.weights :]
