"""Soft rows in the layer: second derivatives, transforms of functions, known solutions."""

import numpy as np
import pytest
import torch
from test_ocp_layer import assert_same, gradients, loss_of, tensors
from test_ocp_soft import KINDS, soft_ocp

import qp_control as qc


def small():
    return soft_ocp(1, nx=2, nu=1, N=2, rows=2, terminal_rows=1, hard=0.3)


def test_second_derivatives_equal_differences_of_the_first():
    d, N = small()
    names = [name for name in d if np.isfinite(d[name]).all()]
    names = [name for name in names if name in ("q", "C", "upper", "slack_quadratic", "slack_linear_N", "x0", "B")]
    rest = {name: torch.tensor(value) for name, value in d.items() if name not in names}

    def run(*flat):
        return loss_of(qc.OcpLayer(horizon=N)(**dict(zip(names, flat, strict=True)), **rest))

    flat = [torch.tensor(d[name], requires_grad=True) for name in names]
    assert torch.autograd.gradgradcheck(run, flat, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_function_transforms_agree_with_the_backward_pass():
    d, N = small()
    data = tensors(d, grad=False)
    layer = qc.OcpLayer(horizon=N)

    def slacks(weights):
        out = layer(**data | {"slack_quadratic": weights})
        return torch.cat([out.slack_lower.flatten(-2), out.slack_upper.flatten(-2), out.objective.unsqueeze(-1)], -1)

    weights = data["slack_quadratic"]
    expected = torch.autograd.functional.jacobian(slacks, weights)
    assert expected.abs().max() > 1e-2
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        np.testing.assert_allclose(transform(slacks)(weights), expected, atol=1e-8)
    points = torch.stack([weights, 1.1 * weights])
    np.testing.assert_allclose(torch.func.vmap(slacks)(points), torch.stack([slacks(p) for p in points]), atol=1e-8)


@pytest.mark.parametrize("kind", ["both weights", "linear", "some rows hard", "beyond the lanes"])
def test_known_solution_has_the_gradients_of_the_solve(kind):
    d, N = soft_ocp(2, **KINDS[kind])
    data = tensors(d)
    layer = qc.OcpLayer(horizon=N)
    solved = layer(**data)
    constants = type(solved)(*(t.detach() for t in solved))
    known = layer.at_solution(qc.OcpQP(**data, horizon=N), constants)
    skip = ("objective",)  # of the point itself, not of the problem's cost
    assert_same(gradients(loss_of(known, skip=skip), data), gradients(loss_of(solved, skip=skip), data), 1e-12)
