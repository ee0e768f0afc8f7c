"""How work is told to stop: it asks, between two steps that take their time."""

from __future__ import annotations

from collections.abc import Callable

Stopping = Callable[[], bool]
"""Whether to stop: given to whatever may take long, by whoever hears the signals."""


def never() -> bool:
    """The `is_stopping` of a caller that nobody stops."""
    return False
