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

from qp_control.compat.qp_batches import present, settings, with_batch
from qp_control.qp.layer import LayerSolution, QPLayer


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
    layer = QPLayer(settings(eps))

    def solve(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        if check_Q_spd and bool((torch.linalg.cholesky_ex(Q.detach()).info != 0).any()):
            raise RuntimeError("Q is not SPD.")
        G_, h_, A_, b_ = map(present, (G, h, A, b))
        out: LayerSolution = layer(Q, with_batch(p, (Q, G_, A_), (h_, b_)), A_, b_, G_, None, h_)
        return out.x

    return solve
