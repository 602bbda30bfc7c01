"""What backward passes through the layers find out about the QPs they pass through.

Autograd has no channel for it: who wants to know listens while the passes run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_listeners: list[list[Any]] = []


@contextmanager
def weakly_active_counts() -> Iterator[list[Any]]:
    """A list that every first-order backward pass within the block adds an array (B,) to: rows on their bound with a
    multiplier of zero, per element."""
    found: list[Any] = []
    _listeners.append(found)
    try:
        yield found
    finally:
        _listeners[:] = [listener for listener in _listeners if listener is not found]


def report_weakly_active(counts: Any) -> None:
    """To those who listen."""
    for listener in _listeners:
        listener.append(counts)
