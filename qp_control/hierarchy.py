"""Strict hierarchies of tasks: each level is met as well as the levels above leave room, by one QP after the other.

With the rows J_j of the levels above and those of the equalities A, and P the projection on what none of them sees,
x + P z leaves them all as they are. So level k, from the solution x of the levels above, is

    minimise    1/2 z'(P H_k P + 1 - P) z + (H_k x + g_k)'P z
    subject to  l - C x <= C P z <= u - C x,   and the bounds alike

with H_k, g_k of its own tasks. 1 - P makes z unique and changes nothing of x. Rows of the levels above are passed on as
P and not imposed again, which would make them depend on each other. P is a function of H_j = J_j'W J_j, so that
gradients pass through it, where its rank does not change.

Source: A. Escande, N. Mansard, P.-B. Wieber, "Hierarchical quadratic programming", IJRR 33 (2014), of which this is the
form with projections.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control.layers import LayerSolution, QPLayer
from qp_control.motions import call

_SEEN = 1e-10  # of the largest eigenvalue: what is below it no row sees; that is 1e-5 of the largest singular value


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
    """x (B, n) of the level with H, g, from that of the levels above, and the status (B,) of its QP.

    above (B, n, n): a positive semidefinite matrix of the directions that these levels and the equalities see.
    """
    P = unseen(above)
    n = x.shape[-1]
    one = torch.eye(n, dtype=x.dtype)
    Hz = P @ H @ P + (one - P)
    gz = (P @ ((H @ x.unsqueeze(-1)).squeeze(-1) + g).unsqueeze(-1)).squeeze(-1)
    C = torch.cat([rows.C, one.expand(len(x), n, n)], 1)
    value = (C @ x.unsqueeze(-1)).squeeze(-1)
    l, u = torch.cat([rows.l, rows.lb], 1) - value, torch.cat([rows.u, rows.ub], 1) - value
    # x satisfies them up to the tolerance of its QP; what is cut off is no function of anything.
    l, u = l - l.detach().clamp(min=0.0), u - u.detach().clamp(max=0.0)
    CP = C @ P
    # Rows that the levels above have settled would be rows of rounding.
    settled = CP.detach().norm(dim=-1) < 1e-8 * C.detach().norm(dim=-1)
    CP = torch.where(settled.unsqueeze(-1), 0.0, CP)
    l, u = torch.where(settled, -torch.inf, l), torch.where(settled, torch.inf, u)
    used = (l.isfinite() | u.isfinite()).any(0)
    sol = layer(0.5 * (Hz + Hz.mT), gz, None, None, CP[:, used], l[:, used], u[:, used])
    return x + (P @ sol.x.unsqueeze(-1)).squeeze(-1), sol.status


class _Unseen(torch.autograd.Function):
    """The projection P on the null space of S, with dP = -(P dS S^+ + S^+ dS P).

    Differentiating a pseudoinverse instead would have its square in it, and with that twice the digits lost.
    """

    @staticmethod
    def forward(ctx: Any, S: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(S)
        seen = values > _SEEN * values[..., -1:]
        inverse = torch.where(seen, 1.0 / torch.where(seen, values, 1.0), 0.0)
        P: Tensor = (vectors * (~seen).to(S.dtype).unsqueeze(-2)) @ vectors.mT
        ctx.save_for_backward(P, (vectors * inverse.unsqueeze(-2)) @ vectors.mT)
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_P: Tensor) -> Tensor:
        P, inverse = ctx.saved_tensors
        half: Tensor = P @ (by_P + by_P.mT) @ inverse
        return -0.5 * (half + half.mT)


def unseen(S: Tensor) -> Tensor:
    """The projection (B, n, n) on the null space of a positive semidefinite matrix, where its rank does not change."""
    P: Tensor = call(_Unseen, S)
    return P


def seen(*matrices: Tensor) -> Tensor:
    """A matrix that sees what any of the matrices J'J does, each in a unit of its own."""
    total = torch.zeros_like(matrices[0])
    for matrix in matrices:
        size = matrix.detach().diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-300)
        total = total + matrix / size[..., None, None]
    return total


def shifted_rows(rows: Rows, sol: LayerSolution) -> Rows:
    """The constraints as the first level has left them."""
    return Rows(
        rows.A,
        rows.b + sol.s_eq,
        rows.C,
        rows.l - sol.s_lower,
        rows.u + sol.s_upper,
        rows.lb - sol.s_lb,
        rows.ub + sol.s_ub,
    )
