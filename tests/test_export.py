"""Exported controllers as files; the programs that run them are in test_cpp.py."""

import json
import runpy
from pathlib import Path

import numpy as np
import pinocchio as pin
import pytest
import torch
from legged_robots import arm
from safetensors.numpy import load_file

import qp_control as qc
from qp_control.systems import flying_body


def linear(**options):
    A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]).double(), torch.tensor([[0.0], [0.1]]).double()
    model = qc.TorchDynamics(lambda x, u: x @ A.mT + u @ B.mT, nx=2, nu=1, dt=0.1)
    return qc.MPC(model, horizon=5, input_limit=[1.0], **options)


def read(folder):
    return json.loads((folder / "controller.json").read_text()), load_file(folder / "controller.safetensors")


def test_data_are_those_of_the_problem(tmp_path):
    mpc = linear(state_limit=[float("inf"), 0.5], state_slack=(10.0, 1.0), reference=[1.0, 0.0], rate_limit=[2.0])
    mpc.set_weights(q=[2.0, 1.0], r=[0.3], terminal=[5.0, 4.0])
    numbers, arrays = read(qc.export_mpc(mpc, tmp_path / "made"))
    assert (numbers["horizon"], numbers["model_nx"], numbers["nx"], numbers["nu"]) == (5, 2, 3, 1)
    assert numbers["period"] == 0.1
    x0 = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    solution = mpc(x0)
    del arrays["reference"]
    start = np.array([0.3, -0.2, 0.0])  # the input before was zero
    again = qc.solve_ocp(**arrays, x0=start, horizon=5, settings=qc.Settings(eps_rel=1e-12, infeasible="closest"))
    np.testing.assert_allclose(again.u, solution.inputs[0].detach().numpy(), atol=1e-8)  # eps_abs of both


def test_equal_stages_are_written_once(tmp_path):
    numbers, arrays = read(qc.export_mpc(linear(), tmp_path))
    assert arrays["A"].shape == (2, 2) and arrays["B"].shape == (2, 1) and arrays["u_lower"].shape == (1,)
    assert numbers["rows"] == numbers["terminal_rows"] == 0


def test_a_controller_along_a_plan_has_a_matrix_for_every_stage(tmp_path):
    model = qc.TorchDynamics(
        lambda x, u: x + 0.1 * torch.cat([x[..., 1:], x[..., :1].sin() + u], -1), nx=2, nu=1, dt=0.1
    )
    mpc = qc.MPC(model, horizon=4, input_limit=[1.0])
    with pytest.raises(ValueError, match="A depends on the state"):
        qc.export_mpc(mpc, tmp_path)
    with torch.no_grad():
        plan = mpc(torch.tensor([[0.5, 0.0]], dtype=torch.float64))
    _, arrays = read(qc.export_mpc(mpc, tmp_path, plan))
    expected = mpc.build(plan.states[:, 0], plan).A[0].detach().numpy()
    np.testing.assert_array_equal(arrays["A"], expected)
    assert arrays["A"].shape == (4, 2, 2)


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ValueError, match="2 elements"):
        mpc = linear()
        qc.export_mpc(mpc, tmp_path, mpc.cold_plan(torch.zeros(2, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="no vector space"):
        qc.export_mpc(qc.MPC(flying_body(), horizon=3), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_that_of_before_as_a_whole(tmp_path):
    qc.export_mpc(linear(), tmp_path)
    qc.export_mpc(linear(reference=[2.0, 0.0]), tmp_path)
    _, arrays = read(tmp_path)
    assert arrays["reference"].tolist() == [2.0, 0.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["controller.json", "controller.safetensors"]


def test_controllers_by_inverse_dynamics_are_written_by_name(tmp_path):
    model = arm()
    tasks = [qc.PositionTask("tool", [0.4, 0.0, 0.6], stiffness=50.0), qc.PostureTask(weight=0.1, level=2)]
    limits = [qc.TorqueLimit(), qc.PlaneBarrier("elbow", [0.0, 0.0, 2.0])]
    controller = qc.InverseDynamics(model, tasks, limits)
    with torch.no_grad():
        controller.parts["tool"].stiffness.fill_(64.0)
    parameters = model.parameters.numpy() * 2.0
    description, arrays = read(qc.export_inverse_dynamics(controller, tmp_path, parameters=parameters))
    assert description["kind"] == "inverse_dynamics" and description["actuated"] == [0, 1, 2, 3, 4, 5]
    tool, posture = description["terms"]
    assert (tool["frame"], tool["base"], tool["level"], posture["level"]) == ("tool", "universe", 1, 2)
    assert description["barriers"][0]["normal"] == [0.0, 0.0, 1.0]
    np.testing.assert_array_equal(arrays["tool.reference"], [0.4, 0.0, 0.6])
    np.testing.assert_array_equal(arrays["tool.damping"], np.full(3, 16.0))  # critical, of the stiffness now
    np.testing.assert_array_equal(arrays["parameters"], parameters)
    assert np.isinf(arrays["weight_in"][:6]).all() and np.isfinite(arrays["weight_in"][6:]).all()
    again = pin.Model()
    again.loadFromText(str(tmp_path / "robot.txt"))
    assert again == model.model


def test_the_example_for_cpp_has_the_numbers_that_its_program_sets(tmp_path):
    path = Path(__file__).resolve().parents[1] / "examples/cpp/export_inverse_dynamics.py"
    controller = runpy.run_path(str(path))["controller"]()
    description, arrays = read(qc.export_inverse_dynamics(controller, tmp_path))
    assert [term["name"] for term in description["terms"]] == ["tool", "posture"]
    assert all(arrays[f"tool.{key}"].shape == (3,) for key in ("reference", "velocity", "acceleration"))
    assert controller.compute(arrays["posture.reference"], np.zeros(6)).status == qc.Status.SOLVED


class Own(qc.PositionTask):
    pass


def test_what_cpp_does_not_know_is_refused(tmp_path):
    own = qc.InverseDynamics(arm(), [Own("tool"), qc.PostureTask()])
    with pytest.raises(ValueError, match="'tool' is a Own, which C\\+\\+ does not know"):
        qc.export_inverse_dynamics(own, tmp_path)
    plain = qc.InverseDynamics(arm(), [qc.PostureTask()])
    with pytest.raises(ValueError, match="parameters has shape"):
        qc.export_inverse_dynamics(plain, tmp_path, parameters=np.ones(3))
    with pytest.raises(ValueError, match="controller is a MPC"):
        qc.export_inverse_dynamics(linear(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_options_of_the_solver_are_exported(tmp_path):
    model = qc.TorchDynamics(lambda x, u: x + u, nx=1, nu=1, dt=0.01)
    given = {"eps_abs": 1e-6, "eps_gap": 1e-3, "max_iter": 5_000_000, "infeasible": "certify"}
    for limit, expected in ((0.002, 0.002), (float("inf"), 0.0), (None, 0.0)):
        mpc = qc.MPC(model, horizon=3, settings=qc.Settings(time_limit=limit, **given))
        numbers, _ = read(qc.export_mpc(mpc, tmp_path))
        assert numbers["time_limit"] == expected
        assert [numbers[key] for key in ("eps_abs", "eps_gap", "max_iter", "closest")] == [1e-6, 1e-3, 5_000_000, 0]
