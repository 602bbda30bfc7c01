"""How many steps per second do the environments take, many in one call, against SyncVectorEnv of the same environment?

Random actions; episodes that end are begun again at once, and resets count. "steps_per_s": the number of robots over
the time of a step of all, the median of at least five; "plant_share": the part of that time that `task.step` alone
takes, the rest being observations, rewards, resets and Python. "single" is one environment of `gym.make`. The peer,
Gymnasium's, does the same in a loop over the environments.

    python benchmarks/environments.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import report
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import qp_control.envs  # noqa: F401, registers the environments

NAMES = ("CartPole", "Quadrotor", "ArmReach")
COUNTS = (16, 256, 1024, 4096)
PEER = "SyncVectorEnv"


def stepper(env: Any, count: int, steps: int) -> Callable[[], float]:
    """Seconds per step, over some steps of random actions."""
    space = env.action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (8, *space.shape))
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
    x = task.sample_starts(max(1, count), seed=0)
    u = torch.from_numpy(np.tile(task.rest_input, (max(1, count), 1)))

    def run() -> float:
        with torch.no_grad():
            start = time.perf_counter()
            task.step(x, u)
            return time.perf_counter() - start

    return run


def use_threads(count: int) -> None:
    """The plants take as many threads as the calling thread has cores, torch what it is told."""
    os.sched_setaffinity(0, sorted(CORES)[:count])
    torch.set_num_threads(count)


CORES = os.sched_getaffinity(0)


def measure(name: str, count: int, repeats: int) -> list[dict[str, object]]:
    key = f"QPControl/{name}-v0"
    if count == 0:
        single: Any = gym.make(key)
        actions = {"single": stepper(single, 0, 50), "plant": plant(single.unwrapped.task, 1)}
    else:
        mode = AutoresetMode.SAME_STEP
        vector: Any = gym.make_vec(key, num_envs=count, autoreset_mode=mode)
        peer = SyncVectorEnv([lambda: gym.make(key)] * count, autoreset_mode=mode)
        actions = {
            "vector": stepper(vector, count, max(2, 2000 // count)),
            PEER: stepper(peer, count, max(1, 200 // count)),
            "plant": plant(vector.task, count),
        }
    turns = {f"{action} {k}": run for k in sorted({1, len(CORES)}) for action, run in actions.items()}
    seconds = report.in_turns(turns, repeats, enter=lambda turn: use_threads(int(turn.split()[1])))
    use_threads(len(CORES))
    times = {turn: statistics.median(values) for turn, values in seconds.items()}
    rows: list[dict[str, object]] = []
    for turn, value in times.items():
        solver, threads = turn.split()
        if solver == "plant":
            continue
        row: dict[str, object] = {"problem": name, "envs": max(1, count), "solver": solver, "threads": int(threads)}
        row["us_per_step"] = 1e6 * value
        row["steps_per_s"] = max(1, count) / value
        row["plant_share"] = times[f"plant {threads}"] / value if solver != PEER else None
        if solver == "vector":  # the peer gains nothing from threads: its better one
            row[report.BETTER] = min(v for t, v in times.items() if t.startswith(PEER)) / value
        rows.append(row)
    return rows


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="least number of timings")
    arguments = parser.parse_args()
    names, counts = (NAMES[:1], (16,)) if arguments.quick else (NAMES, COUNTS)
    print(report.machine("gymnasium", "pin", "torch", threads=len(CORES)))
    widths = {"problem": 10, "envs": 5, "solver": 14, "threads": 7, "us_per_step": 11, "steps_per_s": 11}
    table = report.Report("environments", widths | {"plant_share": 11, report.BETTER: 24}, arguments.out)
    for name in names:
        for count in (0, *counts):
            for row in measure(name, count, arguments.repeats):
                table.add(row)
    path = table.finish()
    most = [row for row in table.rows if row["threads"] == len(CORES) and row["solver"] != "single"]
    bars: dict[str, dict[str, float]] = {}
    for row in most:
        bars.setdefault(str(row["solver"]), {})[f"{row['problem']} {row['envs']}"] = float(str(row["steps_per_s"]))
    groups = list(dict.fromkeys(f"{row['problem']} {row['envs']}" for row in most))
    report.bars(path.with_suffix(".png"), groups, bars, title="Steps per second", ylabel="steps per second")


if __name__ == "__main__":
    main()
