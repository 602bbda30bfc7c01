"""Builds the C++ package with Pinocchio, and runs controllers by inverse dynamics that Python has exported.

Minutes of compiling, and Pinocchio's headers are those that only the build of the wheel installs.
"""

import json
import platform
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from control_setups import SETUPS
from safetensors.numpy import load_file, save
from test_cpp import ROOT, check_ticks, consumers, run
from test_inverse_dynamics_levels import limit, reach, walk

import qp_control as qc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Folders: the build, and the example programs built with what it installs."""
    folder = tmp_path_factory.mktemp("robot")
    build_system = (ROOT / "pyproject.toml").read_text().split("[project]")[0]
    wheels = re.findall(r'"((?:libpinocchio|cmeel)[^"]*)"', build_system)
    constraints = ["--constraint", ROOT / "constraints.txt"]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", folder / "wheels", *constraints, *wheels)
    options = [f"-DQP_CONTROL_{name}" for name in ("PYTHON=OFF", "LIBRARY=ON", "TESTS=ON")]
    options += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    run("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder / "build", *options, PYTHONPATH=str(folder / "wheels"))
    targets = ("qp_control_inverse_dynamics", "inverse_dynamics_facts", "controller_answers")
    run("cmake", "--build", folder / "build", "--parallel", "2", "--target", *targets, timeout=2400)
    run("cmake", "--install", folder / "build", "--prefix", folder / "prefix")
    programs = consumers(folder / "prefix", folder / "consumer", folder / "wheels" / "cmeel.prefix")
    return folder / "build" / "cpp" / "tests", programs


def test_facts_about_ticks_hold(package):
    printed = run(package[0] / "inverse_dynamics_facts")
    assert printed.count("ok  ") >= 6, printed


def answers(package, controller, folder, states, *number, parameters=None):
    """Of the exported controller in C++: torques, x, shifts, status and allocations of each tick."""
    qc.export_inverse_dynamics(controller, folder, parameters=parameters)
    np.savetxt(folder / "states.txt", states, fmt="%.17g")
    run(package[0] / "controller_answers", folder, folder / "states.txt", folder / "answers.txt", *number)
    found = np.loadtxt(folder / "answers.txt", ndmin=2)
    nu, n = controller.model.nu, controller.n
    return np.split(found, [nu, nu + n, -2, -1], axis=1)


def states_around(controller, q, v, ticks, size=0.05):
    """Ticks that wander about a state, and jump now and then."""
    model, random = controller.model, np.random.default_rng(0)
    walk = np.cumsum(random.normal(size=(ticks, 2 * model.nv)), 0) * size / np.sqrt(ticks)
    walk[ticks // 2 :] += random.normal(size=2 * model.nv) * size
    start = torch.cat([q[0], v[0]])
    return model.integrate(start, torch.from_numpy(walk)).numpy()


def check_answers(found, ticks, torques=1e-9):
    """Against Python's ticks, torques in parts of the largest."""
    torque, x, shift, status, allocated = found
    np.testing.assert_array_equal(status[:, 0], [tick.status for tick in ticks])
    expected, largest = [tick.torque for tick in ticks], max(1.0, np.abs(torque).max())
    np.testing.assert_allclose(torque, expected, rtol=0, atol=torques * largest)
    answered = [k for k, tick in enumerate(ticks) if tick.status.has_solution]
    for values, name in ((x, "x"), (shift, "shift")):
        expected = np.array([getattr(ticks[k], name) for k in answered])
        np.testing.assert_allclose(values[answered], expected, rtol=0, atol=1e-7 * max(1.0, np.abs(expected).max()))
    if platform.libc_ver()[0] == "glibc":
        # One tick, where the solver first needs its means against contradictions, or levels know their freedom.
        assert (allocated > 0).sum() <= 1, allocated[:, 0]


@pytest.mark.parametrize("name", SETUPS)
def test_exported_controllers_give_the_torques_of_python(package, tmp_path, name):
    """All kinds of parts, limits active, and a state that is none among the others."""
    controller, q, v = SETUPS[name]()
    nq = controller.model.nq
    states = states_around(controller, q, v, 40)
    states[7, 0] = np.nan
    found = answers(package, controller, tmp_path, states)
    ticks = [controller.compute(state[:nq], state[nq:]) for state in states]
    assert ticks[7].status == qc.Status.INVALID_INPUT and sum(tick.status.has_solution for tick in ticks) == 39
    check_answers(found, ticks)


@pytest.mark.parametrize("kind", ["arm", "quadruped"])
def test_strict_levels_are_those_of_python(package, tmp_path, kind):
    controller, q, v = (reach if kind == "arm" else walk)([limit(kind)])
    nq = controller.model.nq
    states = states_around(controller, q, v, 40, size=0.02)
    ticks = [controller.compute(state[:nq], state[nq:]) for state in states]
    assert len(controller.levels) == 3 and any(tick.status == qc.Status.SOLVED for tick in ticks)
    # A level that hardly sees a direction, 1e-5 of what it sees most, multiplies what the tolerance leaves, 1e-9.
    check_answers(answers(package, controller, tmp_path, states), ticks, torques=1e-5)


