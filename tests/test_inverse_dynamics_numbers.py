"""Numbers that controllers by inverse dynamics refuse, and what elements of a batch without an answer do to others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from legged_robots import SOLE, arm, biped, standing

import qp_control as qc

INF, NAN = math.inf, math.nan


def reach(level=1, **options):
    tasks = [
        qc.PositionTask("tool", [0.4, 0.1, 0.7]),
        qc.OrientationTask("elbow", [0.1, 0.2, 0.1, 1.0], weight=0.3),
        qc.PostureTask(weight=0.1, level=level),
    ]
    return qc.InverseDynamics(arm(), tasks, [qc.TorqueLimit([30.0, 25.0, 12.0, 5.0, 1.5, 0.8])], **options)


BAD = {
    "NaN": ("posture.weight", [NAN]),
    "infinite weight": ("posture.weight", [INF]),
    "infinite reference": ("tool.reference", [INF, 0.0, 0.0]),
    "negative weight": ("tool.weight", [-100.0]),
    "quaternion of length zero": ("elbow.reference", [0.0, 0.0, 0.0, 0.0]),
    "overflow": ("tool.weight", [1e308]),
    "overflow in the model": (None, 1e308),
}


@pytest.mark.filterwarnings("ignore:.*no solution:RuntimeWarning")
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("kind", BAD)
def test_an_element_without_an_answer_changes_nothing_of_its_neighbours(kind, level):
    """Nor of the gradients of what they share: all are those of the batch without it."""
    name, bad = BAD[kind]
    states = 0.3 * torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = {}
    for kept in ([0, 1, 2], [0, 2]):
        controller = reach(level)
        q = states[kept].requires_grad_()
        v = torch.full((len(kept), 6), 0.1, dtype=torch.float64)
        parameters = controller.model.parameters.expand(len(kept), -1).clone()
        numbers = {}
        if name is None:
            parameters[1] = bad if len(kept) == 3 else parameters[1]
        else:
            own = controller.numbers()[name].detach()[: len(bad)]
            given = own.expand(len(kept), -1).clone()
            if len(kept) == 3:
                given[1] = torch.tensor(bad)
            numbers[name] = given.requires_grad_()
        parameters.requires_grad_()
        answer = controller(q, v, numbers, parameters=parameters)
        (answer.torque.square().sum() + answer.acceleration.sum()).backward()
        shared = [p.grad for p in controller.parameters() if p.requires_grad and p.grad is not None]
        own = [t.grad for t in (q, parameters, *numbers.values())]
        found[len(kept)] = answer, shared, own
    (answer, shared, own), (others, expected, own_expected) = found[3], found[2]
    assert answer.status[1] >= qc.Status.DUAL_INFEASIBLE and answer.status[::2].tolist() == [0, 0]
    if kind != "negative weight" and "overflow" not in kind:
        assert answer.status[1] == qc.Status.INVALID_INPUT
    assert answer.solution.status[1] >= qc.Status.DUAL_INFEASIBLE or level == 2
    assert not answer.torque[1].any() and not answer.acceleration[1].any()
    torch.testing.assert_close(answer.torque[::2], others.torque, rtol=0, atol=0)
    assert len(shared) == len(expected) > 2
    for a, b in zip(shared, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(own, own_expected, strict=True):
        assert not a[1].any()  # NaN is not zero
        torch.testing.assert_close(a[::2], b, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*no solution:RuntimeWarning")
def test_a_shared_number_that_is_none_leaves_no_gradient():
    controller = reach()
    with torch.no_grad():
        controller.parts["tool"].stiffness.fill_(NAN)
    q = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    found = controller(q, torch.zeros(2, 6, dtype=torch.float64))
    found.torque.sum().backward()
    assert (found.status == qc.Status.INVALID_INPUT).all()
    for value in (q, *(p for p in controller.parameters() if p.requires_grad)):
        assert value.grad is None or not value.grad.any()
    assert controller.compute(np.zeros(6), np.zeros(6)).status == qc.Status.INVALID_INPUT


def test_failures_raise_or_give_nan_where_settings_say_so():
    numbers = {"posture.weight": torch.tensor([[1.0], [NAN], [1.0]], dtype=torch.float64)}
    states = torch.zeros(2, 3, 6, dtype=torch.float64)
    with pytest.raises(qc.SolveError):
        reach(settings=qc.Settings(on_failure="raise"))(*states, numbers)
    controller = reach(settings=qc.Settings(on_failure="nan"))
    controller(*states, numbers).torque.sum().backward()
    assert controller.parts["tool"].weight.grad.isnan().all()


def one_of_each():
    """A controller with a part of every kind."""
    tasks = [
        qc.PositionTask("tool", [0.4, 0.1, 0.7]),
        qc.OrientationTask("elbow", [0.1, 0.2, 0.1, 1.0], weight=0.3),
        qc.CenterOfMassTask(weight=0.1),
        qc.AngularMomentumTask(weight=0.1),
        qc.PostureTask(weight=0.1),
        qc.TorqueRegularization(weight=1e-3),
    ]
    limits = [
        qc.TorqueLimit(30.0),
        qc.JointPositionLimit(0.01, acceleration=50.0),
        qc.JointVelocityLimit(0.01),
        qc.JointAccelerationLimit(200.0),
        qc.PlaneBarrier("tool", [0, 0, 1], -2.0),
        qc.SphereBarrier("tool", [1, 1, 1], 0.1),
        qc.FrameBarrier("tool", "universe", 0.05),
    ]
    return qc.InverseDynamics(arm(), tasks, limits, [qc.SurfaceContact("elbow", SOLE, max_force=100.0)])


# What no limit has, and one that is beyond reach, which is come back from with the largest acceleration.
MEANINGFUL = {
    ("torque_limit.lower", -INF), ("torque_limit.upper", INF),
    ("elbow contact.min_force", -INF), ("elbow contact.max_force", INF),
    ("position_limit.lower", -INF), ("position_limit.upper", INF),
    ("position_limit.lower", INF), ("position_limit.upper", -INF),
    ("velocity_limit.velocity", INF), ("velocity_limit.acceleration", INF), ("acceleration_limit.acceleration", INF),
}  # fmt: skip
NOT_NEGATIVE = ["velocity_limit.velocity", "velocity_limit.acceleration", "acceleration_limit.acceleration"]
BAD_NUMBERS = [(name, bad) for name in one_of_each().numbers() for bad in (NAN, INF, -INF)]
BAD_NUMBERS += [
    *((name, -1.0) for name in NOT_NEGATIVE),
    *(("position_limit.acceleration", bad) for bad in (0.0, -1.0)),
]


@pytest.mark.filterwarnings("ignore:.*no solution:RuntimeWarning")
@pytest.mark.parametrize(("name", "bad"), BAD_NUMBERS)
def test_a_number_that_is_none_is_invalid_input(name, bad):
    """No limit is dropped for it, and nothing of its neighbours' gradients."""
    controller = one_of_each()
    q = torch.full((3, 6), 0.2, dtype=torch.float64, requires_grad=True)
    v = torch.full((3, 6), 0.1, dtype=torch.float64, requires_grad=True)
    numbers = controller.numbers()[name].detach().expand(3, -1).clone()
    numbers[1, 0] = bad
    found = controller(q, v, {name: numbers.requires_grad_()})
    found.torque.square().sum().backward()
    expected = qc.Status.SOLVED if (name, bad) in MEANINGFUL else qc.Status.INVALID_INPUT
    assert found.status.tolist() == [qc.Status.SOLVED, expected, qc.Status.SOLVED]
    for value in (q, v, numbers, *(p for p in controller.parameters() if p.grad is not None)):
        assert value.grad.isfinite().all()
    tick = controller.compute(np.full(6, 0.2), np.full(6, 0.1), {name: numbers[1].detach().numpy()})
    assert tick.status == expected


