"""The documents keep their promises: the README's example runs, links lead somewhere, versions agree."""

import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import qp_control as qc
from qp_control.inverse_dynamics.contacts import SupportContact
from qp_control.inverse_dynamics.limits import Barrier
from qp_control.inverse_dynamics.tasks import MotionTask
from qp_control.viewer import Slider

sys.path.append(str(Path(__file__).resolve().parents[1] / "docs"))
import gallery
import results

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "docs/install.md",
    "docs/tutorial.md",
    "docs/closest_feasible.md",
    "docs/batches.md",
    "docs/qp_layer.md",
    "docs/optimal_control.md",
    "docs/mpc.md",
    "docs/inverse_dynamics.md",
    "docs/contact.md",
    "docs/environments.md",
    "docs/viewing.md",
    "docs/training.md",
    "docs/coming_from.md",
    "docs/cpp.md",
    "docs/scaling.md",
    "docs/experiments.md",
]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/architecture.md", *PAGES, "benchmarks/README.md"]


def test_docstrings_can_be_read_without_the_file_they_stand_in():
    for name in qc.__all__:
        text = inspect.getdoc(getattr(qc, name))
        assert text and "this file" not in text, name


@pytest.mark.parametrize("name", ["MPC", "Plan", "StateRows", "StageRows", "TorchDynamics", "RobotDynamics"])
def test_methods_of_controllers_rows_and_models_say_what_they_do(name):
    for method, value in vars(getattr(qc, name)).items():
        if inspect.isfunction(value) and not method.startswith("_"):
            assert inspect.getdoc(getattr(getattr(qc, name), method)), method


def test_readme_example_runs_and_prints_what_it_is_about(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("CLOSEST_FEASIBLE")
    # The row ends midway between 1.60 and 1.55, so that dx_1/dl_1 = -1/2.
    (slope,) = re.findall(r"gradient \[([^,]+),", printed)
    assert float(slope) == pytest.approx(-0.5, abs=1e-12)


@pytest.fixture
def settings_kept():
    """Pages set what torch and NumPy have one of per process."""
    dtype = torch.get_default_dtype()
    with np.printoptions():
        yield
    torch.set_default_dtype(dtype)
    torch.set_printoptions(profile="default")


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_prints_what_stands_below_it(page, capsys, tmp_path, monkeypatch, settings_kept):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.S)
    assert len(blocks) == len(re.findall(r"^```(?:py|ipython)", text, re.M))
    namespace = {}
    for code, printed in blocks:
        exec(compile(code, page, "exec"), namespace)
        assert capsys.readouterr().out == printed


