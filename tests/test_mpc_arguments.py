"""What controllers, their rows, models and loops are given wrongly is refused, saying what was given and expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import qp_control as qc
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp
from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import Rows, StageRows, StateRows, keep_out, speed_limit
from qp_control.mpc.weights import Diagonal
from qp_control.robot.contact import ContactDynamics
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.torch_dynamics import TorchDynamics
from qp_control.training import closed_loop

N = 6


def acceleration(x: Tensor, u: Tensor) -> Tensor:
    return torch.stack([x[..., 1], u[..., 0]], -1)


def point(**options: Any) -> TorchDynamics:
    return TorchDynamics(acceleration, 2, 1, dt=0.1, integrator="rk4", input_limit=torch.tensor([1.0]), **options)


def start(batch: int) -> Tensor:
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(batch, 2)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("batch", [1, 3, N])
@pytest.mark.parametrize(
    ("rows", "name", "last"),
    [
        (keep_out(lambda x: x[..., 0], [0.5], 0.1), "position", "1"),
        (speed_limit(lambda x: x[..., 1], 0.5), "velocity", "d"),
        (StateRows(lambda x: x[..., 1], upper=0.5), "the function of rows", "rows"),
        (StageRows(lambda x, u: x[..., 1] * u[..., 0], upper=0.5), "the function of rows", "rows"),
    ],
)
def test_row_functions_without_their_last_axis_are_refused(
    rows: Rows, name: str, last: str, batch: int, mode: Any
) -> None:
    mpc = MPC(point(), N, rows=[rows], mode=mode)
    expected = (
        rf"{name} returned shape \({batch}, {N}\), expected \({batch}, {N}, {last}\): x\[..., 1:2\], not x\[..., 1\]"
    )
    with pytest.raises(ValueError, match=expected):
        mpc(start(batch))


def test_position_of_another_size_than_the_centre_is_refused() -> None:
    mpc = MPC(point(), N, rows=[keep_out(lambda x: x, [0.5], 0.1)])
    with pytest.raises(ValueError, match=r"position returned shape \(1, 6, 2\), expected \(1, 6, 1\)$"):
        mpc(start(1))


@pytest.mark.parametrize("number", [2.5, 0, -1, float("nan"), float("inf"), "5", None])
def test_horizons_that_are_no_whole_number_are_refused(number: Any) -> None:
    with pytest.raises(ValueError, match=f"horizon is {number!r}, expected an integer of at least 1"):
        MPC(point(), number)
    with pytest.raises(ValueError, match=r"delay is 0\.5, expected an integer of at least 0"):
        MPC(point(), N, delay=0.5)  # type: ignore[arg-type]
    assert MPC(point(), 3.0).horizon == 3  # type: ignore[arg-type]


def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a qp_control\.SqpSettings"):
        MPC(point(), N, sqp={"max_iter": 3})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a qp_control\.Settings"):
        MPC(point(), N, settings={"max_iter": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_iter is 2\.5, expected an integer"):
        qc.SqpSettings(max_iter=2.5)  # type: ignore[arg-type]


def test_tensor_in_place_of_a_plan_is_refused() -> None:
    mpc = MPC(point(), N)
    for call in (mpc, mpc.build):
        with pytest.raises(TypeError, match="plan is a Tensor, expected a Plan"):
            call(start(1), torch.zeros(1, N, 1))


@pytest.mark.parametrize("integrator", [None, "rk4", "euler"])
@pytest.mark.parametrize(
    ("function", "nx", "nu", "message"),
    [
        (acceleration, -2, 1, "nx is -2, expected an integer of at least 1"),
        (acceleration, 2, 1.5, "nu is 1.5, expected an integer of at least 0"),
        (acceleration, 3, 1, r"the function returned shape \(2, 2\), expected \(B, nx\) = \(2, 3\)"),
        (lambda x, u: x[..., :1], 3, 1, r"the function returned shape \(2, 1\), expected \(B, nx\) = \(2, 3\)"),
        (acceleration, 1, 1, r"fails at zeros of shapes x \(B, nx\) = \(2, 1\) and u \(B, nu\) = \(2, 1\): index 1"),
        (lambda x, u: x @ torch.eye(2).double(), 3, 1, r"x \(B, nx\) = \(2, 3\) .*: mat1 and mat2 shapes"),
        (lambda x, u: (x, u), 2, 1, "the function returned a tuple, expected a torch.Tensor"),
    ],
)
def test_sizes_that_are_not_the_functions_are_refused(
    function: Callable[..., Any], nx: Any, nu: Any, message: str, integrator: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        TorchDynamics(function, nx, nu, dt=0.1, integrator=integrator)


@pytest.mark.parametrize("substeps", [1.5, 0, "2"])
def test_substeps_that_are_no_whole_number_are_refused(substeps: Any) -> None:
    message = f"substeps is {substeps!r}, expected an integer of at least 1"
    with pytest.raises(ValueError, match=message):
        RobotDynamics(CartPoleSwingUp.urdf, dt=0.1, substeps=substeps)
    with pytest.raises(ValueError, match=message):
        ContactDynamics(CartPoleSwingUp.urdf, dt=0.1, substeps=substeps)
    with pytest.raises(ValueError, match=message):
        point(substeps=substeps)


def test_closed_loops_without_a_step_are_refused() -> None:
    mpc = MPC(point(), N)
    for options in ({"steps": 0}, {"steps": 2.5}, {"steps": 3, "truncate": 0}, {"steps": 3, "truncate": -1}):
        name, value = list(options.items())[-1]
        with pytest.raises(ValueError, match=f"{name} is {value}, expected an integer of at least 1"):
            closed_loop(mpc, mpc.dynamics.step, start(1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("rate_limit", [None, [5.0]])
def test_bounds_of_states_with_any_axes_are_the_same_bounds(mode: Any, rate_limit: list[float] | None) -> None:
    """Of one stage, of x_1 to x_N or of all, shared or not, the two sides each in its own way."""
    mpc = MPC(point(), N, mode=mode, rate_limit=rate_limit)
    x0 = torch.tensor([[1.0, 0.0], [0.8, 0.01]], dtype=torch.float64)
    upper = torch.tensor([2.0, 0.02], dtype=torch.float64)
    expected = mpc(x0, x_lower=-upper, x_upper=upper)
    # Active, or nothing is tested.
    assert torch.allclose(expected.states[0, :, 1].min(), -upper[1]) and not expected.status.any()
    ways = [upper, upper.expand(N, 2), upper.expand(N + 1, 2), upper.expand(2, N, 2), upper.expand(2, N + 1, 2)]
    for lower_way in ways:
        for upper_way in ways:
            found = mpc(x0, x_lower=-lower_way, x_upper=upper_way)
            torch.testing.assert_close(found.inputs, expected.inputs, rtol=0, atol=1e-6)
            assert not mpc.violations(found, x_lower=-lower_way, x_upper=upper_way).gt(1e-6).any()


@pytest.mark.parametrize("failed", [None, lambda x: x[:, 0] > 5.0])
@pytest.mark.parametrize(
    ("name", "function", "got"),
    [
        ("reward", lambda x, u: x[:, :1], r"shape \(3, 1\), expected \(3,\)"),
        ("reward", lambda x, u: x.sum(), r"shape \(\), expected \(3,\)"),
        ("reward", lambda x, u: x.detach().numpy()[:, 0], "a ndarray, expected a torch.Tensor"),
        ("step", lambda x, u: x[:, :1], r"shape \(3, 1\), expected \(3, 2\)"),
        ("step", lambda x, u: x[:1], r"shape \(1, 2\), expected \(3, 2\)"),
    ],
)
def test_functions_of_closed_loops_that_return_another_shape_are_refused(
    name: str, function: Callable[..., Any], got: str, failed: Any
) -> None:
    mpc = MPC(point(), N)
    options = {"step": mpc.dynamics.step, "failed": failed} | {name: function}
    with pytest.raises(ValueError, match=f"{name} returned {got}"):
        closed_loop(mpc, x0=start(3), steps=2, **options)
    with pytest.raises(ValueError, match=r"failed returned shape \(3, 1\), expected \(3,\)"):
        closed_loop(mpc, mpc.dynamics.step, start(3), 2, failed=lambda x: x[:, :1] > 5.0)


CALLS: dict[str, Callable[..., Any]] = {
    "call": lambda mpc, x0, **data: mpc(x0, **data),
    "build": lambda mpc, x0, **data: mpc.build(x0, **data),
    "problem": lambda mpc, x0, **data: mpc.problem(x0, **data),
    "violations": lambda mpc, x0, **data: mpc.violations(mpc(x0), **data),
}


def ones(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.ones(*shape, dtype=dtype)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize(
    "options", [{}, {"rate_limit": [5.0]}, {"rows": [StateRows(lambda x: x[..., :1], upper=3.0)]}], ids=list
)
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"R": ones(2, 2)}, ValueError, r"R has shape \(2, 2\), expected \(nu, nu\) = \(1, 1\)"),
        ({"Q": ones(N + 2, 2, 2)}, ValueError, "Q has 8 stages, expected 6 or 7"),
        ({"R": ones(3, 1, 1, 1)}, ValueError, "R has a batch of 3, expected 1 or 2"),
        ({"lower": ones(1)}, ValueError, "lower is given without C or D"),
        ({"C": ones(1, 2), "upper": ones(3)}, ValueError, r"upper has shape \(3,\), expected \(rows\) = \(1,\)"),
        ({"C": ones(2, 2), "upper": ones(1)}, ValueError, r"upper has shape \(1,\), expected \(rows\) = \(2,\)"),
        ({"C_N": ones(1, 2), "upper_N": ones(3, 1)}, ValueError, "upper_N has a batch of 3, expected 1 or 2"),
        ({"reference": ones(3, 2)}, ValueError, "reference has a batch of 3, expected 1 or 2"),
        ({"R": ones(1, 1, dtype=torch.int64)}, TypeError, "R is a tensor of dtype torch.int64, expected a floating"),
        ({"R": ones(1, 1).numpy()}, TypeError, "R is ndarray, expected a floating-point tensor"),
        ({"A": ones(2, 2)}, ValueError, "'A' is no argument of the problem"),
    ],
)
def test_data_that_does_not_fit_is_refused_by_every_call(
    data: dict[str, Any], error: type[Exception], message: str, options: dict[str, Any], mode: Any, call: str
) -> None:
    mpc = MPC(point(), N, mode=mode, **options)
    with pytest.raises(error, match=message):
        CALLS[call](mpc, start(2), **data)


@pytest.mark.parametrize("call", CALLS)
def test_data_of_a_batch_with_one_state_is_refused(call: str) -> None:
    mpc = MPC(point(), N)
    with pytest.raises(ValueError, match="R has a batch of 3, expected that of x0, 1"):
        CALLS[call](mpc, start(1), R=ones(3, 1, 1, 1))
    with pytest.raises(ValueError, match="reference has a batch of 3, expected 1 or 1"):
        CALLS[call](mpc, start(1), reference=ones(3, 2))


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_single_precision_data_is_the_same_data_and_has_gradients_of_its_own_kind(mode: Any) -> None:
    mpc = MPC(point(), N, mode=mode, reference=[0.5, 0.0], data={"R": ones(1, 1, dtype=torch.float32)})
    Q = torch.diag(torch.tensor([2.0, 1.0])).requires_grad_()
    plan = mpc(start(2), Q=Q, q=None)
    expected = MPC(point(), N, mode=mode, reference=[0.5, 0.0], data={"R": ones(1, 1)})(start(2), Q=Q.detach().double())
    assert torch.equal(plan.inputs, expected.inputs)
    (slope,) = torch.autograd.grad(plan.inputs.sum(), Q)
    assert slope.dtype == torch.float32 and slope.any()


@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("limits", ["inputs", "states"])
def test_the_bound_that_is_not_given_stays(limits: str, mode: Any) -> None:
    """A bound on one side says nothing of the other one."""
    mpc = MPC(point(), N, mode=mode, state_limit=[float("inf"), 0.02 if limits == "states" else 9.0])
    mpc.set_weights(q=[100.0, 1.0], r=[0.01], terminal=[100.0, 1.0]).requires_grad_(False)
    x0, bound = start(1), {"inputs": mpc.input_bound(), "states": torch.tensor([torch.inf, float(mpc.state_bound())])}
    name = {"inputs": "u", "states": "x"}[limits]
    both = mpc(x0, **{f"{name}_upper": 0.5 * bound[limits].double(), f"{name}_lower": -bound[limits].double()})
    one = mpc(x0, **{f"{name}_upper": 0.5 * bound[limits].double()})
    assert torch.allclose(one.inputs, both.inputs, rtol=0, atol=1e-7)
    moved = {"inputs": one.inputs[..., 0], "states": one.states[..., 1]}[limits]
    # Active, or nothing is tested.
    assert float(moved.detach().min()) == pytest.approx(-float(bound[limits][-1]), abs=1e-6)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
@pytest.mark.parametrize("horizon", [1, 4])
def test_last_stage_of_Q_is_that_of_the_reference_too(horizon: int, mode: Any) -> None:
    mpc = MPC(point(), horizon, mode=mode, reference=[0.4, 0.1])
    Q = torch.diag_embed(1.0 + torch.arange(2.0 * horizon + 2.0, dtype=torch.float64).view(horizon + 1, 2))
    apart = mpc(start(2), Q=Q[:horizon], Q_N=Q[horizon])
    assert torch.allclose(mpc(start(2), Q=Q).inputs, apart.inputs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_linear_cost_of_the_stages_leaves_the_last_one_to_the_reference(mode: Any) -> None:
    """However small the reference is, and zero too."""
    q = torch.tensor([0.3, -0.2], dtype=torch.float64)
    plans = []
    for size in (0.0, 1e-9):
        mpc = MPC(point(), N, mode=mode, reference=[size, 0.0])
        ways = [q, q.expand(N, 2), q.expand(2, N, 2)]
        plans += [mpc(start(2), q=way) for way in ways]
        plans.append(mpc(start(2), q=torch.cat([q.expand(N, 2), torch.zeros(1, 2, dtype=torch.float64)])))
    for plan in plans:
        assert torch.allclose(plan.inputs, plans[0].inputs, rtol=0, atol=1e-7)


def test_weights_and_references_that_cannot_be_are_refused() -> None:
    inf, nan = float("inf"), float("nan")
    with pytest.raises(ValueError, match=r"reference is \[inf, 0\.0\], expected finite numbers"):
        MPC(point(), N, reference=[inf, 0.0])
    with pytest.raises(TypeError, match="reference requires grad: what is learned goes into calls"):
        MPC(point(), N, reference=ones(2).requires_grad_())
    for slack in ((1.0,), 1.0, (-1.0, 1.0), (nan, 1.0), (1.0, 2.0, 3.0), "ab"):
        with pytest.raises(ValueError, match=r"state_slack is .*, expected \(linear, quadratic\)"):
            MPC(point(), N, state_limit=[inf, 1.0], state_slack=slack)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state_slack is given without state_limit"):
        MPC(point(), N, state_slack=(1.0, 1.0))
    with pytest.raises(TypeError, match="a module of rows returned a Tensor, expected StateRows or StageRows"):
        MPC(point(), N, rows=[Diagonal(2)])(start(1))
    with pytest.raises(TypeError, match="rows is a StateRows, expected a list"):
        MPC(point(), N, rows=StateRows(lambda x: x))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rows has a function, expected StateRows, StageRows or modules"):
        MPC(point(), N, rows=[lambda x: x])  # type: ignore[list-item]
    mpc = MPC(point(), N, input_cost=1)
    for q in ([inf, 1.0], [nan, 1.0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="expected positive numbers"):
            mpc.set_weights(q=q)
    with pytest.raises(ValueError, match="the weight is not symmetric"):
        mpc.set_weights(terminal=[[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"the weight is \[\[nan\]\], expected finite numbers"):
        mpc.set_weights(r=[[nan]])
    with pytest.raises(ValueError, match="the cost is True"):
        MPC(point(), N, state_cost=True)


def test_inputs_of_another_shape_do_not_enter_plans() -> None:
    plan = MPC(point(), N)(start(2))
    for u in (ones(1), ones(3, 1), ones(2, 2)):
        with pytest.raises(ValueError, match=r"u has shape .*, expected \(B, nu\) = \(2, 1\)"):
            plan.with_input(u)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["lower", "upper", "slack_linear", "slack_quadratic"])
def test_bounds_of_rows_that_do_not_broadcast_are_refused(name: str, call: str) -> None:
    rows = StateRows(lambda x: x[..., :1], **{"upper": 1.0, name: ones(3)})
    mpc = MPC(point(), N, rows=[rows])
    if call != "problem":  # which does not evaluate them
        expected = rf"{name} of rows has shape \(3,\), expected one that broadcasts to \(B, N, rows\) = \(2, {N}, 1\)"
        with pytest.raises(ValueError, match=expected):
            CALLS[call](mpc, start(2))
    with pytest.raises(TypeError, match="data of rows is"):
        StateRows(lambda x, c: x - c, data=ones(2))  # type: ignore[arg-type]


def test_rows_of_a_part_of_the_batch_take_their_own_data_and_all_that_is_shared() -> None:
    """Elements that have converged leave the batch; data are told apart by their first axes alone."""
    swinging = TorchDynamics(
        lambda x, u: torch.stack([x[..., 1], torch.sin(3.0 * x[..., 0]) + u[..., 0]], -1),
        2,
        1,
        dt=0.1,
        integrator="rk4",
    )
    matrices = torch.stack([k * torch.eye(2, dtype=torch.float64) for k in range(1, N + 1)])  # as many as stages
    own = torch.tensor([0.9, 0.6, 0.3, 5.0], dtype=torch.float64)
    upper = torch.tensor([2.0, 1.0, 0.5, 4.0], dtype=torch.float64)

    def function(x: Tensor, scale: Tensor, each: Tensor) -> Tensor:
        return torch.einsum("kij,bkj->bki", scale[:, :1], x) * torch.sin(each)

    def mpc(which: slice) -> MPC:
        rows = StateRows(
            function, upper=upper[which].view(-1, 1, 1).numpy(), data=(matrices, own[which].view(-1, 1, 1))
        )
        return MPC(swinging, N, mode="converged", rows=[rows])

    x0 = torch.tensor([[1.5, 0.5], [0.2, 0.1], [0.0, 0.0], [2.5, 0.2]], dtype=torch.float64)
    together = mpc(slice(None))(x0)
    assert together.iterations.unique().numel() > 1  # they do leave one after the other
    for i in range(4):
        alone = mpc(slice(i, i + 1))(x0[i : i + 1])
        assert together.status[i] == alone.status[0]
        assert torch.allclose(together.inputs[i], alone.inputs[0], rtol=0, atol=1e-6)


def test_numbers_of_models_that_cannot_be_are_refused() -> None:
    inf, nan = float("inf"), float("nan")
    for integrator in (None, "rk4"):
        for dt in (0.0, -0.1, nan, inf):
            with pytest.raises(ValueError, match=f"dt is {dt}, expected a positive control period"):
                TorchDynamics(acceleration, 2, 1, dt=dt, integrator=integrator)  # type: ignore[arg-type]
    for limit in ([nan], [0.0], [-1.0], [1.0, 1.0], 1.0):
        with pytest.raises(ValueError, match="input_limit is"):
            TorchDynamics(acceleration, 2, 1, input_limit=limit)  # type: ignore[arg-type]
    for parameters in ([nan], 1.0, [[1.0]]):
        with pytest.raises(ValueError, match=r"parameters is .*, expected a vector of numbers"):
            TorchDynamics(lambda x, u, p: p * x, 2, 1, parameters=parameters)  # type: ignore[arg-type]
    assert TorchDynamics(lambda x, u, p: p * x, 2, 1, parameters=[2]).parameters.dtype == torch.float64  # type: ignore
    robot = CartPoleSwingUp.urdf
    with pytest.raises(ValueError, match="threads is inf, expected an integer"):
        RobotDynamics(robot, dt=0.1, threads=inf)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"directions is 2\.5, expected an integer of at least 2"):
        ContactDynamics(robot, dt=0.1, directions=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dry_friction is \[inf, 0\], expected 2 finite numbers of at least 0"):
        ContactDynamics(robot, dt=0.1, dry_friction=[inf, 0])
    with pytest.raises(ValueError, match="mass is inf and size"):
        qc.Payload(RobotDynamics(robot, dt=0.1), "pole", mass=inf)
    for method in ("frame_motions", "centroid"):
        arguments = [["pole"]] if method == "frame_motions" else []
        with pytest.raises(ValueError, match=r"q is a list, expected a torch\.Tensor"):
            getattr(RobotDynamics(robot, dt=0.1), method)(*arguments, [0.0, 0.0])


@pytest.mark.parametrize("mode", ["real_time", "converged"])
def test_plans_go_on_where_rows_come_and_go(mode: Any) -> None:
    mpc, rows = MPC(point(), N, mode=mode), {"C": ones(2, 2), "upper": 0.9 * ones(2), "C_N": ones(1, 2)}
    rows["upper_N"] = 0.5 * ones(1)
    plan = mpc(start(2)).shift()
    for data in (rows, {}, {"D": ones(1, 1), "upper": 0.1 * ones(1)}):
        warm = mpc(start(2), plan, **data)
        assert warm.solved.all()
        assert torch.allclose(warm.inputs, mpc(start(2), **data).inputs, rtol=0, atol=1e-6)
        plan = warm.shift()
