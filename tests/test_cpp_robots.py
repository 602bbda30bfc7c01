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
from test_cpp import ARRAYS, NUMBERS, ROOT, changed_array, check_ticks, consumers, put, replaced, run
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


def described(change):
    """A change of controller.json, as bytes to bytes."""

    def apply(content):
        description = json.loads(content)
        change(description)
        return json.dumps(description).encode()

    return apply


ROBOT = "robot.txt"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ARRAYS, lambda content: content[:-100], "the array"),
        (ARRAYS, replaced(b"posture.weight", b"posture.weighs"), "posture.weighs is not among those"),
        (ARRAYS, changed_array("posture.weight", None), "there is no array posture.weight"),
        (ARRAYS, changed_array("posture.weight", lambda w: w[1:]), "the array posture.weight has shape"),
        (ARRAYS, changed_array("posture.weight", put(0, np.inf)), "the array posture.weight has the number inf at 0"),
        (ARRAYS, changed_array("posture.reference", put(1, np.nan)), "the array posture.reference: a number is NaN"),
        (ARRAYS, changed_array("posture.reference", put(slice(3, 7), 0.0)), "posture.reference has a direction"),
        (ARRAYS, changed_array("nod.reference", put(slice(3, 7), 0.0)), "nod.reference has a direction"),
        (ARRAYS, changed_array("torque_limit.lower", put(2, np.inf)), "torque_limit.lower has the number inf at 2"),
        (ARRAYS, changed_array("weight_box", lambda w: w[1:]), "shift_weights has"),
        (ARRAYS, changed_array("weight_in", put(0, -1.0)), "the array weight_in has the number -1 at 0"),
        (NUMBERS, described(lambda d: d["terms"][1].update(frame="nose")), "terms[1]: the robot has no frame nose"),
        (NUMBERS, described(lambda d: d["terms"][1].update(kind="dance")), "terms[1]: there is no kind dance"),
        (NUMBERS, described(lambda d: d["terms"][1].update(rows=[0, 1, 3, 4, 7])), "terms[1]: there is no axis 7"),
        (NUMBERS, described(lambda d: d["terms"][1].update(rows=[0.5])), "terms[1]: rows is [5E-1], expected a list"),
        (NUMBERS, described(lambda d: d["terms"][1].pop("own_axes")), "terms[1]: there is no own_axes"),
        (NUMBERS, described(lambda d: d["terms"][4].update(points=2**30)), "terms[4]: "),
        (NUMBERS, described(lambda d: d["supports"][0].update(normal=[0, 1])), "supports[0]: normal is [0,1]"),
        (NUMBERS, described(lambda d: d["supports"].append(3)), "supports[2]: "),
        (NUMBERS, described(lambda d: d["bounds"][0].update(dt=0.0)), "bounds[0]: dt is 0E0, expected a positive"),
        (NUMBERS, described(lambda d: d["barriers"][0].update(other=7)), "barriers[0]: other is 7, expected a text"),
        (NUMBERS, described(lambda d: d.update(torque_limit="none")), 'torque_limit is "none", expected null or'),
        (NUMBERS, described(lambda d: d.update(actuated=[6, 6])), "a velocity is driven twice"),
        (NUMBERS, described(lambda d: d.update(actuated=[99])), "there is no velocity 99"),
        (NUMBERS, described(lambda d: d.pop("actuated")), "there is no actuated"),
        (NUMBERS, described(lambda d: d.update(time_limit=-1.0)), "time_limit is -1, expected a number >= 0"),
        (NUMBERS, described(lambda d: d.update(kind="linear_mpc")), "linear_mpc, expected inverse_dynamics"),
        (ROBOT, lambda content: content[:1000], "robot.txt: it is not the file that belongs to controller.json"),
        (ROBOT, lambda content: content[:-1], "robot.txt: it is not the file"),
        (ROBOT, lambda content: b"", "robot.txt: it is not the file"),
    ],
)  # fmt: skip
def test_damaged_controllers_are_refused_by_file_and_name(package, tmp_path, name, change, message):
    folder = qc.export_inverse_dynamics(SETUPS["biped"]()[0], tmp_path)
    (folder / "states.txt").write_text("")
    command = [package[0] / "controller_answers", folder, folder / "states.txt", folder / "answers.txt"]
    assert subprocess.run(command).returncode == 0
    assert subprocess.run([*command, "nose.reference"], capture_output=True).returncode == 1
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert done.stderr.startswith(str(folder))
