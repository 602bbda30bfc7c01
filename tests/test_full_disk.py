"""A disk that is full, at every point where a run writes; folders that cannot be written; other versions' files."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import qp_control as qc
from qp_control.training import RunError, RunFolder, Trainer, checkpoint, create, pipeline
from qp_control.training.phase import FailedProblem
from qp_control.training.run_folder import read_metrics
from qp_control.viewer import write_replay

SHORT = {
    "identification_iterations": 2,
    "optimality_iterations": 2,
    "imitation_iterations": 2,
    "bound_iterations": 2,
    "demonstrations": 4,
    "batch": 4,
    "validate_every": 1,
    "validation_count": 2,
}
TIMING = {"seconds", "steps_per_second"}


class Disk:
    """Below `root`, the disk is full from the write number `after` to a file whose name has `pattern` on, until it is
    cleaned."""

    def __init__(self, root: Path, pattern: str, after: int) -> None:
        self.root, self.pattern, self.after, self.full = root, pattern, after, False

    def file(self, path: Any, mode: str) -> io.FileIO:
        disk, counted = self, self.pattern in str(path)

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                if counted and len(data):
                    disk.after -= 1
                    disk.full = disk.full or disk.after < 0
                if disk.full:
                    super().write(bytes(data)[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        return File(path, mode)

    def open(self, original: Any) -> Any:
        def opened(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            ours = not isinstance(file, int) and Path(os.fsdecode(file)).is_relative_to(self.root)
            if not ours or not set("wax+") & set(mode):
                return original(file, mode, *more, **named)
            binary = io.BufferedWriter(self.file(file, mode.replace("b", "").replace("t", "")))
            if "b" in mode:
                return binary
            return io.TextIOWrapper(binary, encoding=named.get("encoding"), newline=named.get("newline"))

        return opened

    def clean(self) -> None:
        self.full, self.after = False, 10**9


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def start(pattern: str, after: int = 0) -> Disk:
        disk = Disk(tmp_path, pattern, after)
        monkeypatch.setattr(builtins, "open", disk.open(open))
        monkeypatch.setattr(io, "open", disk.open(io.open))
        return disk

    return start


def train(path: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    options = create("pendulum_recovery", **SHORT).options
    console = Console(file=io.StringIO())
    return pipeline.train(
        "pendulum_recovery", path, options, resume=resume, baselines=False, held_out=2, console=console
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(RunFolder.open(path))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    train(path)
    return path


@pytest.mark.parametrize(
    ("pattern", "after"),
    [
        ("config.json", 0),
        ("metrics.csv", 0),  # its header
        ("metrics.csv", 3),
        ("tfevents", 0),
        ("tfevents", 4),
        ("checkpoint", 0),
        ("checkpoint", 2),
        ("results.json", 0),
        ("learning_curve", 0),
    ],
)
def test_full_disk_is_a_clear_error_and_a_run_goes_on_once_there_is_room(
    fill: Any, whole: Path, tmp_path: Path, pattern: str, after: int
) -> None:
    path = tmp_path / "run"
    disk = fill(pattern, after)
    with pytest.raises(RunError, match=r"cannot write .*No space left on device"):
        train(path)
    assert disk.full
    # What is there under its own name is whole; nothing half stays beside it.
    for file in path.glob("*.json"):
        json.loads(file.read_text())
    if RunFolder(path).checkpoint.exists():
        checkpoint.read(RunFolder(path).checkpoint)
    assert not list(path.glob("*.partial"))
    with pytest.raises(RunError, match="cannot write"):
        train(path, resume=True)  # still full
    disk.clean()
    rows = train(path, resume=True)
    assert rows_of(path) == rows_of(whole)
    expected = json.loads((whole / "results.json").read_text())
    assert [row["action error"] for row in rows] == [row["action error"] for row in expected]
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_full_disk_leaves_pages_pictures_and_failures_as_they_were(fill: Any, tmp_path: Path) -> None:
    page = tmp_path / "replay.html"
    page.write_text("the one before")
    task = create("cart_pole_swing_up")
    assert hasattr(task, "plant")
    run = RunFolder.create(tmp_path / "run", "pendulum_recovery", SHORT)
    fill("", 0)
    with pytest.raises(OSError, match="No space left"):
        write_replay(page, task.plant.urdf, [0.0, 0.1], torch.zeros(2, 4).numpy())
    assert page.read_text() == "the one before" and [p.name for p in tmp_path.glob("*.partial")] == []
    problem = {"g": torch.zeros(2), "H": torch.eye(2)}
    with pytest.raises(RunError, match=r"cannot write .*No space left"):
        run.save_failure(FailedProblem(problem, 0, 0, qc.Status.MAX_ITER), 0)
    assert list((run.path / "failures").iterdir()) == []


def test_checkpoint_of_another_version_is_refused_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = create("pendulum_recovery", **SHORT)
    run = RunFolder.create(tmp_path / "run", task.name, vars(task.options))
    with monkeypatch.context() as other:
        other.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
        Trainer(task, run).train(until=1)
    content = run.checkpoint.read_bytes()
    message = f"has checkpoint format {checkpoint.FORMAT - 1}, expected {checkpoint.FORMAT}"
    with pytest.raises(RunError, match=message):
        train(run.path, resume=True)
    assert run.checkpoint.read_bytes() == content


def test_checkpoints_hold_no_pickles(whole: Path) -> None:
    """A safetensors file is a length, JSON, and numbers; that of torch.save would be a zip archive with a pickle."""
    content = RunFolder(whole).checkpoint.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert set(header["__metadata__"]) == {"format", "state"}
    assert not content.startswith(b"PK") and b"pickle" not in content
    sizes = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert max(sizes) == len(content) - 8 - length


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot write"):
        train(tmp_path / "run")


def test_folder_that_cannot_be_written_is_a_clear_error_of_the_command(tmp_path: Path) -> None:
    """/proc takes no files, whoever asks."""
    words = [sys.executable, "-m", "qp_control.training", "pendulum_recovery", "--run", "/proc/qp_control_run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "cannot write the run folder '/proc/qp_control_run'" in done.stderr
    assert "Traceback" not in done.stderr
