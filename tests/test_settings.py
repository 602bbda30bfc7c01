"""Settings that are out of range or of another type are refused by name, by all who take some."""

import re

import numpy as np
import pytest
import torch

import qp_control as qc

INF = np.inf


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("eps_abs", 0.0),
        ("eps_abs", -1.0),
        ("eps_abs", np.nan),
        ("eps_abs", INF),
        ("eps_rel", -1e-3),
        ("eps_rel", np.nan),
        ("eps_rel", INF),
        ("reduced_eps_rel", -1e-3),
        ("reduced_eps_rel", np.nan),
        ("eps_gap", 0.0),
        ("eps_gap", -1.0),
        ("eps_gap", np.nan),
        ("max_iter", 0),
        ("max_iter", -5),
        ("max_iter", 1.5),
        ("max_iter", 2**40),
        ("max_iter", None),
        ("max_iter", np.inf),
        ("max_iter", np.nan),
        ("max_iter", "10"),
        ("max_iter", [10]),
        ("eps_abs", "1e-3"),
        ("eps_abs", None),
        ("eps_rel", 10**400),
        ("eps_gap", "1"),
        ("reduced_eps_rel", 1j),
        ("time_limit", "1"),
        ("time_limit", 0.0),
        ("time_limit", -1.0),
        ("time_limit", np.nan),
        ("infeasible", "sometimes"),
        ("on_failure", "ignore"),
        ("threads", -1),
        ("threads", 1.5),
        ("threads", 10**9),
        ("threads", None),
        ("threads", np.inf),
        ("weakly_active", "always"),
        ("smoothing", 0.0),
        ("smoothing", "small"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_name_and_what_was_given(option, value):
    with pytest.raises(ValueError, match=re.escape(f"{option} is {value!r}, expected")):
        qc.Settings(**{option: value})


def test_numbers_of_any_kind_are_settings():
    settings = qc.Settings(eps_abs=np.float32(1e-6), max_iter=np.int64(50), time_limit=np.inf, threads=1.0)
    assert qc.solve_qp(np.eye(2), np.ones(2), settings=settings).status == qc.Status.SOLVED


def test_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="epsilon"):
        qc.Settings(epsilon=1e-3)


def takers_of_settings():
    qp = {"H": np.eye(2), "g": np.ones(2)}
    solution = qc.solve_qp(**qp)
    ocp = qc.OcpQP(np.eye(1), np.eye(1), np.ones(1), 2, R=np.eye(1))
    trajectory = qc.solve_ocp(**ocp.arguments())
    return {
        "solve_qp": lambda settings: qc.solve_qp(**qp, settings=settings),
        "solve_qps": lambda settings: qc.solve_qps([qp], settings=settings),
        "qp_adjoint": lambda settings: qc.qp_adjoint(**qp, solution=solution, x=np.ones(2), settings=settings),
        "qp_tangent": lambda settings: qc.qp_tangent(**qp, solution=solution, dg=np.ones(2), settings=settings),
        "QPLayer": qc.QPLayer,
        "solve_ocp": lambda settings: qc.solve_ocp(**ocp.arguments(), settings=settings),
        "ocp_adjoint": lambda settings: qc.ocp_adjoint(ocp, trajectory, settings=settings),
        "ocp_tangent": lambda settings: qc.ocp_tangent(ocp, trajectory, settings=settings),
        "ocp_gain": lambda settings: qc.ocp_gain(ocp, trajectory, settings=settings),
        "OcpLayer": qc.OcpLayer,
        "MPC": lambda settings: qc.MPC(qc.TorchDynamics(torch.add, 1, 1), 2, settings=settings),
    }


@pytest.mark.parametrize("given", [{"eps_abs": 1e-3}, {}, 5, 0, "fast", qc.Settings])
@pytest.mark.parametrize("name", takers_of_settings())
def test_what_is_no_settings_is_refused_by_all_who_take_some(name, given):
    take = takers_of_settings()[name]
    take(None)
    take(qc.Settings(threads=1))
    with pytest.raises(TypeError, match=re.escape(f"settings is {given!r}, expected a qp_control.Settings")):
        take(given)
