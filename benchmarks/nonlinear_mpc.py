"""What does nonlinear MPC cost, how regular is it, and what does it do with states from which no plan is feasible?

Four systems: a cart-pole (N 50), a quadrotor as a free-flyer for Pinocchio (13 numbers of state, N 20) and as a torch
function in roll, pitch and yaw (N 20), an arm of seven joints (N 20), all with bounded inputs, from random states.

nonlinear_mpc.csv: "converged": SQP to 1e-6, exact Hessian or Gauss-Newton, and the gradient of the converged program
by everything; "real-time": one step from a shifted plan, and its gradient. Times in ms for the whole batch,
per_problem_ms for one; forward with all that a gradient needs. Peer, for the arm: crocoddyl's BoxFDDP, forward only,
one problem after the other, of the same cost, bounds, horizon and integrator, both stopped where they are converged;
cost_above: its cost above ours, relative, the median (there are several local minima); gap: largest gap of the
dynamics in its trajectories, by our model.

nonlinear_mpc_ticks.csv: time of one call of a frozen real-time controller for one robot, without gradient, on one
thread, over many control periods with disturbances: percentiles in ms.

nonlinear_mpc_starts.csv: 1000 random states outside the state limits: how their problems end, linear (real-time) and
nonlinear (converged), and whether all plans and gradients are finite. mpc.pytorch has no limits on states and cannot
express them.

    python benchmarks/nonlinear_mpc.py                                    # many minutes
    python benchmarks/nonlinear_mpc.py --crocoddyl PEER/bin/python        # README.md says how to make PEER
"""

from __future__ import annotations

import json
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import report
import torch

import qp_control as qc
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc.controller import MPC
from qp_control.systems import ARM_LENGTHS, ARM_MASSES, flying_body, quadrotor, seven_joint_arm

COLUMNS = {
    "problem": 10, "batch": 5, "solver": 36, "failures": 8, "iterations": 10, "forward_ms": 10, "backward_ms": 11,
    "per_problem_ms": 14, "cost_above": 10, report.BETTER: 0,
}  # fmt: skip
TICKS = {"problem": 10, "ticks": 7, "failures": 8, "p50_ms": 7, "p99_ms": 7, "p99.9_ms": 8, "largest_ms": 10}
STARTS = {
    "case": 34, "starts": 6, "SOLVED": 6, "CLOSEST_FEASIBLE": 16, "MAX_ITER": 8, "other": 5, "plans_finite": 12,
    "gradients_finite": 16, "largest_shift": 13, "seconds": 7,
}  # fmt: skip
EPS = 1e-6


class System(NamedTuple):
    """A controller's model, its weights, and where it starts: random states of this size."""

    dynamics: Callable[[int], Any]
    horizon: int
    q: list[float]
    r: list[float]
    terminal: list[float]
    spread: list[float]
    limit: list[float] | None = None


def cart_pole(threads: int) -> Any:
    return qc.RobotDynamics(CartPoleSwingUp.urdf, dt=0.02, threads=threads)


SYSTEMS = {
    "cart-pole": System(
        cart_pole, 50, [1.0, 5.0, 0.1, 0.1], [0.05], [10.0, 50.0, 1.0, 1.0], [0.5, 0.4, 0.5, 0.5], [5.0]
    ),
    "free-flyer": System(
        lambda threads: flying_body(), 20, [10.0] * 3 + [1.0] * 6 + [0.1] * 3, [0.1] + [10.0] * 3,
        [10.0] * 3 + [1.0] * 6 + [0.1] * 3, [1.0] * 3 + [0.2] * 9, [7.0, 0.3, 0.3, 0.05],
    ),
    "quadrotor": System(
        lambda threads: quadrotor(), 20, [10.0] * 3 + [1.0] * 6 + [0.1] * 3, [1.0] * 4,
        [10.0] * 3 + [1.0] * 6 + [0.1] * 3, [1.0] * 3 + [0.2] * 9,
    ),
    "arm": System(
        lambda threads: seven_joint_arm(), 20, [10.0] * 7 + [0.1] * 7, [0.1] * 7, [50.0] * 7 + [1.0] * 7,
        [0.3] * 7 + [0.5] * 7, [10.0, 25.0, 8.0, 12.0, 2.0, 2.0, 0.5],
    ),
}  # fmt: skip


