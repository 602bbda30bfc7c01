"""proxsuite's differentiable QP layer, `proxsuite.torch.qplayer.QPFunction` (proxsuite 0.8), on top of `QPLayer`.

    minimise 1/2 x'Q x + p'x   subject to  A x = b (lams),  l <= G x <= u (nus)

Signs are those of this package: Q x + p + A'lams + G'nus = 0, s_e = A x - b, s_i > 0 above u and < 0 below l.

What differs from the original:

- Gradients are those of the solution; there they are those of the problem regularised by rho_backward and mu_backward,
  those through nus are wrong, and all are float32 unless torch's default dtype is another.
- With structural_feasibility=False the gradients of l, u and G have the shapes of their arguments for any batch, those
  of shared data are the sum over the batch (there: the mean), G may differ between elements, and the multipliers of
  contradicting constraints are those of least norm (there they grow without bound).
- With structural_feasibility=True contradicting constraints give the closest feasible solution as well, but not its
  shifts (there: whatever the last iteration left).
- maxIter, eps_backward, rho_backward, mu_backward and omp_parallel have no effect: they have no counterpart here, and
  batches always use all threads. eps is clamped to [1e-9, 1e-6].

Source: A. Bambade, F. Schramm, A. Taylor, J. Carpentier, "Leveraging augmented-Lagrangian techniques for
differentiating over infeasible quadratic programs in machine learning", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from qp_control.compat import qp_batches
from qp_control.qp.layer import QPLayer

_NAMES = {"H": "Q", "g": "p", "C": "G"}


def QPFunction(
    eps: float = 1e-9,
    maxIter: int = 1000,
    eps_backward: float = 1.0e-4,
    rho_backward: float = 1.0e-6,
    mu_backward: float = 1.0e-6,
    omp_parallel: bool = False,
    structural_feasibility: bool = True,
) -> Callable[..., tuple[Tensor, ...]]:
    """A function (Q, p, A, b, G, l, u) -> (x, lams, nus), or (x, lams, nus, s_e, s_i) without structural feasibility.

    Arguments are matrices (n_rows, n) or (B, n_rows, n) and vectors (n,) or (B, n), empty if absent. The results are
    (B, .), with B = 1 if no argument has a batch axis.
    """
    layer = QPLayer(qp_batches.settings(eps))

    def solve(Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, l: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        out = qp_batches.solve(layer, _NAMES, H=Q, g=p, A=A, b=b, C=G, l=l, u=u)
        if structural_feasibility:
            return out.x, out.y, out.z
        return out.x, out.y, out.z, out.s_eq, out.s_upper - out.s_lower

    return solve
