"""What a tick does where the closest feasible problem is out of reach: here, of the number of steps."""

from __future__ import annotations

import math

import numpy as np
import torch
from control_setups import FEET, stand
from test_inverse_dynamics_levels import ARM_TORQUES, limit, reach, residuals_at

import qp_control as qc


def contradicting(max_iter):
    contacts = [qc.PointContact(foot, min_force=400.0, max_force=500.0, weight=math.inf) for foot in FEET]
    controller, q = stand(contacts=contacts, limits=[qc.TorqueLimit(12.0)], settings=qc.Settings(max_iter=max_iter))
    return controller, q.numpy(), np.full(18, 0.05)


def test_soft_rows_shift_nearly_the_least_and_hold_what_is_hard():
    controller, q, v = contradicting(2000)
    exact = controller.compute(q, v)
    assert exact.status == qc.Status.CLOSEST_FEASIBLE
    weights = np.concatenate([w.numpy() for w in controller.shift_weights])[: len(exact.shift)]
    weights = np.where(np.isfinite(weights), weights, 0.0)
    least = float(np.sqrt(weights @ np.square(exact.shift)))
    assert least > 1.0
    problem = controller.build(torch.from_numpy(q), torch.from_numpy(v))
    A, b = problem.A.detach().numpy(), problem.b.detach().numpy()
    hard = [k for k, name in enumerate(controller.row_names) if name.startswith(("dynamics", "torque"))]
    found = 0
    for max_iter in range(14, 20):
        soft = contradicting(max_iter)[0].compute(q, v)
        if soft.status != qc.Status.CLOSEST_FEASIBLE or np.abs(soft.torque - exact.torque).max() < 1e-3:
            continue
        found += 1
        assert bool((np.abs(soft.torque) <= 12.0).all())
        # The price is a million times the cost.
        np.testing.assert_allclose(np.sqrt(weights @ np.square(soft.shift)), least, rtol=1e-3)
        # The robot does move as the torques and forces say.
        np.testing.assert_array_equal(soft.shift[hard], 0.0)
        np.testing.assert_allclose((A @ soft.x - b)[:6], 0.0, atol=1e-4)
    assert found >= 3


def test_a_level_that_cannot_be_finished_takes_the_part_of_its_step_that_rows_allow():
    exact, q, v = reach([limit("arm")])
    found = 0
    for max_iter in range(10, 15):
        controller = reach([limit("arm")], settings=qc.Settings(eps_abs=1e-9, max_iter=max_iter))[0]
        for i in range(len(q)):
            exact.reset()
            controller.reset()
            whole, part = (c.compute(q[i].numpy(), v[i].numpy()) for c in (exact, controller))
            assert whole.status == qc.Status.SOLVED
            if part.status != qc.Status.CLOSEST_FEASIBLE or part.shift.max() > 1e-8:
                continue  # finished, or the first level was not
            found += 1
            assert bool((np.abs(part.torque) <= ARM_TORQUES).all())
            cost = [np.square(residuals_at(exact, q[i : i + 1], v[i : i + 1], t.x))[0, :3].sum() for t in (whole, part)]
            np.testing.assert_allclose(*cost, rtol=1e-6, atol=1e-6)  # the first level's
    assert found >= 3
