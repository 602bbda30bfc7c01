"""A refusal for torch's tracer, which would take what C++ returns for a constant."""

from __future__ import annotations

import torch


def refuse_tracing() -> None:
    """Raise NotImplementedError inside make_fx, which torch.func.linearize is made of: it records torch's operations
    only."""
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
        raise NotImplementedError(
            "make_fx and torch.func.linearize do not see into C++: take torch.compile or, for layers, torch.export or, "
            "for tangents, torch.func.jvp"
        )
