"""What the adapters of QP layers have alike: calls by their own names, batches as those layers infer them, and options
that mean the same."""

from __future__ import annotations

import re

from torch import Tensor

from qp_control.qp.layer import LayerSolution, QPLayer
from qp_control.settings import Settings

# Below this, relative to the data, residuals are rounding, whatever tolerance is asked for.
_ROUNDING = 1e-12
_TIGHTEST = 1e-9
_MATRICES = ("H", "A", "C")


def settings(eps: float) -> Settings:
    """The solver's, for a tolerance of another one; gradients need an active set that is right, whatever eps says."""
    return Settings(eps_abs=min(max(eps, _TIGHTEST), 1e-6), eps_rel=_ROUNDING, infeasible="closest")


def solve(layer: QPLayer, own_names: dict[str, str], **data: Tensor | None) -> LayerSolution:
    """Solve data that are left out by tensors without entries, and have an answer with the axis of the batch always.

    own_names: what the caller calls arguments of the layer, where that is something else.

    Raises:
        ValueError, TypeError: what the layer refuses, by the caller's names.
    """
    given = {name: value for name, value in data.items() if not _is_empty(value)}
    g = given.get("g")
    batched = [getattr(value, "ndim", 0) > 1 + (name in _MATRICES) for name, value in given.items()]
    if isinstance(g, Tensor) and not any(batched):
        given["g"] = g[None]
    try:
        return layer(**given)  # type: ignore[no-any-return]
    except (ValueError, TypeError) as error:
        names = "|".join(own_names)
        message = re.sub(rf"\b({names})\b", lambda match: own_names[match[0]], str(error))
        raise type(error)(message) from None


def _is_empty(value: Tensor | None) -> bool:
    return value is None or (isinstance(value, Tensor) and value.nelement() == 0)
