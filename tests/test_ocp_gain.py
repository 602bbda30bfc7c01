"""The feedback gain of an optimal-control QP: against differences, the Riccati equation, and gradients of the layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ocp_problems import random_ocp
from test_ocp_adjoint import KINDS
from test_ocp_layer import tensors
from test_ocp_shifted_adjoint import box_out_of_reach

import qp_control as qc


@pytest.mark.parametrize("kind", ["input boxes", "mixed rows", "all boxes and terminal rows", "beyond the lanes"])
def test_gain_equals_differences_of_the_first_input(kind):
    d, _ = random_ocp(0, **KINDS[kind] | {"tight": 6.0})
    qp, step = qc.OcpQP(**d), 1e-6
    gain = qc.ocp_gain(qp, qc.solve_ocp(**d))
    columns = []
    for direction in np.eye(len(d["x0"])):
        u = [qc.solve_ocp(**d | {"x0": d["x0"] + sign * step * direction}).u[0] for sign in (1.0, -1.0)]
        columns.append((u[0] - u[1]) / (2 * step))
    # The solver polishes to about 1e-13, and u is linear in x0 between kinks.
    np.testing.assert_allclose(gain, np.stack(columns, -1), atol=1e-6)
    assert np.abs(gain).max() > 0.01


def test_gain_far_from_the_constraints_is_that_of_the_riccati_equation():
    d, N = random_ocp(3, box=False)
    P = d["Q_N"]
    for k in reversed(range(N)):
        A, B, S = d["A"][k], d["B"][k], d["S"][k]
        K = -np.linalg.solve(d["R"][k] + B.T @ P @ B, S + B.T @ P @ A)
        P = d["Q"][k] + A.T @ P @ A + (S + B.T @ P @ A).T @ K
    np.testing.assert_allclose(qc.ocp_gain(qc.OcpQP(**d), qc.solve_ocp(**d)), K, rtol=1e-9, atol=1e-10)


def test_gains_of_a_batch_are_those_of_its_elements():
    good, _ = random_ocp(5, N=4, rows=1)
    shifted, _ = box_out_of_reach(6, N=4)
    broken = good | {"c": np.full_like(good["c"], np.nan)}
    batch = {name: np.stack([d[name] for d in (good, shifted, broken, good)]) for name in good}
    with pytest.warns(RuntimeWarning, match="1 of 4"):
        out = qc.OcpLayer()(**tensors(batch, grad=False))
    assert out.status[:2].tolist() == [qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE]
    gains = qc.ocp_gain(qc.OcpQP(**batch), out)
    assert gains.shape == (4, 2, 4) and np.isnan(gains[2]).all()
    for i, d in ((0, good), (1, shifted), (3, good)):
        alone = tensors(d)
        u = qc.OcpLayer()(**alone).u[0]
        rows = [torch.autograd.grad(entry, alone["x0"], retain_graph=True)[0] for entry in u]
        np.testing.assert_allclose(gains[i], torch.stack(rows), rtol=1e-10, atol=1e-10)


def test_gain_without_a_start_is_refused():
    d, _ = random_ocp(0)
    qp, solution = qc.OcpQP(**d), qc.solve_ocp(**d)
    with pytest.raises(ValueError, match="x0 is missing"):
        qc.ocp_gain(replace(qp, x0=None), solution)
    with pytest.raises(ValueError, match=r"solution\.x has shape \(8, 4\), expected \(9, 4\)"):
        qc.ocp_gain(qp, replace(solution, x=solution.x[1:]))
