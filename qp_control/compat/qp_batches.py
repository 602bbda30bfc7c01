"""What the adapters of QP layers have alike: batches as those layers infer them, and options that mean the same."""

from __future__ import annotations

from torch import Tensor

from qp_control.settings import Settings

# Below this, relative to the data, residuals are rounding, whatever tolerance is asked for.
_ROUNDING = 1e-12
_TIGHTEST = 1e-9


def settings(eps: float) -> Settings:
    """The solver's, for a tolerance of another one; gradients need an active set that is right, whatever eps says."""
    return Settings(eps_abs=min(max(eps, _TIGHTEST), 1e-6), eps_rel=_ROUNDING, infeasible="closest")


def present(value: Tensor | None) -> Tensor | None:
    """None for what is left out: these layers take tensors without entries for that."""
    return None if value is None or value.nelement() == 0 else value


def with_batch(linear: Tensor, matrices: tuple[Tensor | None, ...], vectors: tuple[Tensor | None, ...]) -> Tensor:
    """The linear cost, with an axis of the batch where nothing else has one: the answers of these layers always do."""
    batched = [t is not None and t.ndim == 3 for t in matrices] + [t is not None and t.ndim == 2 for t in vectors]
    return linear if linear.ndim == 2 or any(batched) else linear[None]
