"""The meshcat examples write pages that load without errors and show robots that move.

Screenshots are kept where QP_CONTROL_ARTIFACTS names a folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qp_control import viewer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SHORT = {
    "meshcat_arm.py": ["--iterations", "0", "--steps", "60"],
    "meshcat_cart_pole.py": ["--iterations", "1", "--steps", "12"],
    "meshcat_obstacles.py": ["--horizons", "5", "10", "--steps", "30"],
    "meshcat_quadrotor.py": ["--iterations", "0", "--steps", "30"],
    "meshcat_quadruped.py": ["--iterations", "0", "--steps", "40"],
}
STAGES = {"meshcat_cart_pole.py": 2}  # beside the one that training began with
FIRST = {"meshcat_obstacles.py": "5 periods ahead"}


def test_every_meshcat_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("meshcat_*.py")} - {"meshcat_demo.py"} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_page_of_an_example(name, tmp_path, browser_needed):
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(EXAMPLES / name)]
    result = subprocess.run(
        [*command, "--out", str(tmp_path), *SHORT[name]],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (page,) = tmp_path.glob("*.html")
    assert page.stat().st_size < 15e6
    kept = Path(os.environ.get("QP_CONTROL_ARTIFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    with viewer.Browser(800, 500) as browser:
        browser.open(page)
        duration = browser.evaluate("viewer.animator.pause(), viewer.animator.duration")
        pictures = []
        for k, time in enumerate((0.0, 0.9 * duration)):
            browser.evaluate(f"viewer.animator.seek({time!r}), new Promise(done => requestAnimationFrame(done))")
            pictures.append(browser.picture(browser.evaluate("viewer.capture_image()")).astype(int))
            (kept / f"{page.stem}_{k}.png").write_bytes(browser.screenshot())
        assert browser.evaluate("document.getElementById('stage').max") == str(STAGES.get(name, 1))
        browser.evaluate(
            "stage = document.getElementById('stage'), stage.value = 0, stage.dispatchEvent(new Event('input'))"
        )
        assert browser.evaluate("document.getElementById('name').textContent") == FIRST.get(name, "untuned")
        moved = np.abs(pictures[1] - pictures[0]).max(axis=2) > 60
        assert moved.sum() > 200
        assert browser.console_errors == []
        assert browser.evaluate("performance.getEntriesByType('resource').filter(r => r.name.startsWith('http'))") == []
