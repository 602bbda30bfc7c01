"""ocp_adjoint and ocp_tangent: values against the layer's, certificates, bad arguments."""

import numpy as np
import pytest
import torch
from ocp_problems import random_ocp
from test_ocp_layer import FIELDS, KINDS, gradients, loss_of, tensors
from test_ocp_shifted_adjoint import box_out_of_reach
from test_ocp_soft import soft_ocp
from test_ocp_tangent import directions, tangents

import qp_control as qc
from qp_control.ocp.problem import OCP_NAMES

CLOSEST = qc.Settings(infeasible="closest")
CASES = {name: (lambda options=options: random_ocp(2, **options)) for name, options in KINDS.items()}
CASES |= {"soft": lambda: soft_ocp(1), "shifted": lambda: box_out_of_reach(1)}


def solved(d, N, settings=CLOSEST):
    qp = qc.OcpQP(**d, horizon=N)
    return qp, qc.solve_ocp(**qp.arguments(), settings=settings)


def in_a_batch(d):
    rng = np.random.default_rng(0)
    return d | {
        name: np.stack([d[name] + 0.01 * rng.normal(size=d[name].shape) for _ in range(3)]) for name in ("q_N",)
    }


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_the_layer(case, batched):
    d, N = CASES[case]()
    d = in_a_batch(d) if batched else d
    qp, solution = solved(d, N)
    data, change = tensors(d), directions(d)
    layer = qc.OcpLayer(horizon=N)
    out = layer(**data)
    weights = np.random.default_rng(0)
    loss = {name: weights.normal(size=np.shape(getattr(solution, name))) for name in FIELDS}
    found = qc.ocp_adjoint(qp, solution, **loss)
    for name, gradient in gradients(loss_of(out), data).items():
        value = getattr(found, name)
        assert value.shape == d[name].shape
        scale = max(1.0, np.abs(value).max(initial=0.0))
        np.testing.assert_allclose(value, gradient, rtol=0, atol=1e-9 * scale, err_msg=name)
    assert all(getattr(found, name) is None for name in OCP_NAMES if name not in d)
    moved = qc.ocp_tangent(qp, solution, **{f"d{name}": value.numpy() for name, value in change.items()})
    for name, dual in tangents(lambda dual: layer(**dual), data, change).items():
        value, expected = getattr(moved, name), dual.tangent.numpy()
        assert np.shape(value) == expected.shape
        scale = max(1.0, np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9 * scale, err_msg=name)
    for certificate in (found, moved):
        assert np.shape(certificate.residual) == ((3,) if batched else ())
        assert np.all(np.asarray(certificate.residual) < 1e-11)
        assert not np.any(certificate.weakly_active) and not np.any(certificate.rank_deficiency)


def test_what_is_not_given_does_not_change():
    d, N = random_ocp(0, rows=1)
    qp, solution = solved(d, N)
    one, other = np.zeros(4), np.zeros((N, 4))
    one[0] = other[2, 1] = 1.0
    apart = [qc.ocp_tangent(qp, solution, dx0=one), qc.ocp_tangent(qp, solution, dq=other)]
    together = qc.ocp_tangent(qp, solution, dx0=one, dq=other)
    np.testing.assert_allclose(apart[0].u + apart[1].u, together.u, atol=1e-12)
    np.testing.assert_allclose(apart[0].u[0], qc.ocp_gain(qp, solution)[:, 0], atol=1e-10)
    # A change that all stages share is one of each of them.
    shared = qc.ocp_tangent(qp, solution, dq=one)
    np.testing.assert_allclose(shared.x, qc.ocp_tangent(qp, solution, dq=np.tile(one, (N, 1))).x, atol=1e-12)


def kinked():
    """min 1/2 |u|^2 + r'u, u_0 >= 0 at r = (0, 1): u_0 meets its bound without force."""
    one = np.ones((1, 1))
    return {"A": one, "B": np.ones((1, 2)), "R": np.eye(2), "r": np.array([0.0, 1.0]), "x0": np.zeros(1),
            "u_lower": np.array([0.0, -np.inf])}, 1  # fmt: skip


