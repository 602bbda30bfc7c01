"""Controllers that are networks, and controllers that networks tell what to want."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.ocp_problem import OcpQP
from qp_control.plan import Plan


def dense_network(sizes: list[int], last_gain: float = 1.0) -> nn.Sequential:
    """Layers of `sizes` with tanh between them, in double precision, orthogonal to begin with, the last one scaled."""
    layers: list[nn.Module] = []
    for k, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = k == len(sizes) - 2
        linear = nn.Linear(n, m, dtype=torch.float64)
        nn.init.orthogonal_(linear.weight, last_gain if last else 2.0**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)
