"""The source distribution builds a wheel, which works in another virtual environment, without the source tree."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import qp_control as qc

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow  # compiles the package once more


def run(*command, cwd, env=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """As `python -m build` makes it: a wheel of that is all that is left of the source tree."""
    folder = tmp_path_factory.mktemp("sdist")
    # A copy without build folders: what git would give to another machine.
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.so", "__pycache__", ".*_cache"),
    )
    # The build backend's own function, in an environment that has the backend.
    make = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    backend = folder / "backend"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", backend, "scikit-build-core>=0.11", cwd=folder)
    run(sys.executable, "-c", make, folder, cwd=source, env=os.environ | {"PYTHONPATH": str(backend)})
    shutil.rmtree(source)
    (path,) = folder.glob("qp_control-*.tar.gz")
    return path


def test_source_distribution_holds_what_a_build_and_the_tests_need_and_no_more(sdist):
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
        (path,) = [name for name in archive.getnames() if name.endswith("/PKG-INFO")]
        metadata = archive.extractfile(path).read().decode()
    assert f"\nVersion: {qc.__version__}\n" in metadata
    for needed in ("pyproject.toml", "CMakeLists.txt", "cpp/robot.cmake", "cpp/qp_controlConfig.cmake.in", "LICENSE"):
        assert needed in names
    for folder in ("cpp/src/solver/", "qp_control/compat/", "envs/assets/", "examples/cpp/", "docs/", "tests/"):
        assert any(name.startswith(folder) for name in names), folder
    known = {
        "benchmarks", "cpp", "docs", "envs", "examples", "qp_control", "tests",
        "CHANGELOG.md", "CITATION.cff", "CMakeLists.txt", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO",
        "README.md", "constraints.txt", "pyproject.toml", ".clang-format", ".gitignore", ".pre-commit-config.yaml",
    }  # fmt: skip
    assert {name.split("/")[0] for name in names} <= known
    assert not [name for name in names if re.search(r"\.(so|o|pyc|whl|log)$|__pycache__|egg-info", name)]


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {
        "CMAKE_BUILD_PARALLEL_LEVEL": "2",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    }
    run(sys.executable, "-m", "pip", "wheel", sdist, "--no-deps", "--wheel-dir", folder, cwd=folder, env=environment)
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
    assert "qp_control/compat/mpc.py" in names
    allowed = ("qp_control/", f"qp_control-{qc.__version__}.dist-info/")
    assert not [name for name in names if not name.startswith(allowed) or "__pycache__" in name or name.endswith(".a")]


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
    # The README's example, and the pages that a newcomer would read first.
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    printed = run(python, "-W", "ignore", "-c", "\n".join(readme), cwd=tmp_path, env=environment)
    assert printed.startswith("CLOSEST_FEASIBLE")
    for page in ("docs/tutorial.md", "docs/qp_layer.md", "docs/mpc.md"):
        if not (ROOT / page).exists():
            continue
        blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / page).read_text(), re.S)
        code, expected = ("".join(part) for part in zip(*blocks, strict=True))
        assert run(python, "-W", "ignore", "-c", code, cwd=tmp_path, env=environment) == expected
