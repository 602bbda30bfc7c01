"""The compiled assembly of a controller's QP, and its gradient, against torch operations on functions of the model."""

from __future__ import annotations

import pytest
import torch
from control_setups import BATCH, SETUPS
from inverse_dynamics_oracle import Oracle
from manifold_robots import normal

FIELDS = ("H", "g", "A", "b", "C", "l", "u", "lb", "ub", "T", "t")


def inputs(kind):
    """A controller, its states, numbers of each element, and parameters of each element."""
    controller, q, v = SETUPS[kind]()
    numbers = {}
    for k, (name, value) in enumerate(controller.numbers().items()):
        moved = value.detach() * (1.0 + 0.05 * normal(BATCH, *value.shape, seed=k))
        numbers[name] = torch.where(value.isfinite(), moved, value.detach())
    parameters = controller.model.parameters * (1.0 + 0.1 * normal(BATCH, 1, seed=99).abs())
    # Through the controller, which makes quaternions of postures ones of length one.
    return controller, q, v, controller.numbers(numbers), parameters


def both(controller, q, v, numbers, parameters):
    packed = controller.assembly.pack(numbers, len(q))
    return (
        controller.assembly.problem(q, v, packed, parameters),
        Oracle(controller, q, v, numbers, parameters).problem(),
    )


@pytest.mark.parametrize("kind", SETUPS)
def test_problem_is_that_of_torch_operations(kind):
    with torch.no_grad():
        found, expected = both(*inputs(kind))
    for name, a, b in zip(FIELDS, found, expected, strict=True):
        # Entries of thousands, from sums of products of numbers of about that size.
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", SETUPS)
def test_gradient_is_that_of_torch_operations(kind):
    controller, q, v, numbers, parameters = inputs(kind)
    weights = [normal(*t.shape, seed=20 + k) for k, t in enumerate(both(controller, q, v, numbers, parameters)[0])]
    gradients = []
    for which in (0, 1):
        leaves = [t.clone().requires_grad_() for t in (q, v, parameters, *numbers.values())]
        given = dict(zip(numbers, leaves[3:], strict=True))
        problem = both(controller, leaves[0], leaves[1], given, leaves[2])[which]
        sum((w * torch.where(t.isfinite(), t, 0.0)).sum() for w, t in zip(weights, problem, strict=True)).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for name, a, b in zip(("q", "v", "parameters", *numbers), *gradients, strict=True):
        b = torch.zeros_like(a) if b is None else b
        finite = b.isfinite()  # the oracle has 0 * inf where a limit is infinite
        scale = float(b[finite].abs().max()) if bool(finite.any()) else 0.0
        torch.testing.assert_close(
            a[finite], b[finite], rtol=1e-10, atol=1e-10 * (1.0 + scale), msg=lambda text, name=name: f"{name}: {text}"
        )
