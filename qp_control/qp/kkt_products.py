"""Products with the matrix K of a QP's optimality conditions (kkt_system.hpp), and gradients of the data.

Tensors are float64 on the CPU; a vector has (B, count, 2 n + 2 rows) entries, rows = n_eq + n_in + n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from qp_control.qp.problem import Sizes

Optional = torch.Tensor | None


class Vectors(NamedTuple):
    """The parts of (B, count, 2 n + 2 rows); z and s split into equalities, inequalities and box."""

    x: torch.Tensor
    eta: torch.Tensor
    z_eq: torch.Tensor
    z_in: torch.Tensor
    z_box: torch.Tensor
    s_eq: torch.Tensor
    s_in: torch.Tensor
    s_box: torch.Tensor

    @classmethod
    def split(cls, packed: torch.Tensor, sizes: Sizes) -> Vectors:
        rows = [sizes.n_eq, sizes.n_in, sizes.n]
        return cls(*torch.split(packed, [sizes.n, sizes.n, *rows, *rows], dim=-1))


class Pattern(NamedTuple):
    """Roles of the rows; see RowPattern in kkt_system.hpp. Each is (B, rows)."""

    active: torch.Tensor
    shifted: torch.Tensor
    weight: torch.Tensor
    lower_share: torch.Tensor
    compliance: torch.Tensor

    def rows(self, name: str, sizes: Sizes) -> tuple[torch.Tensor, ...]:
        """One field, (B, 1, .) each for the equalities, the inequalities and the box."""
        field: torch.Tensor = getattr(self, name)
        return torch.split(field.unsqueeze(-2), [sizes.n_eq, sizes.n_in, sizes.n], dim=-1)


def weighted_shifts(v: Vectors, pattern: Pattern, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    w_eq, w_in, _ = pattern.rows("weight", sizes)
    return w_eq * v.s_eq, w_in * v.s_in


def change_of_products(
    H: Optional, A: Optional, C: Optional, packed: torch.Tensor, pattern: Pattern, sizes: Sizes
) -> torch.Tensor:
    """dK v for changes H, A, C of the matrices (None: no change)."""
    v = Vectors.split(packed, sizes)
    active, weight = pattern.rows("active", sizes), pattern.rows("weight", sizes)
    weighted = weighted_shifts(v, pattern, sizes)
    x, eta = torch.zeros_like(v.x), torch.zeros_like(v.eta)
    z = [torch.zeros_like(part) for part in (v.z_eq, v.z_in, v.z_box)]
    s = [torch.zeros_like(part) for part in (v.s_eq, v.s_in, v.s_box)]
    if H is not None:
        x = x + 0.5 * (v.x @ H + v.x @ H.mT)
    for k, (R, z_R) in enumerate(((A, v.z_eq), (C, v.z_in))):
        if R is None:
            continue
        x = x + z_R @ R
        eta = eta + weighted[k] @ R
        z[k] = active[k] * (v.x @ R.mT)
        s[k] = weight[k] * (v.eta @ R.mT)
    return torch.cat([x, eta, *z, *s], dim=-1)


def matrix_gradients(
    p: torch.Tensor, q: torch.Tensor, pattern: Pattern, sizes: Sizes, matrices: tuple[Optional, ...]
) -> tuple[Optional, ...]:
    """Gradients of q'K p with respect to H, A, C, in the shape of each: summed over the batch where it is shared."""
    a, b = Vectors.split(p, sizes), Vectors.split(q, sizes)
    a_weighted, b_weighted = weighted_shifts(a, pattern, sizes), weighted_shifts(b, pattern, sizes)

    def outer(left: torch.Tensor, right: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if like.dim() == 2:
            left, right = left.flatten(0, 1), right.flatten(0, 1)
        return left.mT @ right

    H, *rows = matrices
    out: list[Optional] = [None] * 3
    if H is not None:
        half = 0.5 * outer(a.x, b.x, H)
        out[0] = half + half.mT
    for k, (R, a_z, b_z) in enumerate(zip(rows, (a.z_eq, a.z_in), (b.z_eq, b.z_in), strict=True)):
        if R is not None:
            out[k + 1] = (
                outer(a_z, b.x, R)
                + outer(b_z, a.x, R)
                + outer(a_weighted[k], b.eta, R)
                + outer(b_weighted[k], a.eta, R)
            )
    return tuple(out)


def with_compliance(
    sizes: Sizes, smoothing: float, data: Mapping[str, Optional], v: torch.Tensor, pattern: torch.Tensor
) -> torch.Tensor:
    """The pattern with the compliance of smoothed rows (derivatives.hpp) as a function of v and the data."""
    n, n_eq, C = sizes.n, sizes.n_eq, data["C"]
    x, z = v[..., :n], v[..., 2 * n + n_eq : 3 * n + n_eq + sizes.n_in]
    values = x if C is None else torch.cat([(x.unsqueeze(-2) @ C.mT).squeeze(-2), x], -1)
    lower, upper = (stacked_bounds(data[a], data[b], sizes, v) for a, b in (("l", "lb"), ("u", "ub")))
    roles = Pattern(*pattern[..., n_eq:].unbind(-2))
    at_lower, smooth = roles.lower_share == 1, roles.compliance > 0
    side = torch.where(at_lower, -1.0, 1.0)
    slack = torch.where(smooth, side * (torch.where(at_lower, lower, upper) - values), 0.0)
    multiplier = torch.where(smooth, side * z, 0.0)
    # Rounding may leave them below zero: a slack then counts as zero, a multiplier by its size, with unchanged slopes.
    t = slack + (slack.clamp_min(0.0) - slack).detach()
    m = multiplier + (multiplier.abs() - multiplier).detach()
    eps = 2.0 * smoothing
    r = torch.sqrt(t * t + m * m + eps)
    delta = (t * t + eps) * (r + t) / ((m * m + eps) * (r + m))
    compliance = torch.cat([v.new_zeros(sizes.batch, n_eq), torch.where(smooth, delta, 0.0)], -1)
    return torch.cat([pattern[..., :4, :], compliance.unsqueeze(-2)], -2)


def with_weights(sizes: Sizes, weights: Sequence[Optional], pattern: torch.Tensor) -> torch.Tensor:
    """The pattern with the weights of shifted rows as a function of the shift weights (None: constants)."""
    active, shifted, weight, share, compliance = pattern.unbind(-2)
    times = torch.where(share == 0.5, 2.0, 1.0)  # a row shifted on both sides counts as one of twice the weight
    own = torch.split(weight / times, [sizes.n_eq, sizes.n_in, sizes.n], dim=-1)
    given = [o if w is None else w.expand_as(o) for w, o in zip(weights, own, strict=True)]
    weight = torch.where(shifted == 1, times * torch.cat(given, -1), weight)
    return torch.stack([active, shifted, weight, share, compliance], -2)


def weight_gradients(
    p: torch.Tensor, q: torch.Tensor, pattern: torch.Tensor, sizes: Sizes, A: Optional, C: Optional
) -> tuple[torch.Tensor, ...]:
    """Gradients (B, .) of -q'K p with respect to the shift weights of equalities, inequalities and box."""
    roles = Pattern(*pattern.unbind(-2))
    times = torch.where(roles.shifted == 1, torch.where(roles.lower_share == 0.5, 2.0, 1.0), 0.0)
    gradient = times * pattern_gradient(p, q, pattern, sizes, A, C)[..., 2, :]
    return torch.split(gradient, [sizes.n_eq, sizes.n_in, sizes.n], dim=-1)


def change_of_weights(changes: Sequence[Optional], pattern: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """The change of the pattern for changes of the shift weights (None: no change)."""
    still = pattern.detach() * torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.0]], dtype=pattern.dtype)
    moved = with_weights(sizes, [0.0 * pattern[..., 0, :1] if c is None else c for c in changes], still)
    return moved * torch.tensor([[0.0], [0.0], [1.0], [0.0], [0.0]], dtype=pattern.dtype)


