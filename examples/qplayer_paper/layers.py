"""QP layers behind a common call for learning: qp-control, proxsuite's QPLayer and qpth (OptNet).

    minimise    1/2 x'H x + g'x
    subject to  A x = b,  l <= C x <= u,  x >= 0 where `nonnegative`

Each layer gets the form that suits it: for x >= 0 qp-control a box and QPLayer rows [C; I]; qpth one-sided rows. Both
peers average the gradient of data shared by the batch; here such data is expanded, so that theirs is the sum as well.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import qp_control as qc

INFINITE = 1e20  # proxsuite's


@dataclass
class Problem:
    """g (B, n) per element; the other data with or without the axis B; what is None is absent."""

    g: Tensor
    H: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    C: Tensor | None = None
    l: Tensor | None = None
    u: Tensor | None = None
    nonnegative: bool = False


@dataclass
class Answer:
    """x (B, n) and shift (B, rows) with their graph, multipliers y, z, w without; `failed` (B,): no answer."""

    x: Tensor
    shift: Tensor
    y: Tensor
    z: Tensor
    w: Tensor
    failed: Tensor

    def without_failures(self) -> Answer:
        """The elements that have an answer: a loss over the others would be NaN, and so its gradient."""
        if not self.failed.any():
            return self
        good = ~self.failed
        return Answer(*(value[good] for value in (self.x, self.shift, self.y, self.z, self.w, self.failed)))


def product(M: Tensor, x: Tensor) -> Tensor:
    """(B, m) M x of each element; M (m, n) or (B, m, n)."""
    return x @ M.T if M.ndim == 2 else (M @ x[..., None])[..., 0]


@torch.no_grad()
def residuals(problem: Problem, answer: Answer) -> Tensor:
    """(B,) largest entry of dual residual, violation beyond the shift, and multiplier times slack.

    The products are left out of elements with a shift, where multipliers are free in sign.
    """
    x, n_eq = answer.x, answer.y.shape[1]
    n_in = answer.z.shape[1]
    dual = problem.g + answer.w
    parts = []
    if problem.H is not None:
        dual = dual + product(problem.H, x)
    if problem.A is not None and problem.b is not None:
        dual = dual + product(problem.A.mT, answer.y)
        parts.append((product(problem.A, x) - problem.b - answer.shift[:, :n_eq]).abs())
    shifted = answer.shift.abs().amax(1, keepdim=True) > 0.0 if answer.shift.shape[1] else torch.zeros(len(x), 1) > 0
    if problem.C is not None:
        Cx = product(problem.C, x) - answer.shift[:, n_eq : n_eq + n_in]
        dual = dual + product(problem.C.mT, answer.z)
        for bound, sign in ((problem.l, -1.0), (problem.u, 1.0)):
            if bound is not None:
                above = sign * (Cx - bound)
                products = (sign * answer.z).clamp(min=0.0) * above
                parts += [above.clamp(min=0.0), torch.where(shifted | ~above.isfinite(), 0.0, products).abs()]
    if problem.nonnegative:
        held = x - answer.shift[:, n_eq + n_in :]
        parts += [(-held).clamp(min=0.0), torch.where(shifted, 0.0, answer.w * held).abs()]
    return torch.cat([dual.abs(), *parts], 1).amax(1)


class Layer(ABC):
    """A solver with a tolerance of its own. `closest`: contradicting constraints are shifted by the least amount.

    `relative`, for those that can: also good enough is a residual of so much of the terms that it is the sum of.
    """

    name: str

    def __init__(self, *, eps: float = 1e-6, relative: float = 0.0, threads: int = 1, closest: bool = False) -> None:
        self.eps, self.relative, self.threads, self.closest = eps, relative, threads, closest

    @abstractmethod
    def solve(self, problem: Problem) -> Answer: ...


class QpControl(Layer):
    name = "qp-control"

    def solve(self, problem: Problem) -> Answer:
        p = problem
        lb = p.g.new_zeros(p.g.shape[1]) if p.nonnegative else None
        # closest also where the peers are told that every problem is feasible: rounding decides otherwise now and then.
        settings = qc.Settings(eps_abs=self.eps, eps_rel=self.relative, threads=self.threads, infeasible="closest")
        if self.relative:  # and where that cannot be reached either, rounding decides
            settings = dataclasses.replace(settings, reduced_eps_rel=10.0 * self.relative)
        layer = qc.QPLayer(settings)
        out = layer(p.H, p.g, p.A, p.b, p.C, p.l, p.u, lb)
        shift = torch.cat([out.s_eq, out.s_upper - out.s_lower, out.s_ub - out.s_lb][: 3 if p.nonnegative else 2], 1)
        failed = out.status > qc.Status.CLOSEST_FEASIBLE
        return Answer(out.x, shift, out.y.detach(), out.z.detach(), out.w.detach(), failed)


class QPLayer(Layer):
    """With more than one thread it takes half of os.cpu_count()."""

    name = "QPLayer"

    def solve(self, problem: Problem) -> Answer:
        from proxsuite.torch.qplayer import QPFunction

        p, (batch, n) = problem, problem.g.shape
        # It differentiates rows per element only where all are feasible, and takes shared ones only where not.
        each: Callable[[Tensor], Tensor] = (lambda rows: rows) if self.closest else (lambda rows: _each(rows, batch))
        H = p.g.new_zeros(batch, n, n) if p.H is None else _each(p.H, batch)
        A = p.g.new_zeros(batch, 0, n) if p.A is None else _each(p.A, batch)
        b = p.g.new_zeros(batch, 0) if p.b is None else _each(p.b, batch, 1)
        C, l, u = _two_sided(p)
        rows = [each(C), *(v if self.closest else _each(v, batch, 1) for v in (l, u))]
        options = {"eps": self.eps, "omp_parallel": self.threads > 1, "structural_feasibility": not self.closest}
        x, y, z, *shifts = QPFunction(**options)(H, p.g, A, b, *rows)
        n_in = 0 if p.C is None else p.C.shape[-2]
        y, z = y.detach(), z.detach()
        w = z[:, n_in:] if p.nonnegative else torch.zeros_like(x)
        shift = torch.cat(shifts, 1) if shifts else x.new_zeros(batch, y.shape[1] + z.shape[1])
        return Answer(x, shift, y, z[:, :n_in], w.detach(), ~x.detach().isfinite().all(1))


class Qpth(Layer):
    """OptNet. Its check of H, a factorisation for nothing, is switched off."""

    name = "qpth"

    def solve(self, problem: Problem) -> Answer:
        from qpth.qp import QPFunction

        p, (batch, n) = problem, problem.g.shape
        if p.H is None:
            raise ValueError("qpth needs a positive definite H")
        if self.closest:
            raise ValueError("qpth needs feasible constraints")
        G, h = _one_sided(p)
        equalities = [torch.zeros(0, dtype=p.g.dtype)] * 2
        if p.A is not None and p.b is not None:
            equalities = [_each(p.A, batch), _each(p.b, batch, 1)]
        solve = QPFunction(eps=self.eps, verbose=-1, check_Q_spd=False)
        with torch.enable_grad():  # the multipliers are to be had from the graph only
            g = p.g if p.g.requires_grad else p.g.detach().requires_grad_()
            x = solve(_each(p.H, batch), g, _each(G, batch), _each(h, batch, 1), *equalities)
        node: Any = x.grad_fn
        x = x if torch.is_grad_enabled() else x.detach()
        y = node.nus if p.A is not None else x.new_zeros(batch, 0)
        split = [0 if p.C is None or bound is None else p.C.shape[-2] for bound in (p.u, p.l)]
        upper, lower, box = node.lams.split([*split, n if p.nonnegative else 0], 1)
        n_in = max(split)
        z = x.new_zeros(batch, n_in)
        z = z + upper if split[0] else z
        z = z - lower if split[1] else z
        w = -box if p.nonnegative else torch.zeros_like(x)
        shift = x.new_zeros(batch, y.shape[1] + n_in + (n if p.nonnegative else 0))
        return Answer(x, shift, y.detach(), z.detach(), w.detach(), ~x.detach().isfinite().all(1))


def _each(value: Tensor, batch: int, rank: int = 2) -> Tensor:
    """With the batch's axis, so that autograd itself adds up the gradient of what is shared."""
    return value.expand(batch, *value.shape) if value.ndim == rank else value