def test_references_are_set_from_tick_to_tick_and_posture_quaternions_have_any_length(package, tmp_path):
    controller, q, v = SETUPS["biped"]()
    nq = controller.model.nq
    states = states_around(controller, q, v, 20)
    postures = 2.0 * states_around(controller, q, v, 20, size=0.3)[:, :nq]
    postures[5] = 0.0  # no direction at all
    found = answers(package, controller, tmp_path, np.hstack([states, postures]), "posture.reference")
    ticks = [
        controller.compute(state[:nq], state[nq:], {"posture.reference": posture})
        for state, posture in zip(states, postures, strict=True)
    ]
    assert ticks[5].status == qc.Status.INVALID_INPUT and ticks[6].status == qc.Status.SOLVED
    check_answers(found, ticks)


def test_identified_parameters_are_exported(package, tmp_path):
    controller, q, v = SETUPS["arm"]()
    states = states_around(controller, q, v, 10)
    parameters = controller.model.parameters.numpy() * 1.1
    found = answers(package, controller, tmp_path, states, parameters=parameters)
    ticks = [controller.compute(state[:6], state[6:], parameters=parameters) for state in states]
    check_answers(found, ticks)


def test_exported_controller_runs_at_its_rate_and_allocates_nothing(package, tmp_path):
    """The example: the tool of an arm on a circle, its closed loop repeated in Python."""
    controller = runpy.run_path(str(ROOT / "examples/cpp/export_inverse_dynamics.py"))["controller"]()
    qc.export_inverse_dynamics(controller, tmp_path / "controller")
    ticks, trace = 500, tmp_path / "trace.csv"
    printed = run(package[1] / "inverse_dynamics_loop", tmp_path / "controller", ticks, trace)
    assert check_ticks(printed, ticks) == 0
    found = np.loadtxt(trace, delimiter=",")
    start = controller.numbers()["tool.reference"].numpy()
    q, v = found[0, :6], found[0, 6:12]
    for k, row in enumerate(found):
        np.testing.assert_allclose(np.concatenate([q, v]), row[:12], rtol=0, atol=1e-9)
        sine, cosine = np.sin(4.0 * k * 0.001), np.cos(4.0 * k * 0.001)
        numbers = {
            "tool.reference": start + 0.1 * np.array([0.0, sine, cosine - 1.0]),
            "tool.velocity": 0.4 * np.array([0.0, cosine, -sine]),
            "tool.acceleration": -1.6 * np.array([0.0, sine, cosine]),
        }
        tick = controller.compute(row[:6], row[6:12], numbers)
        assert tick.status == row[-1] == qc.Status.SOLVED
        np.testing.assert_allclose(row[12:18], tick.torque, rtol=0, atol=1e-6)  # 1e-8 of both over the curvature
        v = v + 0.001 * tick.acceleration
        q = q + 0.001 * v
    # It arrives: 5 mm behind at most once it moves.
    tool = controller.model.frame_positions(["tool"], found[:, :6])[:, 0]
    np.testing.assert_allclose(tool[-1], start + 0.1 * np.array([0.0, sine, cosine - 1.0]), rtol=0, atol=5e-3)


def test_damaged_controllers_are_refused(package, tmp_path):
    controller = SETUPS["arm"]()[0]
    folder = qc.export_inverse_dynamics(controller, tmp_path)
    (folder / "states.txt").write_text("")
    described = json.loads((folder / "controller.json").read_text())
    described["terms"][0]["frame"] = "nose"
    arrays, numbers, robot = (folder / name for name in ("controller.safetensors", "controller.json", "robot.txt"))
    good = numbers.read_bytes()
    fewer = load_file(arrays)
    fewer["weight_box"] = fewer["weight_box"][1:]
    for path, content, message in (
        (arrays, arrays.read_bytes()[:-100], "damaged"),
        (arrays, arrays.read_bytes().replace(b"posture.weight", b"posture.weighs"), "no array posture.weight"),
        (arrays, save(fewer), "shift_weights has"),
        (numbers, json.dumps(described).encode(), "no frame nose"),
        (numbers, good.replace(b'"kind": "posture"', b'"kind": "dance"'), "no kind dance"),
        (numbers, good.replace(b'"kind": "inverse_dynamics"', b'"kind": "linear_mpc"'), "expected inverse_dynamics"),
        (numbers, good.replace(b'"actuated"', b'"driven"'), "damaged"),
        (robot, robot.read_bytes()[:1000], "robot.txt cannot be read"),
        (robot, b"", "robot.txt cannot be read"),
    ):
        before = path.read_bytes()
        assert content != before
        path.write_bytes(content)
        command = [package[0] / "controller_answers", folder, folder / "states.txt", folder / "answers.txt"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr, (message, done.stderr)
        path.write_bytes(before)
    assert subprocess.run([*command, "nose.reference"], capture_output=True).returncode == 1
    assert subprocess.run(command).returncode == 0