def test_certificate_counts_weakly_active_rows_and_dependent_ones():
    qp, solution = solved(*kinked())
    assert qc.ocp_adjoint(qp, solution, u=np.ones((1, 2))).weakly_active == 1
    assert qc.ocp_tangent(qp, solution, dr=np.ones(2)).weakly_active == 1
    slopes = {
        policy: qc.ocp_tangent(qp, solution, dr=np.array([-1.0, 0.0]), settings=qc.Settings(weakly_active=policy)).u[
            0, 0
        ]
        for policy in ("least_squares", "one_sided", "smoothed")
    }
    assert abs(slopes["least_squares"]) < 1e-12
    assert slopes["one_sided"] == pytest.approx(1.0)
    assert slopes["smoothed"] == pytest.approx(0.5)
    # The bound of the input three times again as a row: in two of three stages it is active.
    d, N = random_ocp(1, nx=2, nu=1, N=3, box=False)
    d |= {"D": np.ones((3, 1)), "upper": np.full(3, -5.0), "u_upper": np.full(1, -5.0)}
    qp, solution = solved(d, N)
    assert solution.status == qc.Status.SOLVED and (solution.u[:, 0] > -5.001).tolist() == [True, True, False]
    found = qc.ocp_adjoint(qp, solution, u=np.ones((N, 1)))
    assert found.rank_deficiency == 3 * 2
    assert found.residual < 1e-10
    assert qc.ocp_tangent(qp, solution, dq_N=np.ones(2)).rank_deficiency == 3 * 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_certificate_is_per_element():
    d, N = random_ocp(3, N=4)
    d["R"] = np.stack([d["R"], -d["R"], d["R"]])
    qp, solution = solved(d, N)
    assert list(solution.status) == [0, qc.Status.NON_CONVEX, 0]
    loss = {"u": np.ones(solution.u.shape), "objective": np.ones(3)}
    found, moved = qc.ocp_adjoint(qp, solution, **loss), qc.ocp_tangent(qp, solution, dR=np.ones((2, 2)))
    for certificate in (found, moved):
        assert np.isnan(certificate.residual[1]) and np.all(certificate.residual[[0, 2]] < 1e-11)
    assert not found.R[1].any() and np.isfinite(found.A).all()
    assert not moved.u[1].any() and moved.u[0].any()
    nan = qc.Settings(on_failure="nan")
    found, moved = (
        qc.ocp_adjoint(qp, solution, **loss, settings=nan),
        qc.ocp_tangent(qp, solution, dR=np.eye(2), settings=nan),
    )
    assert np.isnan(found.R[1]).all() and np.isfinite(found.R[[0, 2]]).all()
    assert np.isnan(moved.u[1]).all() and np.isnan(moved.objective[1]) and np.isfinite(moved.u[[0, 2]]).all()


def test_layer_solutions_are_taken_too():
    d, N = random_ocp(4, rows=1)
    qp, solution = solved(d, N)
    layer = qc.OcpLayer(horizon=N)(**tensors(d, grad=False))
    assert isinstance(layer.x, torch.Tensor)
    a, b = (qc.ocp_adjoint(qp, s, u=np.ones((N, 2))) for s in (solution, layer))
    np.testing.assert_array_equal(a.A, b.A)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda qp, s: qc.ocp_adjoint(qp, s, v=np.ones(3)), TypeError, r"ocp_adjoint\(\) got v, expected some of x, u"),
        (lambda qp, s: qc.ocp_adjoint(qp, s, u=np.ones(3)), ValueError, r"u has shape \(3,\), expected \(8, 2\)"),
        (
            lambda qp, s: qc.ocp_tangent(qp, s, A=np.ones((4, 4))),
            TypeError,
            r"ocp_tangent\(\) got A, expected some of dQ",
        ),
        (
            lambda qp, s: qc.ocp_tangent(qp, s, dA=np.ones((4, 3))),
            ValueError,
            "dA, in the place of A: A has shape",
        ),
        (
            lambda qp, s: qc.ocp_tangent(qp, s, dA=np.ones((7, 4, 4))),
            ValueError,
            "dA, in the place of A: A has 7 stages",
        ),
        (
            lambda qp, s: qc.ocp_tangent(qp, s, dq=np.ones((3, 8, 4))),
            ValueError,
            "dq has a batch of 3, the problem one of 1",
        ),
        (lambda qp, s: qc.ocp_tangent(qp, s, dC=np.ones((1, 4))), ValueError, "dC is given, but the problem has no C"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    qp, solution = solved(*random_ocp(0))
    with pytest.raises(error, match=message):
        call(qp, solution)
