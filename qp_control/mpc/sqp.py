"""Multiple-shooting SQP for batches of nonlinear optimal-control problems, and gradients of the converged solution.

`sqp_steps` has the method for problems whose limits can be met. Elements whose limits cannot continue in `least_shift`.

`implicit` gives the converged point its derivatives by the implicit function theorem: those of the QP around it with
the Hessian of the Lagrangian as it is. That QP has the KKT matrix of the nonlinear problem, and its data depend on the
parameters as the nonlinear problem's KKT conditions do: through the values and the Jacobians of f and h.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qp_control.mpc.least_shift import Shifted, least_shift, shifted_trajectory
from qp_control.mpc.nonlinear_kkt import with_curvature
from qp_control.mpc.nonlinear_ocp import NonlinearOcp
from qp_control.mpc.sqp_steps import SqpSettings, iterate
from qp_control.ocp.layer import OcpLayer, OcpLayerSolution
from qp_control.ocp.problem import OcpQP
from qp_control.settings import Status

__all__ = ["Answers", "SqpSettings", "implicit", "solve_sqp"]


class Answers(NamedTuple):
    """What `solve_sqp` found."""

    point: OcpLayerSolution
    which: Tensor
    """Indices of the elements whose limits are shifted by `least_shift`."""
    shifted: Shifted | None


@torch.no_grad()
def solve_sqp(
    ocp: NonlinearOcp,
    states: Tensor,
    inputs: Tensor,
    layer: OcpLayer,
    settings: SqpSettings | None = None,
    warm_start: Any = None,
    qp: OcpQP | None = None,
) -> Answers:
    """Solve from the trajectory states (B, N + 1, nx), inputs (B, N, nu).

    layer: solves the QPs. warm_start: that of the first QP, with x, u, y, z, z_N, w_x, w_u. qp: the QP around that
    trajectory, which starts at x0, if it is known.

    Returns the trajectory in x and u with its multipliers and shifts; iterations: SQP steps; primal_residual,
    dual_residual: of the nonlinear problem; status: SOLVED if the residuals are within the tolerance, CLOSEST_FEASIBLE
    as defined in `least_shift`, MAX_ITER, or that of a QP without an answer, whose element keeps its last trajectory.
    No gradients.
    """
    settings = settings or SqpSettings()
    point, left = iterate(ocp, states, inputs, layer, settings, warm_start, qp=qp, leave=True)
    which, shifted = left.nonzero()[:, 0], None
    if len(which):
        found, shifted = least_shift(ocp.element(which), point.x[which], point.u[which], layer, settings)
        found = found._replace(iterations=found.iterations + point.iterations[which])
        for name in OcpLayerSolution._fields:
            getattr(point, name)[which] = getattr(found, name)
    return Answers(point, which, shifted)


def implicit(ocp: NonlinearOcp, answers: Answers, layer: OcpLayer) -> OcpLayerSolution:
    """The converged solution as a differentiable function of x0, data, rows and parameters of the problem.

    Elements that have not converged have no gradients. Shifted ones have gradients in x and u.
    """
    point, which, shifted = answers
    x, u = point.x, point.u
    curvature = ocp.curvature(x, u, point.y, point.z, point.z_N)
    exact = with_curvature(ocp.around(x, u), ocp, x, u, *curvature)
    if shifted is None:
        return layer.at_solution(exact, point)
    here = which[shifted.solved]
    out = layer.at_solution(exact, point._replace(status=point.status.index_fill(0, here, int(Status.MAX_ITER))))
    x, u = shifted_trajectory(ocp.element(which), shifted, layer)
    x = out.x.index_copy(0, here, x[shifted.solved])
    return out._replace(x=x, u=out.u.index_copy(0, here, u[shifted.solved]), status=point.status)
