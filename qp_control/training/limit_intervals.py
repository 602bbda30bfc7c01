"""Recipe: which values of a limit the demonstrations allow, and the widest of them.

A limit that no demonstration reaches cannot be identified: all values beyond what is observed explain the data equally.
The tightest of them is the worst choice: it forbids what the expert would do elsewhere, without evidence. So the widest
value is taken whose loss L does not differ significantly from the best one, L*: with n residuals,

    n log(L / L*) <= 3.84,

the 95 % interval of a likelihood ratio with one degree of freedom, all other parameters held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.training.expert_imitation import Demonstrations
from qp_control.training.phase import Phase, Update
from qp_control.training.task import Estimate

_CHI_SQUARED = 3.84  # 95 % quantile, one degree of freedom
_FLOOR = 1e-14  # smallest loss: plans are converged to 1e-8, which is 1e-7 in units of the states' scale
_HALVINGS = 10


@dataclass(frozen=True)
class LearnedLimit:
    """One entry of a parameter that is a limit of a module's plans.

    parameter: of the module. value: the limit itself [m], [N], from the parameter's entry. wider: 1 if larger entries
    allow more, -1 if they allow less. reach: largest change of the entry that is tried.
    """

    name: str
    parameter: Callable[[Any], nn.Parameter]
    value: Callable[[float], float]
    index: int = 0
    wider: float = 1.0
    reach: float = 1.0


class Evidence:
    """Losses of a module on demonstrations as one entry of its limits varies."""

    @torch.no_grad()
    def __init__(self, module: MPC, demonstrations: Demonstrations) -> None:
        self.module, self.demonstrations = module, demonstrations
        self.plan: Plan | None = None
        self.plan, self.best = self._look()
        shown = demonstrations
        count = shown.states.numel() + shown.inputs.numel()
        self.allowed = self.best * math.exp(_CHI_SQUARED / count) + _FLOOR

    def _look(self) -> tuple[Plan, float]:
        plan: Plan = self.module(self.demonstrations.states[:, 0], self.plan)
        errors = self.demonstrations.errors(plan, slice(None), self.module.input_limit)
        loss = float(torch.cat(errors, 1).square().sum(1).mean())
        return plan, loss if bool(plan.solved.all()) else math.inf

    @torch.no_grad()
    def farthest(self, limit: LearnedLimit, side: float) -> float:
        """The parameter's entry for the widest (side 1) or tightest (-1) limit that the demonstrations allow, at most
        `reach` away."""
        entries = limit.parameter(self.module).view(-1)
        here = float(entries[limit.index])

        def allowed(change: float) -> bool:
            entries[limit.index] = here + change
            return self._look()[1] <= self.allowed

        good, bad = 0.0, side * limit.wider * limit.reach
        if allowed(bad):
            good = bad
        else:
            for _ in range(_HALVINGS):
                middle = 0.5 * (good + bad)
                good, bad = (middle, bad) if allowed(middle) else (good, middle)
        entries[limit.index] = here
        return here + good


def limit_estimates(module: MPC, demonstrations: Demonstrations, limits: Sequence[LearnedLimit]) -> list[Estimate]:
    """The limits' values and the intervals that the demonstrations allow."""
    evidence, found = Evidence(module, demonstrations), []
    for limit in limits:
        entry = float(limit.parameter(module).detach().view(-1)[limit.index])
        ends = sorted(limit.value(evidence.farthest(limit, side)) for side in (-1.0, 1.0))
        found.append(Estimate(limit.name, limit.value(entry), interval=(ends[0], ends[1])))
    return found


class WidestLimits(Phase):
    """Sets one limit per iteration to its widest value, starting from the end of the previous phase."""

    from_best = False  # the module with the best validation need not explain the demonstrations best

    def __init__(self, name: str, demonstrations: Demonstrations, limits: Sequence[LearnedLimit]) -> None:
        super().__init__(name, len(limits), 1.0)
        self.demonstrations, self.limits = demonstrations, tuple(limits)
        self._done, self._widest = 0, math.nan
        self._entry = torch.empty(0)

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return list({id(p): p for p in (limit.parameter(module) for limit in self.limits)}.values())

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1.0)  # without a state; steps are taken in `backward`

    def update(self, module: MPC, generator: torch.Generator) -> Update:
        limit = self.limits[self._done]
        evidence = Evidence(module, self.demonstrations)
        assert evidence.plan is not None
        self._entry = limit.parameter(module).detach().view(-1)[limit.index : limit.index + 1]
        known = not limit.parameter(module).requires_grad
        self._widest = float(self._entry) if known else evidence.farthest(limit, 1.0)
        loss = torch.tensor(evidence.best, dtype=torch.float64)
        return Update(loss, evidence.plan.status, None, len(self.demonstrations) * module.horizon)

    def backward(
        self, update: Update, optimizer: torch.optim.Optimizer, clip: float, generator: torch.Generator
    ) -> float:
        self._entry.fill_(self._widest)
        for p in optimizer.param_groups[0]["params"]:
            p.grad = None
        return 0.0

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        self._done = done
