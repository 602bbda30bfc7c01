"""Steps of the SQP method, from a trajectory until the problem is solved.

Each step solves the QP around the trajectory (`NonlinearOcp.around`) with the Hessian of the cost (Gauss-Newton) or of
the Lagrangian ("exact", its stages made convex for the step), and searches the line to the QP's solution with the exact
l1 penalty function. The search is non-monotone, below the largest of the last few values, so as not to refuse good
steps.

Sources: J. Nocedal, S. J. Wright, Numerical Optimization (2006), chapter 18; H. G. Bock, K. J. Plitt, IFAC World
Congress 1984; L. Grippo, F. Lampariello, S. Lucidi, SIAM J. Numer. Anal. 23 (1986) (non-monotone line search).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qp_control.mpc.convexification import convexified
from qp_control.mpc.merit import Penalty
from qp_control.mpc.nonlinear_kkt import cost_size, crossing, elements_of, residuals, slack_size
from qp_control.mpc.nonlinear_ocp import NonlinearOcp
from qp_control.ocp.layer import OcpLayer, OcpLayerSolution
from qp_control.ocp.problem import OcpQP
from qp_control.qp.problem import as_integer
from qp_control.settings import Status

_ARMIJO, _MEMORY, _HALVINGS = 1e-4, 5, 12
_CURVED = 1e6  # largest curvature of the dynamics that is trusted, relative to that of the cost
_INEXACT = 1e-8  # residuals of a QP, relative to its largest state or multiplier, that a step may have
_ROUNDING = 1e-12  # of the penalty function, relative
_VANISHING = 0.5  # least decrease of the QPs' shifts, from step to step, on the way to a feasible point
_STRAIGHT = 1e-12  # curvature of the dynamics, relative to the multipliers, that counts as none
_INFINITY = float("inf")


@dataclass(frozen=True)
class SqpSettings:
    """Options of the SQP method."""

    max_iter: int = 50
    """Largest number of SQP steps."""
    eps: float = 1e-8
    """Tolerance on the primal residual, and on the dual one relative to the largest multiplier, or one."""
    hessian: Literal["exact", "gauss_newton"] = "exact"
    """That of the Lagrangian (its stages made convex, if possible without changing the step), or of the cost."""
    line_search: bool = True
    """Shorten steps until the penalty function is low enough; False: take full steps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_iter", as_integer("max_iter", self.max_iter, 1))
        if not 0.0 < self.eps < float("inf"):
            raise ValueError(f"eps is {self.eps}, expected a positive number")
        if self.hessian not in ("gauss_newton", "exact"):
            raise ValueError(f"hessian is {self.hessian!r}, expected 'gauss_newton' or 'exact'")


@torch.no_grad()
def iterate(
    ocp: NonlinearOcp,
    x: Tensor,
    u: Tensor,
    layer: OcpLayer,
    settings: SqpSettings,
    start: Any = None,
    *,
    qp: OcpQP | None = None,
    dual_eps: float | None = None,
    leave: bool = False,
    repair: bool = False,
) -> tuple[OcpLayerSolution, Tensor]:
    """SQP steps from the trajectory x (B, N + 1, nx), u (B, N, nu).

    start: that of the first QP; an `OcpLayerSolution` is taken to have the multipliers of the trajectory, whose
    curvature then counts from the first step on. qp: the first QP, if it is known. dual_eps: tolerance of the dual
    residual, if it is not settings.eps. leave: stop elements whose QPs remain infeasible, unless shifting the QP's rows
    is all that can be done. repair: for QPs that are not convex, see `convexified`.

    Returns the answers, and which elements (B,) were stopped that way, with the trajectory they had.
    """
    run = _Run(ocp, torch.cat([ocp.x0[:, None], x[:, 1:]], 1), u, start, repair)
    for iteration in range(settings.max_iter + 1):
        if iteration > 0 or qp is None:
            qp = run.ocp.around(run.x, run.u)
        if iteration > 0:
            stay = run.judge(qp, iteration, settings, dual_eps or settings.eps)
            if iteration == settings.max_iter or not bool(stay.any()):
                break
            if not bool(stay.all()):
                qp = run.keep(stay, qp)
        found = run.step(qp, layer, settings)
        useful = _useful(found)
        if leave:
            useful &= ~run.leave(qp, found)
        if not bool(useful.all()):
            run.give_up(~useful, found, iteration)
            if not bool(useful.any()):
                break
            qp, found = run.keep(useful, qp), part(found, useful)
        # A QP that just missed its tolerance says nothing about shifts.
        found = found._replace(
            **{name: getattr(found, name).nan_to_num() for name in found._fields if name.startswith(("s_", "slack_"))}
        )
        run.move(qp, found, settings.line_search)
    return run.result(), run.left


