"""A wheel moved to another virtual environment works there, without the source tree."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow  # compiles the package once more


def run(*command, cwd, env=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {
        "CMAKE_BUILD_PARALLEL_LEVEL": "2",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    }
    # A copy without build folders: what git would give to another machine.
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.so", "__pycache__", ".*_cache"),
    )
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--wheel-dir",
        folder,
        cwd=source,
        env=environment,
    )
    shutil.rmtree(source)
    (path,) = folder.glob("qp_control-*.whl")
    return path


def test_wheel_holds_modules_types_models_and_no_build_leftovers(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("qp_control/_solver") and name.endswith(".so") for name in names)
    assert any(name.startswith("qp_control/_robot") and name.endswith(".so") for name in names)
    assert "qp_control/py.typed" in names
    assert "qp_control/envs/__init__.py" in names
    assert any(name.endswith(".pyi") for name in names)
    assert any(name.endswith(".urdf") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "cpp/", "build/")) or "__pycache__" in name]


def test_wheel_works_in_another_virtual_environment(wheel, tmp_path):
    """Dependencies are borrowed from this environment; the package itself must come from the wheel."""
    other = tmp_path / "a place with spaces"
    venv.create(other, with_pip=False, symlinks=True)
    python = other / "bin" / "python"
    options = ["--no-deps", "--no-index", "--ignore-installed", "--prefix", other]
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=tmp_path)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", ask, cwd=tmp_path).strip())
    # Plain path entries only: the editable finder of this environment must not answer for the package.
    borrowed = Path(sysconfig.get_path("purelib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pinocchio = borrowed / "cmeel.prefix" / "lib" / version / "site-packages"
    (site / "borrowed.pth").write_text(f"{borrowed}\n{pinocchio}\n")
    (site / "cmeel.prefix").symlink_to(borrowed / "cmeel.prefix")  # Pinocchio's libraries, as pip would put them
    script = """
import pathlib, sys
import numpy as np
import qp_control as qc
import qp_control.envs
import gymnasium
assert str(pathlib.Path(qc.__file__)).startswith(sys.prefix), qc.__file__
sol = qc.solve_qp(np.eye(2), np.ones(2), lb=[0.0, -1.0])
assert sol.status == qc.Status.SOLVED and np.allclose(sol.x, [0, -1]), sol
env = gymnasium.make("QPControl/CartPoleSwingUp-v0")
observation, _ = env.reset(seed=0)
env.step(env.action_space.sample())
env.close()
print("moved", qc.__file__)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
    assert "moved" in run(python, "-c", script, cwd=tmp_path, env=environment)
    assert (other / "bin" / "qp-control").exists()
