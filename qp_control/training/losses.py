"""The two losses of training; both are differentiable through everything that led to their arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.training.phase import FailedProblem
from qp_control.training.planner import Trajectories
from qp_control.training.rollout import Rollout, failed_problem


def imitation(
    controller: MPC, expert: Trajectories, steps: int, state_scale: Tensor
) -> tuple[Tensor, Tensor, FailedProblem | None]:
    """Mean squared distance of the controller's plans from the expert's trajectories, over `steps` control periods.

    The controller is called with the expert's states one after the other and carries its own plans, starting cold, so
    that it learns at the linearisation points of its own use. Errors are divided by `state_scale` (nx,) and by the
    input limits. Plans without an answer do not count.

    Returns the loss, the status (B, steps) and the first QP without an answer. Raises ValueError for experts shorter
    than steps + horizon.
    """
    horizon = controller.horizon
    if expert.inputs.shape[1] < steps + horizon:
        raise ValueError(
            f"the expert's trajectories have {expert.inputs.shape[1]} steps, expected at least {steps + horizon}"
        )
    plan: Plan | None = None
    failure = None
    total = expert.states.new_zeros(())
    status = []
    for t in range(steps):
        x, given = expert.states[:, t], plan
        plan = controller(x, given)
        if failure is None and not bool(plan.solved.all()):
            failure = failed_problem(controller, x, given, plan, t)
        states = (plan.states - expert.states[:, t : t + horizon + 1]) / state_scale
        inputs = (plan.inputs - expert.inputs[:, t : t + horizon]) / controller.input_limit
        error = states.square().mean((1, 2)) + inputs.square().mean((1, 2))
        total = total + torch.where(plan.solved, error, 0.0).mean()
        status.append(plan.status)
        plan = plan.shift()
    return total / steps, torch.stack(status, 1), failure


def negative_return(rollout: Rollout, barrier: Tensor | None = None) -> Tensor:
    """Minus the mean reward per control period, plus the mean of `barrier` (B, T + 1) if given."""
    loss = -rollout.rewards.mean()
    return loss if barrier is None else loss + barrier.mean()