def _two_sided(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [C; I] with both bounds, and 1e20 for a missing one."""
    n = p.g.shape[1]
    if p.C is None:
        C, l, u = p.g.new_zeros(0, n), p.g.new_zeros(0), p.g.new_zeros(0)
    else:
        bound = p.l if p.l is not None else p.u
        assert bound is not None
        C = p.C
        l = torch.full_like(bound, -INFINITE) if p.l is None else p.l
        u = torch.full_like(bound, INFINITE) if p.u is None else p.u
    if p.nonnegative:
        eye = torch.eye(n, dtype=p.g.dtype).expand(*C.shape[:-2], n, n)
        C = torch.cat([C, eye], -2)
        l = torch.cat([l, l.new_zeros(*l.shape[:-1], n)], -1)
        u = torch.cat([u, u.new_full((*u.shape[:-1], n), INFINITE)], -1)
    return C, l, u


def _one_sided(p: Problem) -> tuple[Tensor, Tensor]:
    """Rows G x <= h: upper bounds, lower bounds, box."""
    n = p.g.shape[1]
    G, h = [], []
    if p.C is not None:
        for bound, sign in ((p.u, 1.0), (p.l, -1.0)):
            if bound is not None:
                G.append(sign * p.C)
                h.append(sign * bound)
    if p.nonnegative:
        G.append(-torch.eye(n, dtype=p.g.dtype))
        h.append(p.g.new_zeros(n))
    return torch.cat(G, -2), torch.cat(h, -1)


LAYERS: dict[str, type[Layer]] = {"qp-control": QpControl, "qplayer": QPLayer, "qpth": Qpth}
