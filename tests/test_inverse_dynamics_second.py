"""Second derivatives of a controller by inverse dynamics against differences of its gradients."""

from __future__ import annotations

import pytest
import torch
from control_setups import SETUPS
from manifold_robots import moved, normal
from test_inverse_dynamics_levels import limit, reach


def setup(kind):
    if kind == "levels":
        return reach([limit("arm")])
    return SETUPS[kind]()


def gradients(controller, q, v, numbers, parameters, weights, create_graph):
    leaves = [t if t.requires_grad else t.clone().requires_grad_() for t in (q, v, parameters, *numbers.values())]
    given = dict(zip(numbers, leaves[3:], strict=True))
    found = controller(leaves[0], leaves[1], given, parameters=leaves[2])
    loss = sum((w * t.square()).sum() for w, t in zip(weights, (found.torque, found.force), strict=True))
    return leaves, torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)


@pytest.mark.parametrize("kind", [*SETUPS, "levels"])
def test_second_derivatives_are_differences_of_the_first(kind):
    """Along a direction of each kind of argument: the Hessian's product with another one."""
    controller, q, v = setup(kind)
    robot = controller.model
    names = [name for name in controller.numbers() if name.split(".")[1] in ("weight", "stiffness", "reference")][:6]
    numbers = {name: controller.numbers()[name].detach().clone() for name in names}
    parameters = robot.parameters.clone()
    with torch.no_grad():
        found = controller(q, v)
    # Accelerations and forces are large numbers; each counts with its size.
    weights = [normal(*t.shape, seed=8) / (1.0 + t.square()) for t in (found.torque, found.force)]
    leaves, first = gradients(controller, q, v, numbers, parameters, weights, True)
    probes = [0.0 if g is None else normal(*g.shape, seed=30 + k) for k, g in enumerate(first)]
    product = sum((g * probe).sum() for g, probe in zip(first, probes, strict=True) if g is not None)
    second = torch.autograd.grad(product, leaves, allow_unused=True)

    def along(t, which, direction):
        at = [q, v, parameters, *numbers.values()]
        if which == 0:
            states = moved(robot.model, torch.cat([q, v], 1), t * direction)
            at[0] = states[:, : robot.nq]
        else:
            at[which] = at[which] + t * direction
        _, found = gradients(controller, at[0], at[1], dict(zip(names, at[3:], strict=True)), at[2], weights, False)
        return float(sum((g * probe).sum() for g, probe in zip(found, probes, strict=True) if g is not None)), at[which]

    for which in range(len(leaves)):
        if which == 0:
            direction = torch.cat([normal(len(q), robot.nv, seed=50), torch.zeros(len(q), robot.nv)], 1).double()
        else:
            at = leaves[which].detach()
            direction = (0.1 * at.abs()).clamp(min=0.01) * normal(*at.shape, seed=50 + which)
        h = 1e-5 if which == 0 else 1e-4
        (ahead, there), (behind, here) = along(h, which, direction), along(-h, which, direction)
        expected = (ahead - behind) / (2.0 * h)
        way = (there - here) / (2.0 * h)
        given = second[which]
        slope = 0.0 if given is None else float((given * way).sum())
        # Differences of order two of gradients with nine to ten digits.
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-5), (kind, which)


def test_a_batch_has_the_second_derivatives_of_its_elements():
    controller, q, v = SETUPS["quadruped"]()

    def product(q, v):
        q = q.clone().requires_grad_()
        (g,) = torch.autograd.grad(controller(q, v).torque.square().sum(), q, create_graph=True)
        return torch.autograd.grad(g.square().sum(), q)[0]

    together = product(q, v)
    for i in range(len(q)):
        torch.testing.assert_close(together[i], product(q[i : i + 1], v[i : i + 1])[0], rtol=1e-6, atol=1e-6)