@pytest.mark.parametrize("name", ["tool.reference", "posture.reference"])
def test_a_quaternion_of_length_zero_is_invalid_input(name):
    robot = biped()  # with a ball joint in its neck
    q, v = standing(robot), torch.zeros(robot.nv, dtype=torch.float64)
    controller = qc.InverseDynamics(robot, [qc.FrameTask("head", name="tool"), qc.PostureTask(q, weight=0.1)])
    first = slice(3, 7) if name == "tool.reference" else slice(7, 11)
    none = controller.numbers()[name].detach().clone()
    none[first] = 0.0
    with pytest.warns(RuntimeWarning, match="1 INVALID_INPUT"):
        assert controller(q, v, {name: none}).status == qc.Status.INVALID_INPUT
    good = controller.compute(q.numpy(), v.numpy())
    tick = controller.compute(q.numpy(), v.numpy(), {name: none.numpy()})
    assert tick.status == qc.Status.INVALID_INPUT
    np.testing.assert_array_equal(tick.torque, good.torque)
    assert controller.describe(q.numpy(), v.numpy(), {name: none.numpy()}) == "status INVALID_INPUT: no answer"
    # Those of any other length are what they are at length one.
    longer = {name: 5.0 * controller.numbers()[name].detach().numpy()}
    longer[name][: first.start] /= 5.0
    longer[name][first.stop :] /= 5.0
    np.testing.assert_allclose(controller.compute(q.numpy(), v.numpy(), longer).torque, good.torque, atol=1e-6)
    assert controller.describe(q.numpy(), v.numpy(), longer).startswith("status SOLVED")
    with pytest.raises(ValueError, match=rf"{name} is .*, expected a quaternion, or \(cos, sin\), of positive length"):
        task = qc.FrameTask("head", none, name="tool") if name == "tool.reference" else qc.PostureTask(none)
        qc.InverseDynamics(robot, [task])


