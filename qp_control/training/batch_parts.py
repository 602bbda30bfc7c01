"""One update from the parts of its batch, each differentiated separately, summed in a fixed order.

The result depends on the number of parts, not on which process computes which of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.qp.certificates import weakly_active_counts
from qp_control.training.phase import DivisiblePhase, FailedProblem, Phase, Update
from qp_control.training.process_group import Group


@dataclass(frozen=True)
class Differentiated:
    """What a batch, or a part of it, contributes to a step.

    gradients (rows, n): see `Phase.gradients`. weakly_active: how many of the `differentiated` QPs have rows at a bound
    with zero multiplier, where the solution has a kink. carried: see `DivisiblePhase.keep`.
    """

    loss: float
    gradients: Tensor
    status: Tensor
    weakly_active: int
    differentiated: int
    failure: FailedProblem | None
    steps: int
    carried: dict[str, Tensor] = field(default_factory=dict)

    @property
    def weakly_active_share(self) -> float:
        """Share of the differentiated QPs; zero if there were none."""
        return self.weakly_active / max(1, self.differentiated)


def descend(
    phase: Phase,
    module: Any,
    optimizer: torch.optim.Optimizer,
    clip: float,
    generator: torch.Generator,
    parts: int,
    group: Group,
) -> tuple[Differentiated, float]:
    """Process the next batch of a phase: put its gradient into parameters and optimiser; returns it and its norm.

    The norm is NaN if the loss is not finite. Phases that cannot be divided are computed as a whole by every process.
    """
    if isinstance(phase, DivisiblePhase):
        found = differentiate(phase, module, optimizer.param_groups[0]["params"], generator, parts, group)
        if not math.isfinite(found.loss):
            return found, math.nan
        return found, phase.take(found.loss, found.gradients, optimizer, clip)
    update = phase.update(module, generator)
    loss, norm = float(update.loss.detach()), math.nan
    with weakly_active_counts() as counts:
        if math.isfinite(loss):
            norm = phase.backward(update, optimizer, clip, generator)
    return _described(update, loss, torch.empty(0), counts), norm


def differentiate(
    phase: DivisiblePhase,
    module: Any,
    parameters: Sequence[nn.Parameter],
    generator: torch.Generator,
    parts: int = 1,
    group: Group | None = None,
) -> Differentiated:
    """Differentiate the next batch of a phase, divided into `parts` among the processes of the group."""
    group = group or Group()
    drawn = phase.draw(module, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    pieces = drawn.tensor_split(min(parts, len(drawn)))
    own = []
    for k in group.mine(len(pieces)):
        update = phase.part(module, pieces[k]).scaled(len(pieces[k]) / len(drawn))
        own.append(_of(phase, update, parameters, torch.Generator().manual_seed(seed + k)))
    found = group.gather(own, len(pieces))
    for piece, one in zip(pieces, found, strict=True):
        phase.keep(module, piece, one.carried)
    return _sum(found)


def _of(phase: Phase, update: Update, parameters: Sequence[nn.Parameter], generator: torch.Generator) -> Differentiated:
    loss = float(update.loss.detach())
    with weakly_active_counts() as counts:
        gradients = phase.gradients(update, list(parameters), generator)
    return _described(update, loss, gradients, counts)


def _described(update: Update, loss: float, gradients: Tensor, counts: list[Any]) -> Differentiated:
    return Differentiated(
        loss,
        gradients,
        update.status.reshape(-1),
        sum(int((count > 0).sum()) for count in counts),
        sum(len(count) for count in counts),
        update.failure,
        update.steps,
        update.carried,
    )


def _sum(parts: list[Differentiated]) -> Differentiated:
    gradients, loss = parts[0].gradients, parts[0].loss
    for one in parts[1:]:
        gradients, loss = gradients + one.gradients, loss + one.loss
    return Differentiated(
        loss,
        gradients,
        torch.cat([one.status for one in parts]),
        sum(one.weakly_active for one in parts),
        sum(one.differentiated for one in parts),
        next((one.failure for one in parts if one.failure is not None), None),
        sum(one.steps for one in parts),
    )
