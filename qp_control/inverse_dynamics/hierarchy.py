"""Strict hierarchies of tasks: each level is met as well as the levels above allow, by one QP after the other.

With P the projection on the common null space of the rows J_j of the levels above and of the equalities A, x + P z
changes none of their values. So level k, from the solution x of the levels above, is

    minimise    1/2 z'(P H_k P + 1 - P) z + (H_k x + g_k)'P z
    subject to  l - C x <= C P z <= u - C x,   and the bounds alike

with H_k, g_k of its own tasks. 1 - P makes z unique and does not affect x. Rows of the levels above enter only through
P; imposed again, they would be linearly dependent. P is a function of H_j = J_j'W J_j, so gradients pass through it as
long as its rank does not change.

Source: A. Escande, N. Mansard, P.-B. Wieber, "Hierarchical quadratic programming", IJRR 33 (2014), here in the form
with projections.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qp_control.qp.layer import LayerSolution, QPLayer
from qp_control.robot.motions import call

SEEN = 1e-10  # smallest eigenvalue counted, relative to the largest; 1e-5 in terms of singular values

SETTLED = 1e-8  # relative to the row: anything below is rounding
NARROW = 1e-7  # bounds closer than this count as equal, given the tolerance to which the level above has met them


class Rows(NamedTuple):
    """The constraints that all levels share."""

    A: Tensor
    b: Tensor
    C: Tensor
    l: Tensor
    u: Tensor
    lb: Tensor
    ub: Tensor


def next_level(layer: QPLayer, x: Tensor, above: Tensor, H: Tensor, g: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """x (B, n) of the level with H, g, from the x of the levels above, and the status (B,) of its QP.

    above (B, n, n): a positive semidefinite matrix whose null space is that of these levels and the equalities.
    """
    P = unseen(above)
    n = x.shape[-1]
    one = torch.eye(n, dtype=x.dtype)
    Hz = P @ H @ P + (one - P)
    gz = (P @ ((H @ x.unsqueeze(-1)).squeeze(-1) + g).unsqueeze(-1)).squeeze(-1)
    C = torch.cat([rows.C, one.expand(len(x), n, n)], 1)
    value = (C @ x.unsqueeze(-1)).squeeze(-1)
    l, u = torch.cat([rows.l, rows.lb], 1) - value, torch.cat([rows.u, rows.ub], 1) - value
    # x satisfies them up to the tolerance of its QP; the clamped remainder has no derivative.
    narrow = u - l < NARROW
    l = l - torch.where(narrow, l.detach(), l.detach().clamp(min=0.0))
    u = u - torch.where(narrow, u.detach(), u.detach().clamp(max=0.0))
    CP = C @ P
    # Rows fixed by the levels above would consist of rounding errors.
    settled = CP.detach().norm(dim=-1) < SETTLED * C.detach().norm(dim=-1)
    CP = torch.where(settled.unsqueeze(-1), 0.0, CP)
    l, u = torch.where(settled, -torch.inf, l), torch.where(settled, torch.inf, u)
    used = (l.isfinite() | u.isfinite()).any(0)
    sol = layer(0.5 * (Hz + Hz.mT), gz, None, None, CP[:, used], l[:, used], u[:, used])
    return x + (P @ sol.x.unsqueeze(-1)).squeeze(-1), sol.status


class _Projection(torch.autograd.Function):
    """S -> P, the projection on its null space, and S^+, at constant rank; differentiable to any order:

        dP = -(P dS S^+ + S^+ dS P),   dS^+ = -S^+ dS S^+ + P dS S^+ S^+ + S^+ S^+ dS P

    Differentiating P = 1 - S S^+ instead would lose twice the digits.
    """

    @staticmethod
    def forward(ctx: Any, S: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(S.nan_to_num(0.0, 0.0, 0.0))  # it raises for what has no answer
        seen = values > SEEN * values[..., -1:]
        inverse = torch.where(seen, 1.0 / torch.where(seen, values, 1.0), 0.0)
        P: Tensor = (vectors * (~seen).to(S.dtype).unsqueeze(-2)) @ vectors.mT
        X: Tensor = (vectors * inverse.unsqueeze(-2)) @ vectors.mT
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(P, X)
        return P, X

    @staticmethod
    def backward(ctx: Any, by_P: Tensor | None, by_X: Tensor | None) -> Tensor | None:
        P, X = ctx.saved_tensors
        found: Tensor | None = None
        if by_P is not None:
            half = P @ (by_P + by_P.mT) @ X
            found = -0.5 * (half + half.mT)
        if by_X is not None:
            G = 0.5 * (by_X + by_X.mT)
            half = P @ G @ X @ X
            change = half + half.mT - X @ G @ X
            found = change if found is None else found + change
        return found


def unseen(S: Tensor) -> Tensor:
    """The projection (B, n, n) on the null space of a positive semidefinite matrix; its rank must not change."""
    P: Tensor = call(_Projection, S)[0]
    return P


def seen(*matrices: Tensor) -> Tensor:
    """A matrix whose null space is the common one of the matrices J'J, each scaled to unit size."""
    total = torch.zeros_like(matrices[0])
    for matrix in matrices:
        size = matrix.detach().diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-300)
        total = total + matrix / size[..., None, None]
    return total


def shifted_rows(rows: Rows, sol: LayerSolution) -> Rows:
    """The constraints with the shifts of the first level."""
    return Rows(
        rows.A,
        rows.b + sol.s_eq,
        rows.C,
        rows.l - sol.s_lower,
        rows.u + sol.s_upper,
        rows.lb - sol.s_lb,
        rows.ub + sol.s_ub,
    )
