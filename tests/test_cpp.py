"""Builds and runs the C++ tests of the solver's parts, and programs that use the installed package.

With robots: test_cpp_robots.py.
"""

import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.numpy import load, load_file, save

import qp_control as qc

ROOT = Path(__file__).resolve().parents[1]
PREFIX = Path(sysconfig.get_path("purelib")) / "cmeel.prefix"


def outcome(*command, timeout=900, **variables):
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]} | variables
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=timeout)


def run(*command, **options):
    done = outcome(*command, **options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def build():
    """Kept, so that the next run of the tests compiles only what has changed."""
    folder = ROOT / "build" / "cpp_tests"
    options = ["-DQP_CONTROL_TESTS=ON", "-DQP_CONTROL_PYTHON=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    options += ["-DQP_CONTROL_LIBRARY=ON", "-DQP_CONTROL_ROBOT=OFF"]
    # Without NDEBUG Eigen checks every size and index.
    options += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1"]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # against another process of the same tests
        run("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, *options)
        run("cmake", "--build", folder, "--parallel", "2")
    return folder


@pytest.mark.parametrize(
    ("program", "facts"),
    [
        ("kernel_facts", 8),
        ("solver_facts", 8),
        ("box_qp_facts", 3),
        ("interior_point_facts", 12),
        ("ocp_facts", 4),
        pytest.param(
            "allocation_facts", 11, marks=pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
        ),
        pytest.param("linear_mpc_facts", 5, marks=pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")),
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


@pytest.mark.parametrize("processor", ["aarch64", "arm64"])
def test_processors_without_packs_of_their_own_have_one_build(tmp_path, processor):
    """As configured for a machine with that processor; compiling is left to such machines."""
    target = ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={processor}"]
    options = ["-DQP_CONTROL_PYTHON=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    printed = run("cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path, *target, *options)
    assert "Builds of the solver: generic\n" in printed


def consumers(prefix, folder, wheels=PREFIX):
    """The example programs, as a project of their own that finds the package in `prefix`."""
    run("cmake", "-G", "Ninja", "-S", ROOT / "examples/cpp", "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix};{wheels}")
    run("cmake", "--build", folder, "--parallel", "2")
    return folder


@pytest.fixture(scope="module")
def prefix(build, tmp_path_factory):
    installed = tmp_path_factory.mktemp("installed") / "here"
    run("cmake", "--install", build, "--prefix", installed)
    moved = installed.with_name("a prefix with spaces")
    installed.rename(moved)
    assert (moved / "include/qp_control/linear_mpc.hpp").exists()
    return moved


@pytest.fixture(scope="module")
def programs(prefix, tmp_path_factory):
    return consumers(prefix, tmp_path_factory.mktemp("consumer"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    mpc, plan = runpy.run_path(str(ROOT / "examples/cpp/export_controller.py"))["controller"]()
    return qc.export_mpc(mpc, tmp_path_factory.mktemp("exported"), plan)


def project(folder, prefix, *lines):
    """A project of a user's own; the outcome of its configuration."""
    text = "\n".join(["cmake_minimum_required(VERSION 3.18)", "project(own CXX)", *lines])
    (folder / "CMakeLists.txt").write_text(text)
    found_in = f"-DCMAKE_PREFIX_PATH={prefix};{PREFIX}"
    return outcome("cmake", "-G", "Ninja", "-S", folder, "-B", folder / "build", found_in)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0.99 REQUIRED", 'compatible with requested version "0.99"'),
        ("1.0 REQUIRED", 'compatible with requested version "1.0"'),
        ("0.1 REQUIRED COMPONENTS inverse_dynamics", "It has no component inverse_dynamics, but"),
        ("0.1 REQUIRED COMPONENTS solver cat", "It has no component cat, but"),
        ("0.1 REQUIRED OPTIONAL_COMPONENTS cat", None),
        ("0.1 REQUIRED", None),
    ],
)
def test_packages_that_do_not_fit_are_not_found_and_why(prefix, tmp_path, wanted, message):
    done = project(tmp_path, prefix, f"find_package(qp_control {wanted})")
    assert (done.returncode == 0) == (message is None), done.stderr
    assert message is None or message in done.stderr, done.stderr


STRICT = """
#include <boost/json/src.hpp>
#include "qp_control/dense_qps.hpp"
#include "qp_control/derivatives.hpp"
#include "qp_control/linear_mpc.hpp"
#include "qp_control/ocp_batch.hpp"

int main(int, char** arguments) {
  if (boost::json::parse("[1, 2]").as_array().size() != 2) return 2;
  const qp_control::LinearMpc mpc{std::string(arguments[1])};
  return mpc.horizon() == 30 ? 0 : 1;
}
"""


def test_headers_suit_strict_programs_and_boost_json_may_be_their_own(prefix, exported, tmp_path):
    (tmp_path / "own.cpp").write_text(STRICT)
    done = project(
        tmp_path,
        prefix,
        "find_package(qp_control 0.1 REQUIRED COMPONENTS controllers)",
        "find_package(Boost REQUIRED CONFIG)",
        # Compilers are silent about headers of the system.
        "set_target_properties(qp_control::solver qp_control::batch qp_control::controllers PROPERTIES SYSTEM OFF)",
        "add_executable(own own.cpp)",
        "target_compile_features(own PRIVATE cxx_std_20)",
        "target_compile_options(own PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Werror)",
        "target_link_libraries(own PRIVATE qp_control::controllers Boost::headers)",
    )
    assert done.returncode == 0, done.stderr
    run("cmake", "--build", tmp_path / "build")
    run(tmp_path / "build" / "own", exported)


def test_installed_solver_solves_and_differentiates(programs):
    printed = run(programs / "solve_qp")
    g = torch.tensor([-2.0, -1.0], dtype=torch.float64, requires_grad=True)
    u = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    out = qc.QPLayer()(torch.eye(2, dtype=torch.float64), g, C=torch.ones(1, 2, dtype=torch.float64), u=u)
    by_g, by_u = torch.autograd.grad(out.x[0], (g, u))
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d{4}", printed)]
    expected = [*out.x.tolist(), float(out.z), *by_g.tolist(), float(by_u)]
    assert "status 0" in printed and numbers == pytest.approx(expected, abs=5e-5)  # digits printed


def check_ticks(printed, ticks):
    found = re.fullmatch(r"(\d+) ticks of 1 ms: p50 \S+ us, p99 \S+ us, max \S+ us(?:, (\d+) allocations)?\n", printed)
    assert found, printed
    assert int(found[1]) == ticks
    if platform.libc_ver()[0] == "glibc":
        assert found[2] is not None
    return int(found[2] or 0)


def closed_loop(mpc, plan0, x, ticks):
    """What the program does, in Python: the linear controller along the plan, on its own model."""
    qp = mpc.build(plan0.states[:, 0], plan0)
    nx, nu = mpc.nx, mpc.nu
    A, B, c = (getattr(qp, name)[0, 0].detach().numpy() for name in ("A", "B", "c"))
    linear = qc.TorchDynamics(
        lambda x, u: x @ torch.tensor(A[:nx, :nx]).mT + u @ torch.tensor(B[:nx]).mT + torch.tensor(c[:nx]),
        nx, nu, dt=mpc.dynamics.dt,
    )  # fmt: skip
    mpc.dynamics = linear
    plan, rows = None, []
    for _ in range(ticks):
        with torch.no_grad():
            plan = mpc(torch.tensor(x)[None], None if plan is None else plan.shift())
        u = plan.input[0].numpy()
        rows.append([*x, *u, int(plan.status)])
        x = A[:nx, :nx] @ x + B[:nx] @ u + c[:nx]
    return np.array(rows)


@pytest.mark.parametrize("case", ["as exported", "delay", "reference out of reach"])
def test_exported_controller_runs_without_python_and_allocates_nothing(programs, tmp_path, case):
    mpc, plan = runpy.run_path(str(ROOT / "examples/cpp/export_controller.py"))["controller"]()
    start, ticks = [0.3, 0.05, 0.0, 0.0], 300
    if case == "delay":
        mpc.delay = 2
        plan = mpc.cold_plan(plan.states[:, 0])
    if case == "reference out of reach":
        mpc.reference[0] = 5.0
        start[2] = 1.5  # [m/s], above the limit: the closest feasible plans
    qc.export_mpc(mpc, tmp_path / "controller", plan)
    trace = tmp_path / "trace.csv"
    printed = run(programs / "mpc_loop", tmp_path / "controller", ticks, trace, *start)
    assert check_ticks(printed, ticks) == 0
    found = np.loadtxt(trace, delimiter=",")
    expected = closed_loop(mpc, plan, np.array(start), ticks)
    if case == "reference out of reach":
        assert (expected[:, -1] == qc.Status.CLOSEST_FEASIBLE).any()
    np.testing.assert_array_equal(found[:, -1], expected[:, -1])
    # Solutions to 1e-8 in both, in a loop that forgets its errors.
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_stages_that_differ_and_soft_limits_run_without_python(programs, tmp_path):
    """A pendulum along a swing, its rate softly limited, against a solve of every tick's QP from nothing."""
    step = 0.001

    def pendulum(x, u):
        return x + step * torch.cat([x[..., 1:], 20.0 * x[..., :1].sin() + 50.0 * u], -1)

    model = qc.TorchDynamics(pendulum, nx=2, nu=1, dt=step)
    limits = {"input_limit": [1.0], "state_limit": [float("inf"), 2.0], "state_slack": (0.1, 1.0)}
    mpc = qc.MPC(model, horizon=20, mode="converged", **limits)
    mpc.set_weights(q=[100.0, 1.0], r=[0.1], terminal=[1000.0, 10.0])
    start = [0.5, -2.2]
    with torch.no_grad():
        plan = mpc(torch.tensor([start], dtype=torch.float64))
    qc.export_mpc(mpc, tmp_path, plan)
    trace = tmp_path / "trace.csv"
    assert check_ticks(run(programs / "mpc_loop", tmp_path, 50, trace, *start), 50) == 0
    data = load_file(tmp_path / "controller.safetensors")
    del data["reference"]
    assert data["A"].ndim == 3 and data["B"].ndim == 2  # B is the same at every stage
    c = data["c"] if data["c"].ndim == 1 else data["c"][0]
    settings = qc.Settings(eps_rel=1e-12, infeasible="closest")
    x, rows, soft = np.array(start), [], []
    for _ in range(50):
        solution = qc.solve_ocp(**data, x0=x, horizon=20, settings=settings)
        soft.append(max(solution.slack_lower.max(), solution.slack_upper.max()))
        rows.append([*x, *solution.u[0], int(solution.status)])
        x = data["A"][0] @ x + data["B"] @ solution.u[0] + c
    assert max(soft) > 0.0
    np.testing.assert_allclose(np.loadtxt(trace, delimiter=","), rows, atol=1e-6)  # 1e-8 of both, in a loop


def changed_header(change):
    """A change of the header of the arrays' file, as bytes to bytes."""

    def apply(content):
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + size :]

    return apply


def changed_array(name, change):
    """A change of an array, as bytes to bytes; without one: it is taken away."""

    def apply(content):
        arrays = load(content)
        value = arrays.pop(name, None)
        if change is not None:
            arrays[name] = np.ascontiguousarray(change(value))
        return save(arrays)

    return apply


def put(place, value):
    def apply(array):
        array = array.copy()
        array[place] = value
        return array

    return apply


def replaced(old, new):
    def apply(content):
        assert content.count(old) == 1
        return content.replace(old, new)

    return apply


ARRAYS, NUMBERS = "controller.safetensors", "controller.json"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ARRAYS, lambda content: content[:-100], "the array"),
        (ARRAYS, lambda content: content[:200], "no safetensors file"),
        (ARRAYS, lambda content: b"", "no safetensors file"),
        (ARRAYS, lambda content: b"\x00" * 8 + content[8:], "no safetensors file"),
        (ARRAYS, lambda content: b"\xff" * 8 + content[8:], "no safetensors file"),
        (ARRAYS, lambda content: (40).to_bytes(8, "little") + content[8:], "controller.safetensors: "),
        (ARRAYS, changed_header(lambda h: h["A"].update(dtype="F32")), "the array A: dtype is F32, expected F64"),
        (ARRAYS, changed_header(lambda h: h["A"].pop("shape")), "the array A: there is no shape"),
        (ARRAYS, changed_header(lambda h: h["A"].update(shape="5")), 'the array A: shape is "5", expected a list'),
        (ARRAYS, changed_header(lambda h: h["A"].update(shape=[4, 2**62])), "the array A: its shape is too large"),
        (ARRAYS, changed_header(lambda h: h["A"].update(shape=[-5, -5])), "the array A: its shape is"),
        (ARRAYS, changed_header(lambda h: h["A"].update(data_offsets=[0, 207])), "does not fit shape (5, 5)"),
        (ARRAYS, changed_header(lambda h: h["A"].update(data_offsets=[8, 0])), "does not fit shape (5, 5)"),
        (ARRAYS, changed_header(lambda h: h["A"].update(data_offsets=[0])), "the array A: "),
        (ARRAYS, changed_array("B", lambda B: B.astype(np.float32)), "the array B: dtype is F32, expected F64"),
        (ARRAYS, changed_array("B", lambda B: B.T), "the array B has shape (1, 5), expected (5, 1) or (30, 5, 1)"),
        (ARRAYS, changed_array("A", lambda A: np.stack(29 * [A])), "(29, 5, 5), expected (5, 5) or (30, 5, 5)"),
        (ARRAYS, changed_array("Q_N", lambda Q: np.stack(2 * [Q])), "Q_N has shape (2, 5, 5), expected (5, 5)\n"),
        (ARRAYS, changed_array("reference", lambda r: r[:3]), "the array reference has shape (3), expected (4)"),
        (ARRAYS, changed_array("u_upper", None), "there is no array u_upper"),
        (ARRAYS, changed_array("u_uper", lambda _: np.ones(1)), "u_uper is not among those of controller.json"),
        (ARRAYS, changed_array("A", put((1, 2), np.nan)), "the array A: a number is NaN"),
        (ARRAYS, changed_array("A", put((1, 2), -np.inf)), "the array A has the number -inf at 7"),
        (ARRAYS, changed_array("u_upper", put(0, -np.inf)), "the array u_upper has the number -inf at 0"),
        (ARRAYS, changed_array("x_lower", put(0, 1e20)), "the array x_lower has the number 1e+20"),
        (ARRAYS, changed_array("Q", put((0, 1), 0.5)), "the array Q is not symmetric"),
        (NUMBERS, lambda content: b"{", "controller.json: incomplete JSON"),
        (NUMBERS, lambda content: b"", "controller.json: incomplete JSON"),
        (NUMBERS, lambda content: b"[1]", "controller.json: "),
        (NUMBERS, replaced(b'"format": 1', b'"format": 2'), "controller.json: format 2, expected 1"),
        (NUMBERS, replaced(b'"format": 1', b'"format": "1"'), 'format is "1", expected an integer'),
        (NUMBERS, replaced(b'"linear_mpc"', b'"inverse_dynamics"'), "inverse_dynamics, expected linear_mpc"),
        (NUMBERS, replaced(b'"horizon": 30', b'"horizon": 0'), "horizon is 0, expected an integer of at least 1"),
        (NUMBERS, replaced(b'"horizon": 30', b'"horizon": 30.5'), "horizon is 30.5"),
        (NUMBERS, replaced(b'"horizon": 30', b'"horizon": 3000000000'), "horizon is 3e+09"),
        (NUMBERS, replaced(b'"horizon"', b'"horizont"'), "there is no number horizon"),
        (NUMBERS, replaced(b'"nx": 5', b'"nx": 6'), "nx is 6, expected model_nx = 4, or with nu = 1 on top"),
        (NUMBERS, replaced(b'"eps_abs": 1e-08', b'"eps_abs": -1.0'), "eps_abs is -1, expected a positive number"),
        (NUMBERS, replaced(b'"eps_rel": 1e-12', b'"eps_rel": 1e999'), "controller.json: "),
        (NUMBERS, replaced(b'"max_iter": 2000', b'"max_iter": 0'), "max_iter is 0"),
    ],
)  # fmt: skip
def test_damaged_parameters_are_refused_by_file_and_name(programs, exported, tmp_path, name, change, message):
    folder = shutil.copytree(exported, tmp_path / "controller")
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    done = subprocess.run([programs / "mpc_loop", folder, "3", tmp_path / "t"], capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert done.stderr.startswith(str(folder))


@pytest.mark.parametrize("case", ["no folder", "a file", "empty", "a folder for a file"])
def test_folders_that_are_none_of_a_controller_are_refused(programs, tmp_path, case):
    folder = tmp_path / "controller"
    if case == "a file":
        folder.write_text("")
    elif case != "no folder":
        folder.mkdir()
    if case == "a folder for a file":
        (folder / NUMBERS).mkdir()
    done = subprocess.run([programs / "mpc_loop", folder, "3", tmp_path / "t"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"{folder}/{NUMBERS}: "), done.stderr
