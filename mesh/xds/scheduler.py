"""When a change is acted on: the first at once, a burst once it has been quiet, and never later than a limit.

A lone change (the common case) waits for nothing; a thousand files written one after the other are compiled once or
twice, not a thousand times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET_SECONDS = 0.010
MAX_SECONDS = 0.250


def fire_at(*, first: float, last: float, previous: float | None) -> float:
    """When to act on changes of which the `first` and the `last` so far came at these times; `previous` is when
    changes were last acted on."""
    if previous is None or first - previous >= QUIET_SECONDS:
        return first
    return min(last + QUIET_SECONDS, first + MAX_SECONDS)


class Debouncer:
    """Calls `act` after `notify`, as `fire_at` says. For use on one event loop."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._first: float | None = None
        self._last = 0.0
        self._previous: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def notify(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._last = now
        if self._first is None:
            self._first = now
        if self._timer is not None:
            return  # `_due` looks again at when the last change came
        self._timer = loop.call_at(fire_at(first=self._first, last=now, previous=self._previous), self._due)

    def _due(self) -> None:
        self._timer = None
        if self._first is None:
            return
        loop = asyncio.get_running_loop()
        at = fire_at(first=self._first, last=self._last, previous=self._previous)
        if at > loop.time():
            self._timer = loop.call_at(at, self._due)
            return
        self._first = None
        self._previous = loop.time()
        self._act()