@pytest.mark.skipif("QP_CONTROL_TSID" not in os.environ, reason="QP_CONTROL_TSID names no interpreter that has tsid")
def test_code_for_tsid_prints_what_stands_below_it():
    text = (ROOT / "docs/coming_from.md").read_text().split("## TSID")[1]
    code, printed = re.search(r"((?:    .*\n|\n)+?)\n((?:    [\d[].*\n)+)\nand here", text).groups()
    done = subprocess.run(
        [os.environ["QP_CONTROL_TSID"], "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT / "envs" / "assets",
    )  # fmt: skip
    assert done.stdout == textwrap.dedent(printed)


def test_every_status_and_option_of_gradients_is_on_the_layers_page():
    text = (ROOT / "docs/qp_layer.md").read_text()
    for status in qc.Status:
        assert f"`{status.name}`" in text, status.name
    for option in ("infeasible", "on_failure", "weakly_active", "smoothing"):
        assert option in text, option


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_in_documents_exist(document):
    text = (ROOT / document).read_text()
    folder = (ROOT / document).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    for link in links:
        assert (folder / link).exists(), link
    named = r"(?<![\w/])(?:tests|benchmarks|cpp|docs|examples|envs|qp_control)/[\w/]+\.(?:py|md|cpp|hpp|urdf)"
    for path in re.findall(named, text):
        # Headers are named as they are included.
        assert (ROOT / path).exists() or (ROOT / "cpp/include" / path).exists(), path


def test_reference_has_every_public_name():
    entries = "\n".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    named = set(re.findall(r"auto(?:class|function|exception):: qp_control\.(\w+)$", entries, re.M))
    assert named == set(qc.__all__)


def test_help_says_where_the_rest_is_told():
    """What help() shows stands in no file."""
    assert "`qp_control.ocp.problem`" in qc.OcpQP.__doc__ and "this file" not in qc.OcpQP.__doc__
    assert "low" in Slider.takes.__doc__


OF_OTHERS = {"Tensor", "Array", "NDArray", "Sequence", "Mapping", "Number", "Any", "None"}


def public_classes(room):
    found = [getattr(qc, name) for name in qc.__all__]
    return [kind for kind in found if inspect.isclass(kind) and kind.__module__.startswith(f"qp_control.{room}")]


@pytest.mark.parametrize("room", ["robot", "inverse_dynamics"])
def test_reference_has_what_its_docstrings_name(room):
    entries = "\n".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    listed = set(re.findall(r"auto(?:class|exception):: qp_control\.(?:[\w.]+\.)?(\w+)$", entries, re.M))
    assert len(public_classes(room)) > 8
    for kind in public_classes(room):
        functions = [value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"]
        for thing in (kind, *functions):
            text = inspect.getdoc(thing) or ""
            assert "top of th" not in text, thing
            named = set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", text))
            assert named <= listed, (thing, named - listed)
        for function in functions:
            assert inspect.getdoc(function), function
            returned = set(re.findall(r"\b[A-Z][a-z]\w+", str(function.__annotations__.get("return"))))
            assert returned <= listed | OF_OTHERS, (function, returned - listed)


@pytest.mark.parametrize(
    "kinds",
    [
        (qc.PointContact, SupportContact),
        *((kind, MotionTask) for kind in (MotionTask, qc.FrameTask, qc.CenterOfMassTask, qc.PostureTask)),
        *((kind, Barrier) for kind in (Barrier, qc.PlaneBarrier, qc.SphereBarrier, qc.FrameBarrier)),
        *((kind, kind) for kind in (qc.AngularMomentumTask, qc.ContactForceTask, qc.TorqueRegularization)),
    ],
    ids=lambda kinds: kinds[0].__name__,
)
def test_defaults_of_gains_and_weights_stand_in_the_docstring(kinds):
    kind, base = kinds
    text = inspect.getdoc(kind)
    written = {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", text)}
    arguments = inspect.signature(base.__init__).parameters
    for name in ("weight", "stiffness", "damping", "friction", "facets", "max_force"):
        default = arguments[name].default if name in arguments else None
        assert default is None or default in written, f"{name} = {default}"


def test_every_example_is_in_the_gallery():
    assert gallery.PLACE in (ROOT / "docs/examples.md").read_text()
    text = gallery.markdown()
    shown = [name for name in re.findall(r"literalinclude} \.\./examples/(\S+\.py)", text)]
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    for picture in gallery.DOCS.glob("figures/examples/*.png"):
        assert picture.stem in names and f":img-top: figures/examples/{picture.name}" in text, picture.name
        assert picture.stat().st_size < 100e3, picture.name
    for name, figure in gallery.FIGURES.items():
        assert name in names and (gallery.DOCS / f"figures/{figure}.png").exists(), name


def test_every_result_is_on_the_page_of_benchmarks():
    assert results.PLACE in (ROOT / "docs/benchmarks.md").read_text()
    text = results.markdown()
    assert {f"{path.stem}.csv" for path in results.files()} == set(re.findall(r"dropdown} `(\w+\.csv)`", text))
    for source in results.files():
        for where in json.loads(source.with_suffix(".json").read_text()).values():
            assert where["command"] in text and where["date"] in text
    # A value as the table shows it: the first forward time of the layers.
    assert (
        f"| {float(results.report.read_csv(results.report.RESULTS / 'qp_layers.csv')[0]['forward_ms']):.3g} |" in text
    )


def test_an_example_without_a_docstring_is_refused(tmp_path):
    (tmp_path / "09_new.py").write_text('"""What it shows."""\n')
    assert "What it shows" in gallery.markdown(tmp_path)
    (tmp_path / "09_new.py").write_text("print()\n")
    with pytest.raises(ValueError, match=r"09_new\.py has no docstring"):
        gallery.markdown(tmp_path)


def test_every_page_is_in_a_table_of_contents():
    for folder in (ROOT / "docs", ROOT / "docs/api"):
        listed = " ".join(re.findall(r"```{toctree}\n(.*?)```", (folder / "index.md").read_text(), re.S)).split()
        pages = {path.stem for path in folder.glob("*.md")} - {"index"}
        assert pages <= set(listed)


def test_parts_named_in_the_architecture_exist():
    table = (ROOT / "docs/architecture.md").read_text().split("## The parts")[1].split("## How")[0]
    named = re.findall(
        r"`([^`]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    )
    folder = ROOT
    for name in named:
        if name == "qp_control.envs":
            continue
        # A bare file name stands in the folder of the name before it.
        path = ROOT / name if "/" in name else folder / name
        assert path.exists(), name
        folder = path.parent


def test_make_targets_named_in_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^ {4}|`)make (\w+)", (ROOT / document).read_text(), re.M):
            assert re.search(rf"^{target}:", makefile, re.M), target


def test_pages_agree_on_the_systems_that_are_supported():
    promise = "Tested on x86-64; builds for aarch64 and for macOS on arm64 are configured, not tested."
    for document in ("README.md", "docs/install.md"):
        text = " ".join((ROOT / document).read_text().split())
        assert promise in text and text.count("macOS") == 1, document


def test_versions_agree():
    """CMake and the package's metadata read it from the module; CITATION.cff cannot."""
    assert f"version: {qc.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{qc.__version__}] " in (ROOT / "CHANGELOG.md").read_text()


def test_names_in_the_changelog_exist():
    text = (ROOT / "CHANGELOG.md").read_text()
    for name in re.findall(r"`(qp_control\.[\w.]+)`", text):
        pkgutil.resolve_name(name)
    public = {name for name in re.findall(r"`([A-Z]\w+|\w+_\w+)(?:\.\w+)?`", text)}
    code = "\n".join(path.read_text() for room in ("qp_control", "envs") for path in (ROOT / room).rglob("*.py"))
    unknown = {name for name in public if not re.search(rf"\b{name}\b", code)}
    assert unknown == set()
    assert {"solve_qp", "QPLayer", "ContactDynamics", "Hopper"} <= public