MISTAKES = {
    "weight of 'posture' is -1, expected finite numbers of at least 0, or infinity": lambda: qc.PostureTask(weight=-1),
    "weight of 'tool' is .*inf, 1, 1.*, expected .* infinity for all axes": (
        lambda: qc.PositionTask("tool", weight=[INF, 1, 1])
    ),
    "weight of 'tool contact' is .*inf.*, expected .* infinity for all axes": (
        lambda: qc.PointContact("tool", weight=torch.tensor([1.0, INF, 1.0]))
    ),
    "weight of 'com' is -inf": lambda: qc.CenterOfMassTask(weight=-INF),
    "weight of 'torque' is inf, expected finite numbers of at least 0$": lambda: qc.TorqueRegularization(weight=INF),
    "stiffness of 'posture' is -1, expected finite numbers of at least 0": lambda: qc.PostureTask(stiffness=-1),
    "stiffness of 'com' is 'soft'": lambda: qc.CenterOfMassTask(stiffness="soft"),
    "damping of 'angular_momentum' is -0.1": lambda: qc.AngularMomentumTask(damping=-0.1),
    "reference of 'tool' is .*nan.*, expected finite numbers": lambda: qc.PositionTask("tool", [0.0, NAN, 0.0]),
    "friction of 'tool contact' is -1, expected finite numbers of at least 0": (
        lambda: qc.PointContact("tool", friction=-1)
    ),
    "max_force of 'tool contact' is inf, expected finite": lambda: qc.SurfaceContact("tool", SOLE, max_force=INF),
    "upper of 'torque_limit' is nan": lambda: qc.TorqueLimit(NAN),
    "acceleration of 'position_limit' is 0.0, expected positive": (
        lambda: qc.JointPositionLimit(0.01, acceleration=0.0)
    ),
    "velocity of 'velocity_limit' is -1.0, expected numbers of at least 0": (
        lambda: qc.JointVelocityLimit(0.01, velocity=-1.0)
    ),
    "acceleration of 'acceleration_limit' is -1.0": lambda: qc.JointAccelerationLimit(-1.0),
    "damping of 'tool plane' is -1": lambda: qc.PlaneBarrier("tool", [0, 0, 1], damping=-1),
    "distance of 'tool sphere' is inf": lambda: qc.SphereBarrier("tool", [0, 0, 1], INF),
    "model is a str, expected a RobotModel": lambda: qc.InverseDynamics("arm.urdf", []),
    "tasks is a PostureTask, expected a list of tasks": lambda: qc.InverseDynamics(arm(), qc.PostureTask()),
    "tasks has a TorqueLimit, expected tasks alone; the order is": (
        lambda: qc.InverseDynamics(arm(), [qc.TorqueLimit()], [qc.PostureTask()])
    ),
    "limits has a PointContact, expected limits alone": (
        lambda: qc.InverseDynamics(arm(), [qc.PostureTask()], [qc.PointContact("tool")])
    ),
    "contacts has a str, expected contacts alone": lambda: qc.InverseDynamics(arm(), [], [], ["tool"]),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_at_construction(message):
    with pytest.raises(ValueError, match=message):
        MISTAKES[message]()


def test_numbers_at_the_edge_are_taken():
    limits = [qc.TorqueLimit(INF), qc.JointVelocityLimit(0.01, velocity=INF), qc.JointAccelerationLimit(0.0)]
    tasks = [qc.PositionTask("tool", weight=[INF, INF, INF]), qc.PostureTask(weight=0, stiffness=0)]
    controller = qc.InverseDynamics(arm(), tasks, limits)
    assert controller.parts["tool"].hard
    assert controller.compute(np.zeros(6), np.zeros(6)).status.has_solution


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_states_of_integers_are_refused(dtype):
    state = torch.zeros(6, dtype=torch.float64)
    for name, arguments in (("q", (state.to(dtype), state)), ("v", (state, state.to(dtype)))):
        with pytest.raises(TypeError, match=f"{name} is a tensor of dtype {dtype}, expected a floating-point tensor"):
            reach()(*arguments)
