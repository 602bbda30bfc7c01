"""What a controller by inverse dynamics makes of states that are none, of awkward problems and of mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from control_setups import FEET, stand
from legged_robots import SOLE, arm, biped, quadruped, standing

import qp_control as qc
from qp_control.inverse_dynamics.contacts import PointContact, SurfaceContact
from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.inverse_dynamics.limits import PlaneBarrier, TorqueLimit
from qp_control.inverse_dynamics.tasks import (
    AccelerationRegularization,
    ForceRegularization,
    FrameTask,
    PositionTask,
    PostureTask,
)
from qp_control.settings import Settings, Status


@pytest.mark.parametrize("bad", [math.nan, math.inf, "zero quaternion"])
def test_a_state_that_is_none_has_a_status_and_the_torques_before(bad):
    controller, q = stand()
    v = np.zeros(18)
    good = controller.compute(q.numpy(), v)
    broken = q.numpy().copy()
    if bad == "zero quaternion":
        broken[3:7] = 0.0
    else:
        broken[9] = bad
    for _ in range(3):
        tick = controller.compute(broken, v)
        assert tick.status == Status.INVALID_INPUT
        np.testing.assert_array_equal(tick.torque, good.torque)
    assert controller.compute(q.numpy(), v).status == Status.SOLVED
    controller.reset()
    np.testing.assert_array_equal(controller.compute(broken, v).torque, 0.0)
    # In a batch its neighbours do not notice.
    batch = torch.stack([q, torch.from_numpy(broken)]).requires_grad_()
    found = controller(batch, torch.zeros(2, 18, dtype=torch.float64))
    assert found.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT]
    np.testing.assert_allclose(found.torque[0].detach(), good.torque, rtol=0, atol=1e-6)
    assert float(found.torque[1].detach().abs().max()) == 0.0
    found.torque.sum().backward()
    assert bool(batch.grad.isfinite().all()) and float(batch.grad[1].abs().max()) == 0.0


def test_quaternions_of_any_length_are_those_of_length_one():
    controller, q = stand()
    v = torch.zeros(18, dtype=torch.float64)
    longer = q.clone()
    longer[3:7] *= 3.0
    reference = torch.tensor([0.0, 0.1, 0.0, 0.995], dtype=torch.float64)
    for scale in (1.0, 0.01):
        found = controller(longer, v, {"trunk.reference": scale * reference})
        expected = controller(q, v, {"trunk.reference": reference / reference.norm()})
        torch.testing.assert_close(found.torque, expected.torque, rtol=0, atol=1e-6)


def test_quaternions_of_a_posture_may_have_any_length():
    robot = biped()  # with a ball joint in its neck
    q = standing(robot)
    neck = slice(7, 11)
    turned = q.clone()
    turned[neck] = torch.tensor([0.3, 0.1, -0.2, 0.9], dtype=torch.float64)
    longer = turned.clone()
    longer[neck] *= 5.0
    turned[neck] /= turned[neck].norm()
    tasks = [PostureTask(q, weight=1.0, joints=["neck"]), AccelerationRegularization(), ForceRegularization()]
    controller = InverseDynamics(robot, tasks, contacts=[SurfaceContact("left sole", SOLE)])
    v = np.zeros(robot.nv)
    expected, found = (
        controller.compute(q.numpy(), v, {"posture.reference": reference.numpy()}) for reference in (turned, longer)
    )
    assert float(np.abs(expected.acceleration).max()) > 1.0
    np.testing.assert_allclose(found.torque, expected.torque, rtol=0, atol=1e-6)
    batch = controller(q, torch.from_numpy(v), {"posture.reference": longer})
    np.testing.assert_allclose(batch.torque.detach(), expected.torque, rtol=0, atol=1e-5)


def test_a_time_limit_gives_the_torques_before():
    controller, q = stand(settings=Settings(time_limit=1e-9))
    tick = controller.compute(q.numpy(), np.zeros(18))
    assert tick.status == Status.TIME_LIMIT
    np.testing.assert_array_equal(tick.torque, 0.0)


def test_a_tick_without_an_answer_raises_where_asked_to_and_hands_over_its_problem():
    strict, q = stand(settings=Settings(time_limit=1e-9, on_failure="raise"))
    given = q.numpy(), np.full(18, 0.1), {"com.stiffness": 50.0}
    parameters = 1.1 * strict.model.parameters.numpy()
    with pytest.raises(qc.SolveError, match="no torques at this tick: TIME_LIMIT") as caught:
        strict.compute(*given, parameters=parameters)
    assert caught.value.solution.status == Status.TIME_LIMIT
    expected = stand()[0].compute(*given, parameters=parameters)
    found = qc.solve_qp(**caught.value.problem)
    assert found.status == expected.status == Status.SOLVED
    np.testing.assert_allclose(found.x, expected.x, rtol=0, atol=1e-5)  # forces of hundreds of N


def test_awkward_problems_have_finite_torques():
    """Contacts that depend on each other, a stretched arm, no weights, no contacts; gradients are finite too."""

    def check(controller, q, v, numbers=None):
        q, v = q.clone().requires_grad_(), v.clone().requires_grad_()
        found = controller(q, v, numbers)
        assert found.status <= Status.CLOSEST_FEASIBLE and bool(found.torque.isfinite().all())
        found.torque.sum().backward()
        assert all(bool(leaf.grad.isfinite().all()) for leaf in (q, v))
        return found.status

    doubled = [PointContact(foot, name=f"{foot} {k}") for foot in FEET for k in range(2)]
    rigid = [PointContact(foot, weight=math.inf, name=f"{foot} {k}") for foot in FEET for k in range(2)]
    v = torch.zeros(18, dtype=torch.float64)
    for contacts in (doubled, rigid, []):
        controller, q = stand(quadruped(), contacts, [TorqueLimit()])
        assert check(controller, q, v) == Status.SOLVED
    stretched = InverseDynamics(arm(), [FrameTask("tool", weight=math.inf)], [TorqueLimit()])
    check(stretched, torch.zeros(6, dtype=torch.float64), torch.full((6,), 0.1, dtype=torch.float64))
    controller, q = stand(limits=[TorqueLimit()])
    # Straight up, below a plane that no joint can bring its tool nearer to: what rounding leaves of the row is none.
    below = InverseDynamics(arm(), [PostureTask()], [TorqueLimit(), PlaneBarrier("elbow", [0, 0, 1.0], 2.0)])
    assert check(below, torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)) == (
        Status.CLOSEST_FEASIBLE
    )
    nothing = {name: 0.0 * value for name, value in controller.numbers().items() if name.endswith("weight")}
    assert check(controller, q, v, nothing) == Status.SOLVED


def test_mistakes_are_named():
    robot = arm()
    with pytest.raises(ValueError, match="no frame 'hand'"):
        InverseDynamics(robot, [PositionTask("hand")])
    with pytest.raises(ValueError, match="two parts have the name 'tool'"):
        InverseDynamics(robot, [PositionTask("tool"), FrameTask("tool")])
    with pytest.raises(ValueError, match=r"tool\.weight has shape \(2,\)"):
        InverseDynamics(robot, [PositionTask("tool", weight=[1.0, 2.0])])
    with pytest.raises(ValueError, match="belongs to a controller"):
        task = PositionTask("tool")
        InverseDynamics(robot, [task])
        InverseDynamics(robot, [task])
    controller = InverseDynamics(robot, [PositionTask("tool")])
    q = torch.zeros(6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no number 'tool\.wait'"):
        controller(q, q, {"tool.wait": q})
    with pytest.raises(ValueError, match=r"v has shape \(5,\)"):
        controller(q, q[:5])
    with pytest.raises(ValueError, match=r"q has shape \(5,\)"):
        controller.compute(np.zeros(5), np.zeros(6))
    with pytest.raises(ValueError, match=r"tool\.weight has shape \(2,\), expected \(3,\) or one number"):
        controller.compute(q, q, {"tool.weight": [1.0, 2.0]})
    wanted = q.clone().requires_grad_()
    for arguments, name in (
        ((wanted, q), "q"),
        ((q, wanted), "v"),
        ((q, q, {"tool.weight": wanted[:3]}), r"tool\.weight"),
    ):
        with pytest.raises(TypeError, match=f"^{name} is a tensor that requires grad.*a controller's forward"):
            controller.compute(*arguments)
    with pytest.raises(TypeError, match="settings is 5"):
        InverseDynamics(robot, [PositionTask("tool")], settings=5)


def test_ticks_take_numbers_in_dtypes_that_numpy_lacks():
    controller = InverseDynamics(arm(), [PositionTask("tool")])
    q = torch.linspace(0.1, 0.6, 6, dtype=torch.bfloat16)
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16)
    found = controller.compute(q, 0.0 * q, {"tool.weight": weight})
    expected = controller.compute(q.double(), np.zeros(6), {"tool.weight": weight.double()})
    np.testing.assert_allclose(found.torque, expected.torque, rtol=0, atol=1e-6)
