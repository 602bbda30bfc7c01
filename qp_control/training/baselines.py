"""What training is compared with, besides hand-tuned values: a search without gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class SearchResult(Generic[Module]):
    """The best module found and its loss; evaluations of the loss; seconds taken."""

    module: Module
    loss: float
    evaluations: int
    seconds: float


@torch.no_grad()
def evolution_strategy(
    module: Module,
    loss_of: Callable[[Module], float],
    *,
    seconds: float,
    seed: int = 0,
    step_size: float = 0.3,
    report: Callable[[int, float, float], None] | None = None,
) -> SearchResult[Module]:
    """(1+1) evolution strategy with the one-fifth success rule over the parameters of `module` that require grad.

    seconds: wall time to spend; the start is evaluated in any case. report: called with (evaluations, seconds, best
    loss). The module is modified.

    Source: I. Rechenberg, Evolutionsstrategie, 1973; factors: S. Kern et al., Natural Computing 3 (2004).
    """
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    searched = [p for p in module.parameters() if p.requires_grad]
    parent = parameters_to_vector(searched).clone()
    best, evaluations = loss_of(module), 1
    while time.perf_counter() - began < seconds:
        child = parent + step_size * torch.randn(len(parent), generator=generator, dtype=parent.dtype)
        vector_to_parameters(child, searched)
        loss = loss_of(module)
        evaluations += 1
        # 1.5 up and 1.5^(1/4) down balance at one success in five.
        if loss <= best:
            parent, best, step_size = child, loss, step_size * 1.5
        else:
            step_size *= 1.5**-0.25
        if report is not None:
            report(evaluations, time.perf_counter() - began, best)
    vector_to_parameters(parent, searched)
    return SearchResult(module, best, evaluations, time.perf_counter() - began)
