"""Builds and runs the C++ tests of the solver's parts."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]}

    def run(*command):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    options = ["-DQP_CONTROL_TESTS=ON", "-DQP_CONTROL_PYTHON=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    # Without NDEBUG Eigen checks every size and index.
    options += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1 -g0"]
    run("cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), *options)
    run("cmake", "--build", str(folder), "--parallel", "2")
    return folder


@pytest.mark.parametrize(
    ("program", "facts"),
    [
        ("solver_facts", 16),
        ("box_qp_facts", 3),
        ("interior_point_facts", 12),
        ("ocp_facts", 4),
        ("allocation_facts", 11),
    ],
)
def test_facts_about_the_solver_hold(build, program, facts):
    done = subprocess.run([build / "cpp" / "tests" / program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") >= facts, done.stdout


def test_awkward_problems_are_answered_truthfully(build):
    """A few cases here; `make fuzz` takes more, under the sanitizers."""
    fuzz = build / "cpp" / "tests" / "fuzz_solver"
    done = subprocess.run([fuzz, "cases", "200", "100000"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "200 cases" in done.stdout and "0 cases failed" in done.stdout


@pytest.mark.slow
def test_ticks_of_inverse_dynamics_hold_and_allocate_nothing(tmp_path):
    """Minutes of compiling: Pinocchio and the solver, both for any processor."""
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]}
    options = [f"-DQP_CONTROL_{name}" for name in ("TESTS=ON", "ROBOT_TESTS=ON", "PYTHON=OFF")]
    options += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    facts = "inverse_dynamics_facts"
    for command in (
        ["cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path, *options],
        ["cmake", "--build", tmp_path, "--parallel", "2", "--target", facts],
        [tmp_path / "cpp" / "tests" / facts],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.count("ok  ") >= 4, done.stdout
