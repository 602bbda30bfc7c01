"""What the line search of the SQP is told: slopes of the penalty functions, against differences along the step."""

from __future__ import annotations

import pytest
import torch

import qp_control as qc
from qp_control.mpc.merit import Penalty
from qp_control.mpc.nonlinear_ocp import NonlinearOcp
from qp_control.systems import cart_pole


@pytest.mark.parametrize("limit", [3.0, 0.05], ids=["limits that hold", "limits out of reach"])
def test_penalty_falls_at_least_as_fast_as_its_slope_says(limit):
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(4, 11, 4, generator=generator, dtype=torch.float64)
    u = torch.randn(4, 10, 1, generator=generator, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    bound = torch.tensor([limit, limit, 9.0, 9.0], dtype=torch.float64)
    data = {"Q": eye, "R": eye[:1, :1], "Q_N": eye, "x_lower": -bound, "x_upper": bound}
    data |= {"u_lower": -4 * eye[0, :1], "u_upper": 4 * eye[0, :1]}
    dynamics = cart_pole()
    ocp = NonlinearOcp(dynamics, 10, x[:, 0], data, dynamics.parameters)
    qp = ocp.around(x, u)
    found = qc.OcpLayer(horizon=10).solve(qp)
    expected = qc.Status.SOLVED if limit > 1.0 else qc.Status.CLOSEST_FEASIBLE
    assert (found.status == expected).all()
    penalty = Penalty(ocp, qp, x, u, found, torch.zeros(4, dtype=torch.float64))
    assert (penalty.slope < 0.0).all()
    h = 1e-7
    ahead = penalty(x + h * (found.x - x), u + h * (found.u - u))
    difference = (ahead - penalty.start) / h
    # Rounding of the values over h, and curvature times h.
    assert (difference <= penalty.slope + 1e-4 * penalty.start.abs().clamp_min(1.0)).all()
    # And not much faster: a slope near zero would accept anything.
    assert (difference >= 5.0 * penalty.slope).all()
