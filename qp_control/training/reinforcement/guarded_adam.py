"""Adam that skips gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

# For controllers: the first gradients, with untrained values, are large, and 0.999 would remember them too long.
BETAS = (0.9, 0.99)


class GuardedAdam(torch.optim.Adam):
    """Adam. Parameter groups may have a `scale` of the learning rate, which schedules set for all groups alike; groups
    with scale zero are not updated.

    clip: largest norm per group's gradient, so that a value network's does not scale down the controller's.
    taken: norms of the first group's gradients since the list was last cleared, NaN for skipped steps.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, clip: float = math.inf, **options: Any) -> None:
        super().__init__([{"scale": 1.0} | group for group in groups], **options)
        self.clip = clip
        self.taken: list[float] = []

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            if not group["scale"]:
                for p in group["params"]:
                    p.grad = None
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        if not any(groups):
            return None
        norms = [float(nn.utils.clip_grad_norm_(group, self.clip)) for group in groups]
        finite = all(math.isfinite(norm) for norm in norms)
        if groups[0] or not finite:
            self.taken.append(norms[0] if finite else math.nan)
        if not finite:
            return None
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group["scale"]
        done = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return done


def controller_groups(controller: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Groups of a controller's parameters that require grad, whose learning rate is `rate` times that of the others.

    A parameter's `rate_scale`, 1 by default, is a further factor.
    """
    by_scale: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in learned(controller):
        by_scale.setdefault(getattr(parameter, "rate_scale", 1.0), []).append(parameter)
    return [
        {"params": chosen, "scale": rate * scale, "rate_scale": scale, "betas": BETAS}
        for scale, chosen in by_scale.items()
    ]


def learned(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require grad."""
    return [p for p in module.parameters() if p.requires_grad]