def controller(name: str, threads: int, mode: str = "converged", hessian: Any = "exact", **options: Any) -> MPC:
    s = SYSTEMS[name]
    options |= {"mode": mode, "sqp": qc.SqpSettings(eps=EPS, hessian=hessian, max_iter=100)}
    options |= {"input_limit": s.limit, "settings": qc.Settings(threads=threads, eps_rel=1e-12)}
    mpc = MPC(s.dynamics(threads), s.horizon, **options)
    return mpc.set_weights(s.q, s.r, s.terminal)


def starts(name: str, batch: int, seed: int = 0, spread: list[float] | None = None) -> torch.Tensor:
    """Random states of the system's spread about the reference."""
    spread = spread or SYSTEMS[name].spread
    generator = torch.Generator().manual_seed(seed)
    errors = torch.tensor(spread) * torch.randn(batch, len(spread), generator=generator, dtype=torch.float64)
    return moved(controller(name, 1).reference.expand(batch, -1), errors)


def moved(states: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """The states after tangent steps; the free-flyer's quaternions are multiplied."""
    if states.shape[-1] == errors.shape[-1]:
        return states + errors
    angle = errors[:, 3:6].norm(dim=-1, keepdim=True)
    turn = torch.cat([errors[:, 3:6] / angle * (0.5 * angle).sin(), (0.5 * angle).cos()], -1)
    (v, s), (w, t) = ((q[:, :3], q[:, 3:]) for q in (states[:, 3:7], turn))
    quaternion = torch.cat([s * w + t * v + torch.linalg.cross(v, w), s * t - (v * w).sum(-1, keepdim=True)], -1)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.cat([states[:, :3] + errors[:, :3], quaternion, states[:, 7:] + errors[:, 6:]], -1)


def cost(mpc: MPC, states: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    Q, R, P = mpc.state_cost(), mpc.input_cost(), mpc.terminal_cost()
    stage = ((states[:, 1:-1] @ Q) * states[:, 1:-1]).sum((1, 2)) + ((inputs @ R) * inputs).sum((1, 2))
    value: torch.Tensor = 0.5 * (stage + ((states[:, -1] @ P) * states[:, -1]).sum(1)).detach()
    return value


def both_passes(mpc: MPC, x0: torch.Tensor, plan: Any, directions: Any) -> tuple[float, float, Any]:
    """Times of the forward and the backward pass [s], and the plan."""
    x = x0.clone().requires_grad_()
    parameters = [p for p in mpc.parameters() if p.requires_grad]
    start = time.perf_counter()
    found = mpc(x, plan)
    middle = time.perf_counter()
    torch.autograd.grad([found.states, found.inputs], [x, *parameters], directions, allow_unused=True)
    return middle - start, time.perf_counter() - middle, found.detach()


def measured(mpc: MPC, x0: torch.Tensor, plan: Any, seconds: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shapes = (len(x0), mpc.horizon + 1, mpc.nx), (len(x0), mpc.horizon, mpc.nu)
    directions = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    runs = [both_passes(mpc, x0, plan, directions)]
    begin = time.perf_counter()
    while len(runs) < 6 or (time.perf_counter() - begin < seconds and len(runs) < 200):
        runs.append(both_passes(mpc, x0, plan, directions))
    found = runs[-1][2]
    forward, backward = (1e3 * float(np.median([run[k] for run in runs[1:]])) for k in (0, 1))
    return {
        "failures": int((~found.solved).sum()),
        "iterations": float(found.iterations.double().mean()),
        "forward_ms": forward,
        "backward_ms": backward,
        "per_problem_ms": (forward + backward) / len(x0),
        "plan": found,
    }


def crocoddyl(python: str | None, mpc: MPC, x0: torch.Tensor, repeats: int) -> dict[str, Any] | None:
    """What the peer makes of the arm's problems, in an environment of its own; None without it."""
    if python is None:
        return None
    s = SYSTEMS["arm"]
    problem = {
        "lengths": ARM_LENGTHS, "masses": ARM_MASSES, "dt": mpc.dynamics.dt, "horizon": s.horizon, "q": s.q, "r": s.r,
        "terminal": s.terminal, "bound": mpc.input_bound().tolist(), "x0": x0.tolist(), "repeats": repeats,
    }  # fmt: skip
    command = [python, str(Path(__file__).with_name("crocoddyl_peer.py"))]
    done = subprocess.run(command, input=json.dumps(problem), capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    states, inputs = torch.tensor(answer["states"]).double(), torch.tensor(answer["inputs"]).double()
    gap = float((mpc.dynamics.step(states[:, :-1], inputs) - states[:, 1:]).abs().max())
    converged = np.array(answer["converged"])
    return {
        "failures": int((~converged).sum()),
        "iterations": float(np.mean(answer["iterations"])),
        "forward_ms": answer["milliseconds"],
        "per_problem_ms": answer["milliseconds"] / len(x0),
        "gap": gap,
        "cost": cost(mpc, states, inputs),
    }


def compare(arguments: Any, threads: int) -> None:
    table = report.Report("nonlinear_mpc", COLUMNS, arguments.out)
    seconds = 0.2 if arguments.quick else 3.0
    series: dict[str, dict[str, float]] = {}
    for name in ["cart-pole"] if arguments.quick else SYSTEMS:
        for batch in [2] if arguments.quick else [1, 32]:
            x0, group = starts(name, batch), f"{name}, {batch}"
            exact = controller(name, threads)
            cases = {
                "qp-control converged, exact Hessian": (exact, None),
                "qp-control converged, Gauss-Newton": (controller(name, threads, hessian="gauss_newton"), None),
            }
            rows = {key: measured(mpc, x0, plan, seconds) for key, (mpc, plan) in cases.items()}
            first = rows["qp-control converged, exact Hessian"]
            real_time = controller(name, threads, "real_time")
            plan = first["plan"].shift()
            x = exact.dynamics.step(x0, first["plan"].input, exact.model()).detach()
            rows["qp-control real-time step"] = measured(real_time, x, plan, seconds)
            peer = crocoddyl(arguments.crocoddyl, exact, x0, 2 if arguments.quick else 5) if name == "arm" else None
            if peer is not None:
                ours = cost(exact, first["plan"].states, first["plan"].inputs)
                peer["cost_above"] = float(((peer.pop("cost") - ours) / ours).median())
                rows["crocoddyl BoxFDDP, 1 thread"] = peer
                first[report.BETTER] = f"{peer['forward_ms'] / first['forward_ms']:.1f} (forward)"
            for solver, row in rows.items():
                row.pop("plan", None)
                table.add({"problem": name, "batch": batch, "solver": solver, **row})
                series.setdefault(solver, {})[group] = row["per_problem_ms"]
    table.finish()
    groups = list(dict.fromkeys(group for values in series.values() for group in values))
    title = "Nonlinear MPC, forward and backward (crocoddyl: forward)"
    report.bars(arguments.out / "nonlinear_mpc.png", groups, series, title=title, ylabel="ms per problem")


def ticks(arguments: Any) -> None:
    """One robot, one thread: how long does a call take, and how long the slowest in a thousand?"""
    table = report.Report("nonlinear_mpc_ticks", TICKS, arguments.out)
    count = 200 if arguments.quick else 100_000
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ["cart-pole"] if arguments.quick else SYSTEMS:
        mpc = controller(name, 1, "real_time").frozen()
        noise = torch.Generator().manual_seed(2)
        x, plan, failures, times = starts(name, 1), None, 0, []
        with torch.no_grad():
            for k in range(count + 50):
                begin = time.perf_counter()
                plan = mpc(x, None if plan is None else plan.shift())
                took = time.perf_counter() - begin
                x = mpc.dynamics.step(x, plan.input)
                spread = torch.tensor(SYSTEMS[name].spread)
                x = moved(x, 0.02 * spread * torch.randn(1, len(spread), generator=noise, dtype=torch.float64))
                if k >= 50:
                    times.append(1e3 * took)
                    failures += int((~plan.solved).sum())
        p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
        row = {"p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999, "largest_ms": max(times)}
        table.add({"problem": name, "ticks": count, "failures": failures, **row})
    torch.set_num_threads(threads)
    table.finish()


def infeasible_starts(arguments: Any, threads: int) -> None:
    """States outside the limits: |x| as large as that is not reachable in time for most."""
    table = report.Report("nonlinear_mpc_starts", STARTS, arguments.out)
    count = 20 if arguments.quick else arguments.starts
    cases = {
        "cart-pole, angle and speed limited": ("cart-pole", [np.inf, 0.3, 1.0, np.inf], [1.0, 0.8, 2.0, 1.0]),
        "quadrotor, height and tilt limited": (
            "quadrotor", [np.inf, np.inf, 0.5, 0.4, 0.4, np.inf] + [np.inf] * 6, [1.0, 1.0, 1.5] + [0.5] * 9,
        ),
    }  # fmt: skip
    for case, (name, limits, spread) in cases.items():
        for mode, what in (("real_time", "linear"), ("converged", "nonlinear")):
            mpc = controller(name, threads, mode, state_limit=limits)
            generator = torch.Generator().manual_seed(3)
            drawn = torch.tensor(spread) * torch.randn(
                20 * count, len(spread), generator=generator, dtype=torch.float64
            )
            outside = (drawn.abs() > torch.tensor(limits)).any(1)
            x0 = drawn[outside][:count].requires_grad_()
            begin = time.perf_counter()
            plan = mpc(x0)
            plan.inputs.sum().backward()
            took = time.perf_counter() - begin
            kinds = {s.name: int((plan.status == s).sum()) for s in qc.Status}
            shown = {s: kinds.pop(s) for s in ("SOLVED", "CLOSEST_FEASIBLE", "MAX_ITER")}
            gradients = [x0.grad, *[p.grad for p in mpc.parameters() if p.grad is not None]]
            beyond = (plan.states[:, 1:].abs() - torch.tensor(limits)).clamp_min(0.0)
            table.add({
                "case": f"{case}, {what}", "starts": count, **shown, "other": sum(kinds.values()),
                "plans_finite": bool(plan.states.isfinite().all() and plan.inputs.isfinite().all()),
                "gradients_finite": all(bool(g.isfinite().all()) for g in gradients if g is not None),
                "largest_shift": float(beyond.detach().max()), "seconds": took,
            })  # fmt: skip
    table.finish()


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--crocoddyl", metavar="PYTHON", help="the interpreter of an environment that has it")
    parser.add_argument("--starts", type=int, default=1000, help="states outside the limits")
    parser.add_argument("--only", choices=("compare", "ticks", "starts"), help="one of the three tables")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    threads = report.cores()
    torch.set_num_threads(threads)
    print(report.machine("pin", "torch", threads=threads))
    if arguments.only in (None, "compare"):
        compare(arguments, threads)
    if arguments.only in (None, "ticks"):
        ticks(arguments)
    if arguments.only in (None, "starts"):
        infeasible_starts(arguments, threads)


if __name__ == "__main__":
    main()
