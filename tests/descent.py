"""A phase's updates as the trainer takes them."""

from __future__ import annotations

import math

import torch

from qp_control.mpc.controller import MPC
from qp_control.training.phase import DivisiblePhase


def descend(phase: DivisiblePhase, module: MPC) -> float:
    """The last loss, after all updates of the phase."""
    generator = torch.Generator().manual_seed(0)
    optimizer, loss = phase.optimizer(phase.parameters(module)), math.nan
    for k in range(phase.iterations):
        phase.schedule(optimizer, k)
        update = phase.update(module, generator)
        loss = float(update.loss.detach())
        phase.backward(update, optimizer, 1.0, generator)
        optimizer.step()
    return loss