def change_by_pattern(
    dpattern: torch.Tensor, packed: torch.Tensor, sizes: Sizes, A: Optional, C: Optional
) -> torch.Tensor:
    """-dK v for changes of the weights and the compliance."""
    n, rows = sizes.n, dpattern.shape[-1]
    x, eta, z, s = torch.split(packed, [n, n, rows, rows], dim=-1)
    weight, compliance = dpattern[..., 2:3, :], dpattern[..., 4:5, :]
    by_rows = _add_rows(weight * s, sizes, A, C)
    return torch.cat([torch.zeros_like(x), -by_rows, compliance * z, -weight * _rows(eta, sizes, A, C)], -1)


def pattern_gradient(
    p: torch.Tensor, q: torch.Tensor, pattern: torch.Tensor, sizes: Sizes, A: Optional, C: Optional
) -> torch.Tensor:
    """Gradient of -q'K p with respect to the weights and the compliance of the pattern."""
    n, rows = sizes.n, pattern.shape[-1]
    (_, p_eta, p_z, p_s), (_, q_eta, q_z, q_s) = (torch.split(t, [n, n, rows, rows], dim=-1) for t in (p, q))
    by_weight = -(p_s * _rows(q_eta, sizes, A, C) + q_s * _rows(p_eta, sizes, A, C)).sum(-2, keepdim=True)
    by_compliance = (p_z * q_z).sum(-2, keepdim=True)
    none = torch.zeros_like(pattern[..., :1, :])
    return torch.cat([none, none, by_weight, none, by_compliance], -2)


def _rows(x: torch.Tensor, sizes: Sizes, A: Optional, C: Optional) -> torch.Tensor:
    """R x for (B, count, n), R = [A; C; 1]."""
    parts = [
        x.new_zeros(*x.shape[:-1], count) if R is None else x @ _finite(R).mT
        for R, count in ((A, sizes.n_eq), (C, sizes.n_in))
    ]
    return torch.cat([*parts, x], -1)


def _add_rows(z: torch.Tensor, sizes: Sizes, A: Optional, C: Optional) -> torch.Tensor:
    """R'z."""
    z_eq, z_in, total = torch.split(z, [sizes.n_eq, sizes.n_in, sizes.n], dim=-1)
    for R, part in ((A, z_eq), (C, z_in)):
        total = total if R is None else total + part @ _finite(R)
    return total


def _finite(R: torch.Tensor) -> torch.Tensor:
    """Without the NaN and infinities of elements that have no answer, whose vectors are zero: 0 NaN is no zero."""
    return R.nan_to_num(0.0, 0.0, 0.0)


def stacked_bounds(inequalities: Optional, box: Optional, sizes: Sizes, like: torch.Tensor) -> torch.Tensor:
    """l and lb, or u and ub, or changes of them, side by side (B, n_in + n); absent ones are zero."""
    parts = zip((inequalities, box), (sizes.n_in, sizes.n), strict=True)
    return torch.cat(
        [like.new_zeros(sizes.batch, size) if t is None else t.expand(sizes.batch, size) for t, size in parts], dim=-1
    )
