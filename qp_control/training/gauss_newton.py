"""Gauss-Newton steps for sums of squares, from gradients alone.

    minimise L(p) = |r(p)|^2,      p+ = p - rate (F + damping diag F)^-1 dL/dp,      F ~ 2 J'J, J = dr/dp

Each row of J would need a backward pass. But 2 J'J is twice the mean of (J'w)(J'w)' over random sign vectors w, so a
few passes per step and a running mean over the steps approximate F well enough to converge in tens of iterations where
Adam takes thousands: parameters of controllers are often hard to tell apart.

If residuals can be differentiated twice, J costs a pass per parameter, and F is exact.

Sources: N. Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation
14 (2002) (Gauss-Newton matrices in stochastic steps); D. Marquardt, J. SIAM 11 (1963) (damping).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_RELATIVE_DAMPING = 1e-10  # of the largest diagonal entry, for parameters without influence
_FORGET = 0.1  # share of the newest curvature in the running mean
_SHORTER, _LONGER = 0.3, 2.0  # factors on the step after a bad step and after a good one


class GaussNewton(torch.optim.Optimizer):
    """For few parameters (memory grows with the square of their number) and a loss that is a sum of squares.

    rate: share of a full step that is taken. damping: relative to the diagonal of F. largest: largest change of any
    parameter in a full step.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rate: float = 0.7,
        damping: float = 1e-2,
        largest: float = 0.5,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "damping": damping, "largest": largest})
        if len(self.param_groups) != 1:
            raise ValueError("GaussNewton has one group of parameters")

    def look(self, products: Tensor) -> None:
        """Improve F by products J'w (probes, n), see `random_products`."""
        self._learn(2.0 * products.T @ products / len(products), _FORGET)

    def know(self, squares: Tensor) -> None:
        """Replace F by the one for J'J (n, n) = `squares`."""
        self._learn(2.0 * squares, 1.0)

    def _learn(self, newest: Tensor, forget: float) -> None:
        if not bool(newest.isfinite().all()):
            return
        state = self.state[self.param_groups[0]["params"][0]]
        before = state.get("curvature")
        state["curvature"] = newest if before is None or forget == 1.0 else before + forget * (newest - before)

    @torch.no_grad()
    def judge(self, loss: float) -> bool:
        """Whether the last step was good, judged by the loss after it; otherwise the parameters and their gradient are
        restored, and the next step is shorter.

        For losses without noise. Call it before `look` or `know` and `step`, when gradients are in place.
        """
        parameters = self.param_groups[0]["params"]
        state = self.state[parameters[0]]
        here = torch.cat([p.reshape(-1) for p in parameters])
        gradient = flat(parameters, [p.grad for p in parameters])
        good = "loss" not in state or loss <= float(state["loss"])
        if good:
            state["part"] = torch.clamp(_LONGER * state.get("part", here.new_ones(())), max=1.0)
            state["loss"], state["position"], state["gradient"] = here.new_tensor(loss), here, gradient
            return True
        state["part"] = _SHORTER * state["part"]
        for p, old, g in zip(parameters, *(self._split(state[name]) for name in ("position", "gradient")), strict=True):
            p.copy_(old)
            p.grad = g.clone()
        return False

    def _split(self, values: Tensor) -> list[Tensor]:
        pieces, start = [], 0
        for p in self.param_groups[0]["params"]:
            pieces.append(values[start : start + p.numel()].view_as(p))
            start += p.numel()
        return pieces

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step from the parameters' gradients; no step before F is known."""
        group = self.param_groups[0]
        parameters = group["params"]
        state = self.state[parameters[0]]
        F = state.get("curvature")
        if F is None:
            return None
        size = F.diagonal().clamp(min=_RELATIVE_DAMPING * float(F.diagonal().max()) + 1e-300)
        gradient = flat(parameters, [p.grad for p in parameters])
        # Scaled to unit diagonal, so that no entry is lost to rounding.
        scale = size.rsqrt()
        matrix = scale[:, None] * F * scale + group["damping"] * torch.eye(len(F), dtype=F.dtype)
        # lstsq would not need damping, but its last digits differ from call to call.
        change = -scale * torch.linalg.solve_ex(matrix, scale * gradient).result
        if not bool(change.isfinite().all()):
            return None
        change *= group["lr"] * min(1.0, group["largest"] / max(float(change.abs().max()), 1e-300))
        change *= state.get("part", 1.0)
        for p, part in zip(parameters, self._split(change), strict=True):
            p += part
        return None


def random_products(
    residuals: Tensor, parameters: Sequence[nn.Parameter], probes: int, generator: torch.Generator
) -> Tensor:
    """Products J'w (probes, n) of the residuals' Jacobian with random sign vectors w; the residuals' graph is kept."""
    rows = []
    for _ in range(probes):
        signs = 2.0 * torch.randint(0, 2, residuals.shape, generator=generator).to(residuals) - 1.0
        found = torch.autograd.grad(residuals, parameters, signs, retain_graph=True, allow_unused=True)
        rows.append(flat(parameters, found))
    return torch.stack(rows)


def jacobian(residuals: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Jacobian (m, n) of residuals (m,) that can be differentiated twice: J'w is linear in w.

    One backward pass per parameter, not per residual.
    """
    w = torch.zeros_like(residuals, requires_grad=True)
    found = torch.autograd.grad(residuals, parameters, w, create_graph=True, allow_unused=True)
    columns = [torch.autograd.grad(value, w, retain_graph=True)[0] for value in flat(parameters, found)]
    return torch.stack(columns, 1)


def flat(parameters: Sequence[nn.Parameter], values: Iterable[Tensor | None]) -> Tensor:
    """Values of the shapes of the parameters, concatenated to (n,); zeros for None."""
    pairs = zip(parameters, values, strict=True)
    return torch.cat([(torch.zeros_like(p) if v is None else v).flatten() for p, v in pairs])
