"""Tasks whose learner sees an expert's plans and should plan like it from held-out states."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.controller import MPC
from qp_control.settings import Settings
from qp_control.training.evaluation import mean_interval
from qp_control.training.expert_imitation import Demonstrations, demonstrate
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import FailedProblem
from qp_control.training.rollout import failed_problem
from qp_control.training.task import VALIDATION_SEED, Score, TrainingTask


class ExpertTask(TrainingTask):
    """expert: its parameters are hidden. shown: the plans to learn from. state_scale (nx,): typical sizes.

    A score's first value is the root mean square error of the inputs, in units of their limits.
    """

    state_scale: Tensor

    def __init__(self, options: TrainingOptions | None) -> None:
        super().__init__(options)
        self.expert = self.make_expert().requires_grad_(False)
        start = self.starts(self.options.demonstrations, self.options.seed)
        self.shown = demonstrate(self.expert, start, self.state_scale)
        self._held: dict[tuple[int, int], Demonstrations] = {}

    @abc.abstractmethod
    def make_expert(self) -> MPC: ...

    @abc.abstractmethod
    def starts(self, count: int, seed: int) -> Tensor:
        """States (count, nx) to plan from."""

    @abc.abstractmethod
    def module(self, settings: Settings | None = None) -> MPC: ...

    @abc.abstractmethod
    def further_values(self, module: MPC, states: Tensor, truth: Demonstrations) -> dict[str, float]:
        """A score's other values. states (count, N + 1, nx): of the module's plans; truth: the expert's plans."""

    def truth(self, count: int, seed: int) -> Demonstrations:
        """The expert's plans from other states."""
        if (count, seed) not in self._held:
            self._held[count, seed] = demonstrate(self.expert, self.starts(count, seed), self.state_scale)
        return self._held[count, seed]

    @torch.no_grad()
    def score(self, module: MPC, seed: int, count: int) -> Score:
        truth = self.truth(count, seed)
        plan = module(truth.states[:, 0])
        failure = None
        if not bool(plan.solved.all()):
            failure = failed_problem(module, truth.states[:, 0], None, plan, 0)
        _, errors = truth.errors(plan, slice(None), module.input_limit)
        squares = errors.square().sum(1)
        error = float(squares[plan.solved].mean().sqrt()) if bool(plan.solved.any()) else math.inf
        low, high = mean_interval(squares)
        return Score(
            {"action error": error} | self.further_values(module, plan.states, truth),
            (float(plan.solved.double().mean()), -error),
            {"action error": (math.sqrt(low), math.sqrt(high))},
            failure,
        )

    def search_loss(self) -> Callable[[Any], float]:
        truth = self.truth(self.options.demonstrations, VALIDATION_SEED)

        @torch.no_grad()
        def loss(module: MPC) -> float:
            plan = module(truth.states[:, 0])
            errors = torch.cat(truth.errors(plan, slice(None), module.input_limit), 1)
            value = float(errors.square().sum(1).mean())
            return value if bool(plan.solved.all()) and value == value else math.inf

        return loss

    def first_problem(self, module: MPC) -> FailedProblem:
        x0 = self.starts(1, self.options.seed)
        with torch.no_grad():
            return failed_problem(module, x0, None, module(x0), 0, 0)
