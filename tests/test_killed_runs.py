"""Runs that are killed at any moment go on to the same numbers, whatever the recipe."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qp_control.training import available, checkpoint

FOLDER = Path(__file__).resolve().parent
TIMING = {"seconds", "steps_per_second"}
OFTEN = {"validate_every": 1, "validation_count": 1}  # validations write checkpoints
SELDOM = {"validate_every": 3, "validation_count": 1}
RECOVERY = {
    "identification_iterations": 3,
    "optimality_iterations": 2,
    "imitation_iterations": 3,
    "bound_iterations": 2,
    "demonstrations": 6,
}
RECIPES: dict[str, dict[str, Any]] = {
    "lqr_recovery": {**RECOVERY, "batch": 4},
    "pendulum_recovery": {**RECOVERY, "batch": 4},
    "cart_pole_recovery": {**RECOVERY, "batch": 4},
    "cart_pole_identification": {"trajectories": 2, "length": 10, "iterations": 5, "trajectory_iterations": 3},
    "constraint_learning": {"demonstrations": 4, "horizon": 6, "iterations": 4},
    "polytope_learning": {"demonstrations": 6, "horizon": 5, "iterations": 4, "rounds": 1},
    "cart_pole_swing_up": {
        "imitation_iterations": 3, "imitation_batch": 2, "imitation_steps": 6, "expert_count": 2, "expert_steps": 35,
        "closed_loop_iterations": 3, "closed_loop_batch": 2, "closed_loop_steps": 8,
    },
    "arm_inverse_dynamics": {"model_iterations": 3, "iterations": 3, "batch": 2, "steps": 10, "settle": 5},
    "arm_unknown_loads": {"iterations": 6, "batch": 2, "steps": 10, "settle": 5},
    "quadruped_stand": {"iterations": 6, "batch": 2, "steps": 8},
    "quadruped_trot": {"iterations": 6, "batch": 2, "steps": 8},
    "quadrotor_analytic": {"closed_loop_iterations": 6, "closed_loop_batch": 2, "closed_loop_steps": 8},
    "cart_pole_ppo": {"ppo_iterations": 6, "robots": 4, "steps": 8, "epochs": 2, "batch": 16},
    "quadrotor_ppo": {"ppo_iterations": 6, "robots": 4, "steps": 8, "epochs": 2, "batch": 16},
    "quadrotor_sac": {"sac_iterations": 8, "robots": 2, "steps": 8, "batch": 8, "kept": 48, "warm_up": 2},
    "quadrotor_network": {"ppo_iterations": 6, "robots": 4, "steps": 8, "epochs": 2, "batch": 16},
    "arm_ppo": {"ppo_iterations": 6, "robots": 4, "steps": 8, "epochs": 2, "batch": 16},
    "cart_pole_sac": {"sac_iterations": 8, "robots": 2, "steps": 8, "updates": 1, "batch": 8, "kept": 48},
}  # fmt: skip
QUICK = ("polytope_learning", "cart_pole_ppo")  # killed once where slow tests are left out
TEN = 3  # times as many updates, to be killed ten times


def trained(name: str, options: dict[str, Any], folder: Path, kills: int) -> int:
    command = [sys.executable, str(FOLDER / "killed_training.py"), name, json.dumps(options), str(folder), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def test_every_task_is_killed() -> None:
    assert set(RECIPES) == set(available()) and set(QUICK) <= set(RECIPES)


@pytest.mark.parametrize(
    ("name", "kills"),
    [*((name, 1) for name in QUICK), *(pytest.param(name, 10, marks=pytest.mark.slow) for name in RECIPES)],
)
def test_killed_recipes_go_on_to_the_same_numbers(name: str, kills: int, tmp_path: Path) -> None:
    """SIGKILL at random moments: metrics, and all that a checkpoint holds, are to the bit those of a run without."""
    options = (SELDOM if kills == 1 else OFTEN) | RECIPES[name]
    if kills > 1:
        options |= {key: TEN * value for key, value in options.items() if key.endswith("iterations")}
    if "ppo" in name or "sac" in name or "network" in name:
        pytest.importorskip("stable_baselines3")
    assert trained(name, options, tmp_path / "whole", 0) == 0
    assert trained(name, options, tmp_path / "killed", kills) >= (1 if kills == 1 else 3)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) > 3
    ends = [checkpoint.read(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "killed")]
    for end in ends:
        end.state.pop("seconds")
    assert ends[0].state == ends[1].state and ends[0].tensors.keys() == ends[1].tensors.keys()
    for key, value in ends[0].tensors.items():
        assert torch.equal(value, ends[1].tensors[key]), key


def command(folder: Path) -> list[str]:
    given = OFTEN | RECIPES["pendulum_recovery"] | {"imitation_iterations": 100}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    options += ["--no-baselines", "--held-out=2", "--resume"]
    return [sys.executable, "-m", "qp_control.cli", "train", "pendulum_recovery", f"--run={folder}", *options]


def finished_rows(folder: Path) -> list[dict[str, str]]:
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return rows(folder)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_commands_go_on_to_the_same_numbers(tmp_path: Path, kills: int) -> None:
    """SIGKILL at any moment from the first checkpoint on: no later row differs, none is missing."""
    expected = finished_rows(tmp_path / "whole")
    folder, generator = tmp_path / "killed", random.Random(0)
    killed = 0
    for _ in range(kills):
        file = folder / "checkpoint.safetensors"
        before = file.stat().st_mtime_ns if file.exists() else 0
        process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120.0
        while process.poll() is None and time.monotonic() < deadline:
            if file.exists() and file.stat().st_mtime_ns != before:
                time.sleep(0.1 * generator.random())
                break
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= min(2, kills)
    assert finished_rows(folder) == expected and len(expected) == 108
