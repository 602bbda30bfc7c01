"""What the adapters of QP layers share: batches as those layers infer them, and options of the same meaning."""

from __future__ import annotations

from torch import Tensor

from qp_control.settings import Settings

# Below this, relative to the data, residuals are rounding errors, whatever the tolerance.
_ROUNDING = 1e-12
_TIGHTEST = 1e-9


def settings(eps: float) -> Settings:
    """Settings for the tolerance of another solver; gradients need the right active set, however large eps is."""
    return Settings(eps_abs=min(max(eps, _TIGHTEST), 1e-6), eps_rel=_ROUNDING, infeasible="closest")


def present(value: Tensor | None) -> Tensor | None:
    """None if an argument is absent, for which these layers take empty tensors."""
    return None if value is None or value.nelement() == 0 else value


def with_batch(linear: Tensor, matrices: tuple[Tensor | None, ...], vectors: tuple[Tensor | None, ...]) -> Tensor:
    """The linear cost, with a batch axis if no argument has one: the results of these layers always do."""
    batched = [t is not None and t.ndim == 3 for t in matrices] + [t is not None and t.ndim == 2 for t in vectors]
    return linear if linear.ndim == 2 or any(batched) else linear[None]
