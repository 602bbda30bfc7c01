"""What backward passes through the layers learn about their QPs.

Autograd has no channel for this, so whoever needs it listens while the passes run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_listeners: list[list[Any]] = []


@contextmanager
def weakly_active_counts() -> Iterator[list[Any]]:
    """A list to which every first-order backward pass within the block appends an array (B,): the number of rows at
    their bound with a multiplier of zero, per element."""
    found: list[Any] = []
    _listeners.append(found)
    try:
        yield found
    finally:
        _listeners[:] = [listener for listener in _listeners if listener is not found]


def report_weakly_active(counts: Any) -> None:
    """Pass the counts to the listeners."""
    for listener in _listeners:
        listener.append(counts)
