"""Several processes that train together: the numbers of one, to the bit; and a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qp_control.training import RunFolder, Trainer, checkpoint, create
from qp_control.training.batch_parts import differentiate
from qp_control.training.phase import DivisiblePhase
from qp_control.training.run_folder import read_metrics

if not torch.distributed.is_available() or sys.platform != "linux":
    pytest.skip("needs torch.distributed, and /proc to find its workers", allow_module_level=True)

SHORT = {
    "identification_iterations": 3,
    "optimality_iterations": 2,
    "imitation_iterations": 3,
    "bound_iterations": 2,
    "demonstrations": 7,
    "batch": 5,
    "validate_every": 1,
    "validation_count": 2,
    "parts": 3,
}
TIMING = {"seconds", "steps_per_second"}


def torchrun(folder: Path, *more: str, restarts: int = 0, **options: Any) -> list[str]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (SHORT | options).items()]
    start = ["--nproc-per-node=2", "--standalone", f"--max-restarts={restarts}", "--monitor-interval=0.2"]
    train = ["-m", "qp_control.training", "pendulum_recovery", f"--run-folder={folder}"]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *start,
        *train,
        "--no-baselines",
        "--held-out=2",
        *words,
        *more,
    ]


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(RunFolder.open(folder))]


def alone(folder: Path, **options: Any) -> Path:
    task = create("pendulum_recovery", **(SHORT | options))
    Trainer(task, RunFolder.create(folder, task.name, vars(task.options))).train()
    return folder


def assert_same_run(folder: Path, other: Path) -> None:
    assert rows_of(folder) == rows_of(other)
    tensors, expected = (checkpoint.read(RunFolder(path).checkpoint).tensors for path in (folder, other))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    """Three parts of a batch of five among two processes: uneven shares; parameters, curvatures, plans, metrics."""
    expected = alone(tmp_path / "alone")
    run = torchrun(tmp_path / "together")
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("learning_curve.png") == 1  # the first process alone reports
    assert_same_run(tmp_path / "together", expected)
    # The folder is taken: every process gives up, the first one says why, nothing changes.
    written = {path: path.read_bytes() for path in (tmp_path / "together").glob("*.*") if path.is_file()}
    again = subprocess.run(run, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode != 0 and "already holds a run" in again.stderr
    assert all(path.read_bytes() == content for path, content in written.items())


def test_a_batch_in_parts_has_the_gradient_of_the_whole() -> None:
    """They differ by rounding alone: sums of some hundred terms of the gradient's size, each 1e-16 of it."""
    for name, options in (
        ("pendulum_recovery", SHORT),
        ("cart_pole_swing_up", {"closed_loop_batch": 5, "closed_loop_steps": 4, "imitation_iterations": 0}),
    ):
        found = []
        for parts in (1, 3):
            task = create(name, **options)
            module = task.module()
            phase = [phase for phase in task.phases() if isinstance(phase, DivisiblePhase)][-1]
            parameters, generator = phase.parameters(module), torch.Generator().manual_seed(0)
            found.append(differentiate(phase, module, parameters, generator, parts))
        whole, divided = found
        assert divided.loss == pytest.approx(whole.loss, rel=1e-12)
        size = float(whole.gradients[0].abs().max())
        assert torch.allclose(divided.gradients[0], whole.gradients[0], rtol=0, atol=1e-12 * size)
        assert len(divided.status) == len(whole.status) and divided.steps == whole.steps
        assert divided.gradients.shape == whole.gradients.shape


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120.0
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "training ended, or nothing happened"
        time.sleep(0.02)


def test_a_killed_worker_is_started_again_and_changes_no_number(tmp_path: Path) -> None:
    """SIGKILL of one of two workers after the first checkpoint: torchrun starts both again, from that checkpoint."""
    longer = {"imitation_iterations": 80, "validate_every": 10}
    expected, folder = alone(tmp_path / "alone", **longer), tmp_path / "killed"
    process = subprocess.Popen(
        torchrun(folder, "--resume", restarts=1, **longer), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: RunFolder(folder).checkpoint.exists(), process)
        workers = children(process.pid)
        assert len(workers) == 2
        os.kill(workers[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    assert "going on from iteration" in out
    assert_same_run(folder, expected)
