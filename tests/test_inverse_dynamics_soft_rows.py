"""What a tick does where the closest feasible problem is out of the reach of double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_inverse_dynamics import FEET, stand

import qp_control as qc


def contradicting():
    contacts = [qc.PointContact(foot, min_force=400.0, max_force=500.0, weight=math.inf) for foot in FEET]
    controller, q = stand(contacts=contacts, limits=[qc.TorqueLimit(12.0)])
    return controller, q.numpy(), np.zeros(18)


def without_levels(controller):
    """Its solver stops after one step, but for that of the soft rows."""
    loop, _ = controller._prepared()
    loop.settings = qc.Settings(max_iter=1).native("closest")
    return controller


def test_soft_rows_shift_nearly_the_least_and_hold_what_is_hard():
    controller, q, v = contradicting()
    exact = controller.compute(q, v)
    controller.reset()
    soft = without_levels(controller).compute(q, v)
    assert exact.status == soft.status == qc.Status.CLOSEST_FEASIBLE
    assert bool((np.abs(soft.torque) <= 12.0).all())
    weights = np.concatenate([w.numpy() for w in controller.shift_weights])[: len(exact.shift)]
    weights = np.where(np.isfinite(weights), weights, 0.0)
    least, found = (float(np.sqrt(weights @ np.square(tick.shift))) for tick in (exact, soft))
    # The price is a million times the cost.
    assert least > 1.0 and found == pytest.approx(least, rel=1e-3)
    # The robot does move as the torques and forces say.
    hard = soft.shift[[k for k, name in enumerate(controller.row_names) if name.startswith(("dynamics", "torque"))]]
    np.testing.assert_array_equal(hard, 0.0)
    problem = controller.build(torch.from_numpy(q), torch.from_numpy(v))
    A, b = problem.A.detach().numpy(), problem.b.detach().numpy()
    np.testing.assert_allclose((A @ soft.x - b)[:6], 0.0, atol=1e-4)
    assert controller.compute(q, v).status == qc.Status.CLOSEST_FEASIBLE


def test_where_nothing_contradicts_soft_rows_have_nearly_the_solution():
    controller, q = stand(limits=[qc.TorqueLimit()])
    q, v = q.numpy(), 0.05 * np.ones(18)
    exact = controller.compute(q, v)
    assert exact.status == qc.Status.SOLVED
    controller.reset()
    soft = without_levels(controller).compute(q, v)
    assert soft.status == qc.Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(soft.torque, exact.torque, rtol=0, atol=1e-2)
    assert soft.shift.max() < 1e-2
