"""Matrices that a batch shares are read, checked, equilibrated and factored once; nobody can tell from the results."""

import numpy as np
import pytest
from problems import random_feasible

import qp_control as qc

FIELDS = ["x", "y", "z", "w", "objective", "status", "iterations", "primal_residual", "dual_residual", "duality_gap"]


def shared_problem(n, rng, batch=37):
    """Vectors of very different sizes, so that the scaling of the objective differs too; every fifth bound crosses."""
    arguments = random_feasible(3, n, n // 5, n, active=0.4).arguments()
    arguments["g"] = arguments["g"] * 10.0 ** rng.uniform(-4, 6, size=(batch, 1))
    arguments["b"] = np.broadcast_to(arguments["b"], (batch, *arguments["b"].shape)).copy()
    arguments["l"] = np.broadcast_to(arguments["l"], (batch, n)).copy()
    arguments["l"][::5, 0] = arguments["u"][0] + 1.0
    return arguments


def with_own_matrices(arguments, batch=37):
    own = dict(arguments)
    for name in ("H", "A", "C"):
        own[name] = np.broadcast_to(arguments[name], (batch, *arguments[name].shape)).copy()
    return own


@pytest.mark.parametrize("infeasible", ["certify", "closest"])
@pytest.mark.parametrize("n", [6, 30])
def test_shared_matrices_give_the_bits_of_matrices_of_their_own(n, infeasible):
    arguments = shared_problem(n, np.random.default_rng(n))
    for threads in (1, 3):
        settings = qc.Settings(infeasible=infeasible, threads=threads)
        shared = qc.solve_qp(**arguments, settings=settings)
        own = qc.solve_qp(**with_own_matrices(arguments), settings=settings)
        assert np.sum(shared.status == qc.Status.SOLVED) > 20  # of 37; every fifth has crossed bounds
        assert np.sum(shared.status != qc.Status.SOLVED) == 8
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(shared, name), getattr(own, name), err_msg=name)


def with_own_rows(arguments, rng, batch=37):
    """Rows of different sizes, so that the equilibration of the shared H differs too; x as it was is still feasible."""
    own = {name: np.broadcast_to(v, (batch, *v.shape[-1:])).copy() for name, v in arguments.items() if name in "blu"}
    for matrix, bounds in (("A", "b"), ("C", "lu")):
        size = 10.0 ** rng.uniform(-3, 3, size=(batch, len(arguments[matrix])))
        own[matrix] = size[..., None] * arguments[matrix]
        for name in bounds:
            own[name] = size * own[name]
    return arguments | own


@pytest.mark.parametrize("infeasible", ["certify", "closest"])
@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("curvature", [None, 1e-3, -1e-15])
def test_shared_hessian_gives_the_bits_of_one_of_their_own(n, infeasible, curvature):
    """Also where it is diagonal, and where rounding leaves it just short of semidefinite."""
    rng = np.random.default_rng(n)
    arguments = with_own_rows(shared_problem(n, rng), rng)
    if curvature == -1e-15:
        arguments["H"] = np.outer(*[np.linspace(-1.0, 1.0, n)] * 2) + curvature * np.eye(n)
        for name, bound in (("lb", -100.0), ("ub", 100.0)):
            arguments[name] = np.full(n, bound)
    elif curvature:
        arguments["H"] = np.diag(np.linspace(curvature, 1.0, n))
    for threads in (1, 3):
        settings = qc.Settings(infeasible=infeasible, threads=threads)
        shared = qc.solve_qp(**arguments, settings=settings)
        own = arguments | {"H": np.broadcast_to(arguments["H"], (37, n, n)).copy()}
        alone = qc.solve_qp(**own, settings=settings)
        assert np.sum(shared.status == qc.Status.SOLVED) > 20
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name), err_msg=name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("name", ["g", "A", "C"])
def test_one_bad_element_leaves_no_trace_where_the_hessian_is_shared(n, name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(n)
    arguments = with_own_rows(shared_problem(n, rng), rng)
    layer = qc.QPLayer(qc.Settings(threads=1))
    tensors = {key: torch.tensor(value) for key, value in arguments.items()}
    good = layer(**tensors)
    tensors[name] = tensors[name].clone()
    tensors[name][0].view(-1)[0] = float("nan")
    bad = layer(**tensors)
    assert qc.Status(int(bad.status[0])) is qc.Status.INVALID_INPUT
    assert torch.equal(bad.x[1:], good.x[1:]) and torch.equal(bad.z[1:], good.z[1:])
    for H, status in ((-np.eye(n), qc.Status.NON_CONVEX), (np.full((n, n), np.nan), qc.Status.INVALID_INPUT)):
        out = layer(**tensors | {"H": torch.tensor(H)})
        assert (out.status[1:] == int(status)).all()


@pytest.mark.parametrize("n", [6, 30])
def test_one_bad_vector_leaves_no_trace_where_matrices_are_shared(n):
    arguments = shared_problem(n, np.random.default_rng(n))
    layer = qc.QPLayer(qc.Settings(threads=1, on_failure="nan"))
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(value) for name, value in arguments.items()}
    good = layer(**tensors)
    tensors["g"] = tensors["g"].clone()
    tensors["g"][0, 0] = float("nan")
    with pytest.warns(RuntimeWarning, match="INVALID_INPUT"):
        bad = layer(**tensors)
    assert qc.Status(int(bad.status[0])) is qc.Status.INVALID_INPUT
    assert torch.equal(bad.x[1:], good.x[1:]) and torch.equal(bad.z[1:], good.z[1:])


@pytest.mark.parametrize("n", [6, 30])
def test_shared_matrices_that_make_no_problem_fail_for_every_element(n):
    torch = pytest.importorskip("torch")
    arguments = shared_problem(n, np.random.default_rng(n))
    for matrix, status in ((-np.eye(n), qc.Status.NON_CONVEX), (np.full((n, n), np.nan), qc.Status.INVALID_INPUT)):
        tensors = {name: torch.tensor(value) for name, value in (arguments | {"H": matrix}).items()}
        with pytest.warns(RuntimeWarning, match=status.name):
            out = qc.QPLayer(qc.Settings(threads=1))(**tensors)
        assert (out.status == int(status)).all()


@pytest.mark.parametrize("n", [2, 30])
def test_entries_that_scaling_could_push_below_the_normal_numbers_change_no_bits(n):
    """A neighbour with a large g asks for another scale of the objective, and H is scaled in place."""
    H = np.eye(n)
    H[0, 1] = H[1, 0] = 1.23456789e-300
    g = np.zeros((200, n))
    g[:, 1] = -1.0
    g[::3] = 1e13
    together = qc.solve_qp(H, g, settings=qc.Settings(threads=1))
    for i in (0, 1, 2, 100, 197, 199):
        np.testing.assert_array_equal(qc.solve_qp(H, g[i]).x, together.x[i])


def test_asymmetric_matrix_is_refused_in_an_empty_batch_too():
    torch = pytest.importorskip("torch")
    H, g = torch.tensor([[1.0, 5.0], [0.0, 1.0]], dtype=torch.float64), torch.ones(0, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="H is not symmetric"):
        qc.QPLayer()(H, g)
