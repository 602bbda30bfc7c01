"""Recipe: parameters of a model from trajectories, by its prediction errors (system identification)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.settings import Status
from qp_control.training.phase import DivisiblePhase, LeastSquares, Update, chosen_parameters

Predict = Callable[[Any, Tensor, Tensor], Tensor]


class Identification(DivisiblePhase, LeastSquares):
    """Mean squared error of predictions `steps` control periods ahead, over all of the trajectories.

    predict: x_next (B, nx) of the module, x (B, nx) and u (B, nu). states (D, T + 1, nx), inputs (D, T, nu).
    scale (nx,): typical size of the states. learned: name prefixes of the parameters to learn; None: all that require
    grad.
    """

    noisy = False  # every update sees all of them
    damping = (1e2, 1e-10)  # large at first: parameters that motion hardly depends on must not diverge

    def __init__(
        self,
        predict: Predict,
        states: Tensor,
        inputs: Tensor,
        scale: Tensor,
        iterations: int,
        rate: float = 0.7,
        *,
        steps: int = 1,
        learned: Sequence[str] | None = None,
    ) -> None:
        super().__init__("identification", iterations, rate)
        if not 1 <= steps <= inputs.shape[1]:
            raise ValueError(f"steps is {steps}, expected 1 to {inputs.shape[1]}, as many as the trajectories have")
        self.predict, self.scale, self.steps, self.learned = predict, scale, steps, learned
        # A prediction starts at every state followed by at least `steps` others.
        count = inputs.shape[1] - steps + 1
        self.begin = states[:, :count].flatten(0, 1)
        self.inputs = [inputs[:, k : k + count].flatten(0, 1) for k in range(steps)]
        self.ahead = [states[:, k + 1 : k + 1 + count].flatten(0, 1) for k in range(steps)]

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return chosen_parameters(module, self.learned)

    def draw(self, module: Any, generator: torch.Generator) -> Tensor:
        """Indices of predictions: all of them."""
        return torch.arange(len(self.begin))

    def part(self, module: Any, drawn: Tensor) -> Update:
        x, errors = self.begin[drawn], []
        for u, truth in zip(self.inputs, self.ahead, strict=True):
            x = self.predict(module, x, u[drawn])
            errors.append((x - truth[drawn]) / self.scale)
        residuals = torch.stack(errors).flatten()
        residuals = residuals / len(residuals) ** 0.5
        count = len(drawn) * self.steps
        return Update(residuals.square().sum(), torch.tensor([int(Status.SOLVED)]), None, count, residuals)
