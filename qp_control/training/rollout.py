"""Closed loops of controller and plant, differentiable from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from qp_control.ocp.problem import OcpQP
from qp_control.qp.problem import as_integer
from qp_control.settings import Status
from qp_control.training.phase import FailedProblem

Carried: TypeAlias = Any
"""A controller's decision, passed to its next call, such as a `Plan` of an `MPC`; a dataclass of tensors (B, ...).

It has `input` (B, nu), `status` and `iterations` (B,), `solved` (B,), `shift()`, which returns what is passed to the
next control period, `detach()`, and indexing by elements.
"""


class Controller(Protocol):
    """What closed loops require of a controller, such as an `MPC`, an `InverseDynamicsPolicy` or `Standing`."""

    @property
    def input_limit(self) -> Tensor:
        """(nu,) largest inputs."""

    def __call__(self, x: Tensor, carried: Carried | None = None, /) -> Carried:
        """The decision in states x (B, nx), given the previous decision."""

    def build(self, x: Tensor, carried: Carried | None = None, /) -> Any:
        """The problem of a call: an `OcpQP`, or the arguments of `qc.solve_qp`."""


@dataclass(frozen=True)
class Rollout:
    """T control periods of B closed loops.

    states (B, T + 1, nx), inputs (B, T, nu) [N or N m] as applied (clipped to the plant's limits), rewards (B, T),
    status (B, T): `qc.Status` of each QP; iterations (B, T). failure: the first QP without an answer, or None.
    """

    states: Tensor
    inputs: Tensor
    rewards: Tensor
    status: Tensor
    iterations: Tensor
    failure: FailedProblem | None

    @property
    def unsolved_share(self) -> float:
        """Share of the QPs without an answer."""
        return float((self.status > Status.CLOSEST_FEASIBLE).double().mean())

    @property
    def infeasible_share(self) -> float:
        """Share of the QPs whose state limits were shifted."""
        return float((self.status == Status.CLOSEST_FEASIBLE).double().mean())


def closed_loop(
    controller: Controller,
    step: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    steps: int,
    *,
    reward: Callable[[Tensor, Tensor], Tensor] | None = None,
    failed: Callable[[Tensor], Tensor] | None = None,
    failed_reward: float = 0.0,
    plan: Carried | None = None,
    truncate: int | None = None,
    see: Callable[[Carried], None] | None = None,
) -> Rollout:
    """Run controller and plant in a closed loop from x0 (B, nx) for `steps` control periods.

    step: the plant, x_next = step(x, u), with u clipped to the controller's input limit. reward: of (x_next, u); None:
    zero. failed: True (B,) for states (B, nx) that end a run: the robot stays in that state, or in its last finite one,
    and earns `failed_reward` from then on, without gradient; None: runs continue. plan: the (shifted) plan or decision
    to start with. truncate: the gradient, which passes through the plant, the controller and what is carried from call
    to call, is truncated every so many control periods. see: called with every decision.

    Raises ValueError unless steps and truncate are integers of at least 1, and for functions that return another shape.
    """
    steps = as_integer("steps", steps, 1)
    truncate = None if truncate is None else as_integer("truncate", truncate, 1)
    limit = controller.input_limit
    x, alive = x0, torch.ones(len(x0), dtype=torch.bool)
    states, inputs, rewards, status, iterations = [x0], [], [], [], []
    failure = None
    for t in range(steps):
        if truncate is not None and t > 0 and t % truncate == 0:
            x, plan = x.detach(), None if plan is None else plan.detach()
        given = plan
        plan = controller(x, given)
        if see is not None:
            see(plan)
        if failure is None and not bool(plan.solved.all()):
            failure = failed_problem(controller, x, given, plan, t)
        u = torch.clamp(plan.input, -limit, limit)
        before, x = x.detach(), finite_only("step", step, (x.shape[1],), x, u)
        if failed is not None:
            alive = alive & x.detach().isfinite().all(1)
            x = torch.where(alive[:, None], x, before)
        earned = x.new_zeros(len(x)) if reward is None else finite_only("reward", reward, (), x, u)
        if failed is not None:
            earned = torch.where(alive, earned, failed_reward)
            ended = failed(x.detach())
            _check_shape("failed", ended, (len(x),))
            alive = alive & ~ended.bool()
        states.append(x)
        inputs.append(u)
        rewards.append(earned)
        status.append(plan.status)
        iterations.append(plan.iterations)
        if not bool(alive.any()):  # all robots have failed
            left = steps - t - 1
            states += left * [x.detach()]
            inputs += left * [torch.zeros_like(u)]
            rewards += left * [x.new_full((len(x),), failed_reward)]
            status += left * [torch.zeros_like(plan.status)]
            iterations += left * [torch.zeros_like(plan.iterations)]
            break
        plan = plan.shift()
    return Rollout(
        torch.stack(states, 1),
        torch.stack(inputs, 1),
        torch.stack(rewards, 1),
        torch.stack(status, 1),
        torch.stack(iterations, 1),
        failure,
    )


def finite_only(name: str, function: Callable[..., Tensor], shape: tuple[int, ...], *arguments: Tensor) -> Tensor:
    """The function of arguments (B, .), with values (B, *shape), for elements that are finite, as are their values; NaN
    for the others, which are replaced by the first of those in the call: robot functions refuse invalid states, and NaN
    would spread to the gradients of what the elements share. If values are not finite the function is called again.

    Raises ValueError, with the function's name, if it returns another shape.
    """
    finite = torch.stack([value.detach().isfinite().all(1) for value in arguments]).all(0)
    while True:
        every, given = bool(finite.all()), arguments
        if not every:
            if not bool(finite.any()):
                return arguments[0].new_full((len(finite), *shape), float("nan"))
            first = int(finite.nonzero()[0])
            given = tuple(torch.where(finite[:, None], value, value[first].detach()) for value in arguments)
        result = function(*given)
        _check_shape(name, result, (len(finite), *shape))
        good = result.detach().isfinite()
        now = finite & (good.all(1) if shape else good)
        if bool((now == finite).all()):
            return result if every else torch.where(finite.view(-1, *[1] * len(shape)), result, float("nan"))
        finite = now


def _check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a function returned a tensor of the shape: others broadcast unseen."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} returned a {type(value).__name__}, expected a torch.Tensor")
    if value.shape != shape:
        raise ValueError(f"{name} returned shape {tuple(value.shape)}, expected {shape}")


def failed_problem(
    controller: Controller, x: Tensor, given: Carried | None, plan: Carried, step: int, element: int | None = None
) -> FailedProblem:
    """The QP of one element: the first one without an answer unless `element` says which."""
    index = int((~plan.solved).nonzero()[0]) if element is None else element
    one, carried = x[index : index + 1], None if given is None else given[index : index + 1]
    with torch.no_grad():
        problem = controller.build(one, carried)
    if isinstance(problem, OcpQP):
        data = problem.element(0).arguments()
    else:  # arguments of a dense QP, whose weights the batch shares
        data = {
            name: value[0] if value.ndim and not name.startswith("weight") else value for name, value in problem.items()
        }
    found = {name: value.detach() if isinstance(value, Tensor) else value for name, value in data.items()}
    return FailedProblem(found, step, index, Status(int(plan.status[index])))
