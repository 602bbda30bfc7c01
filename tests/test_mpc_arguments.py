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
