"""A phase of training: what is learned in it, and from which loss."""

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
    """A problem without an answer: the arguments of `qc.solve_ocp`, and where it came up."""

    data: dict[str, Any]
    step: int
    element: int
    status: Status


@dataclass(frozen=True)
class Update:
    """What a batch gives: its loss with graph, and what came up on the way.

    status: `qc.Status` of its QPs, of any shape. failure: the first QP without an answer. steps: control periods, or
    whatever the work is counted in. residuals: where the loss is the sum of their squares. carried: see
    `DivisiblePhase.keep`.
    """

    loss: Tensor
    status: Tensor
    failure: FailedProblem | None
    steps: int
    residuals: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)

    def scaled(self, share: float) -> Update:
        """With the loss times `share`."""
        residuals = None if self.residuals is None else self.residuals * share**0.5
        return dataclasses.replace(self, loss=self.loss * share, residuals=residuals)


class Phase(abc.ABC):
    """Some iterations of Adam on one loss; `name` in metrics and on the screen.

    from_best: it begins at the best module of all validations before, not where the phase before ended. pace: share of
    the controller's learning rate that is left, see `lost`; `schedule` or `update` of phases that may be lost apply it.
    """

    from_best = True
    pace = 1.0

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
        """What follows `update` where batches are not divided; returns the gradient's norm, not cut to `clip`."""
        gradients = self.gradients(update, optimizer.param_groups[0]["params"], generator)
        return self.take(float(update.loss.detach()), gradients, optimizer, clip)

    def gradients(self, update: Update, parameters: list[nn.Parameter], generator: torch.Generator) -> Tensor:
        """(rows, n) the loss's gradient by all parameters; below it, what else the optimiser wants to know.

        Rows of the parts of a batch add up to those of the batch.
        """
        return flat(parameters, torch.autograd.grad(update.loss, parameters, allow_unused=True))[None]

    def take(self, loss: float, gradients: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> float:
        """Put what `gradients` returned into parameters and optimiser; returns the gradient's norm, before it is cut to
        `clip`."""
        parameters, start = optimizer.param_groups[0]["params"], 0
        for p in parameters:
            p.grad = gradients[0, start : start + p.numel()].view_as(p)
            start += p.numel()
        return float(nn.utils.clip_grad_norm_(parameters, clip))

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:  # noqa: B027, most have nothing to set
        """Set what depends on how many iterations are done."""

    def lost(self, value: float, first: float, best: float) -> bool:
        """Does a validation tell to go back to the best module, with half the pace? value: the last number of its rank,
        which of closed loops is the return; that of the run's first validation, and the best."""
        return False

    def memory(self) -> dict[str, Tensor]:
        """What it carries from one iteration to the next, such as warm starts: goes into checkpoints."""
        return {}

    def remember(self, memory: dict[str, Tensor]) -> None:  # noqa: B027, as above
        """Go on from `memory` of a checkpoint."""


class DivisiblePhase(Phase):
    """A phase whose batch can be done in parts, one after the other or in several processes."""

    @abc.abstractmethod
    def draw(self, module: Any, generator: torch.Generator) -> Tensor:
        """What the next batch is made from, an element a row: indices of samples, start states."""

    @abc.abstractmethod
    def part(self, module: Any, drawn: Tensor) -> Update:
        """Of some rows of what was drawn; its loss is a mean over them."""

    def update(self, module: Any, generator: torch.Generator) -> Update:
        drawn = self.draw(module, generator)
        update = self.part(module, drawn)
        self.keep(module, drawn, update.carried)
        return update

    def keep(self, module: Any, drawn: Tensor, carried: dict[str, Tensor]) -> None:
        """Take into the memory what `part` returned as `carried`: of every part, whichever process did it."""


class LeastSquares(Phase):
    """Some iterations of Gauss-Newton on residuals: for few parameters and a loss without noise.

    The damping falls from the first number to the second, in equal parts of its logarithm. noisy: batches differ; where
    they do not, steps that make the loss larger are taken back. probes: backward passes per step for the curvature;
    None: the whole Jacobian is worked out, which takes residuals that can be differentiated twice.
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
    """Those that require grad and have entries, and whose names begin with one of `names`."""
    found = [(n, p) for n, p in module.named_parameters() if p.requires_grad and p.numel()]
    return [p for n, p in found if names is None or n.startswith(tuple(names))]
