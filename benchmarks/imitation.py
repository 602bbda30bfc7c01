"""Recovery of experts from 10, 50 and 100 demonstrations beside mpc.pytorch, and a published imitation of a cart-pole.

First part: the tasks lqr_recovery, pendulum_recovery and cart_pole_recovery. mpc.pytorch has the same learner (costs
and models of the same parameters, from the same values) and loss, and takes Adam's steps, as its authors do; it is
given the expert's bounds, for which it has no gradients, and --budget times our seconds. So ours stands there twice,
bounds learned and bounds given: the last column compares the latter. mpc.pytorch's numbers are put into our controller,
and all are judged on the same 50 held-out states: "action error" is the root of the mean squared error of the inputs in
units of their limits; "at equal time" is that of mpc.pytorch after as many seconds as ours took.

Second part: 32 plans of a cart-pole's swing-up over 100 periods of 0.05 s (explicit Euler, no limits, starts uniform in
+-(0.5 m, 0.5 m/s, 3.14 rad, 1 rad/s), plans begun at the straight line to the origin) by an expert with state weights
(1, 2, 1.5, 1); learners begin at weights uniform in 0.5 .. 2.5, and plans at the demonstrations. Loss: half the mean
squared error of the inputs; model error: norm of the weights' error. These are model, data and measures of the public
programs behind the published figures (200 steps of gradient descent: loss 0.054 and model error 0.47 with trajax, 7.0 s
with DiffMPC on a GPU); starts and first weights are other draws of the same distributions, and the plans are ours.

Seconds are of one core (CPU time), so that what else runs does not count.

    python benchmarks/imitation.py [--demonstrations 10 50 100] [--seeds 0 1 2 3 4] [--budget 5] [--runs 20]
    python benchmarks/imitation.py --tasks                  # the published setting alone, a few minutes
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import report
import torch
from torch import Tensor, nn

from qp_control.mpc.controller import MPC
from qp_control.mpc.plan import Plan
from qp_control.mpc.sqp import SqpSettings
from qp_control.robot.torch_dynamics import TorchDynamics
from qp_control.training import Trainer, create
from qp_control.training.expert_optimality import hamiltonian_slopes
from qp_control.training.gauss_newton import GaussNewton, jacobian, random_products
from qp_control.training.task import HELD_OUT_SEED

OURS = "qp-control"
TASKS = ("lqr_recovery", "pendulum_recovery", "cart_pole_recovery")
RATE = 0.03  # of Adam; of 0.01, 0.03 and 0.1 the one that gets furthest
N = 100  # control periods of the published plans
TRUTH = torch.tensor([1.0, 2.0, 1.5, 1.0], dtype=torch.float64)
PUBLISHED = {"loss": 0.054, "model error": 0.47, "seconds": 7.0}


class PeerDynamics(nn.Module):
    """The learner's model as mpc.pytorch wants it."""

    def __init__(self, learner: MPC) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        ahead: Tensor = self.learner.dynamics.step(x, u, self.learner.model())
        return ahead

    def grad_input(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        _, A, B = self.learner.dynamics.linearize(x, u, self.learner.model())
        return A, B


def peer_plans(learner: MPC, bound: Tensor, x0: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, N + 1, nx), inputs (B, N, nu) that mpc.pytorch plans, and its inputs to begin the next call at."""
    from mpc import mpc

    horizon, batch, nx, nu = learner.horizon, len(x0), learner.nx, learner.nu
    Q, R, P = learner.state_cost(), learner.input_cost(), learner.terminal_cost()
    running, last = (torch.block_diag(cost, R) for cost in (Q, P))  # type: ignore[no-untyped-call]
    C = torch.stack([running] * horizon + [last])[:, None].expand(-1, batch, -1, -1)
    c = x0.new_zeros(horizon + 1, batch, nx + nu)
    upper = bound.expand(horizon + 1, batch, nu)
    solver = mpc.MPC(
        nx,
        nu,
        horizon + 1,
        u_lower=-upper,
        u_upper=upper,
        u_init=start,
        lqr_iter=30,
        grad_method=mpc.GradMethods.ANALYTIC,
        exit_unconverged=False,
        detach_unconverged=False,
        n_batch=batch,
        verbose=-1,
    )
    x, u, _ = solver(x0, mpc.QuadCost(C, c), PeerDynamics(learner))
    return x.transpose(0, 1), u[:-1].transpose(0, 1), u.detach()


def peer_training(task: Any, seconds: float, equal: float) -> dict[str, Any]:
    """mpc.pytorch with Adam for `seconds`: learner at the end, the one after `equal` seconds, seconds per step."""
    learner = task.module()
    bound, shown, start = task.expert.input_bound(), task.shown, None
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad and p.numel()], lr=RATE)
    at_equal, steps, began = None, 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        if at_equal is None and spent >= equal:
            at_equal = task.score(learner, HELD_OUT_SEED, 50).values
            began += time.process_time() - began - spent
        x, u, start = peer_plans(learner, bound, shown.states[:, 0], start)
        plan = dataclasses.replace(Plan.at_rest(shown.states[:, 0], learner.horizon, learner.nu), states=x, inputs=u)
        loss = torch.cat(shown.errors(plan, slice(None), learner.input_limit), 1).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
    return {"learner": learner, "at_equal": at_equal, "step": spent / max(1, steps), "steps": steps, "seconds": spent}


def bounds_given(task: Any) -> Any:
    """The task with a learner that knows the expert's bounds."""
    unaware = task.module

    def module(settings: Any = None) -> MPC:
        learner: MPC = unaware(settings)
        assert learner.input_fraction is not None
        learner.input_fraction.requires_grad_(False).copy_(task.expert.input_fraction)
        return learner

    task.module = module
    return task


def recoveries(
    table: report.Report, tasks: list[str], counts: list[int], seeds: list[int], budget: float, quick: bool
) -> None:
    few = tuple(f"{part}_iterations" for part in ("identification", "optimality", "imitation", "bound"))
    short: dict[str, Any] = dict.fromkeys(few, 3) if quick else {}
    for name in tasks:
        for count, seed in itertools.product(counts, seeds):
            row = {"task": name, "demonstrations": count, "seed": seed}
            for controller in (OURS, f"{OURS}, bounds given"):
                task: Any = create(name, demonstrations=count, batch=count, seed=seed, **short)
                task = task if controller == OURS else bounds_given(task)
                trainer, began = Trainer(task), time.process_time()
                learned = trainer.train()
                seconds = time.process_time() - began
                ours = task.score(learned, HELD_OUT_SEED, 50).values
                times = {"seconds": seconds, "step": seconds / trainer.iterations}
                table.add(row | {"controller": controller} | ours | times)
            try:
                peer = peer_training(task, budget * seconds, seconds)
            except ImportError:
                continue  # the line above the table says that it is missing
            values = task.score(peer["learner"], HELD_OUT_SEED, 50).values
            table.add(
                row
                | {"controller": "mpc.pytorch"}
                | values
                | {"seconds": peer["seconds"], "step": peer["step"]}
                | {"at equal time": (peer["at_equal"] or values)["action error"]}
                | {report.BETTER: values["action error"] / ours["action error"]}
            )


def cart_pole(x: Tensor, u: Tensor) -> Tensor:
    """Euler step of the cart-pole of Barto, Sutton and Anderson (1983): x = (position, velocity, angle, rate)."""
    cart, pole, length, gravity, dt = 1.0, 0.1, 0.5, 9.81, 0.05
    _, velocity, angle, rate = x.unbind(-1)
    sine, cosine = angle.sin(), angle.cos()
    push = (u[..., 0] + pole * length * rate**2 * sine) / (cart + pole)
    turn = (gravity * sine - cosine * push) / (length * (4.0 / 3.0 - pole * cosine**2 / (cart + pole)))
    slide = push - pole * length * turn * cosine / (cart + pole)
    return x + dt * torch.stack([velocity, slide, rate, turn], -1)


class StateWeights(nn.Module):
    """The same diagonal in every stage, the last one too."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.log = nn.Parameter(weights.log())

    def forward(self) -> Tensor:
        return torch.diag(self.log.exp()).expand(N + 1, 4, 4)


def published_controller(weights: Tensor) -> MPC:
    dynamics = TorchDynamics(cart_pole, 4, 1)
    mpc = MPC(dynamics, N, state_cost=StateWeights(weights), mode="converged", sqp=SqpSettings(max_iter=500))
    mpc.set_weights(r=[0.05])
    for name, parameter in mpc.named_parameters():
        parameter.requires_grad_(name.startswith("state_cost"))
    return mpc


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def demonstrations(count: int) -> tuple[Tensor, Plan]:
    """Start states and the expert's plans from them."""
    half = torch.tensor([0.5, 0.5, 3.14, 1.0], dtype=torch.float64)
    x0 = (2.0 * uniform(torch.Generator().manual_seed(123), count, 4) - 1.0) * half
    expert = published_controller(TRUTH)
    line = 1.0 - torch.arange(N + 1, dtype=torch.float64) / N
    with torch.no_grad():
        plan = expert(x0, dataclasses.replace(expert.cold_plan(x0), states=x0[:, None] * line[:, None]))
    if not bool(plan.solved.all()):
        raise RuntimeError("the expert found no plan from some starts")
    return x0, plan


def optimal_weights(mpc: MPC, weight: nn.Parameter, shown: Plan) -> None:
    """The weights with which slopes along the plans come nearest to vanishing, where imitation may begin.

    Slopes are linear in the weights, so that one step finds them; costates of 100 control periods near upright are so
    large that steps in logarithms would be short ones, along a narrow bent valley.
    """
    residuals = hamiltonian_slopes(mpc, shown.states, shown.inputs).flatten()
    J = jacobian(residuals, [weight]) / weight.detach().exp()
    with torch.no_grad():
        found = weight.exp() + torch.linalg.lstsq(J, -residuals[:, None]).solution[:, 0]
        weight.copy_(found.clamp(min=1e-3).log())


def published_run(x0: Tensor, shown: Plan, run: int, steps: int, begin: bool) -> dict[str, float]:
    """One learner: loss and model error at the end, and the CPU seconds until both were below the published ones.

    begin: with the conditions of optimality.
    """
    mpc = published_controller(0.5 + 2.0 * uniform(torch.Generator().manual_seed(run), 4))
    cost: Any = mpc.state_cost
    weight, generator = cost.log, torch.Generator().manual_seed(run)
    optimizer = GaussNewton([weight])
    found = {"below published": float("nan")}
    began = time.process_time()
    if begin:
        optimal_weights(mpc, weight, shown)
    for k in range(steps):
        plan = mpc(x0, shown)
        errors = torch.where(plan.solved[:, None, None], plan.inputs - shown.inputs, 0.0)
        residuals = errors.flatten() / (2.0 * errors.numel()) ** 0.5
        loss, model = residuals.square().sum(), float((weight.detach().exp() - TRUTH).norm())
        found |= {"loss": float(loss.detach()), "model error": model, "seconds": time.process_time() - began}
        below = found["loss"] < PUBLISHED["loss"] and model < PUBLISHED["model error"] and bool(plan.solved.all())
        if below and found["below published"] != found["below published"]:
            found["below published"] = found["seconds"]
        products = random_products(residuals, [weight], 8, generator)
        weight.grad = torch.autograd.grad(loss, weight)[0]
        optimizer.param_groups[0]["damping"] = 10.0 ** (-1.0 - 0.5 * k)
        if optimizer.judge(found["loss"]):
            optimizer.look(products)
        optimizer.step()
    return found


def of_runs(found: list[dict[str, float]], choose: Callable[[list[float]], float]) -> dict[str, float]:
    """Of each measure; the time until something is reached counts as infinite where it is not."""
    measures = {name: [math.inf if one[name] != one[name] else one[name] for one in found] for name in found[0]}
    return {name: choose(values) for name, values in measures.items()}


def published(table: report.Report, runs: int, count: int, steps: int) -> None:
    x0, shown = demonstrations(count)
    row = {"task": "published cart-pole", "demonstrations": count}
    for begin, recipe in ((True, "optimality first"), (False, "imitation alone")):
        found = [published_run(x0, shown, run, steps, begin) for run in range(runs)]
        table.add(row | {"controller": f"{OURS}, {recipe}, median of {runs}"} | of_runs(found, statistics.median))
        table.add(row | {"controller": f"{OURS}, {recipe}, worst"} | of_runs(found, max))
        reached = sum(one["below published"] == one["below published"] for one in found)
        print(f"{recipe}: {reached} of {runs} came below the published figures")
    table.add(row | {"controller": "trajax; DiffMPC's time (published)"} | PUBLISHED)


def middle(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of several seeds as one, with the median of the errors."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["demonstrations"], row["controller"]), []).append(row)
    return [each[0] | {"action error": statistics.median(r["action error"] for r in each)} for each in groups.values()]


def picture(table: report.Report) -> None:
    shown: list[dict[str, Any]] = middle([row for row in table.rows if "action error" in row])
    labels = {id(row): f"{row['task'].removesuffix('_recovery')} {row['demonstrations']}" for row in shown}
    series: dict[str, dict[str, float]] = {}
    for row in shown:
        series.setdefault(row["controller"], {})[labels[id(row)]] = row["action error"]
    report.bars(
        table.out / "imitation.png",
        dict.fromkeys(labels.values()),
        series,
        title="recovery of experts: held-out action error",
        ylabel="share of the input limits",
        xlabel="task and demonstrations",
    )


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--demonstrations", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the demonstrations")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of mpc.pytorch over ours")
    parser.add_argument("--runs", type=int, default=20, help="learners of the published setting")
    arguments = parser.parse_args()
    steps, count = 25, 32
    if arguments.quick:
        arguments.demonstrations, arguments.budget = [5], 1.0
        arguments.tasks = ["pendulum_recovery"] if arguments.tasks else []
        arguments.runs, steps, count = 1, 2, 2
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(report.machine("mpc", "torch", threads=1))
    columns = {"task": 20, "demonstrations": 14, "seed": 4, "controller": 34, "action error": 12, "cost error": 10}
    columns |= {"model error": 11, "loss": 8, "seconds": 8, "step": 8, "below published": 15, "at equal time": 13}
    table = report.Report("imitation", columns | {report.BETTER: 23}, arguments.out)
    recoveries(table, arguments.tasks, arguments.demonstrations, arguments.seeds, arguments.budget, arguments.quick)
    if arguments.runs:
        published(table, arguments.runs, count, steps)
    table.finish()
    if arguments.tasks:
        picture(table)


if __name__ == "__main__":
    main()
