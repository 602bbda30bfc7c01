"""The three parametric problems of Bambade et al. (ICLR 2024, appendix C.1), whose gradients are known in
closed form."""

import numpy as np
import pytest
import torch
from problems import toy_crossing_solution

import qp_control as qc

TOLERANCE = 1e-7  # the project's bar for these problems; the closed forms are exact


def rows(theta):
    """[[1, 1], [2, 1]] as batchless shared data and theta as a tensor that asks for a gradient."""
    return torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64), torch.as_tensor(
        theta, dtype=torch.float64
    ).requires_grad_()


def crossing(theta):
    C, theta = rows(theta)
    fixed = torch.tensor([1.55, 1.55], dtype=torch.float64)
    l = torch.stack([theta, torch.tensor(1.5, dtype=torch.float64)])
    out = qc.QPLayer()(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), None, None, C, l, fixed)
    return theta, out


@pytest.mark.parametrize("theta", [1.1, 1.3, 1.54, 1.549, 1.5501, 1.56, 1.6, 2.0])
def test_crossing_problem_gradient_is_exact_on_both_sides_of_infeasibility(theta):
    expected_x, expected_slope = toy_crossing_solution(theta)
    for i in range(2):
        parameter, out = crossing(theta)
        np.testing.assert_allclose(out.x.detach().reshape(-1), expected_x, atol=TOLERANCE)
        out.x.reshape(-1)[i].backward()
        assert abs(parameter.grad.item() - expected_slope[i]) < TOLERANCE
        expected = qc.Status.SOLVED if theta <= 1.55 else qc.Status.CLOSEST_FEASIBLE
        assert int(out.status) == expected


@pytest.mark.parametrize("i", [0, 1])
def test_gradient_descent_crosses_into_infeasibility_and_goes_on(i):
    """x1 falls with theta, x2 rises: descent on x1 raises theta over 1.55, and the slope halves there."""
    theta = 1.54 if i == 0 else 1.58
    values = []
    for _ in range(40):
        parameter, out = crossing(theta)
        value = out.x.reshape(-1)[i]
        value.backward()
        assert abs(parameter.grad.item() - toy_crossing_solution(theta)[1][i]) < TOLERANCE
        values.append(value.item())
        theta -= 5e-4 * parameter.grad.item()
    assert np.all(np.diff(values) < 0)
    assert theta > 1.55 if i == 0 else theta < 1.58


@pytest.mark.parametrize("theta", [-1.5, -1.0, 0.0, 2.0])
def test_interior_problem_moves_against_its_parameter(theta):
    C, parameter = rows(theta)
    g = torch.stack([parameter, torch.tensor(-2.0, dtype=torch.float64)])
    l, u = (torch.tensor(v, dtype=torch.float64) for v in ([-300.0, -200.0], [400.0, 500.0]))
    out = qc.QPLayer()(torch.eye(2, dtype=torch.float64), g, None, None, C, l, u)
    np.testing.assert_allclose(out.x.detach().reshape(-1), [-theta, 2.0], atol=TOLERANCE)
    out.x.reshape(-1)[0].backward()
    assert abs(parameter.grad.item() + 1.0) < TOLERANCE


@pytest.mark.parametrize("hessian", ["zero", "absent"])
@pytest.mark.parametrize("box_as_rows", [False, True])
@pytest.mark.parametrize(
    ("theta", "slope"),
    [(0.1, 1 / 2), (0.5, 1 / 2), (1.5, 1 / 2), (1.9, 1 / 2), (2.1, 1 / 3), (2.5, 1 / 3), (5, 1 / 3)],
)
def test_linear_program_gradient_is_the_minimum_norm_one(theta, slope, box_as_rows, hessian):
    for i in range(2):
        parameter = torch.tensor(float(theta), dtype=torch.float64, requires_grad=True)
        tensor = lambda value: torch.tensor(value, dtype=torch.float64)  # noqa: E731
        H = torch.zeros(2, 2, dtype=torch.float64) if hessian == "zero" else None
        if box_as_rows:
            C = tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
            l = torch.cat([parameter.reshape(1), tensor([0.0, 0.0])])
            out = qc.QPLayer()(H, tensor([1.0, 1.0]), None, None, C, l, tensor([np.inf, 1.0, 1.0]))
        else:
            out = qc.QPLayer()(
                H,
                tensor([1.0, 1.0]),
                None,
                None,
                tensor([[1.0, 1.0]]),
                parameter.reshape(1),
                None,
                tensor([0.0, 0.0]),
                tensor([1.0, 1.0]),
            )
        x = out.x.reshape(-1)
        expected_sum = theta if theta <= 2 else 2 + 2 * (theta - 2) / 3
        assert abs(x.sum().item() - expected_sum) < TOLERANCE
        x[i].backward()
        assert abs(parameter.grad.item() - slope) < TOLERANCE
