"""A phase of training: what is learned in it, and from which loss."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.settings import Status
from qp_control.training.gauss_newton import GaussNewton


@dataclass(frozen=True)
class FailedProblem:
    """A problem without an answer: the arguments of `qc.solve_ocp`, and where it came up."""

    data: dict[str, Any]
    step: int
    element: int
    status: Status


@dataclass(frozen=True)
class Update:
    """What a batch gives: its loss with graph, and what came up on the way.

    status: `qc.Status` of its QPs, of any shape. failure: the first QP without an answer. steps: control periods, or
    whatever the work is counted in. residuals: where the loss is the sum of their squares.
    """

    loss: Tensor
    status: Tensor
    failure: FailedProblem | None
    steps: int
    residuals: Tensor | None = None


class Phase(abc.ABC):
    """Some iterations of Adam on one loss; `name` in metrics and on the screen.

    from_best: it begins at the best module of all validations before, not where the phase before ended.
    """

    from_best = True

    def __init__(self, name: str, iterations: int, rate: float) -> None:
        self.name, self.iterations, self.rate = name, iterations, rate

    @abc.abstractmethod
    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """What is learned, in an order that does not change."""

    @abc.abstractmethod
    def update(self, module: Any, generator: torch.Generator) -> Update:
        """The loss of the next batch; all that is random in it comes from `generator`."""

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A new one, whose state is tensors per parameter."""
        return torch.optim.Adam(parameters, lr=self.rate)

    def backward(
        self, update: Update, optimizer: torch.optim.Optimizer, clip: float, generator: torch.Generator
    ) -> float:
        """Put gradients into the parameters; returns their norm, before they are cut to `clip`."""
        update.loss.backward()  # type: ignore[no-untyped-call]
        return float(nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip))

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:  # noqa: B027, most have nothing to set
        """Set what depends on how many iterations are done."""

    def memory(self) -> dict[str, Tensor]:
        """What it carries from one iteration to the next, such as warm starts: goes into checkpoints."""
        return {}

    def remember(self, memory: dict[str, Tensor]) -> None:  # noqa: B027, as above
        """Go on from `memory` of a checkpoint."""


class LeastSquares(Phase):
    """Some iterations of Gauss-Newton on residuals: for few parameters and a loss without noise.

    The damping falls from the first number to the second, in equal parts of its logarithm.
    """

    damping = (1.0, 1e-10)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return GaussNewton(parameters, rate=self.rate)

    def backward(
        self, update: Update, optimizer: torch.optim.Optimizer, clip: float, generator: torch.Generator
    ) -> float:
        assert isinstance(optimizer, GaussNewton) and update.residuals is not None
        optimizer.look(update.residuals, generator)
        return super().backward(update, optimizer, math.inf, generator)

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        first, last = self.damping
        share = done / max(1, self.iterations - 1)
        optimizer.param_groups[0]["damping"] = first * (last / first) ** share
