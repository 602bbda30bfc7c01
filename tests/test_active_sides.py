"""Which of a row's two bounds receives the gradient, where the sign of the multiplier does not say it safely."""

import torch

import qp_control as qc


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_weakly_active_row_gives_its_gradient_to_the_bound_it_meets():
    """-x_1 meets its upper bound 2 with a multiplier that is zero up to rounding."""
    H, g = leaf([[1.0, 2, 3], [2, 4, 6], [3, 6, 9]]), leaf([0.0, -1.0, 0.5])
    A, b = leaf([[0.0, -3, -1], [0, 1, -3]]), leaf([-3.0, 1.0])
    C, l, u = leaf([[-1.0, 0, 0]]), leaf([-3.0]), leaf([2.0])
    out = qc.QPLayer()(H, g, A, b, C, l, u)
    assert abs(out.z[0].item()) < 1e-12
    assert abs(out.x[0].item() + 2.0) < 1e-12
    out.x[0].backward()
    torch.testing.assert_close(u.grad, torch.tensor([-1.0], dtype=torch.float64))
    assert float(l.grad) == 0.0


def test_weakly_active_row_with_a_multiplier_of_exactly_zero_is_active():
    """min 1/2 x^2, x >= 0 (as a row): weakly active at 0, so x follows the bound."""
    C, l = leaf([[1.0]]), leaf([0.0])
    out = qc.QPLayer()(leaf([[1.0]]), leaf([0.0]), C=C, l=l)
    out.x[0].backward()
    torch.testing.assert_close(l.grad, torch.tensor([1.0], dtype=torch.float64))


def test_shifted_equality_among_the_rows_gives_its_gradient_to_the_violated_bound():
    """2 x = 1 and -3 x = -1 contradict each other; both end below their bound: x = (2 + 3) / 13."""
    l, u = leaf([1.0, -1.0]), leaf([1.0, -1.0])
    out = qc.QPLayer()(leaf([[0.0]]), leaf([-1.0]), C=leaf([[2.0], [-3.0]]), l=l, u=u)
    assert int(out.status) == qc.Status.CLOSEST_FEASIBLE
    assert torch.all(out.s_lower > 0.1)
    (out.x[0] + 0.5 * out.s_lower[0]).backward()
    # x = (2 e_1 - 3 e_2) / 13; s_lower_1 = e_1 - 2 x
    expected = torch.tensor([2 / 13 + 0.5 * (1 - 4 / 13), -3 / 13 + 0.5 * 6 / 13], dtype=torch.float64)
    torch.testing.assert_close(l.grad, expected)
    assert torch.count_nonzero(u.grad) == 0
