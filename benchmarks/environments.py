"""How fast are the environments, many in one call and single, against Gymnasium's and MuJoCo's?

Three tables. `environments.csv`: steps per second under random actions; episodes that end are begun again at once, and
resets count. "steps_per_s": the number of robots over the time of a step of all, the median of at least five.

    vector          ours, from `gym.make_vec`: actions in, observations, rewards, ends, resets out
    single          one of ours, from `gym.make`
    SyncVectorEnv   Gymnasium's loop over single ones of ours
    CartPole-v1     Gymnasium's own cart-pole in its native vector form (an explicit formula, one Euler step), or
                    single
    plant           the simulation alone, from and to arrays
    mujoco          the same of MuJoCo's `rollout` on the same URDF file, with the same time step and threads (see
                    mujoco_rollouts.py); its time is per control period, over several in one call

The peer of "vector" is SyncVectorEnv, that of "plant" mujoco.

`environments_gradients.csv`: the differentiable step of every environment, forward and backward, by the states, by the
inputs and by the plant's parameters. `environments_memory.csv`: resident memory over a million steps.

    python benchmarks/environments.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco_rollouts
import numpy as np
import report
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import qp_control.envs  # noqa: F401, registers the environments

NAMES = ("CartPole", "Quadrotor", "ArmReach")
COUNTS = (16, 256, 1024, 4096)
PLOTTED = (1, 16, 1024)
PEER = "SyncVectorEnv"
CLASSIC = {"CartPole": "CartPole-v1"}  # the tasks that Gymnasium has too
PEERS = {"vector": PEER, "plant": "mujoco"}
CORES = os.sched_getaffinity(0)


def stepper(env: Any, count: int, steps: int) -> Callable[[], float]:
    """Seconds per step, over some steps of random actions."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(8)]
    env.reset(seed=0)

    def run() -> float:
        start = time.perf_counter()
        for k in range(steps):
            ended = env.step(actions[k % 8])[2:4]
            if count == 0 and any(ended):
                env.reset()
        return (time.perf_counter() - start) / steps

    return run


def plant(task: Any, count: int) -> Callable[[], float]:
    x = task.sample_starts(max(1, count), seed=0).numpy()
    u = np.tile(task.rest_input, (max(1, count), 1))
    parameters = task.parameters.numpy()

    def run() -> float:
        start = time.perf_counter()
        task.step(x, u, parameters)
        return time.perf_counter() - start

    return run


def use_threads(count: int) -> None:
    """The plants take as many threads as the calling thread has cores, torch what it is told."""
    os.sched_setaffinity(0, sorted(CORES)[:count])
    torch.set_num_threads(count)


