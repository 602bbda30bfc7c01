"""The command line: what it writes, and what it says when asked for the impossible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qp_control import cli, doctor
from qp_control.training import pipeline
from qp_control.viewer.browser import BrowserNotFound

QUICK = [
    "--seed=1",
    "--imitation-iterations=2",
    "--imitation-batch=2",
    "--imitation-steps=5",
    "--expert-count=4",
    "--expert-steps=40",
    "--closed-loop-iterations=2",
    "--closed-loop-batch=2",
    "--closed-loop-steps=5",
    "--validate-every=2",
    "--validation-count=2",
    "--held-out=2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "swing up"
    assert cli.main(["train", "cart_pole_swing_up", "--run", str(run), *QUICK]) == 0
    return run


def test_training_fills_the_run_folder(trained: Path) -> None:
    for name in (
        "config.json",
        "metrics.csv",
        "checkpoint.safetensors",
        "results.json",
        "learning_curve.png",
        "before_and_after.png",
    ):
        assert (trained / name).stat().st_size > 100, name
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    page = (trained / "replay.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and len(page) > 100_000
    assert len((trained / "metrics.csv").read_text().splitlines()) == 5


def test_training_again_needs_resume(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "checkpoint.safetensors").read_bytes()
    command = ["train", "cart_pole_swing_up", "--run", str(trained), *QUICK, "--no-baselines"]
    assert cli.main(command) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert "going on from iteration 4 of 4" in capsys.readouterr().out
    assert (trained / "checkpoint.safetensors").read_bytes() == before


def test_resuming_with_other_options_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--resume", *QUICK, "--closed-loop-iterations=3"]
    assert cli.main(["train", "cart_pole_swing_up", "--run", str(trained), *options]) == 2
    # Those that differ, and no others.
    assert capsys.readouterr().err.strip().endswith("begun with other options: closed_loop_iterations was 2 and is 3")
    assert cli.main(["train", "lqr_recovery", "--run", str(trained), "--resume"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("was begun with another task: cart_pole_swing_up, not lqr_recovery")


def test_replay_is_rewritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (trained / "replay.html").read_bytes()
    (trained / "replay.html").unlink()
    assert cli.main(["replay", str(trained)]) == 0
    assert capsys.readouterr().out.strip() == str(trained / "replay.html")
    assert len((trained / "replay.html").read_bytes()) == pytest.approx(len(first), rel=0.05)


def test_play_shows_the_learned_episodes(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Viewer:
        url = "http://127.0.0.1:7000/static/"
        shown: list[Any] = []  # noqa: RUF012, one test long
        closed = False

        def __init__(self, urdf: Path, **options: Any) -> None:
            assert Path(urdf).is_file() and options["open_browser"] is False

        def play(self, times: Any, states: Any, *, moved: Any) -> None:
            assert moved == {}  # nothing but the robot
            self.shown.append((times, states))

        def close(self) -> None:
            Viewer.closed = True

    monkeypatch.setattr(pipeline, "LiveViewer", Viewer)
    assert cli.main(["play", str(trained), "--episodes", "2", "--no-browser"]) == 0
    assert "127.0.0.1" in capsys.readouterr().out
    assert len(Viewer.shown) == 2 and Viewer.closed
    times, states = Viewer.shown[1]
    assert np.asarray(states).shape == (201, 4) and times[-1] == pytest.approx(10.0)


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qp_control.cli", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_list_shows_the_tasks() -> None:
    result = run_command("list")
    assert result.returncode == 0 and "cart_pole_swing_up" in result.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "swim"], "swim"),
        (["play", "nowhere"], "'nowhere' is not a run folder"),
    ],
)
def test_mistakes_end_with_a_message_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run_command(*arguments)
    assert result.returncode == 2
    assert message in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "cart_pole_swing_up", "--held-out", "0"], "held_out is 0, expected at least 1"),
        (["play", "nowhere", "--episodes", "0"], "episodes is 0, expected at least 1"),
        (["replay", "nowhere"], "'nowhere' is not a run folder"),
    ],
)
def test_wrong_options_give_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main([*arguments[:2], *(["--run", str(tmp_path)] * (arguments[0] == "train")), *arguments[2:]]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_looked_into_give_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = str(tmp_path / (300 * "a"))
    for command in (["play", name], ["replay", name], ["train", "cart_pole_swing_up", "--run", name]):
        assert cli.main(command) == 2
        assert "File name too long" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"task": "cart_pole_swing_up", "options": {"name": 1}}')
    assert cli.main(["replay", str(tmp_path)]) == 2
    assert "multiple values for argument 'name'" in capsys.readouterr().err


def test_doctor_finds_this_installation_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "broken" not in told and all(
        word in told for word in ("kernels", "threads", "gradients", "browser", "torch")
    )


def test_doctor_tells_what_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor.qc, "solve_qp", lambda *_, **__: SimpleNamespace(x=np.zeros(2)))
    monkeypatch.setattr(doctor, "browser_path", no_browser)
    found = {item.subject: item for item in doctor.examine()}
    assert found["QP solver"].good is False and "on the simplex gave [0. 0.]" in found["QP solver"].text
    assert found["browser"].good is None and found["gradients"].good is True
    assert cli.main(["doctor"]) == 1
    assert "broken" in capsys.readouterr().out


def no_browser() -> str:
    raise BrowserNotFound("no browser for pictures")


def test_bench_prints_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CELLS", ((1, 4, 1, 2),))
    assert cli.main(["bench"]) == 0
    assert "1 x (4, 1, 2)" in capsys.readouterr().out


def test_wrong_training_options_give_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "cart_pole_swing_up", "--run", str(tmp_path / "run"), "--clip", "0"])
    assert stop.value.code == 2
    assert "clip is 0.0, expected a positive number" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_command_gives_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fly"])
    assert stop.value.code == 2
    assert "fly" in capsys.readouterr().err


def test_damaged_run_ends_with_a_message(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "damaged"
    run.mkdir()
    (run / "config.json").write_bytes((trained / "config.json").read_bytes())
    (run / "checkpoint.safetensors").write_bytes((trained / "checkpoint.safetensors").read_bytes()[:100])
    assert cli.main(["replay", str(run)]) == 2
    assert "is not a checkpoint, or damaged" in capsys.readouterr().err
    assert cli.main(["train", "cart_pole_swing_up", "--run", str(run), "--resume", *QUICK]) == 2
    assert "is not a checkpoint, or damaged" in capsys.readouterr().err
    assert {file.name for file in run.iterdir()} == {"config.json", "checkpoint.safetensors"}
    (run / "config.json").write_text("{")
    assert cli.main(["replay", str(run)]) == 2
    assert "config.json' is damaged" in capsys.readouterr().err
    assert not (run / "replay.html").exists()


def test_unwritable_run_folder_ends_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["train", "cart_pole_swing_up", "--run", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write" in capsys.readouterr().err
