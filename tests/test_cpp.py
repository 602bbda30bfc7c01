"""Builds and runs the C++ tests of the solver's parts, and programs that use the installed package.

With robots: test_cpp_robots.py.
"""

import os
import platform
import re
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import qp_control as qc

ROOT = Path(__file__).resolve().parents[1]
PREFIX = Path(sysconfig.get_path("purelib")) / "cmeel.prefix"


def run(*command, timeout=900, **variables):
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]} | variables
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    options = ["-DQP_CONTROL_TESTS=ON", "-DQP_CONTROL_PYTHON=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    options += ["-DQP_CONTROL_LIBRARY=ON", "-DQP_CONTROL_ROBOT=OFF"]
    # Without NDEBUG Eigen checks every size and index.
    options += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1 -g0"]
    run("cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), *options)
    run("cmake", "--build", str(folder), "--parallel", "2")
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
def programs(build, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("a prefix with spaces")
    run("cmake", "--install", build, "--prefix", prefix)
    assert (prefix / "include/qp_control/linear_mpc.hpp").exists()
    return consumers(prefix, tmp_path_factory.mktemp("consumer"))


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


def test_damaged_parameters_are_refused(programs, tmp_path):
    mpc, plan = runpy.run_path(str(ROOT / "examples/cpp/export_controller.py"))["controller"]()
    folder = qc.export_mpc(mpc, tmp_path, plan)
    arrays, numbers = (folder / f"controller.{end}" for end in ("safetensors", "json"))
    for path, content, message in (
        (arrays, arrays.read_bytes()[:-100], "damaged"),
        (arrays, b"", "no safetensors file"),
        (numbers, numbers.read_bytes().replace(b'"format": 1', b'"format": 2'), "format 2"),
        (numbers, numbers.read_bytes().replace(b'"horizon": 30', b'"horizon": 0'), "make no sense"),
        (numbers, b"{", "damaged"),
    ):
        good = path.read_bytes()
        path.write_bytes(content)
        done = subprocess.run([programs / "mpc_loop", folder, "3", tmp_path / "t"], capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        path.write_bytes(good)
