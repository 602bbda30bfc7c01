"""Recipe: a controller's plans regressed onto those of an expert from the same states.

Each demonstration's last plan is its next start: towards the end of training the problems are nearly solved from the
outset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.settings import Status
from qp_control.training.phase import DivisiblePhase, LeastSquares, Update, chosen_parameters
from qp_control.training.rollout import failed_problem


@dataclass(frozen=True)
class Demonstrations:
    """states (D, N + 1, nx), inputs (D, N, nu) [N or N m] of an expert. scale (nx,): typical size of the states.

    feasible (D,): where its limits could be kept.
    """

    states: Tensor
    inputs: Tensor
    scale: Tensor
    feasible: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def errors(self, plan: Plan, which: Tensor | slice, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Errors (B, .) of states and of inputs of a plan from the states of the demonstrations `which`.

        In units of `scale` and of `limit` (nu,), each divided by the square root of the number of entries, so that sums
        of squares are means. Zero for plans without an answer.
        """
        states = ((plan.states - self.states[which]) / self.scale).flatten(1)
        inputs = ((plan.inputs - self.inputs[which]) / limit).flatten(1)
        solved = plan.solved[:, None]
        return (
            torch.where(solved, states, 0.0) / states.shape[1] ** 0.5,
            torch.where(solved, inputs, 0.0) / inputs.shape[1] ** 0.5,
        )


def demonstrate(expert: MPC, x0: Tensor, scale: Tensor) -> Demonstrations:
    """The expert's plans from x0 (D, nx). Raises ValueError if it has no answer for one of them."""
    with torch.no_grad():
        plan = expert(x0)
    if not bool(plan.solved.all()):
        raise ValueError(f"the expert has no answer from {int((~plan.solved).sum())} of {len(x0)} states")
    return Demonstrations(plan.states, plan.inputs, scale, plan.status == Status.SOLVED)


class ExpertImitation(DivisiblePhase, LeastSquares):
    """Mean squared distance of plans from an expert's, over states and inputs.

    learned: name prefixes of the parameters to learn; None: all that require grad. batch: demonstrations per update,
    at most all of them. shift_weight: of the penalty on shifted limits, the sum of the squares of `MPC.violations`,
    averaged over the demonstrations: it leads limits that contradict each other, or a start that the expert could
    handle, back to values that can be kept. Starts from which the expert had to shift its own limits are exempt: they
    would make limits too wide.
    """

    from_best = False  # a model identified before need not give better plans by itself

    def __init__(
        self,
        name: str,
        demonstrations: Demonstrations,
        iterations: int,
        rate: float = 0.7,
        *,
        batch: int,
        learned: Sequence[str] | None = None,
        shift_weight: float = 0.0,
    ) -> None:
        super().__init__(name, iterations, rate)
        self.shift_weight = shift_weight
        self.demonstrations, self.batch = demonstrations, min(batch, len(demonstrations))
        self.learned, self.noisy = learned, self.batch < len(demonstrations)
        self._plans: Plan | None = None

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return chosen_parameters(module, self.learned)

    def draw(self, module: MPC, generator: torch.Generator) -> Tensor:
        """Indices of demonstrations."""
        return torch.randperm(len(self.demonstrations), generator=generator)[: self.batch]

    def part(self, module: MPC, drawn: Tensor) -> Update:
        given = self.demonstrations
        x0 = given.states[drawn, 0]
        start = None if self._plans is None else self._plans[drawn]
        plan = module(x0, start)
        failure = None
        if not bool(plan.solved.all()):
            failure = failed_problem(module, x0, start, plan, 0)
        errors = [*given.errors(plan, drawn, module.input_limit)]
        if self.shift_weight:
            errors.append(self._shifts(module, plan, given.feasible[drawn]))
        residuals = torch.cat(errors, 1).flatten() / len(drawn) ** 0.5
        kept = plan.detach()
        carried = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
        steps = len(drawn) * module.horizon
        return Update(residuals.square().sum(), plan.status, failure, steps, residuals, carried)

    def _shifts(self, module: MPC, plan: Plan, kept: Tensor) -> Tensor:
        """Residuals (B, entries) of the penalty: zero where the expert could not keep its limits (`kept`) either."""
        counted = (plan.solved & kept)[:, None]
        return torch.where(counted, self.shift_weight**0.5 * module.violations(plan), 0.0)

    def keep(self, module: MPC, drawn: Tensor, carried: dict[str, Tensor]) -> None:
        """Keep the plans of the demonstrations drawn; the first call allocates memory for all."""
        if self._plans is None:
            rest = module.cold_plan(self.demonstrations.states[:, 0])
            count = len(self.demonstrations)
            self._plans = Plan(
                **{
                    name: getattr(rest, name).clone()
                    if getattr(rest, name).shape[1:] == value.shape[1:]
                    else value.new_zeros(count, *value.shape[1:])
                    for name, value in carried.items()
                }
            )
        for name, value in carried.items():
            getattr(self._plans, name)[drawn] = value

    def memory(self) -> dict[str, Tensor]:
        if self._plans is None:
            return {}
        return {field.name: getattr(self._plans, field.name) for field in dataclasses.fields(self._plans)}

    def remember(self, memory: dict[str, Tensor]) -> None:
        self._plans = Plan(**memory) if memory else None
