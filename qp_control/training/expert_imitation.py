"""Recipe: a controller's plans regressed to those of an expert, from the same states.

Every demonstration keeps its plan, which the next call from its state begins at: towards the end of training the
problems are nearly solved before they are posed.
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

    feasible (D,): where its limits could be kept to.
    """

    states: Tensor
    inputs: Tensor
    scale: Tensor
    feasible: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def errors(self, plan: Plan, which: Tensor | slice, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Of a plan from the states of the demonstrations `which`, (B, .): of states and of inputs.

        In units of `scale` and of `limit` (nu,), each divided by the root of its number: sums of their squares are
        means. Zero for plans without an answer.
        """
        states = ((plan.states - self.states[which]) / self.scale).flatten(1)
        inputs = ((plan.inputs - self.inputs[which]) / limit).flatten(1)
        solved = plan.solved[:, None]
        return (
            torch.where(solved, states, 0.0) / states.shape[1] ** 0.5,
            torch.where(solved, inputs, 0.0) / inputs.shape[1] ** 0.5,
        )


def demonstrate(expert: MPC, x0: Tensor, scale: Tensor) -> Demonstrations:
    """What the expert plans from x0 (D, nx). Raises ValueError where it has no answer."""
    with torch.no_grad():
        plan = expert(x0)
    if not bool(plan.solved.all()):
        raise ValueError(f"the expert has no answer from {int((~plan.solved).sum())} of {len(x0)} states")
    return Demonstrations(plan.states, plan.inputs, scale, plan.status == Status.SOLVED)


class ExpertImitation(DivisiblePhase, LeastSquares):
    """Mean squared distance of plans from an expert's, over states and inputs.

    learned: the beginnings of the names of what is learned, everything that requires grad when None. batch:
    demonstrations per update, all of them where there are no more. shift_weight: of the penalty on shifted limits, the
    sum of the squares of `MPC.violations`, in the mean over the demonstrations: it leads limits that contradict each
    other, or a start that the expert could cope with, back to where they can be kept to. Starts from which the expert
    had to shift its own are exempt: they would make limits wider than they are.
    """

    from_best = False  # a model that was identified before need not make better plans by itself

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
        """Numbers of demonstrations."""
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
        """(B, entries) residuals of the penalty: zero where the expert could not keep to its limits (`kept`) either."""
        counted = (plan.solved & kept)[:, None]
        return torch.where(counted, self.shift_weight**0.5 * module.violations(plan), 0.0)

    def keep(self, module: MPC, drawn: Tensor, carried: dict[str, Tensor]) -> None:
        """Plans of the demonstrations seen; the first call makes room for those of all."""
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
