"""A phase of training: what is learned, and from which loss."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.settings import Status
from qp_control.training.gauss_newton import GaussNewton, flat, jacobian, random_products


@dataclass(frozen=True)
class FailedProblem:
    """A problem without an answer: the arguments of `qc.solve_ocp`, and where it occurred."""

    data: dict[str, Any]
    step: int
    element: int
    status: Status


@dataclass(frozen=True)
class Update:
    """The result of a batch: its loss with autograd graph, and what was recorded.

    status: `qc.Status` of its QPs, of any shape. failure: the first QP without an answer. steps: control periods, or
    another unit of work. residuals: if the loss is the sum of their squares. carried: see `DivisiblePhase.keep`.
    """

    loss: Tensor
    status: Tensor
    failure: FailedProblem | None
    steps: int
    residuals: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)

    def scaled(self, share: float) -> Update:
        """The update with the loss multiplied by `share`."""
        residuals = None if self.residuals is None else self.residuals * share**0.5
        return dataclasses.replace(self, loss=self.loss * share, residuals=residuals)


class Phase(abc.ABC):
    """A number of iterations of Adam on one loss; `name` appears in metrics and on the screen.

    from_best: it starts from the best module of all previous validations, not from the end of the previous phase. pace:
    remaining share of the controller's learning rate, see `lost`; phases that override `lost` apply it in `schedule` or
    `update`.
    """

    from_best = True
    pace = 1.0

    def __init__(self, name: str, iterations: int, rate: float) -> None:
        self.name, self.iterations, self.rate = name, iterations, rate

    @abc.abstractmethod
    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """The learned parameters, in a fixed order."""

    @abc.abstractmethod
    def update(self, module: Any, generator: torch.Generator) -> Update:
        """The loss of the next batch; all random numbers come from `generator`."""

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser, whose state consists of tensors per parameter."""
        return torch.optim.Adam(parameters, lr=self.rate)

    def backward(
        self, update: Update, optimizer: torch.optim.Optimizer, clip: float, generator: torch.Generator
    ) -> float:
        """Follows `update` if batches are not divided; returns the gradient's norm before clipping to `clip`."""
        gradients = self.gradients(update, optimizer.param_groups[0]["params"], generator)
        return self.take(float(update.loss.detach()), gradients, optimizer, clip)

    def gradients(self, update: Update, parameters: list[nn.Parameter], generator: torch.Generator) -> Tensor:
        """Gradient of the loss with respect to all parameters as the first of (rows, n); others inform the optimiser.

        Rows of the parts of a batch add up to those of the batch.
        """
        return flat(parameters, torch.autograd.grad(update.loss, parameters, allow_unused=True))[None]

    def take(self, loss: float, gradients: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> float:
        """Put what `gradients` returned into parameters and optimiser; returns the gradient's norm before clipping to
        `clip`."""
        parameters, start = optimizer.param_groups[0]["params"], 0
        for p in parameters:
            p.grad = gradients[0, start : start + p.numel()].view_as(p)
            start += p.numel()
        return float(nn.utils.clip_grad_norm_(parameters, clip))

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:  # noqa: B027, most have nothing to set
        """Set what depends on the number of iterations done."""

    def lost(self, value: float, first: float, best: float) -> bool:
        """Whether a validation requires going back to the best module with half the pace. value: the last number of its
        rank, for closed loops the return; first, best: that of the run's first and of its best validation."""
        return False

    def memory(self) -> dict[str, Tensor]:
        """What is carried from one iteration to the next, such as warm starts; stored in checkpoints."""
        return {}

    def remember(self, memory: dict[str, Tensor]) -> None:  # noqa: B027, as above
        """Continue from the `memory` of a checkpoint."""


class DivisiblePhase(Phase):
    """A phase whose batches can be processed in parts, sequentially or by several processes."""

    @abc.abstractmethod
    def draw(self, module: Any, generator: torch.Generator) -> Tensor:
        """What the next batch is made from, one row per element: indices of samples, start states."""

    @abc.abstractmethod
    def part(self, module: Any, drawn: Tensor) -> Update:
        """The update of some of the rows drawn; its loss is a mean over them."""

    def update(self, module: Any, generator: torch.Generator) -> Update:
        drawn = self.draw(module, generator)
        update = self.part(module, drawn)
        self.keep(module, drawn, update.carried)
        return update

    def keep(self, module: Any, drawn: Tensor, carried: dict[str, Tensor]) -> None:
        """Store in the memory what `part` returned as `carried`, for every part, whichever process computed it."""


class LeastSquares(Phase):
    """A number of Gauss-Newton iterations on residuals: for few parameters and a loss without noise.

    The damping decreases geometrically from the first number to the second. noisy: batches differ; if they do not,
    steps that increase the loss are undone. probes: backward passes per step for the curvature; None: the full Jacobian
    is computed, which requires residuals that can be differentiated twice.
    """

    noisy = True
    probes: int | None = 8
    damping = (1.0, 1e-10)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return GaussNewton(parameters, rate=self.rate)

    def gradients(self, update: Update, parameters: list[nn.Parameter], generator: torch.Generator) -> Tensor:
        assert update.residuals is not None
        if self.probes is None:
            J = jacobian(update.residuals, parameters)
            return torch.cat([2.0 * (update.residuals.detach() @ J)[None], J.T @ J])
        probes = random_products(update.residuals, parameters, self.probes, generator)
        return torch.cat([super().gradients(update, parameters, generator), probes])

    def take(self, loss: float, gradients: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> float:
        assert isinstance(optimizer, GaussNewton)
        norm = super().take(loss, gradients, optimizer, math.inf)
        if not self.noisy and not optimizer.judge(loss):
            return norm
        (optimizer.know if self.probes is None else optimizer.look)(gradients[1:])
        return norm

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        first, last = self.damping
        share = done / max(1, self.iterations - 1)
        optimizer.param_groups[0]["damping"] = first * (last / first) ** share


def chosen_parameters(module: nn.Module, names: Sequence[str] | None) -> list[nn.Parameter]:
    """Parameters that require grad and have entries, and whose names start with one of `names` (None: all)."""
    found = [(n, p) for n, p in module.named_parameters() if p.requires_grad and p.numel()]
    return [p for n, p in found if names is None or n.startswith(tuple(names))]
