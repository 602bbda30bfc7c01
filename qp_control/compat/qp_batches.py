"""What the adapters of QP layers share: calls under their own names, batches as those layers infer them, and options of
the same meaning."""

from __future__ import annotations

import re

from torch import Tensor

from qp_control.qp.layer import LayerSolution, QPLayer
from qp_control.settings import Settings

# Below this, relative to the data, residuals are rounding errors, whatever the tolerance.
_ROUNDING = 1e-12
_TIGHTEST = 1e-9
_MATRICES = ("H", "A", "C")


def settings(eps: float) -> Settings:
    """Settings for the tolerance of another solver; gradients need the right active set, however large eps is."""
    return Settings(eps_abs=min(max(eps, _TIGHTEST), 1e-6), eps_rel=_ROUNDING, infeasible="closest")


def solve(layer: QPLayer, own_names: dict[str, str], **data: Tensor | None) -> LayerSolution:
    """Solve data of which empty tensors are absent; the answer always has a batch axis, as in these layers.

    own_names: the caller's names of the layer's arguments, where they differ.

    Raises:
        ValueError, TypeError: what the layer rejects, under the caller's names.
    """
    given = {name: value for name, value in data.items() if not _is_empty(value)}
    g = given.get("g")
    batched = [getattr(value, "ndim", 0) > 1 + (name in _MATRICES) for name, value in given.items()]
    if isinstance(g, Tensor) and not any(batched):
        given["g"] = g[None]
    try:
        solution: LayerSolution = layer(**given)
        return solution
    except (ValueError, TypeError) as error:
        names = "|".join(own_names)
        message = re.sub(rf"\b({names})\b", lambda match: own_names[match[0]], str(error))
        raise type(error)(message) from None


def _is_empty(value: Tensor | None) -> bool:
    return value is None or (isinstance(value, Tensor) and value.nelement() == 0)
