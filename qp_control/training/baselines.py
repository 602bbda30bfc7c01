"""What the learned controller is compared with, besides the weights found by hand: a search without gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from qp_control.mpc import MPC
from qp_control.training import losses
from qp_control.training.evaluation import VALIDATION_SEED, starts
from qp_control.training.rollout import closed_loop
from qp_control.training.tasks import TrainingTask


@dataclass(frozen=True)
class SearchResult:
    """controller, the best found; loss of it; evaluations of the loss; seconds taken."""

    controller: MPC
    loss: float
    evaluations: int
    seconds: float


@torch.no_grad()
def evolution_strategy(
    task: TrainingTask,
    *,
    seconds: float,
    seed: int = 0,
    episodes: int = 8,
    steps: int | None = None,
    step_size: float = 0.3,
    report: Callable[[int, float, float], None] | None = None,
) -> SearchResult:
    """(1+1) evolution strategy with the one-fifth success rule, from the generic weights, over the same parameters.

    Minimises the loss of the closed-loop stage on `episodes` fixed start states.

    steps: control periods of a loop; None: whole episodes. seconds: wall time to spend; the start is evaluated in any
    case. report: called with (evaluations, seconds, best loss).

    Source: I. Rechenberg, Evolutionsstrategie, 1973; factors: S. Kern et al., Natural Computing 3 (2004).
    """
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    controller = task.controller()
    x0 = starts(task, episodes, VALIDATION_SEED)
    length = task.plant.episode_steps if steps is None else steps

    def loss_of(candidate: torch.Tensor) -> float:
        vector_to_parameters(candidate, controller.parameters())
        rollout = closed_loop(controller, task.plant.step, x0, length, reward=task.plant.reward)
        loss = float(losses.negative_return(rollout, task.barrier(rollout.states)))
        return loss if loss == loss else float("inf")

    parent = parameters_to_vector(controller.parameters()).clone()
    best, evaluations = loss_of(parent), 1
    while time.perf_counter() - began < seconds:
        noise = torch.randn(len(parent), generator=generator, dtype=parent.dtype)
        child = parent + step_size * noise
        loss = loss_of(child)
        evaluations += 1
        # 1.5 up and 1.5^(1/4) down balance at one success in five.
        if loss <= best:
            parent, best, step_size = child, loss, step_size * 1.5
        else:
            step_size *= 1.5**-0.25
        if report is not None:
            report(evaluations, time.perf_counter() - began, best)
    vector_to_parameters(parent, controller.parameters())
    return SearchResult(controller, best, evaluations, time.perf_counter() - began)