def actions_of(name: str, count: int) -> tuple[Any, dict[str, Callable[[], float]]]:
    key, classic = f"QPControl/{name}-v0", CLASSIC.get(name)
    if count == 0:
        env: Any = gym.make(key)
        actions = {"single": stepper(env, 0, 50)}
        if classic:
            actions[classic] = stepper(gym.make(classic), 0, 50)
        return env.unwrapped.task, actions
    mode, steps = AutoresetMode.SAME_STEP, max(2, 2000 // count)
    env = gym.make_vec(key, num_envs=count, autoreset_mode=mode)
    peer = SyncVectorEnv([lambda: gym.make(key)] * count, autoreset_mode=mode)
    actions = {"vector": stepper(env, count, steps), PEER: stepper(peer, count, max(1, 200 // count))}
    if classic:
        native = gym.make_vec(classic, num_envs=count, vectorization_mode="vector_entry_point")
        actions[classic] = stepper(native, count, steps)
    return env.task, actions


def measure(name: str, count: int, repeats: int, rounds: int) -> list[dict[str, object]]:
    task, actions = actions_of(name, count)
    actions["plant"] = plant(task, count)
    turns = {(action, k): run for k in sorted({1, len(CORES)}) for action, run in actions.items()}
    model = mujoco_rollouts.model_of(task) if mujoco_rollouts.available() else None
    for k in sorted({1, len(CORES)}) if model is not None else ():
        turns["mujoco", k] = mujoco_rollouts.periods(task, model, max(1, count), k, time.perf_counter)
    named = {f"{action} {k}": run for (action, k), run in turns.items()}
    seconds = report.in_turns(named, repeats, rounds=rounds, enter=lambda turn: use_threads(int(turn.split()[-1])))
    use_threads(len(CORES))
    times = {turn: statistics.median(seconds[f"{turn[0]} {turn[1]}"]) for turn in turns}
    rows: list[dict[str, object]] = []
    for (solver, threads), value in times.items():
        row: dict[str, object] = {"problem": name, "envs": max(1, count), "solver": solver, "threads": threads}
        row["us_per_step"] = 1e6 * value
        row["steps_per_s"] = max(1, count) / value
        # SyncVectorEnv gains nothing from threads: its better time. MuJoCo has as many threads as we.
        peer = [t for (s, k), t in times.items() if s == PEERS.get(solver) and (s == PEER or k == threads)]
        row[report.BETTER] = min(peer) / value if peer else None
        rows.append(row)
    return rows


def gradient_row(key: str, batch: int, repeats: int, rounds: int) -> dict[str, object]:
    """The step of a batch on one thread: milliseconds of the value and of its gradients."""
    task = gym.make(key).unwrapped.task  # type: ignore[attr-defined]
    x = task.sample_starts(batch, seed=0).requires_grad_()
    u = torch.from_numpy(np.tile(task.rest_input, (batch, 1))).requires_grad_()
    p = task.parameters.clone().requires_grad_()
    g = torch.ones_like(x)

    def backward(by_parameters: bool) -> float:
        inputs = (x, u, p) if by_parameters else (x, u)
        x_next = task.step(*inputs)
        start = time.perf_counter()
        torch.autograd.grad(x_next, inputs, g)
        return 1e3 * (time.perf_counter() - start)

    runs = {
        "forward_ms": report.milliseconds(lambda: task.step(x, u)),
        "backward_ms": lambda: backward(False),
        "with_parameters_ms": lambda: backward(True),
    }
    times = {name: statistics.median(values) for name, values in report.in_turns(runs, repeats, rounds=rounds).items()}
    row: dict[str, object] = {"problem": key.split("/")[1], "envs": batch, **times}
    row["backward/forward"] = times["backward_ms"] / times["forward_ms"]
    row["with_parameters/forward"] = times["with_parameters_ms"] / times["forward_ms"]
    return row


def resident() -> float:
    """Resident memory [MiB]."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_row(count: int, steps: int) -> dict[str, object]:
    """Resident memory at the beginning, after a first part, and at the end of `steps` calls of step."""
    key = "QPControl/CartPole-v0"
    env: Any = gym.make_vec(key, num_envs=count, autoreset_mode="SameStep") if count else gym.make(key)
    first = max(1, steps // 50)
    row: dict[str, object] = {"problem": "CartPole", "envs": max(1, count), "calls": steps, "start_MiB": resident()}
    stepper(env, count, first)()
    row["after_2_percent_MiB"] = resident()
    stepper(env, count, steps - first)()
    row["end_MiB"] = resident()
    return row


def measure_rates(arguments: argparse.Namespace) -> None:
    names, counts = (NAMES[:1], (16,)) if arguments.quick else (NAMES, COUNTS)
    widths = {"problem": 10, "envs": 5, "solver": 14, "threads": 7, "us_per_step": 11, "steps_per_s": 11}
    table = report.Report("environments", widths | {report.BETTER: 24}, arguments.out)
    for name in names:
        for count in (0, *counts):
            for row in measure(name, count, arguments.repeats, arguments.rounds):
                table.add(row)
    path = table.finish()
    bars: dict[str, dict[str, float]] = {}
    for row in table.rows:
        if row["threads"] == len(CORES) and row["envs"] in PLOTTED:
            series = "ours" if row["solver"] in ("single", "vector") else str(row["solver"])
            bars.setdefault(series, {})[f"{row['problem']} {row['envs']}"] = float(str(row["steps_per_s"]))
    groups = list(dict.fromkeys(group for values in bars.values() for group in values))
    report.bars(path.with_suffix(".png"), groups, bars, title="Steps per second", ylabel="steps per second")


def measure_gradients(arguments: argparse.Namespace) -> None:
    batch = 16 if arguments.quick else 1024
    print(f"\nThe differentiable step, {batch} robots, one thread")
    widths = {"problem": 18, "envs": 5, "forward_ms": 10, "backward_ms": 11, "backward/forward": 16}
    widths |= {"with_parameters_ms": 18, "with_parameters/forward": 23}
    table = report.Report("environments_gradients", widths, arguments.out)
    use_threads(1)
    keys = sorted(key for key in gym.registry if key.startswith("QPControl/"))
    for key in keys[:2] if arguments.quick else keys:
        table.add(gradient_row(key, batch, arguments.repeats, arguments.rounds))
    use_threads(len(CORES))
    table.finish()


def measure_memory(arguments: argparse.Namespace) -> None:
    steps = 1000 if arguments.quick else 1_000_000
    print(f"\nResident memory over {steps} calls of step")
    widths = {"problem": 10, "envs": 5, "calls": 8, "start_MiB": 9, "after_2_percent_MiB": 19, "end_MiB": 8}
    table = report.Report("environments_memory", widths, arguments.out)
    for count in (0, 16):
        table.add(memory_row(count, steps))
    table.finish()


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="least number of timings")
    parser.add_argument("--only", choices=("rates", "gradients", "memory"), help="of the three tables")
    arguments = parser.parse_args()
    arguments.rounds = 1 if arguments.quick else 3
    print(report.machine("gymnasium", "pin", "torch", "mujoco", threads=len(CORES)))
    parts = {"rates": measure_rates, "gradients": measure_gradients, "memory": measure_memory}
    for name, part in parts.items():
        if arguments.only in (None, name):
            part(arguments)


if __name__ == "__main__":
    main()
