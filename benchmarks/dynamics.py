"""What do batched rigid-body dynamics cost, against Pinocchio itself?

Two sample models of Pinocchio (an arm of 6 joints, a humanoid with a free-flyer), batches of 1024 states: forward
dynamics, their derivatives by q, v and tau, inverse dynamics and their gradients. Beside ours: a Python loop over
Pinocchio's bindings, and Pinocchio's algorithms in a C++ loop on one thread (`pinocchio_loop.cpp`; build it with
-DQP_CONTROL_BENCHMARKS=ON and name it by --loop), whose time divided by the threads is what a batch could cost at best.
The gradients of inverse dynamics are a vector's product with the derivatives; the loops compute these.

Microseconds per state, the median of several runs. dynamics.csv.

    python benchmarks/dynamics.py --loop BUILD/cpp/pinocchio_loop
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin
import report
import torch

import qp_control as qc

COLUMNS = {
    "problem": 34, "batch": 5, "threads": 7, "qp-control_us": 13, "pin_python_loop_us": 18, "pin_cpp_loop_us": 15,
    "cpp_over_threads_us": 19, "ours_over_best": 14,
}  # fmt: skip
MODELS = {"manipulator": pin.buildSampleModelManipulator, "humanoid": lambda: pin.buildSampleModelHumanoid(True)}


def states(model: Any, batch: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    neutral = pin.neutral(model)
    q = np.stack([pin.integrate(model, neutral, rng.uniform(-1.0, 1.0, model.nv)) for _ in range(batch)])
    v, tau = rng.uniform(-1.0, 1.0, (2, batch, model.nv))
    return torch.from_numpy(q), torch.from_numpy(v), torch.from_numpy(tau)


def per_state(action: Callable[[], Any], batch: int, seconds: float) -> float:
    """Median time of a call, in microseconds per state."""
    action()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times)) / batch


def cases(robot: qc.RobotModel, model: Any, at: tuple[torch.Tensor, ...]) -> dict[str, tuple[Callable[[], Any], Any]]:
    """Ours, and Pinocchio's for one state."""
    q, v, tau = at
    data = model.createData()
    g = torch.randn(tau.shape, dtype=torch.float64)
    leaves = [value.clone().requires_grad_() for value in at]

    def inverse_gradient() -> None:
        torch.autograd.grad(robot.inverse_dynamics(*leaves), leaves, g)

    return {
        "forward dynamics": (
            lambda: robot.forward_dynamics(q, v, tau),
            lambda q, v, tau: pin.aba(model, data, q, v, tau),
        ),
        "forward dynamics and derivatives": (
            lambda: robot.forward_dynamics_derivatives(q, v, tau, by_parameters=False),
            lambda q, v, tau: pin.computeABADerivatives(model, data, q, v, tau),
        ),
        "inverse dynamics": (
            lambda: robot.inverse_dynamics(q, v, tau),
            lambda q, v, tau: pin.rnea(model, data, q, v, tau),
        ),
        "inverse dynamics and gradients": (
            inverse_gradient,
            lambda q, v, tau: pin.computeRNEADerivatives(model, data, q, v, tau),
        ),
    }


def in_python(function: Callable[..., Any], rows: list[Any]) -> None:
    for row in rows:
        function(*row)


def cpp_loop(program: Path | None, name: str, batch: int, rounds: int) -> list[float]:
    if program is None:
        return []
    command = [str(program), name, str(batch), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--loop", type=Path, metavar="PROGRAM", help="pinocchio_loop; without it its columns are empty")
    arguments = parser.parse_args()
    batch, seconds = (64, 0.05) if arguments.quick else (1024, 1.0)
    print(report.machine("pin", "torch", threads=report.cores()))
    table = report.Report("dynamics", COLUMNS, arguments.out)
    series: dict[str, dict[str, float]] = {}
    for name, build in MODELS.items():
        model = build()
        at = states(model, batch)
        rows = [tuple(value[i].numpy() for value in at) for i in range(batch)]
        peers = cpp_loop(arguments.loop, name, batch, 5 if arguments.quick else 200)
        for threads in sorted({1, report.cores()}):
            robot = qc.RobotModel(model, threads=threads)
            for k, (case, (ours, peer)) in enumerate(cases(robot, model, at).items()):
                row: dict[str, Any] = {
                    "problem": f"{name}: {case}",
                    "batch": batch,
                    "threads": threads,
                    "qp-control_us": per_state(ours, batch, seconds),
                    "pin_python_loop_us": per_state(partial(in_python, peer, rows), batch, seconds),
                }
                if peers:
                    row |= {"pin_cpp_loop_us": peers[k], "cpp_over_threads_us": peers[k] / threads}
                    row["ours_over_best"] = row["qp-control_us"] / row["cpp_over_threads_us"]
                table.add(row)
                for key in ("qp-control_us", "pin_python_loop_us", "cpp_over_threads_us"):
                    if key in row:
                        series.setdefault(key.removesuffix("_us"), {})[f"{name}: {case}, {threads}"] = row[key]
    table.finish()
    groups = list(series["qp-control"])
    title = "Rigid-body dynamics of 1024 states, by threads"
    report.bars(arguments.out / "dynamics.png", groups, series, title=title, ylabel="us per state")


if __name__ == "__main__":
    main()
