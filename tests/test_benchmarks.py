"""Every benchmark still runs: its quick mode writes a table and a plot, with the peers that are there or without."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import pages
import report

FOLDER = report.HERE
PNG = b"\x89PNG\r\n\x1a\n"
LEARNING = ["identification", "imitation", "quadruped_pushes", "reinforcement", "scaling", "training"]
LONGER = ["instructions", "nonlinear_mpc", "repeated_solves", *LEARNING]  # ten seconds each
QUICK = ["accuracy", "contact", "dynamics", "environments", "infeasible", "inverse_dynamics", "mpc_scaling"]
QUICK += ["inverse_dynamics_peers", "ocp_layers", "qp_layers", "qp_sets", "start_up", "structure", "time_limits"]
QUICK += ["worst_ticks"]
NEEDED = {"accuracy": "scipy", "infeasible": "scipy", "ocp_layers": "scipy", "qp_sets": "scipy"}
NEEDED["reinforcement"] = "stable_baselines3"
# Where that is to be had, without the peers: they are none of the suite's business, and slow to start.
OPTIONS = {"infeasible": ["--no-peers"], "qp_sets": ["--solver", "qp-control", "--eps", "1e-6"]}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("QP_CONTROL_DATA", None)
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)


def programs() -> set[str]:
    return {path.stem for path in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONGER)])
def test_quick_mode_writes_a_table_and_a_plot(name: str, tmp_path: Path) -> None:
    needed = NEEDED.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    if name == "instructions" and shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    done = run(FOLDER / f"{name}.py", "--quick", "--out", tmp_path, *OPTIONS.get(name, []))
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(any(row.values()) for row in rows)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
    for source in json.loads((tmp_path / f"{name}.json").read_text()).values():
        assert source["command"].startswith(f"python benchmarks/{name}.py --quick")
        assert str(tmp_path) not in source["command"] and "qp-control" in source["packages"]


def test_published_imitation_is_printed_by_one_command(tmp_path: Path) -> None:
    done = run(FOLDER / "imitation.py", "--quick", "--tasks", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / "imitation.csv", newline="") as file:
        rows = {row["controller"]: row for row in csv.DictReader(file)}
    assert float(rows.pop("trajax; DiffMPC's time (published)")["loss"]) == 0.054
    assert rows and all(float(row["loss"]) > 0.0 and float(row["model error"]) > 0.0 for row in rows.values())


def test_every_benchmark_is_tested_and_documented() -> None:
    assert programs() - {"run_all", "counted_solves", "crocoddyl_peer", "tsid_peer", "figures", "pages"} == {
        *QUICK,
        *LONGER,
    }
    table = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.py"):
        assert f"`{path.name}`" in table, path.name


def test_figures_are_drawn_from_the_tables_that_are_there(tmp_path: Path) -> None:
    rows = [("constraint_learning", name, "limit error", 0.3, 0.2) for name in ("before", "learned")]
    with open(tmp_path / "training.csv", "w", newline="") as file:
        csv.writer(file).writerows([("task", "controller", "measure", "seed 0", "seed 1"), *rows])
    done = run(FOLDER / "figures.py", "--results", tmp_path, "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr[-3000:]
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.name == "constraints.png" and figure.read_bytes().startswith(PNG)


def test_run_all_knows_every_benchmark_of_the_solver() -> None:
    refusal = run(FOLDER / "run_all.py", "--only", "nothing").stderr
    choices = refusal.split("choose from")[1]
    assert set(re.findall(r"\w+", choices)) == {*QUICK, *LONGER} - set(LEARNING)


def test_run_all_passes_options_through_and_sums_up(tmp_path: Path) -> None:
    done = run(FOLDER / "run_all.py", "--quick", "--out", tmp_path, "--only", "time_limits")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("time_limits      time_limits.csv, time_limits.png"), done.stdout


def test_run_all_skips_the_collections_without_a_folder(tmp_path: Path) -> None:
    done = run(FOLDER / "run_all.py", "--out", tmp_path, "--only", "qp_sets")
    assert done.returncode == 0
    assert "qp_sets skipped: no collections of problems, name their folder with --data" in done.stdout
    assert not list(tmp_path.iterdir())


def test_run_all_fails_where_a_benchmark_fails(tmp_path: Path) -> None:
    done = run(FOLDER / "run_all.py", "--out", tmp_path, "--only", "qp_sets", "--data", tmp_path / "missing")
    assert done.returncode == 1
    assert "FAILED, exit status 1" in done.stdout


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_benchmarks_have_printed(page: Path) -> None:
    """`python benchmarks/pages.py` after new results."""
    text, blocks = page.read_text(), pages.PAGES[page]
    assert pages.rewritten(text, blocks) == text
    # A number changed by hand, and a block that has lost its mark, are seen.
    first = f"<!-- {next(iter(blocks))} -->"
    at = re.search(r"\| \d", text[text.index(first) :])
    assert at is not None
    digit = text.index(first) + at.end() - 1
    changed = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    assert changed != text and pages.rewritten(changed, blocks) == text
    with pytest.raises(ValueError, match="expected"):
        pages.rewritten(text.replace(first, ""), blocks)


def test_blocks_that_are_empty_are_filled_and_what_stands_behind_them_stays() -> None:
    blocks = {"table": lambda: "| a |"}
    assert pages.rewritten("<!-- table -->\n<!-- /table -->\nmore\n", blocks) == (
        "<!-- table -->\n| a |\n<!-- /table -->\nmore\n"
    )
    with pytest.raises(ValueError, match="<!-- /table --> is missing"):
        pages.rewritten("<!-- table -->\nmore\n", blocks)


def test_every_result_says_where_it_comes_from() -> None:
    results = sorted(report.RESULTS.glob("*.csv"))
    assert results
    for path in results:
        if path.name == "qp_sets_all.csv":
            continue
        for source in json.loads(path.with_suffix(".json").read_text()).values():
            program = re.match(r"python benchmarks/(\w+)\.py", source["command"])
            assert program and program[1] in programs(), path
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", source["date"]) and source["commit"] and source["machine"]


def test_a_table_in_parts_keeps_the_other_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, rows in (("first", ["a", "b"]), ("second", ["b", "c"])):
        monkeypatch.setattr(sys, "argv", [f"/somewhere/{command}.py", "--out", "/elsewhere", "--loop", "/home/me/loop"])
        table = report.Report("parts", {"task": 5, "value": 6}, tmp_path, part="task")
        for task in rows:
            table.add({"task": task, "value": command})
        table.finish()
    found = {row["task"]: row["value"] for row in report.read_csv(tmp_path / "parts.csv")}
    assert found == {"a": "first", "b": "second", "c": "second"}
    sources = report.read_json(tmp_path / "parts.json")
    assert {task: source["command"] for task, source in sources.items()} == {
        task: f"python {command}.py --loop PATH/loop" for task, command in found.items()
    }


def test_a_run_that_is_stopped_leaves_the_rows_it_measured(tmp_path: Path) -> None:
    table = report.Report("stopped", {"solver": 8, "ms": 6}, tmp_path)
    table.add({"solver": "ours", "ms": 1.0})
    table.add({"solver": "peer", "ms": 2.0, "more": "x"})
    partial = tmp_path / "stopped.csv.partial"
    assert [row["solver"] for row in report.read_csv(partial)] == ["ours", "peer"]
    assert table.finish() == tmp_path / "stopped.csv" and not partial.exists()


def test_quick_runs_keep_away_from_the_results() -> None:
    parser = report.arguments("")
    assert parser.parse_args([]).out == report.RESULTS
    assert parser.parse_args(["--quick"]).out == report.RESULTS / "quick"
    assert parser.parse_args(["--quick", "--out", "here"]).out == Path("here")
