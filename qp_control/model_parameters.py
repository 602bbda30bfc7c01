"""Learnable parameters of a controller's model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qp_control.dynamics import RobotDynamics


class BodyScales(nn.Module):
    """Parameters of a robot's model as physically consistent scales of the nominal ones.

    log_mass, log_length (bodies,), log_damping (nv,): with a = exp(log_mass), b = exp(log_length) a body's m, m c and I
    about its joint become a m, a b m c, a b^2 I, and its joint's viscous friction exp(log_damping) times what it was.
    """

    def __init__(self, dynamics: RobotDynamics) -> None:
        super().__init__()
        self.nominal: Tensor
        self.degree: Tensor
        self.register_buffer("nominal", dynamics.parameters.clone(), persistent=False)
        # Order of a body: m, three of m c, six of I.
        degree = torch.tensor([0.0] + 3 * [1.0] + 6 * [2.0], dtype=torch.float64)
        self.register_buffer("degree", degree, persistent=False)

        def zeros(n: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(n, dtype=torch.float64))

        self.log_mass, self.log_length = zeros(dynamics.bodies), zeros(dynamics.bodies)
        self.log_damping = zeros(dynamics.nv)

    def forward(self) -> Tensor:
        bodies = self.log_mass[:, None] + self.degree * self.log_length[:, None]
        scales = torch.cat([bodies.flatten(), self.log_damping])
        return self.nominal * scales.exp()


class FreeParameters(nn.Module):
    """Parameters (n_par,) that are learned as they are; nominal None: a model without any."""

    def __init__(self, nominal: Tensor | None) -> None:
        super().__init__()
        self.value = None if nominal is None else nn.Parameter(nominal.clone())

    def forward(self) -> Tensor | None:
        return self.value


def model_parameters(dynamics: Any) -> nn.Module:
    """`BodyScales` of a `RobotDynamics`, `FreeParameters` of anything else."""
    if isinstance(dynamics, RobotDynamics):
        return BodyScales(dynamics)
    return FreeParameters(getattr(dynamics, "parameters", None))
