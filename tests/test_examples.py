"""Every example runs headless and prints what it is there to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

EXPECTED = {
    "01_solve_qp.py": ["SOLVED", "PRIMAL_INFEASIBLE", "CLOSEST_FEASIBLE"],
    "02_qp_layer.py": ["dx1/dtheta = -1.0000", "CLOSEST_FEASIBLE", "dx1/dtheta = -0.5000"],
    "03_mpc_cart_pole.py": ["success True"],
    # The three derivatives at the kink, a Jacobian outside the half-plane, and the second derivative.
    "04_derivatives.py": [
        "least_squares  dx1/dp = [ 0.5 -0.5]  residual below 1e-12: True, weakly active rows: 1",
        "one_sided      dx1/dp = [1. 0.]  residual below 1e-12: True, weakly active rows: 1",
        "smoothed       dx1/dp = [ 0.6667 -0.3333]  residual below 1e-12: True, weakly active rows: 1",
        "p = [2. 1.]  dx/dp = [ 0.5 -0.5] [-0.5  0.5]",
        "error below 1e-12: True",
    ],
    "05_optimal_control.py": ["weights beside that of u: 3.000, 1.000", "CLOSEST_FEASIBLE speed limit shifted by [0."],
    "06_nonlinear_mpc.py": [
        "0.000 m from the goal after 5 s, never nearer than 0.40 m",
        "found [1.4, 0.3, 0.7] the truth is [1.4, 0.3, 0.7]",
    ],
    "07_ppo.py": ["learned: True"],
    "08_network_in_the_loop.py": ["without influence", "trained"],
    "09_live_sliders.py": ["sliders at http://127.0.0.1:", "from upright"],
    "train_arm.py": ["model", "before", "learned", "'tool.stiffness'"],
    "train_cart_pole_swing_up.py": ["imitation", "closed_loop", "learned"],
    "train_constraints.py": [
        "from 5 of 24 starts",
        "learned  track 0.5000 m  speed 1.0000 m/s  distance from the obstacle 0.6000 m",
    ],
    "train_expert_recovery.py": [
        "Q [1.0, 0.5, 2.0, 1.0] expected [1.0, 0.5, 2.0, 1.0]",
        "terminal [4.0, 2.0, 3.0, 5.0] expected",
    ],
    "train_quadrotor.py": ["closed_loop loss", "tuned by hand  success", "learned"],
    "train_quadruped.py": ["0 cost", "untuned  survives", "learned  survives"],
    "train_identification.py": ["dry: pole      true 0.06000  believed 0.02000  found 0.06000"],
}
ARGUMENTS = {
    "08_network_in_the_loop.py": ["2"],
    "09_live_sliders.py": ["--seconds", "1", "--no-browser"],
    "train_arm.py": ["1", "1"],
    "train_cart_pole_swing_up.py": ["1", "1"],
    "train_expert_recovery.py": ["lqr", "50"],
    "train_quadrotor.py": ["analytic", "5"],
    "train_quadruped.py": ["stand", "1", "2"],
}
IGNORED = {"09_live_sliders.py": ["-W", "ignore::DeprecationWarning"]}  # of meshcat's imports
NEEDED = {"07_ppo.py": "stable_baselines3"}


def test_every_example_is_tested() -> None:
    files = {path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("meshcat_")}
    assert files == set(EXPECTED)


def test_examples_are_as_short_as_their_page_says() -> None:
    assert "shorter than a hundred lines" in (EXAMPLES.parent / "docs/examples.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path.name


@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name: str, tmp_path: Path) -> None:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    command = [sys.executable, "-W", "error", *IGNORED.get(name, []), str(EXAMPLES / name), *ARGUMENTS.get(name, [])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in EXPECTED[name]:
        assert words in result.stdout
    assert not list(tmp_path.iterdir())
