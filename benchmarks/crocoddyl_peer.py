"""crocoddyl's BoxFDDP on the arm of nonlinear_mpc.py: a problem in as JSON, its answers out.

Run by nonlinear_mpc.py with the interpreter of an environment that has crocoddyl; knows nothing of qp_control.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import crocoddyl
import numpy as np
import pinocchio as pin


def arm(lengths: list[float], masses: list[float]) -> Any:
    """The model of qp_control.systems.seven_joint_arm."""
    model, parent, placement = pin.Model(), 0, pin.SE3.Identity()
    for k, (length, mass) in enumerate(zip(lengths, masses, strict=True)):
        joint = pin.JointModelRZ() if k % 2 == 0 else pin.JointModelRY()
        parent = model.addJoint(parent, joint, placement, f"joint{k + 1}")
        body = pin.Inertia.FromCylinder(mass, 0.05, length)
        model.appendBodyToJoint(parent, body, pin.SE3(np.eye(3), np.array([0.0, 0.0, 0.5 * length])))
        placement = pin.SE3(np.eye(3), np.array([0.0, 0.0, length]))
    return model


def main() -> None:
    p = json.load(sys.stdin)
    model = arm(p["lengths"], p["masses"])
    state = crocoddyl.StateMultibody(model)
    actuation = crocoddyl.ActuationModelFull(state)

    def free(q: list[float], r: list[float], weight: float) -> Any:
        costs = crocoddyl.CostModelSum(state, actuation.nu)
        from_rest = crocoddyl.ResidualModelState(state, np.zeros(2 * model.nv), actuation.nu)
        effort = crocoddyl.ResidualModelControl(state, actuation.nu)
        for name, weights, residual in (("state", q, from_rest), ("input", r, effort)):
            activation = crocoddyl.ActivationModelWeightedQuad(np.array(weights))
            costs.addCost(name, crocoddyl.CostModelResidual(state, activation, residual), weight)
        return crocoddyl.DifferentialActionModelFreeFwdDynamics(state, actuation, costs)

    # Its integrators multiply the cost by the time step, where there is one.
    running = crocoddyl.IntegratedActionModelRK(free(p["q"], p["r"], 1.0 / p["dt"]), crocoddyl.RKType.four, p["dt"])
    running.u_lb, running.u_ub = -np.array(p["bound"]), np.array(p["bound"])
    last = crocoddyl.IntegratedActionModelEuler(free(p["terminal"], [0.0] * model.nv, 1.0), 0.0)
    N = p["horizon"]

    def solve(x0: Any) -> tuple[Any, Any, bool, int]:
        solver = crocoddyl.SolverBoxFDDP(crocoddyl.ShootingProblem(x0, [running] * N, last))
        solver.th_stop = 1e-9
        converged = solver.solve([x0] * (N + 1), [np.zeros(actuation.nu)] * N, 200, False)
        return np.array(solver.xs).tolist(), np.array(solver.us).tolist(), bool(converged), int(solver.iter)

    starts = [np.array(x0) for x0 in p["x0"]]
    found = [solve(x0) for x0 in starts]
    begin = time.perf_counter()
    for _ in range(p["repeats"]):
        for x0 in starts:
            solve(x0)
    took = 1e3 * (time.perf_counter() - begin) / p["repeats"]
    states, inputs, converged, iterations = zip(*found, strict=True)
    answer = {"states": states, "inputs": inputs, "converged": converged, "iterations": iterations}
    print(json.dumps({**answer, "milliseconds": took}))


if __name__ == "__main__":
    main()