class _Run:
    """The elements that are still running, and the answers of the others."""

    def __init__(self, ocp: NonlinearOcp, x: Tensor, u: Tensor, start: Any, repair: bool) -> None:
        self.ocp, self.x, self.u, self.point = ocp, x, u, start
        self.repair = repair
        self.which, self.batch = torch.arange(ocp.batch), ocp.batch
        self.weight = x.new_zeros(ocp.batch)
        self.history = x.new_full((ocp.batch, _MEMORY), -float("inf"))
        self.shifted = torch.zeros(ocp.batch, dtype=torch.bool)
        self.curved = isinstance(start, OcpLayerSolution)  # do the multipliers belong to the trajectory?
        self.shift = x.new_full((ocp.batch,), _INFINITY)
        self.left = torch.zeros(ocp.batch, dtype=torch.bool)
        self.answers: dict[str, Tensor] = {}

    def step(self, qp: OcpQP, layer: OcpLayer, settings: SqpSettings) -> OcpLayerSolution:
        """Solution of the QP of a step."""
        if settings.hessian == "gauss_newton" or not self.curved:
            return layer.solve(qp, self.point)
        p = self.point
        curvature = self.ocp.curvature(self.x, self.u, p.y, p.z, p.z_N)
        # Multipliers of shifted rows, or growing without bound before rows are shifted, say nothing about the cost.
        size = torch.cat([v.flatten(1) for v in curvature], 1).abs().amax(1)
        largest = _CURVED * (1.0 + cost_size(qp.data(), self.ocp) + slack_size(qp.data(), self.ocp))
        regular = (p.status != Status.CLOSEST_FEASIBLE) & (size <= largest)
        stage, end = (torch.where(regular.view(-1, *[1] * (v.ndim - 1)), v, 0.0) for v in curvature)
        convex = convexified(qp, self.ocp, self.x, self.u, stage, end, p, repair=self.repair)
        return convex.solution(layer.solve(convex.qp, p), self.x)

    def leave(self, qp: OcpQP, found: OcpLayerSolution) -> Tensor:
        """Which elements (B,) have infeasible QPs whose shifts do not vanish, and something to gain from curvature.

        If the dynamics are linear, the QP's shift is the least one already. Rows with crossing bounds are shifted on
        both sides, whereas violations are one-sided.
        """
        shifts = [getattr(found, name).flatten(1) for name in found._fields if name.startswith("s_")]
        size = torch.where(found.status == Status.CLOSEST_FEASIBLE, torch.cat(shifts, 1).norm(dim=1), 0.0)
        leave = (size > _VANISHING * self.shift) & ~crossing(qp, self.ocp)
        self.shift = torch.where(size > 0.0, size, _INFINITY)
        if bool(leave.any()):
            curvature = self.ocp.curvature(self.x, self.u, found.y, found.z, found.z_N)
            largest = torch.cat([v.flatten(1) for v in curvature], 1).abs().amax(1)
            leave &= largest > _STRAIGHT * (1.0 + found.y.abs().amax((1, 2)))
            self.left[self.which[leave]] = True
        return leave

    def judge(self, qp: OcpQP, iteration: int, settings: SqpSettings, dual_eps: float) -> Tensor:
        """Record the points that have converged or must stop; returns which elements have not converged."""
        primal, dual, scale = residuals(self.ocp, qp, self.point)
        done = (primal <= settings.eps) & (dual <= dual_eps * scale)
        self.point = self.point._replace(
            status=torch.where(done, _answered(self.point.status), int(Status.MAX_ITER)),
            iterations=torch.full_like(self.which, iteration),
            primal_residual=primal,
            dual_residual=dual,
        )
        self._record(self.point, done | (iteration == settings.max_iter))
        return ~done

    def give_up(self, which: Tensor, found: OcpLayerSolution, iteration: int) -> None:
        found = found._replace(x=self.x, u=self.u, iterations=torch.full_like(self.which, iteration))
        self._record(found, which)

    def keep(self, which: Tensor, qp: OcpQP) -> OcpQP:
        self.ocp = self.ocp.element(which)
        self.x, self.u, self.which = self.x[which], self.u[which], self.which[which]
        self.weight, self.history = self.weight[which], self.history[which]
        self.shifted, self.shift = self.shifted[which], self.shift[which]
        if self.point is not None:
            self.point = part(self.point, which)
        return elements_of(qp, which)

    def move(self, qp: OcpQP, found: OcpLayerSolution, search: bool) -> None:
        t = torch.ones(len(self.which), 1, 1, dtype=self.x.dtype)
        if search:
            t = self._step_length(qp, found)[:, None, None]
        self.x, self.u = self.x + t * (found.x - self.x), self.u + t * (found.u - self.u)
        self.point, self.curved = found._replace(x=self.x, u=self.u), True

    def _step_length(self, qp: OcpQP, found: OcpLayerSolution) -> Tensor:
        penalty = Penalty(self.ocp, qp, self.x, self.u, found, self.weight)
        self.weight = penalty.weight
        # Values of the other kind of penalty are not comparable.
        kept = torch.where((penalty.shifted == self.shifted)[:, None], self.history[:, 1:], -float("inf"))
        self.history, self.shifted = torch.cat([kept, penalty.start[:, None]], 1), penalty.shifted
        ceiling = self.history.amax(1)
        t = torch.ones_like(ceiling)
        for _ in range(_HALVINGS):
            length = t[:, None, None]
            value = penalty(self.x + length * (found.x - self.x), self.u + length * (found.u - self.u))
            refused = ~(value <= ceiling + _ARMIJO * t * penalty.slope + _ROUNDING * ceiling.abs())
            if not bool(refused.any()):
                break
            t = torch.where(refused, 0.5 * t, t)
        return t

    def _record(self, point: Any, which: Tensor) -> None:
        for name in OcpLayerSolution._fields:
            value = getattr(point, name)
            if name not in self.answers:  # every element is recorded once, when it stops
                self.answers[name] = value.new_empty(self.batch, *value.shape[1:])
            self.answers[name][self.which[which]] = value[which]

    def result(self) -> OcpLayerSolution:
        return OcpLayerSolution(**self.answers)


def _answered(status: Tensor) -> Tensor:
    return torch.where(status == Status.CLOSEST_FEASIBLE, status, int(Status.SOLVED))


def _useful(found: OcpLayerSolution) -> Tensor:
    """Which QPs were solved well enough for a step: with large numbers some just miss their tolerance."""
    solved = (found.status == Status.SOLVED) | (found.status == Status.CLOSEST_FEASIBLE)
    size = torch.stack([found.y.abs().amax((1, 2)), found.x.abs().amax((1, 2))]).amax(0).clamp_min(1.0)
    close = torch.maximum(found.primal_residual, found.dual_residual) <= _INEXACT * size
    return solved | ((found.status == Status.MAX_ITER) & close)


def part(point: Any, which: Tensor) -> Any:
    """Some elements of a solution, or of a start."""
    return type(point)(*(value[which] for value in point))
