"""qpth's differentiable QP layer, `qpth.qp.QPFunction` (qpth 0.0.18), on top of `QPLayer`.

    minimise 1/2 z'Q z + p'z   subject to  G z <= h,  A z = b

What differs from the original:

- The gradient of data without a batch axis, which the batch shares, is the sum over its elements, that is, the gradient
  of the loss; there it is the mean. With a loss that is a mean over B elements, divide learning rates tuned there by B.
- Contradicting constraints give the closest feasible solution (there: numbers without meaning, and a printed warning).
- All constraints may be absent, and with check_Q_spd=False Q may be semidefinite or zero.
- eps is clamped to [1e-9, 1e-6]; verbose, notImprovedLim, maxIter and solver have no effect.

Source: B. Amos, J. Z. Kolter, "OptNet: Differentiable Optimization as a Layer in Neural Networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor

from qp_control.compat import qp_batches
from qp_control.qp.layer import QPLayer

_NAMES = {"H": "Q", "g": "p", "C": "G", "u": "h"}


class QPSolvers(Enum):
    """Accepted as an argument; there is one solver here."""

    PDIPM_BATCHED = 1
    CVXPY = 2


def QPFunction(
    eps: float = 1e-12,
    verbose: int = 0,
    notImprovedLim: int = 3,
    maxIter: int = 20,
    solver: QPSolvers = QPSolvers.PDIPM_BATCHED,
    check_Q_spd: bool = True,
) -> Callable[..., Tensor]:
    """A function (Q, p, G, h, A, b) -> z (B, n), with B = 1 if no argument has a batch axis.

    Arguments are matrices (n_rows, n) or (B, n_rows, n) and vectors (n,) or (B, n), empty if absent. As in the
    original, it raises RuntimeError if Q is not positive definite, unless check_Q_spd is False.
    """
    layer = QPLayer(qp_batches.settings(eps))

    def solve(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        if check_Q_spd and not _is_spd(Q):
            raise RuntimeError("Q is not SPD.")
        return qp_batches.solve(layer, _NAMES, H=Q, g=p, A=A, b=b, C=G, u=h).x

    return solve


def _is_spd(Q: Tensor) -> bool:
    """Whether all of a batch are; what is no batch of square matrices is left to the layer, which says so."""
    if Q is None or (isinstance(Q, Tensor) and Q.ndim == 1 and Q.nelement() == 0):
        return False
    if not isinstance(Q, Tensor) or not Q.is_floating_point() or Q.ndim < 2 or Q.shape[-1] != Q.shape[-2]:
        return True
    return not bool((torch.linalg.cholesky_ex(Q.detach().double()).info != 0).any())
