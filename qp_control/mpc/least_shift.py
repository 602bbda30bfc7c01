"""Nonlinear optimal-control problems whose limits cannot be met: the least shift, and the cheapest plan that has it.

The least shift is the minimum of 1/2 |violation|^2 over the trajectories of the dynamics. As the violations do not
vanish, the QP around a trajectory, which is all that Gauss-Newton uses, does not lead there: its steps cycle where rows
are nearly dependent. So the method solves the elastic problem (`Elastic`)

    minimise    share * cost + 1/2 weight * |violation|^2    subject to the dynamics

which is smooth, with the Hessian of its Lagrangian, for a share that decreases to _SHARES[-1]. Along the way the
violation tends to the least one and the trajectory v to the cheapest of those that have it (Tikhonov). The remaining
slope of the first level is share * (slope of the cost); a last problem with the cost 1/2 |v - v_k|^2 removes it.
Problems whose violations vanish with the share have a feasible point after all, and return to the ordinary method.

Both problems are regular: derivatives are those of a composition of implicit functions.

Source: A. N. Tikhonov, Soviet Mathematics Doklady 4 (1963); for two levels, M. Solodov, J. Convex Anal. 14 (2007).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qp_control.mpc.elastic import Elastic
from qp_control.mpc.merit import violation
from qp_control.mpc.nonlinear_kkt import cost_blocks, cost_size, cost_slopes, cost_value, with_curvature
from qp_control.mpc.nonlinear_ocp import NonlinearOcp
from qp_control.mpc.sqp_steps import SqpSettings, iterate, part
from qp_control.ocp.layer import OcpLayer, OcpLayerSolution
from qp_control.settings import Status

# A violation's weight, relative to the largest entry of the cost's Hessian, and the shares of the cost.
_WEIGHT, _SHARES = 10.0, (1.0, 1e-2, 1e-4)
_FEASIBLE = 0.1  # violations that decrease by more with the second share tend to zero
_LEVELS = 1e-8  # tolerance of the dual residual relative to the share
_SHIFTS = tuple(name for name in OcpLayerSolution._fields if name.startswith("s_"))
_LEAST = 1e-5  # slope of 1/2 |violation|^2 at the least shift, relative to its largest entry or one


@dataclass(frozen=True)
class Shifted:
    """Solutions of the elastic problems of some elements, for derivatives."""

    solved: Tensor
    """(B,): elements with status CLOSEST_FEASIBLE."""
    weight: Tensor
    cheap: OcpLayerSolution
    """With the cost."""
    least: OcpLayerSolution
    """Near `cheap`."""


def least_shift(
    ocp: NonlinearOcp, x: Tensor, u: Tensor, layer: OcpLayer, settings: SqpSettings
) -> tuple[OcpLayerSolution, Shifted]:
    """Solve from the trajectory x (B, N + 1, nx), u (B, N, nu).

    Returns the solution and what its derivatives need. Its multipliers are those of the second level, of the cost among
    the least shifts; primal_residual: the largest of the gaps, the violations beyond the shifts, and the entries of the
    slope of 1/2 |violation|^2 along the dynamics; dual_residual: that of the last problem with the cost, divided by its
    share. Status CLOSEST_FEASIBLE: all problems were solved, and primal_residual is within 1e-5 (settings.eps, if that
    is larger) of the largest shift, or of one. MAX_ITER: the others, with the last trajectory that was reached.
    """
    path = _Path(ocp, x, u, layer, settings)
    sizes = []
    for share in _SHARES[:2]:
        path.follow(Elastic(ocp, path.weight, share))
        sizes.append(violation(ocp, path.point.x, path.point.u))
    back = path.back(sizes[1] <= _FEASIBLE * sizes[0], _SHARES[1])
    for share in _SHARES[2:]:
        path.follow(Elastic(ocp, path.weight, share))
    cheap = path.point
    last = Elastic(ocp, path.weight, _SHARES[-1], (cheap.x, cheap.u))
    path.follow(last)
    found = _of_two_levels(ocp, cheap, path.point, last)
    reached = torch.zeros(ocp.batch, dtype=torch.bool).index_fill(0, path.going, True)
    largest = torch.cat([getattr(found, name).flatten(1) for name in _SHIFTS], 1).amax(1).clamp_min(1.0)
    reached &= found.primal_residual <= max(settings.eps, _LEAST) * largest
    found = found._replace(
        status=torch.where(reached, int(Status.CLOSEST_FEASIBLE), int(Status.MAX_ITER)), iterations=path.steps
    )
    for which, point in back:
        for name in OcpLayerSolution._fields:
            getattr(found, name)[which] = getattr(point, name)
    return found, Shifted(reached, path.weight, cheap, path.point)


def shifted_trajectory(ocp: NonlinearOcp, shifted: Shifted, layer: OcpLayer) -> tuple[Tensor, Tensor]:
    """States and inputs of the solution, with derivatives."""
    status = torch.where(shifted.solved, int(Status.SOLVED), int(Status.MAX_ITER))

    def differentiable(elastic: Elastic, point: OcpLayerSolution) -> OcpLayerSolution:
        problem, x, u = elastic.problem(), point.x, point.u
        curvature = problem.curvature(x, u, point.y, point.z, point.z_N)
        exact = with_curvature(problem.around(x, u), problem, x, u, *curvature)
        return layer.at_solution(exact, point._replace(status=status))

    cheap = differentiable(Elastic(ocp, shifted.weight, _SHARES[-1]), shifted.cheap)
    least = differentiable(Elastic(ocp, shifted.weight, _SHARES[-1], (cheap.x, cheap.u)), shifted.least)
    return least.x, least.u


class _Path:
    """Some elements, and their progress."""

    def __init__(self, ocp: NonlinearOcp, x: Tensor, u: Tensor, layer: OcpLayer, settings: SqpSettings) -> None:
        self.ocp, self.x, self.u, self.layer = ocp, x, u, layer
        self.settings = settings
        size = cost_size(ocp.data, ocp).detach()
        self.weight = torch.where(size > 0.0, _WEIGHT * size, 1.0)
        self.going = torch.arange(ocp.batch)
        self.steps = torch.zeros_like(self.going)
        self.point: Any = None

    def follow(self, elastic: Elastic) -> None:
        """Solve from the solution of the last problem; elements that fail stay there and stop."""
        which, first = self.going, self.point is None
        if not len(which):
            return
        problem = elastic.problem().element(which)
        start = None if first else part(self.point, which)
        x, u = (self.x[which], self.u[which]) if first else (self.point.x[which], self.point.u[which])
        qp_settings = self.layer.settings
        layer = OcpLayer(dataclasses.replace(qp_settings, eps_abs=qp_settings.eps_abs * elastic.share))
        # Full steps later on: the gaps that they open close again, whereas penalties of gaps allow only tiny steps.
        eps = min(self.settings.eps, _LEVELS)
        settings = dataclasses.replace(self.settings, hessian="exact", eps=eps, line_search=first)
        found, _ = iterate(problem, x, u, layer, settings, start, dual_eps=_LEVELS * elastic.share, repair=not first)
        self.steps[which] += found.iterations
        good = found.status == Status.SOLVED
        if first:
            self.point = found
        else:
            self.point = OcpLayerSolution(*(value.clone() for value in self.point))
            for name in OcpLayerSolution._fields:
                getattr(self.point, name)[which[good]] = getattr(found, name)[good]
        self.going = which[good]

    def back(self, candidates: Tensor, share: float) -> list[tuple[Tensor, OcpLayerSolution]]:
        """Solve the original problem where it seems to have feasible points: elements and solutions."""
        which = self.going[candidates[self.going]]
        if not len(which):
            return []
        point, elastic = self.point, Elastic(self.ocp, self.weight, share)
        z, z_N, w_x, w_u = elastic.unfold(point.z / share, point.z_N / share)
        start = part(point._replace(y=point.y / share, z=z, z_N=z_N, w_x=w_x, w_u=w_u), which)
        found, _ = iterate(self.ocp.element(which), start.x, start.u, self.layer, self.settings, start, leave=True)
        solved = found.status == Status.SOLVED
        self.steps[which] += found.iterations
        found = found._replace(iterations=self.steps[which])
        self.going = self.going[~torch.isin(self.going, which[solved])]
        return [(which[solved], part(found, solved))]


def _of_two_levels(
    ocp: NonlinearOcp, cheap: OcpLayerSolution, least: OcpLayerSolution, last: Elastic
) -> OcpLayerSolution:
    """The point `least`, solution of `last`, as one of the original problem; see `least_shift`."""
    problem, share = last.problem(), _SHARES[-1]
    z, z_N, w_x, w_u = last.unfold((cheap.z - least.z) / share, (cheap.z_N - least.z_N) / share)
    lower = last.unfold(least.slack_lower, least.slack_lower_N)
    upper = last.unfold(least.slack_upper, least.slack_upper_N)
    data = problem.around(least.x, least.u).data()
    slacks = {}
    for end in ("", "_N"):
        for side in ("lower", "upper"):
            slack = getattr(cheap, f"slack_{side}{end}")
            if f"lower{end}" in data:
                soft = torch.isinf(data[f"lower{end}"]) & torch.isinf(data[f"upper{end}"])
                slack = torch.where(soft, slack, 0.0)
            slacks[side + end] = slack
    slack_lower, slack_lower_N, _, _ = last.unfold(slacks["lower"], slacks["lower_N"])
    slack_upper, slack_upper_N, _, _ = last.unfold(slacks["upper"], slacks["upper_N"])
    blocks = cost_blocks(problem.data, problem)
    slope = torch.cat([v.flatten(1) for v in cost_slopes(blocks, least.x, least.u)], 1).abs().amax(1)
    objective = cost_value(cost_blocks(ocp.data, ocp), least.x, least.u)
    return OcpLayerSolution(
        x=least.x,
        u=least.u,
        y=(cheap.y - least.y) / share,
        z=z,
        z_N=z_N,
        w_x=w_x,
        w_u=w_u,
        s_lower=lower[0],
        s_upper=upper[0],
        s_lower_N=lower[1],
        s_upper_N=upper[1],
        s_x_lower=lower[2],
        s_x_upper=upper[2],
        s_u_lower=lower[3],
        s_u_upper=upper[3],
        slack_lower=slack_lower,
        slack_upper=slack_upper,
        slack_lower_N=slack_lower_N,
        slack_upper_N=slack_upper_N,
        objective=objective,
        status=least.status,
        iterations=least.iterations,
        primal_residual=torch.maximum(least.primal_residual, slope / last.weight),
        dual_residual=cheap.dual_residual / share,
        duality_gap=torch.zeros_like(objective),
    )
